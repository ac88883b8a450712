"""The hooks: forward (pre-)hooks on the outer model, the text model and the decoder layers. No forward is rewritten.

One forward runs like this. The outer hook sees the token ids and what came with them. The text model's hook finds the
images; at `Input()` it decides on the merged embeddings and hands the model a shorter sequence. At `Layer(l)` the hook
of decoder layer l decides on its states, and the hooks of all layers from l on cut masks and positions. Afterwards the
cache layers that are physically short get a logical length (`cache.py`), so decoding goes on in the original numbering.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from greedyprune.attach.cache import check_cache, cut_of, is_shifted, place_of, shorten
from greedyprune.attach.call import Call, Step
from greedyprune.attach.context import CALL, TRIAL
from greedyprune.attach.decide import Prompt, warn_if_idle
from greedyprune.attach.features import Watch, lengths
from greedyprune.attach.look import choose_raters, look_back
from greedyprune.attach.masks import of_input, of_prompt, of_step
from greedyprune.attach.policy import Policy
from greedyprune.attach.report import Report, Selection
from greedyprune.attach.selftest import prove
from greedyprune.attach.tower import TowerHooks, carried, look_at_tower
from greedyprune.models._family import ImageTokens, Visuals

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from greedyprune.attach.parts import Parts


INPUTS = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}
"""The arguments that models take each kind of input by."""
USUAL = ("inputs_embeds", "attention_mask", "position_ids")
"""The text model's arguments that have the sequence as an axis, in every family."""


