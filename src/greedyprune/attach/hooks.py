"""The hooks: forward (pre-)hooks on the outer model, the text model and the decoder layers. No forward is rewritten.

One forward runs like this. The outer hook sees the token ids and notes where the images are. At `Input()` the text
model's hook decides on the merged embeddings and hands the model a shorter sequence. At `Layer(l)` the hook of
decoder layer l decides on its states, and the hooks of all layers from l on cut masks and positions. Afterwards the
cache layers that are physically short get a logical length (`cache.py`), so decoding goes on in the original numbering.

What belongs to one forward lives in a context variable, never on the model, so threads do not meet.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from greedyprune.attach.cache import bytes_of, check_cache, cut_of, shorten
from greedyprune.attach.decide import Policy, Prompt, decide
from greedyprune.attach.report import Report, Selection
from greedyprune.attach.sequence import Cut, uncut
from greedyprune.models._family import Visuals
from greedyprune.stages import Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.utils.hooks import RemovableHandle

    from greedyprune.attach.parts import Parts

PIXELS = ("pixel_values", "pixel_values_videos")


@dataclass(eq=False)
class Call:
    """One forward of a pruned model."""

    owner: Hooks
    policy: Policy
    input_ids: Tensor | None
    visuals: Visuals | None
    prompt: Prompt | None = None
    cache: Any = None
    past: int = 0
    length: int = 0
    padding: Tensor | None = None
    """(b, past + q) the 2-D mask as the caller gave it."""
    positions: Tensor | None = None
    cut: Cut | None = None
    """What stays of past and prompt together, once decided (or, while decoding, what stayed)."""
    fresh: Cut | None = None
    """What stays of this forward's own tokens."""
    selections: list[Selection] = field(default_factory=list)
    seconds: float = 0.0
    memo: dict[int, tuple[object, Any]] = field(default_factory=dict)

    def once(self, value: Any, make: Callable[[Any], Any]) -> Any:
        """make(value), computed once per forward although every layer asks; the value is held so its id stays taken."""
        if id(value) not in self.memo:
            self.memo[id(value)] = (value, make(value))
        return self.memo[id(value)][1]


_CALL: ContextVar[Call | None] = ContextVar("greedyprune_call", default=None)


def _start(policy: Policy) -> int:
    """The first decoder layer that runs on the kept tokens only."""
    return policy.at.index if isinstance(policy.at, Layer) else 0


