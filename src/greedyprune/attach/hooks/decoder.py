"""Hooks on the text model and on its decoder layers. They pass arguments, read needs in layers, and decide nothing.

The hooks of the decoder layers are registered when a forward first needs them. Decoding after a cut at `Input()` does
not need them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from greedyprune.attach.context import FORWARD, TRIAL
from greedyprune.attach.forward.decode import Decode, TextInputs
from greedyprune.attach.forward.prefill import Prefill
from greedyprune.cues import Attention, Change, Keys, Values
from greedyprune.models._front import Attached, LateHooks
from greedyprune.models.needs import check_restore, in_decoder
from greedyprune.models.release import argument_names, cache_in, cache_of
from greedyprune.ops.masks import last_columns, with_scores
from greedyprune.probes.decoder import (
    attended,
    decoder_keys,
    decoder_plain,
    decoder_queries,
    decoder_rows,
    decoder_values,
    image_row,
    raters,
    restored_scores,
    unpacked,
)
from greedyprune.resident import send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn
    from torch.utils.hooks import RemovableHandle

    from greedyprune.cues import Seen
    from greedyprune.models.parts import Parts
    from greedyprune.models.reads import DecoderLayer


class DecoderHooks(Attached):
    """The hooks of one model's text model and decoder layers.

    They find the forward that runs as `OuterHooks.running` does, without that call, since every step of decoding asks.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._names = argument_names(parts.layers[0])
        self._handles: list[RemovableHandle] = []
        self._layers = LateHooks(self._register_layers)

    def register(self) -> None:
        """Register the hooks of the text model."""
        self._handles.append(self._parts.text.register_forward_pre_hook(self._before, with_kwargs=True))
        self._handles.append(self._parts.text.register_forward_hook(self._after))

    def remove(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._layers.remove()

    def _register_layers(self) -> Iterator[RemovableHandle]:
        for index, layer in enumerate(self._parts.layers):
            yield layer.register_forward_pre_hook(partial(self._before_layer, index), with_kwargs=True)
            if self._parts.family.deepstack is not None:
                yield layer.register_forward_hook(partial(self._after_layer, index))

    # -- the text model

    def _before(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]] | None:
        forward = FORWARD.get()
        if forward is None or forward.parts is not self._parts:
            return None
        if kwargs is None or kwargs.get("inputs_embeds") is None:  # None as `LateHooks` says
            return None
        text = TextInputs.read(forward, kwargs)
        if text is None:
            forward.work, forward.plain_prompt = None, forward.wish is not None and not forward.past
            return None
        if not text.brings_images:
            forward.work = Decode.begin(text, kwargs)
            if forward.work is not None:
                self._layers.ensure()
            return args, kwargs
        embeds = kwargs["inputs_embeds"]
        assert forward.wish is not None
        check_restore(self._parts, forward.wish.policy)
        forward.work = work = Prefill.begin(text, kwargs)
        if any(isinstance(need, Attention) and need.kind == "raters" for need in in_decoder(work.policy)):
            _choose_raters(work, embeds)
        restores = work.policy.restore != "none"
        if work.policy.starts or in_decoder(work.policy) or restores or "flash" in self._parts.attention:
            self._layers.ensure()
        return args, kwargs

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        forward = FORWARD.get()
        if forward is None or forward.parts is not self._parts:
            return
        work = forward.work
        if not isinstance(work, Prefill):
            if forward.wish is not None and forward.plain_prompt:
                forward.wish.record(None, [])
        elif (trial := TRIAL.get()) is not None:
            trial.cut_made = work.steps[-1].fresh
        else:
            work.finish(forward.cache if forward.cache is not None else cache_of(output))

    # -- the decoder layers

    def _before_layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]] | None:
        forward = FORWARD.get()
        if forward is None or forward.parts is not self._parts or (work := forward.work) is None or kwargs is None:
            return None
        if work.skips_unmasked and len(args) < 2 and kwargs.get("attention_mask") is None:
            return None  # the usual step: one check for each layer
        if len(args) > 1:
            kwargs = {**kwargs, **dict(zip(self._names[1:], args[1:], strict=False))}
        hidden: Tensor = args[0] if args else kwargs.pop("hidden_states")
        if not isinstance(work, Prefill):
            return (work.before_layer(index, hidden, kwargs),), kwargs
        if work.entered:
            _complete_changes(work, hidden)
        for look in work.behind:
            look()
        work.behind.clear()
        hidden = work.before_layer(index, hidden, kwargs)
        if work.policy.restore != "none" and work.steps:
            kwargs["attention_mask"] = _restored(work, index, module, hidden, kwargs)
        if index in work.looks:
            _look_at(work, index, cast("DecoderLayer", module), hidden, kwargs)
        return (hidden,), kwargs

    def _after_layer(self, index: int, module: nn.Module, args: Any, output: Any) -> Any:
        forward = FORWARD.get()
        if forward is None or forward.parts is not self._parts or forward.work is None:
            return None
        return forward.work.after_layer(index, output)