class Hooks:
    """The hooks of one pruned model. `policy` is asked for at every call; `done` receives what a prompt's call did."""

    def __init__(
        self, parts: Parts, policy: Callable[[], Policy], done: Callable[[Report, list[Selection]], None]
    ) -> None:
        self.parts, self._policy, self._done = parts, policy, done
        self._names = list(inspect.signature(type(parts.layers[0]).forward).parameters)[1:]
        self._outer_names = list(inspect.signature(type(parts.outer).forward).parameters)[1:]
        self._handles: list[RemovableHandle | Watch] = []
        self._proven: list[list[int]] = []
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
        self._handles += TowerHooks(parts, self._policy, self._call).register()
        self._handles.append(Watch(parts, self._call))
        for index, layer in enumerate(parts.layers):
            self._handles.append(layer.register_forward_pre_hook(partial(self._layer, index), with_kwargs=True))
            if parts.family.deepstack is not None:
                self._handles.append(layer.register_forward_hook(partial(self._after_layer, index)))

    def remove(self) -> None:
        """Take every hook off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a pruned model cannot be copied or pickled: call remove() first, and prune the copy.")

    def _call(self) -> Call | None:
        call = CALL.get()
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
        CALL.set(None)
        trial = TRIAL.get()
        if trial is not None and trial.policy is None:
            return
        kwargs = {**kwargs, **dict(zip(self._outer_names, args, strict=False))}
        ids = kwargs.get("input_ids")
        check_cache(kwargs.get("past_key_values"))
        if ids is None:
            raise NotImplementedError(
                "inputs_embeds without input_ids does not say where the images are: pass input_ids and pixel_values."
            )
        mask = kwargs.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
            shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise NotImplementedError(
                f"an attention mask of shape {shape} does not say what is padding: pass a 2-D mask."
            )
        computed = {k: v for k, v in (kwargs.get("mm_encoder_outputs") or {}).items() if v is not None}
        self._refuse_unknown(kwargs, computed)
        media: dict[str, Tensor] = {}
        for medium, token in self.parts.media:
            if medium.kind in computed or any(kwargs.get(name) is not None for name in medium.inputs):
                media[medium.kind] = ids.cpu() == token
        policy = self._policy() if trial is None else trial.policy
        place = policy.starts[:1]
        if media and not self.parts.family.proven and trial is None and place not in self._proven:
            prove(self.parts, policy, module, kwargs)
            self._proven.append(place)
        call = Call(self, self.parts, policy, ids, media, computed, kwargs.get("past_key_values"))
        call.padding = mask
        call.seen = {kind: carried(features) for kind, features in computed.items()}
        CALL.set(call)

    def _refuse_unknown(self, kwargs: dict[str, Any], computed: dict[str, Any]) -> None:
        """Raise for inputs that the family does not list, and for parts of features."""
        known = {medium.kind for medium, _ in self.parts.media}
        for kind, name in INPUTS.items():
            if kind not in known and (kwargs.get(name) is not None or kind in computed):
                raise NotImplementedError(
                    f"{kind}s of a {self.parts.family.model_type!r} model are not supported: "
                    f"call remove() for prompts with {kind}s."
                )
        for features in computed.values():
            if getattr(features, "last_hidden_state", None) is None:
                raise NotImplementedError(
                    "a prompt prefilled in chunks cannot be pruned, since no chunk sees the whole question: "
                    "leave out prefill_chunk_size."
                )

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        CALL.set(None)

    # -- the text model

    def _text(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        call, embeds, mask = self._call(), kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        if call is None or embeds is None:
            return None
        call.outer_masks = mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2)
        call.past = call.cache.get_seq_length() if call.cache is not None else 0
        call.length, call.positions = embeds.shape[1], kwargs.get("position_ids")
        if not call.outer_masks:
            call.padding = mask
        total = call.past + call.length
        base, first = cut_of(call.cache, self.parts.full), cut_of(call.cache, self.parts.first)
        if base is not None and not call.outer_masks and (mask is not None or base.ragged):
            kwargs["attention_mask"] = base.padding_mask(mask, total)
        if first is not None and first.shift is not None:
            kwargs["position_ids"] = self._own_positions(call, embeds) - first.shift.to(embeds.device)
        if any(bool(places.any()) for places in call.media.values()):
            self._prepare(call, embeds, kwargs)
        else:
            padded = call.padding is not None or (first is not None and first.ragged)
            # Where every layer is short, the model's own masks are, too, unless the outer model made them.
            call.fitting = first is not None and not (call.outer_masks and padded)
            numbered = first is None or first.shift is not None or not is_shifted(call.cache)
            call.quiet = place_of(call.cache) is None or (call.fitting and numbered)
        return args, kwargs

    def _prepare(self, call: Call, embeds: Tensor, kwargs: dict[str, Any]) -> None:
        """A prompt with images: find them, and cut here if the policy cuts before the decoder."""
        place = place_of(call.cache)
        if place is not None and place != call.policy.place:
            raise NotImplementedError(
                f"the prompt in this cache was cut at {place!r}, and now {call.policy.place!r} is asked for: "
                "keep the place of the cut through a conversation, or start with an empty cache."
            )
        self._check_arguments(kwargs)
        if call.input_ids.shape[1] != call.length:
            raise NotImplementedError(
                f"the model made {call.length} tokens of a prompt of {call.input_ids.shape[1]}: build text, images and "
                "sounds with the model's own processor, which writes a placeholder for every token."
            )
        ids, valid = call.input_ids.cpu(), torch.ones(call.input_ids.shape, dtype=torch.bool)
        if call.padding is not None:
            valid = call.padding_now().cpu()
        positions = call.positions.cpu() if call.positions is not None and call.positions.ndim == 3 else None
        media: list[tuple[Tensor, list[ImageTokens]]] = []
        for medium, _ in self.parts.media:
            places = call.media.get(medium.kind)
            if places is None or not bool(places.any()):
                continue
            rows = lengths(call.features.get(medium.kind))
            breaks = self._newlines(embeds, places)
            visuals = Visuals(ids, places, rows, positions, breaks, medium.kind)
            images = medium.layout(self.parts.config, visuals)
            media.append((places, [replace(image, kind=medium.kind) for image in images]))
        call.prompt = Prompt.of(valid, media)
        # Raises where text, images and what was asked for do not fit, before anything runs.
        call.asked = call.policy.asked(call.prompt.spans, embeds)
        look_at_tower(call)
        choose_raters(call, embeds)
        if not call.policy.starts:
            self._cut_input(call, embeds, kwargs)
        elif self.parts.family.deepstack is not None:
            names = self.parts.family.deepstack
            features = kwargs.get(names[1])
            if features is not None and len(features) > call.policy.starts[0]:
                call.deep = (kwargs.pop(names[0]), kwargs.pop(names[1]))

    def _check_arguments(self, kwargs: dict[str, Any]) -> None:
        """Raise for an argument of the text model with a value per token that nobody said how to cut."""
        batch, length = kwargs["inputs_embeds"].shape[:2]
        known = (*USUAL, *self.parts.family.along, *(self.parts.family.deepstack or ()))
        for name, value in kwargs.items():
            if name not in known and isinstance(value, Tensor) and value.shape[:2] == (batch, length):
                raise NotImplementedError(
                    f"the text model of this {self.parts.family.model_type!r} model gets {name!r} with a value for "
                    "every token, which is not known here: this release of transformers is not supported, please "
                    "report it."
                )

    def _newlines(self, embeds: Tensor, places: Tensor) -> Tensor | None:
        """Which placeholders carry the row that ends a row of patches. -> (placeholders,) bool"""
        row = getattr(self.parts.outer, self.parts.family.newline or "", None)
        if row is None:
            return None
        tokens = embeds[places.to(embeds.device)]
        return (tokens == row.detach().to(tokens)).all(-1).cpu()

    def _own_positions(self, call: Call, embeds: Tensor) -> Tensor:
        if call.positions is not None:
            return call.positions
        return torch.arange(call.past, call.past + call.length, device=embeds.device)[None]

    def _cut_input(self, call: Call, embeds: Tensor, kwargs: dict[str, Any]) -> None:
        kwargs["inputs_embeds"] = call.cut_now(embeds, 0)
        step = call.steps[-1]
        positions = self._own_positions(call, embeds)
        if call.policy.positions == "compact":
            kwargs["position_ids"] = call.compact_positions(step, positions)
        else:
            kwargs["position_ids"] = step.fresh.take(positions, -1)
        for name in self.parts.family.along:
            if kwargs.get(name) is not None:
                kwargs[name] = step.fresh.take(kwargs[name], 1 - kwargs[name].ndim)
        if call.outer_masks:
            kwargs["attention_mask"] = of_input(call, step, kwargs["attention_mask"], kwargs["inputs_embeds"])
        else:
            # An explicit mask, also where it is all ones: without one, transformers takes gaps in the positions for
            # several packed sequences and lets them not see each other. It covers the logical past and the physical
            # prompt, which is the length that the cache layers imply.
            past = step.fresh.valid[:, :0].long()
            if call.past:
                past = call.so_far(0, embeds.device).padding_mask(None, call.past)
            kwargs["attention_mask"] = torch.cat([past, step.fresh.valid.long()], 1)
        if self.parts.family.deepstack is not None:
            names = self.parts.family.deepstack
            if kwargs.get(names[1]) is not None:
                kwargs[names[0]] = step.fresh.take(kwargs[names[0]], -1) & step.fresh.valid
                kwargs[names[1]] = call.planes(kwargs[names[1]], step)

    def _after_text(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        call = self._call()
        if call is None:
            return
        if not call.steps:
            if call.past == 0:
                self._done(call.report(), [])
            return
        trial = TRIAL.get()
        if trial is not None:
            trial.cut = call.steps[-1].fresh
            return
        call.cache = call.cache if call.cache is not None else getattr(output, "past_key_values", None)
        if call.cache is not None:
            check_cache(call.cache)
            self._shorten(call)
        self._done(call.report(), call.told())
        warn_if_idle(call.policy, call.selections)

    def _shorten(self, call: Call) -> None:
        place, prompt = call.policy.place, call.past + call.length
        for index in range(len(call.cache.layers)):
            step = call.step_at(index)
            if step is not None:
                shorten(call.cache, index, step.whole, place, prompt)
            elif call.policy.early:
                # Its keys stand at the original positions, also where those behind the cut are numbered anew.
                whole = replace(call.steps[0].whole, shift=None)
                shorten(call.cache, index, whole, place, prompt, early=call.steps[0].masked)
            else:  # full, but it must not be cropped further than its neighbours
                shorten(call.cache, index, None, place, prompt)

    # -- the decoder layers

    def _layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        call = self._call()
        if call is None or call.quiet:
            return None
        if call.prompt is None:
            return self._decode_layer(call, index, args, kwargs)
        starts = call.policy.starts
        if not starts or index < starts[0]:
            look_back(call, index, module, {**kwargs, **dict(zip(self._names, args, strict=False))})
            return None
        kwargs = {**kwargs, **dict(zip(self._names, args, strict=False))}
        if index in starts:
            kwargs["hidden_states"] = call.cut_now(kwargs["hidden_states"], index)
        step, hidden = call.steps[-1], kwargs["hidden_states"]
        kwargs["attention_mask"] = of_prompt(call, step, index, kwargs.get("attention_mask"), hidden)
        for name in self.parts.family.along:
            if kwargs.get(name) is not None:
                kwargs[name] = call.once(kwargs[name], step, lambda x: step.fresh.take(x, 1 - x.ndim))
        self._cut_positions(call, step, index, kwargs, hidden)
        look_back(call, index, module, kwargs)
        return (kwargs.pop("hidden_states"),), kwargs

    def _cut_positions(self, call: Call, step: Step, index: int, kwargs: dict[str, Any], hidden: Tensor) -> None:
        embeddings, ids = kwargs["position_embeddings"], kwargs.get("position_ids")
        if call.policy.positions == "compact":
            own = self._own_positions(call, hidden)
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
        ids = call.once(call.positions, shift, lambda _: self._own_positions(call, hidden) - shift.to(hidden.device))
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