class Hooks:
    """The hooks of one pruned model. `policy` is asked for at every call; `done` receives what a prompt's call did."""

    def __init__(
        self, parts: Parts, policy: Callable[[], Policy], done: Callable[[Report, list[Selection]], None]
    ) -> None:
        self.parts, self._policy, self._done = parts, policy, done
        self._names = list(inspect.signature(type(parts.layers[0]).forward).parameters)[1:]
        self._handles: list[RemovableHandle] = []
        try:
            self._register()
        except BaseException:
            self.remove()
            raise

    def _register(self) -> None:
        parts = self.parts
        if parts.top is not parts.outer:
            self._handles.append(parts.top.register_forward_pre_hook(self._top, with_kwargs=True))
        self._handles += [
            parts.outer.register_forward_pre_hook(self._enter, with_kwargs=True),
            parts.outer.register_forward_hook(self._leave, always_call=True),
            parts.text.register_forward_pre_hook(self._text, with_kwargs=True),
            parts.text.register_forward_hook(self._after_text, with_kwargs=True),
        ]
        for index, layer in enumerate(parts.layers):

            def hook(module: nn.Module, args: Any, kwargs: Any, index: int = index) -> Any:
                return self._layer(index, args, kwargs)

            self._handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        """Take every hook off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _call(self) -> Call | None:
        call = _CALL.get()
        return call if call is not None and call.owner is self else None

    # -- the model the user holds, and the outer model

    def _top(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("labels") is not None:
            raise NotImplementedError(
                "labels cannot be used while pruned, since the logits are shorter: call remove() before training."
            )
        if isinstance(kwargs.get("logits_to_keep"), Tensor):
            raise NotImplementedError(
                "logits_to_keep as a tensor of positions would point at other tokens after pruning: pass an int."
            )

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _CALL.set(None)
        ids = kwargs.get("input_ids", args[0] if args else None)
        cache = kwargs.get("past_key_values")
        check_cache(cache)
        if ids is None:
            raise NotImplementedError(
                "inputs_embeds without input_ids does not say where the images are: pass input_ids and pixel_values."
            )
        outputs = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        pixels = next((kwargs[name] for name in PIXELS if kwargs.get(name) is not None), None)
        visuals = None
        if outputs is not None or pixels is not None:
            features = None if outputs is None else list(outputs.pooler_output)
            visuals = Visuals(features, pixels, int((ids == self.parts.image_token).sum()))
        _CALL.set(Call(self, self._policy(), ids, visuals, cache=cache))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        _CALL.set(None)

    # -- the text model

    def _text(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        call = self._call()
        embeds = kwargs.get("inputs_embeds")
        if call is None or embeds is None:
            return None
        call.past = call.cache.get_seq_length() if call.cache is not None else 0
        call.length = embeds.shape[1]
        mask = kwargs.get("attention_mask")
        call.padding = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        if isinstance(mask, Tensor) and mask.ndim != 2:
            raise NotImplementedError(
                f"an attention mask of shape {tuple(mask.shape)} does not say what is padding: pass a 2-D mask."
            )
        before = cut_of(call.cache)
        at_input = not isinstance(call.policy.at, Layer)
        if before is not None and cut_of(call.cache, 0) is not None:  # every layer of this cache is short
            total = call.past + call.length
            if mask is not None or before.ragged:
                kwargs["attention_mask"] = before.padding_mask(mask, total)
        elif before is not None:
            call.cut = before.grown(call.past + call.length)  # layers from the cut on gather their columns
        if call.visuals is not None and call.visuals.total:
            self._same_place(call)
            call.prompt = self._prompt(call, embeds)
            call.cut = None
            if at_input:
                self._cut_input(call, embeds, kwargs)
        return args, kwargs

    def _same_place(self, call: Call) -> None:
        """A later turn must cut where the earlier one did: layers of one cache cannot disagree on two cuts."""
        if cut_of(call.cache) is None:
            return
        first = next(i for i in range(len(call.cache.layers)) if cut_of(call.cache, i) is not None)
        if first != _start(call.policy):
            raise NotImplementedError(
                f"this cache was cut before decoder layer {first}, and now {call.policy.at!r} is asked for: "
                "keep the place of the cut through a conversation, or start with an empty cache."
            )

    def _prompt(self, call: Call, embeds: Tensor) -> Prompt:
        assert call.input_ids is not None
        assert call.visuals is not None
        visual = (call.input_ids == self.parts.image_token).to("cpu")
        window = slice(call.past, call.past + call.length)
        valid = torch.ones_like(visual) if call.padding is None else call.padding[:, window].to("cpu", torch.bool)
        return Prompt(visual & valid, valid, self.parts.family.layout(self.parts.config, call.visuals))

    def _decide(self, call: Call, hidden: Tensor) -> Cut:
        """Choose, and remember what stays of this forward (`fresh`) and of everything so far (`cut`)."""
        assert call.prompt is not None
        call.fresh, call.selections, call.seconds = decide(hidden, call.prompt, call.policy)
        call.cut = self._so_far(call, hidden).then(call.fresh) if call.past else call.fresh
        return call.fresh

    def _so_far(self, call: Call, hidden: Tensor) -> Cut:
        before = cut_of(call.cache)
        if before is not None:
            return before.grown(call.past)
        return uncut(call.past, hidden.shape[0], call.padding, hidden.device)

    def _cut_input(self, call: Call, embeds: Tensor, kwargs: dict[str, Any]) -> None:
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(call.past, call.past + call.length, device=embeds.device)[None]
        fresh = self._decide(call, embeds)
        assert call.cut is not None
        kwargs["inputs_embeds"] = fresh.take(embeds, -2)
        kwargs["position_ids"] = fresh.take(positions, -1)
        # An explicit mask, also where it is all ones: without one, transformers takes gaps in the positions for
        # several packed sequences and lets them not see each other.
        # It covers the logical past and the physical prompt, which is the length that the cache layers imply.
        past = self._so_far(call, embeds).padding_mask(None, call.past) if call.past else fresh.valid[:, :0].long()
        kwargs["attention_mask"] = torch.cat([past, fresh.valid.long()], 1)

    def _after_text(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        call = self._call()
        if call is None:
            return
        if call.prompt is None:
            if call.past == 0:
                self._done(self._report(call), [])
            return
        cache = call.cache if call.cache is not None else getattr(output, "past_key_values", None)
        if cache is not None and call.cut is not None:
            check_cache(cache)
            for index in range(_start(call.policy), len(cache.layers)):
                shorten(cache, index, call.cut)
        call.cache = cache
        self._done(self._report(call), call.selections)

    def _report(self, call: Call) -> Report:
        name = type(call.policy.method).__name__
        if call.fresh is None:
            return Report(name, str(call.policy.at))
        held, full = bytes_of(call.cache)
        return Report(
            method=name,
            at=str(call.policy.at),
            tokens=sum(s.n for s in call.selections),
            kept=sum(s.k for s in call.selections),
            images=len(call.selections),
            sequence=call.length,
            sequence_kept=call.fresh.columns.shape[1],
            layers=len(self.parts.layers),
            layers_before_cut=_start(call.policy),
            cache_bytes=held,
            cache_bytes_full=full,
            select_ms=1e3 * call.seconds,
        )

    # -- the decoder layers

    def _layer(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        call = self._call()
        if call is None:
            return None
        if call.prompt is None:
            return self._decode_layer(call, index, args, kwargs)
        if not isinstance(call.policy.at, Layer) or index < call.policy.at.index:
            return None
        kwargs = {**kwargs, **dict(zip(self._names, args, strict=False))}
        hidden = kwargs["hidden_states"]
        if index == call.policy.at.index:
            self._decide(call, hidden)
            assert call.fresh is not None
            kwargs["hidden_states"] = call.fresh.take(hidden, -2)
        fresh = call.fresh
        assert fresh is not None
        kwargs["attention_mask"] = self._cut_mask(call, kwargs.get("attention_mask"), hidden.dtype)
        embeddings = kwargs["position_embeddings"]
        kwargs["position_embeddings"] = call.once(embeddings, lambda pair: tuple(fresh.take(x, -2) for x in pair))
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = call.once(kwargs["position_ids"], lambda ids: fresh.take(ids, -1))
        return (kwargs.pop("hidden_states"),), kwargs

    def _cut_mask(self, call: Call, mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """The mask of a layer behind the cut, from the mask of the full sequence."""
        cut, fresh = call.cut, call.fresh
        assert cut is not None
        assert fresh is not None
        if mask is None:
            return self._own_mask(call, cut, fresh.columns.shape[1], dtype)
        if mask.ndim == 2:
            return call.once(mask, lambda m: (cut.take(m, -1).bool() & cut.valid).to(m.dtype))
        return call.once(mask, lambda m: fresh.mask_rows(cut.mask_columns(m)))

    def _own_mask(self, call: Call, cut: Cut, queries: int, dtype: torch.dtype) -> Tensor | None:
        """Where the model left causality to the attention kernel: nothing to add, unless a row is padded."""
        if not cut.ragged:
            return None
        if "flash" in self.parts.attention:
            return cut.valid
        return call.once(cut, lambda c: c.causal_mask(queries, dtype))

    def _decode_layer(
        self, call: Call, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """A forward without new images over a cache of which only the later layers are short."""
        cut = call.cut
        if cut is None or cut_of(call.cache, index) is None:
            return None
        kwargs = {**kwargs, **dict(zip(self._names, args, strict=False))}
        mask, hidden = kwargs.get("attention_mask"), kwargs["hidden_states"]
        if mask is None:
            kwargs["attention_mask"] = self._own_mask(call, cut, hidden.shape[1], hidden.dtype)
        elif mask.ndim == 2:
            kwargs["attention_mask"] = call.once(mask, lambda m: (cut.take(m, -1).bool() & cut.valid).to(m.dtype))
        else:
            kwargs["attention_mask"] = call.once(mask, cut.mask_columns)
        return (kwargs.pop("hidden_states"),), kwargs
