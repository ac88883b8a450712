"""Looking at decoder layers while they run: attention and keys that a method needs, in the layer before a cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greedyprune.cues import Attention, Keys
from greedyprune.models.needs import in_decoder
from greedyprune.probes.decoder import decoder_keys, decoder_queries, decoder_rows, raters

if TYPE_CHECKING:
    from greedyprune.attach.call import Call
    from greedyprune.models.prompt import Prompt
    from greedyprune.policy import Policy


def choose_raters(call: Call, embeds: Tensor) -> None:
    """Note which text tokens behind each image rate it, by the embeddings that enter the decoder. (b, q, d)

    Numbers count the prompt's text tokens, which all stay. A token in front of the image sees nothing of it, so only
    those behind its last token rate it; where there are none the last prompt token does.
    """
    if not any(isinstance(need, Attention) and need.kind == "raters" for need in in_decoder(call.policy)):
        return
    assert call.prompt is not None
    for span in call.prompt.spans:
        row, columns = span.row, span.columns
        text, states = _text(call.prompt, row), embeds[row].detach()
        chosen = raters(states[columns.to(embeds.device)], states[text.to(embeds.device)]).cpu()
        call.raters.append((chosen & (text > columns[-1])).nonzero()[:, 0])


@torch.no_grad()
def look_back(call: Call, index: int, layer: Any, kwargs: dict[str, Any]) -> None:
    """Note per image what the method needs of a decoder layer, called with these."""
    prompt, hidden = call.prompt, kwargs["hidden_states"]
    needs = _needs_at(call.policy, index)
    if prompt is None or not needs:
        return
    states, rotary = layer.input_layernorm(hidden), kwargs["position_embeddings"]
    keys = decoder_keys(layer.self_attn, states, rotary)
    if call.past and any(isinstance(need, Attention) for need in needs):
        keys = torch.cat([_held(call, index, hidden.device).to(keys), keys], 2)
    look = _Look(prompt, layer.self_attn, states, rotary, kwargs.get("attention_mask"), keys)
    for need in needs:
        if isinstance(need, Keys) and need.of == "text":
            call.probed[need] = look.text_keys()
        elif isinstance(need, Keys):
            call.probed[need] = _in_own_tokens(call, look.visual_keys())
        elif need.kind == "raters":
            call.probed[need] = _in_own_tokens(call, look.raters_row(call.raters, one=need.heads == "one"))
        else:
            call.probed[need] = _in_own_tokens(call, look.last_row(one=need.heads == "one"))


def _needs_at(policy: Policy, index: int) -> list[Attention | Keys]:
    """What the method needs of decoder layer `index`."""
    needs = in_decoder(policy)
    return [need for need in needs if (index + 1 in policy.starts if need.layer is None else index == need.layer)]


@dataclass(frozen=True, eq=False)
class _Look:
    """One decoder layer as it is called."""

    prompt: Prompt
    attention: Any
    states: Tensor
    """(b, q, d) normalised."""
    rotary: tuple[Tensor, Tensor]
    mask: Tensor | None
    keys: Tensor
    """(b, g, p + q, c) of the tokens in the cache, where they are needed, and of these."""

    @cached_property
    def _queries(self) -> Tensor:
        """(b, h, q, c) of all tokens, computed for the first row that is asked for."""
        return decoder_queries(self.attention, self.states, self.rotary)

    def visual_keys(self) -> list[Tensor]:
        """-> per image (n, g, c)"""
        return [self._keys(span.row, span.columns) for span in self.prompt.spans]

    def text_keys(self) -> list[Tensor]:
        """Of the prompt's text. -> per image (m, g, c)"""
        return [self._keys(span.row, _text(self.prompt, span.row)) for span in self.prompt.spans]

    def last_row(self, *, one: bool) -> list[Tensor]:
        """How much the last prompt token looks at each image's tokens. -> per image (n,)"""
        last = self.prompt.asked.int().cumsum(1).argmax(1, keepdim=True).to(self.keys.device)
        rows = decoder_rows(self.attention, self._queries, self.keys, last, self.mask, one=one)[:, 0]
        return [self._now(rows[span.row], span.columns) for span in self.prompt.spans]

    def raters_row(self, chosen: list[Tensor], *, one: bool) -> list[Tensor]:
        """How much an image's raters look at its tokens, on average. -> per image (n,)"""
        values: list[Tensor] = []
        for span, numbers in zip(self.prompt.spans, chosen, strict=True):
            row = max(span.row, 0)  # -1 where nothing is left of the image, and nothing is looked at
            last = self.prompt.asked[row].nonzero()[-1]
            at = _text(self.prompt, row)[numbers] if numbers.numel() else last
            mask = None if self.mask is None or self.mask.shape[0] == 1 else self.mask[row : row + 1]
            seen = decoder_rows(
                self.attention,
                self._queries[row : row + 1],
                self.keys[row : row + 1],
                at[None].to(self.keys.device),
                self.mask if mask is None else mask,
                one=one,
            )
            values.append(self._now(seen[0].mean(0), span.columns))
        return values

    def _now(self, row: Tensor, columns: Tensor) -> Tensor:
        """Some of these tokens' values. (p + q,), (n,) -> (n,)"""
        return row[-self.states.shape[1] :][columns.to(row.device)]

    def _keys(self, row: int, columns: Tensor) -> Tensor:
        """Some of these tokens' keys. (n,) -> (n, g, c)"""
        return self.keys[row, :, -self.states.shape[1] :][:, columns.to(self.keys.device)].transpose(0, 1)


def _held(call: Call, index: int, device: torch.device) -> Tensor:
    """The keys of earlier tokens in a layer's cache. -> (b, g, p, c)"""
    held = call.cache.layers[index].keys
    if held.shape[2] != call.so_far(index, device).columns.shape[1]:
        kind, name = type(call.cache.layers[index]).__name__, type(call.policy.method).__name__
        raise NotImplementedError(f"{name} cannot look back at a {kind} in the cache: use the default dynamic cache.")
    return held


def _text(prompt: Prompt, row: int) -> Tensor:
    """The columns of a prompt's text. -> (m,)"""
    return (prompt.asked[row] & ~prompt.visual[row]).nonzero()[:, 0]


def _in_own_tokens(call: Call, values: list[Tensor]) -> list[Tensor]:
    """Values of the tokens that are left, by each image's own tokens; those that are gone get 0. [(k, ...)] -> ..."""
    if not call.selections:
        return values
    earlier = [selection.keep for selection in call.selections]
    return [
        v.new_zeros(k.n, *v.shape[1:]).index_copy_(0, k.rows.to(v.device), v)
        for v, k in zip(values, earlier, strict=True)
    ]
