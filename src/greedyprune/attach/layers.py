"""The hooks of the decoder layers: the cut at `Layer(l)`, and masks and positions of the layers behind it.

They are put on once a call needs them: the steps of a prompt that was cut before the decoder do not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from greedyprune.attach.cache import cut_of
from greedyprune.attach.look import look_back
from greedyprune.attach.masks import of_prompt, of_step
from greedyprune.models.release import argument_names

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from greedyprune.attach.call import Call, Step
    from greedyprune.models.parts import Parts


class LayerHooks:
    """The hooks of one model's decoder layers. `call` says which forward runs."""

    def __init__(self, parts: Parts, call: Callable[[], Call | None]) -> None:
        self.parts, self._call = parts, call
        self._names = argument_names(parts.layers[0])
        self._handles: list[RemovableHandle] = []
        self._lock = threading.Lock()

    def register(self) -> None:
        """Put them on, once."""
        with self._lock:
            if self._handles:  # on already
                return
            for index, layer in enumerate(self.parts.layers):
                self._handles.append(layer.register_forward_pre_hook(partial(self._layer, index), with_kwargs=True))
                if self.parts.family.deepstack is not None:
                    self._handles.append(layer.register_forward_hook(partial(self._after_layer, index)))

    def remove(self) -> None:
        """Take them off. No forward runs any more that could put them on again."""
        with self._lock:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    def _layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        call = self._call()
        if call is None or call.quiet:
            return None
        if call.prompt is None:
            if call.open and len(args) < 2 and kwargs.get("attention_mask") is None:
                return None  # the usual step: one look for each layer
            return self._decode_layer(call, index, args, kwargs)
        kwargs, starts = {**kwargs, **dict(zip(self._names, args, strict=False))}, call.policy.starts
        if not starts or index < starts[0]:
            mask, whole = kwargs.get("attention_mask"), cut_of(call.cache, index) is None
            misled = bool(starts and call.past and whole and mask is not None and not call.outer_masks)
            if misled:  # a later turn's padding is laid out for layers that are short, as this one is not
                kwargs["attention_mask"] = of_step(call, index, mask, kwargs["hidden_states"])
            look_back(call, index, module, kwargs)
            if not misled and not call.steps:
                return None
            return (kwargs.pop("hidden_states"),), self._without_gaps(call, kwargs)
        if index in starts:
            kwargs["hidden_states"] = call.cut_now(kwargs["hidden_states"], index)
        step, hidden = call.steps[-1], kwargs["hidden_states"]
        kwargs["attention_mask"] = of_prompt(call, step, index, kwargs.get("attention_mask"), hidden)
        for name in self.parts.family.along:
            if kwargs.get(name) is not None:
                kwargs[name] = call.once(kwargs[name], step, lambda x: step.fresh.take(x, 1 - x.ndim))
        self._cut_positions(call, step, index, kwargs, hidden)
        look_back(call, index, module, kwargs)
        return (kwargs.pop("hidden_states"),), self._without_gaps(call, kwargs)

    def _without_gaps(self, call: Call, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a layer without position ids, where FlashAttention would take gaps for packed prompts.

        Keys and queries are turned by `position_embeddings`; few decoders have another use for the numbers.
        """
        if "flash" not in self.parts.attention or kwargs.get("position_ids") is None:
            return kwargs
        if not self.parts.counts:
            return {**kwargs, "position_ids": None}
        if call.past and kwargs["position_ids"].shape[0] == 1:
            raise NotImplementedError(
                f"FlashAttention takes the gaps in a later turn of this {self.parts.decoder_type!r} decoder for packed "
                "prompts: call model.set_attn_implementation('sdpa'), or use positions=\"compact\"."
            )
        return kwargs

    def _cut_positions(self, call: Call, step: Step, index: int, kwargs: dict[str, Any], hidden: Tensor) -> None:
        embeddings, ids = kwargs["position_embeddings"], kwargs.get("position_ids")
        if call.policy.positions == "compact":
            own = call.own_positions(hidden)
            kwargs["position_ids"] = call.once(own, step, lambda p: call.compact_positions(step, p))
            kwargs["position_embeddings"] = call.once(
                embeddings, step, lambda _: self.parts.rotate(hidden, kwargs["position_ids"], index)
            )
            return
        cut = step.fresh
        kwargs["position_embeddings"] = call.once(embeddings, step, lambda pair: tuple(cut.take(x, -2) for x in pair))
        if ids is not None:
            kwargs["position_ids"] = call.once(ids, step, lambda p: cut.take(p, -1))

    def _decode_layer(
        self, call: Call, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """A forward without new images over a cache of which only the later layers are short."""
        held, first = cut_of(call.cache, index), cut_of(call.cache, self.parts.first)
        kwargs = {**kwargs, **dict(zip(self._names, args, strict=False))}
        if held is not None and held.shift is not None and (first is None or first.shift is None):
            kwargs = self._shifted(call, index, held.shift, kwargs)
        kwargs["attention_mask"] = of_step(call, index, kwargs.get("attention_mask"), kwargs["hidden_states"])
        return (kwargs.pop("hidden_states"),), kwargs

    def _shifted(self, call: Call, index: int, shift: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a layer behind a cut that numbered its tokens anew, with the positions it counts in."""
        hidden = kwargs["hidden_states"]
        ids = call.once(call.positions, shift, lambda _: call.own_positions(hidden) - shift.to(hidden.device))
        embeddings = call.once(kwargs["position_embeddings"], shift, lambda _: self.parts.rotate(hidden, ids, index))
        return {**kwargs, "position_ids": ids, "position_embeddings": embeddings}

    def _after_layer(self, index: int, module: nn.Module, args: Any, output: Any) -> Any:
        """DeepStack: add the features of visual tokens after the early layers, to those that are still there."""
        call = self._call()
        if call is None or call.deep is None or index >= len(call.deep[1]):
            return None
        mask, features = call.deep
        step = call.step_at(index)
        if step is not None:
            mask = call.once(mask, step, lambda m: step.fresh.take(m, -1) & step.fresh.valid)
            features = call.once(features, step, lambda f: call.planes(f, step))
        output = output.clone()
        mask = mask.to(output.device)
        output[mask] = output[mask] + features[index].to(output)
        return output