def _restored(work: Prefill, index: int, layer: nn.Module, hidden: Tensor, arguments: dict[str, Any]) -> Tensor | None:
    """Return the mask of decoder layer `index` behind a cut, with what `restore` adds to scores of the kept tokens.

    Layers of a kind share it. `hidden` (b, q', d) and `arguments` are cut already. -> (b, 1, q', l)
    """
    text, step, mask = work.text, work.steps[-1], arguments.get("attention_mask")
    kind, queries = text.forward.parts.kinds[index], hidden.shape[1]
    if kind.recurrent:
        return mask
    found = text.made(("restored", step, kind.name), mask)
    if found is None:
        whole = mask
        if whole is None:  # the kernel is causal by itself
            allowed = step.whole.allowed(queries, kind.window)
            whole = last_columns(allowed, text.width_of(index, queries)).to(hidden.device)
        kept = [(span.row, span.columns, keep) for span, keep in zip(work.prompt.spans, step.keeps, strict=True)]
        attention, rotary = cast("DecoderLayer", layer).self_attn, arguments["position_embeddings"]
        scores = restored_scores(work.policy.restore, step.fresh.columns.shape, kept, attention, rotary)
        found = with_scores(whole, scores.to(hidden.device), hidden.dtype)
        text.share(("restored", step, kind.name), mask, found)
    return found


def _choose_raters(work: Prefill, embeds: Tensor) -> None:
    """Store the text raters of each image, chosen by the embeddings that enter the decoder. `embeds` (b, q, d)

    The numbers count the prompt's text tokens, which all stay. A token before the image does not attend to it, so only
    tokens after its last token rate it. If there are none, the last prompt token rates it.
    """
    for span in work.prompt.spans:
        columns, text, states = span.columns, work.prompt.text_of(span.row), embeds[span.row].detach()
        device = embeds.device
        chosen = raters(states[send(columns, device)], states[send(text, device)]).cpu()
        work.raters.append((chosen & (text > columns[-1])).nonzero()[:, 0])


def _look_at(work: Prefill, index: int, layer: DecoderLayer, hidden: Tensor, arguments: dict[str, Any]) -> None:
    """Note what enters decoder layer `index`, which gives needs of the method. `hidden` (b, q, d)

    They are read behind it: by then its KV cache holds its keys and values.
    """
    needs = work.looks[index]
    work.entered.update({need: _of_images(work, hidden) for need in needs if isinstance(need, Change)})
    others: list[Seen] = [need for need in needs if not isinstance(need, Change)]
    if others:
        earlier: tuple[Tensor, Tensor] | None = None
        if work.text.past and any(map(_asks_prompt, others)):
            earlier = work.held_earlier(index, hidden.device)
        mask, rotary = arguments.get("attention_mask"), arguments["position_embeddings"]
        held = partial(work.text.in_cache, cache_in(arguments), index, hidden.shape[1])
        work.behind.append(partial(_look_back, work, index, layer, hidden, others, mask, rotary, earlier, held))


@torch.no_grad()
def _look_back(
    work: Prefill,
    index: int,
    layer: DecoderLayer,
    hidden: Tensor,
    needs: list[Seen],
    mask: Tensor | None,
    rotary: tuple[Tensor, Tensor],
    earlier: tuple[Tensor, Tensor] | None,
    held: Callable[[], tuple[Tensor, Tensor] | None],
) -> None:
    """Read needs in decoder layer `index`, per image. `hidden` (b, q, d), `mask` and `rotary` entered it.

    `earlier`: what the KV cache held of earlier tokens. `held`: the keys and values that it holds of these tokens; they
    are computed again if there are none.
    """
    attention, found = layer.self_attn, held()
    states = attended(layer, hidden)
    found = None if found is None else unpacked(attention, *found)
    own = keys = decoder_keys(attention, states, rotary) if found is None else found[0]
    if earlier is not None:
        keys = torch.cat([unpacked(attention, *earlier)[0].to(keys), keys], 2)
    queries: Tensor | None = None
    if any(map(_asks_prompt, needs)):
        queries = decoder_queries(attention, states, rotary)
    for need in needs:
        if isinstance(need, Keys) and need.of == "text":
            columns = [work.prompt.text_of(span.row) for span in work.prompt.spans]
            work.seen[need] = _taken(work, own.transpose(1, 2), columns)
            continue
        if isinstance(need, (Keys, Values)):
            heads = own
            if isinstance(need, Values):
                heads = decoder_values(attention, states, rotary) if found is None else found[1]
            work.seen[need] = _in_own_tokens(work, _of_images(work, heads.transpose(1, 2)))
            continue
        assert isinstance(need, Attention)
        if need.kind == "image":
            work.seen[need] = _in_own_tokens(work, _image_rows(work, attention, states, one=need.heads == "one"))
            continue
        assert queries is not None
        window = work.text.forward.parts.kinds[index].window
        look = partial(decoder_rows, attention, window=window, one=need.heads == "one")
        assert need.kind in ("last_text", "question", "raters"), f"no probe reads {need!r}"
        rows = _last_rows if need.kind == "last_text" else partial(_mean_rows, need.kind)
        work.seen[need] = _in_own_tokens(work, rows(work, look, queries, keys, mask))


def _asks_prompt(need: Seen) -> bool:
    """True if it is the attention of a token of the prompt to all tokens."""
    return isinstance(need, Attention) and need.kind != "image"


def _image_rows(work: Prefill, attention: Any, states: Tensor, *, one: bool) -> list[Tensor]:
    """Compute the attention of each image's mean query to its own tokens. (b, q, d) -> per image (n,)"""
    queries, keys = (_of_images(work, heads.transpose(1, 2)) for heads in decoder_plain(attention, states))
    rows = [(q.transpose(0, 1), k.transpose(0, 1)) for q, k in zip(queries, keys, strict=True)]
    return [image_row(q, k, attention.scaling, one=one) for q, k in rows]


@torch.no_grad()
def _complete_changes(work: Prefill, hidden: Tensor) -> None:
    """Subtract the states that entered the last decoder layer from those that enter the next one. `hidden` (b, q, d)"""
    for need, before in work.entered.items():
        after = [rows.to(torch.promote_types(rows.dtype, torch.float32)) for rows in _of_images(work, hidden)]
        added = [now - old.to(now) for now, old in zip(after, before, strict=True)]
        work.seen[need] = _in_own_tokens(work, added)
    work.entered.clear()


def _of_images(work: Prefill, rows: Tensor) -> list[Tensor]:
    """Take the rows of each image that are left. (b, q, ...) -> per image (k, ...)"""
    return _taken(work, rows, [span.columns for span in work.prompt.spans])


def _taken(work: Prefill, rows: Tensor, columns: list[Tensor]) -> list[Tensor]:
    """Take rows of each image's prompt. (b, q, ...), per image (k,) -> per image (k, ...)"""
    return [rows[span.row, send(at, rows.device)] for span, at in zip(work.prompt.spans, columns, strict=True)]


def _last_rows(
    work: Prefill, look: Callable[..., Tensor], queries: Tensor, keys: Tensor, mask: Tensor | None
) -> list[Tensor]:
    """Compute the attention of the last prompt token to each image's tokens. -> per image (n,)"""
    last = work.prompt.is_prompt.int().cumsum(1).argmax(1, keepdim=True)
    last = send(last, keys.device)
    rows = look(queries, keys, last, mask)[:, 0, -queries.shape[2] :]
    return [rows[span.row][send(span.columns, rows.device)] for span in work.prompt.spans]


def _mean_rows(
    kind: str, work: Prefill, look: Callable[..., Tensor], queries: Tensor, keys: Tensor, mask: Tensor | None
) -> list[Tensor]:
    """Compute the mean attention of each image's raters, or of its question, to its tokens. -> per image (n,)"""
    values: list[Tensor] = []
    for index, span in enumerate(work.prompt.spans):
        row = max(span.row, 0)  # -1 if no token of the image is left, and then no value is read
        last, text = work.prompt.is_prompt[row].nonzero()[-1], work.prompt.text_of(row)
        asking = text[work.raters[index] if kind == "raters" else work.decider.questions[index]]
        behind = int(span.columns[-1]) if span.columns.numel() else -1
        asking = asking[asking > behind]  # a token before the image does not attend to it
        at = send((asking if asking.numel() else last)[None], keys.device)
        mine = mask if mask is None or mask.shape[0] == 1 else mask[row : row + 1]
        seen = look(queries[row : row + 1], keys[row : row + 1], at, mine)
        mean = seen[0].mean(0)[-queries.shape[2] :]
        values.append(mean[send(span.columns, mean.device)])
    return values


def _in_own_tokens(work: Prefill, values: list[Tensor]) -> list[Tensor]:
    """Spread values of the kept tokens over each image's own tokens. Dropped tokens get 0. [(k, ...)] -> [(n, ...)]"""
    if not work.selections:
        return values
    return [
        v.new_zeros(s.n, *v.shape[1:]).index_copy_(0, s.rows.to(v.device), v)
        for v, s in zip(values, work.selections, strict=True)
    ]
