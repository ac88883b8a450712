"""The hooks: forward (pre-)hooks on the outer model, the text model and the decoder layers. No forward is rewritten.

One forward runs like this. The outer hook sees the token ids and what came with them. The text model's hook finds the
images; at `Input()` it decides on the merged embeddings and hands the model a shorter sequence. At `Layer(l)` the hook
of decoder layer l decides on its states, and the hooks of all layers from l on cut masks and positions. Afterwards the
cache layers that are physically short get a logical length (`cache.py`), so decoding goes on in the original numbering.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from greedyprune.attach.cache import check_cache, cut_of, is_cut_once, is_shifted, place_of, shorten
from greedyprune.attach.call import Call
from greedyprune.attach.context import CALL, TRIAL, callers
from greedyprune.attach.decide import warn_if_idle
from greedyprune.attach.entry import (
    brings_media,
    check_arguments,
    newlines,
    refuse_callers,
    refuse_packed,
    refuse_recomputation,
    refuse_shorter,
    refuse_unclear,
    refuse_unknown,
    warn_if_crops,
    warn_if_unbrought,
)
from greedyprune.attach.features import Watch, lengths, put_in_front
from greedyprune.attach.forward.quotas import check_text, keep_last
from greedyprune.attach.generating import Generating, generation
from greedyprune.attach.layers import LayerHooks
from greedyprune.attach.look import choose_raters
from greedyprune.attach.masks import nothing_masked, of_input
from greedyprune.attach.selftest import prove
from greedyprune.attach.tower import TowerHooks, carried, look_at_tower
from greedyprune.models._family import ImageTokens, Visuals
from greedyprune.models.needs import in_decoder
from greedyprune.models.prompt import Prompt
from greedyprune.models.release import argument_names, cache_in, cache_of
from greedyprune.policy import Policy
from greedyprune.selection import Report, Selection

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from greedyprune.models.parts import Parts


class Hooks:
    """The hooks of one pruned model. `policy` is asked for at every call; `done` receives what a prompt's call did."""

    def __init__(
        self, parts: Parts, policy: Callable[[], Policy], done: Callable[[Report, list[Selection]], None]
    ) -> None:
        self.parts, self._policy, self._done = parts, policy, done
        self._outer_names = argument_names(parts.outer)
        self._handles: list[RemovableHandle | Watch | Generating] = []
        self._running: set[Call] = set()
        self._lock, self._closing = threading.Lock(), False
        self._layers = LayerHooks(parts, self._call)
        self._proven: list[list[int]] = []
        self._tower = TowerHooks(parts, self._policy, self._call)
        self._undo: Callable[[], None] = lambda: None
        try:
            self._register()
        except BaseException:
            self.remove()
            raise

    def _register(self) -> None:
        parts, own = self.parts, self.parts.outer.forward
        for holder in parts.holders[:-1]:
            names = argument_names(holder)
            self._handles.append(holder.register_forward_pre_hook(partial(self._hold, names), with_kwargs=True))
        self._handles.append(parts.outer.register_forward_pre_hook(self._enter, with_kwargs=True))
        self._handles.append(parts.outer.register_forward_hook(self._leave, always_call=True))
        self._handles.append(parts.text.register_forward_pre_hook(self._text, with_kwargs=True))
        self._handles.append(parts.text.register_forward_hook(self._after_text, with_kwargs=True))
        self._handles += self._tower.register()
        self._handles.append(Watch(parts, self._call))
        self._handles.append(Generating(parts, self))
        self._undo = put_in_front(parts.outer, "forward", wraps(own)(partial(self._forward, own)))

    def remove(self) -> None:
        """Take every hook off. Forwards that run are waited for, and those that begin meanwhile are not pruned at all.

        Raises RuntimeError inside a forward of this thread.
        """
        with self._lock:
            self._closing = True
        while running := list(self._running):
            mine = [call for call in running if call.thread == threading.get_ident()]
            if mine and any(module is self.parts.outer for _, module in callers("_call_impl")):
                self._closing = False
                raise RuntimeError("the pruning cannot be removed inside a forward of the model: call remove() after.")
            for call in mine:  # an interrupt ended them
                self._end(call)
            time.sleep(0.001)
        self._layers.remove()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._undo()
        self._tower.forget()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a pruned model cannot be copied or pickled: call remove() first, and prune the copy.")

    def _call(self) -> Call | None:
        call = CALL.get()
        return call if call is not None and call.owner is self else None

    # -- the models that hold the outer model, and the outer model

    def _hold(self, names: list[str], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**kwargs, **dict(zip(names, args, strict=False))} if args else kwargs
        if brings_media(self.parts, given):
            refuse_shorter(given)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        CALL.set(None)
        trial = TRIAL.get()
        if trial is not None and trial.policy is None:
            return
        if args:
            kwargs = {**kwargs, **dict(zip(self._outer_names, args, strict=False))}
        ids: Any = kwargs.get("input_ids")
        cache = cache_in(kwargs)
        mask = kwargs.get("attention_mask")
        computed: dict[str, Any] = {}
        media: dict[str, Tensor] = {}
        if brings_media(self.parts, kwargs):
            refuse_unclear(ids, mask, cut=True)
            refuse_shorter(kwargs)
            computed = {k: v for k, v in (kwargs.get("mm_encoder_outputs") or {}).items() if v is not None}
            refuse_unknown(self.parts, kwargs, computed)
            refuse_callers(self.parts, watched=generation(self) is not None)
            for medium, token in self.parts.media:
                if medium.kind in computed or any(kwargs.get(name) is not None for name in medium.inputs):
                    media[medium.kind] = ids.cpu() == token
        else:
            refuse_unclear(ids, mask, cut=place_of(cache) is not None)
        if ids.shape[1] > 1:  # a step brings nothing
            warn_if_unbrought(self.parts, kwargs, ids, {*media, *computed})
        policy = self._policy() if trial is None else trial.policy
        if media:
            check_cache(cache, early=policy.early)
        if media and policy.starts:
            refuse_recomputation(self.parts)
        if media and trial is None and not self.parts.family.proven and policy.starts[:1] not in self._proven:
            prove(self.parts, policy, module, kwargs)
            self._proven.append(policy.starts[:1])
        call = Call(self, self.parts, policy, ids, media, computed, cache)
        call.padding = mask
        call.seen = {kind: carried(features) for kind, features in computed.items()}
        with self._lock:
            if self._closing:
                return
            self._running.add(call)
        CALL.set(call)

    def _forward(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The outer model's forward, behind which nothing is left, whatever ended it: interrupts pass by hooks."""
        try:
            return own(*args, **kwargs)
        finally:
            if (call := self._call()) is not None:
                self._end(call)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if (call := self._call()) is not None:  # another hook raised, or somebody replaced the forward
            self._end(call)

    def _end(self, call: Call) -> None:
        self._running.discard(call)
        if CALL.get() is call:
            CALL.set(None)

    # -- the text model

    def _text(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        call, embeds, mask = self._call(), kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
        if call is None or embeds is None:
            return None
        fresh = any(bool(places.any()) for places in call.media.values())
        if call.cache is not None:
            # The paged cache of generate_batch, which text may use, holds many prompts and has no length.
            call.past = call.cache.get_seq_length() if hasattr(call.cache, "get_seq_length") else 1
        if not fresh and place_of(call.cache) is None:  # nothing to cut, and nothing was cut: as without pruning
            call.quiet = True
            return None
        call.outer_masks = mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2)
        call.length, call.positions = embeds.shape[1], kwargs.get("position_ids")
        if not call.outer_masks:
            call.padding = mask
        total = call.past + call.length
        base, first = cut_of(call.cache, self.parts.full), cut_of(call.cache, self.parts.first)
        unmasked = not fresh and nothing_masked(call, base, mask)
        if unmasked:
            kwargs["attention_mask"] = None
        elif base is not None and not call.outer_masks and (mask is not None or base.ragged):
            kwargs["attention_mask"] = base.padding_mask(mask, total)
        if first is not None and first.shift is not None:
            kwargs["position_ids"] = call.own_positions(embeds) - first.shift.to(embeds.device)
        if fresh:
            self._prepare(call, embeds, kwargs)
            looked_at = call.policy.starts or in_decoder(call.policy) or "flash" in self.parts.attention
        else:
            padded = call.padding is not None or (first is not None and first.ragged)
            # Where every layer is equally short, the model's own masks are, too, unless the outer model made them.
            call.fitting = first is not None and is_cut_once(call.cache) and not (call.outer_masks and padded)
            numbered = (first is not None and first.shift is not None) or not is_shifted(call.cache)
            call.quiet, call.open = call.fitting and numbered, unmasked and numbered
            looked_at = not call.quiet
        if looked_at:
            self._layers.register()
        return args, kwargs

    def _prepare(self, call: Call, embeds: Tensor, kwargs: dict[str, Any]) -> None:
        """A prompt with images: find them, and cut here if the policy cuts before the decoder."""
        place = place_of(call.cache)
        if place is not None and place != call.policy.place:
            raise NotImplementedError(
                f"the prompt in this cache was cut at {place!r}, and now {call.policy.place!r} is asked for: "
                "keep the place of the cut through a conversation, or start with an empty cache."
            )
        check_arguments(self.parts, call, kwargs)
        refuse_packed(call, kwargs, flash="flash" in self.parts.attention)
        ids, valid = call.input_ids.cpu(), torch.ones(call.input_ids.shape, dtype=torch.bool, device="cpu")
        if call.padding is not None:
            valid = call.padding_now().cpu()
        positions = call.positions.cpu() if call.positions is not None and call.positions.ndim == 3 else None
        media: list[tuple[Tensor, list[ImageTokens]]] = []
        for medium, _ in self.parts.media:
            places = call.media.get(medium.kind)
            if places is None or not bool(places.any()):
                continue
            rows = lengths(call.features.get(medium.kind))
            breaks = newlines(self.parts, embeds, places)
            visuals = Visuals(ids, places, rows, positions, breaks, medium.kind)
            images = medium.layout(self.parts.config, visuals)
            media.append((places, [replace(image, kind=medium.kind) for image in images]))
        running = generation(self)
        call.generation = running if running is not None and running.reads(ids, call.past) else None
        drafts = 0 if call.generation is None else call.past + call.length - call.generation.length
        call.prompt = replace(Prompt.of(valid, media), drafts=drafts)
        uncached = call.generation is not None and kwargs.get("use_cache") is False
        if call.policy.early and (call.prompt.drafts or uncached):
            raise NotImplementedError(
                "an early cut cannot hide what it drops from tokens that are read together with the prompt: leave out "
                "early=True, or generate with a cache and without assistant_model and prompt_lookup_num_tokens."
            )
        check_text(call.prompt, call.policy.method)
        # Raises where text, images and what was asked for do not fit, before anything runs.
        asked = call.policy.asked(call.prompt.spans, embeds[:, : call.length - drafts])
        call.asked = keep_last(asked, call.prompt, call.policy.method)
        call.refuse_uneven()
        warn_if_crops(self.parts, call.prompt, ids, call.policy)
        look_at_tower(call)
        choose_raters(call, embeds)
        if not call.policy.starts:
            self._cut_input(call, embeds, kwargs)
        elif self.parts.family.deepstack is not None:
            names = self.parts.family.deepstack
            features = kwargs.get(names[1])
            if features is not None and len(features) > call.policy.starts[0]:
                call.deep = (kwargs.pop(names[0]), kwargs.pop(names[1]))

    def _cut_input(self, call: Call, embeds: Tensor, kwargs: dict[str, Any]) -> None:
        kwargs["inputs_embeds"] = call.cut_now(embeds, 0)
        step = call.steps[-1]
        positions = call.own_positions(embeds)
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
        call.cache = call.cache if call.cache is not None else cache_of(output)
        if call.cache is not None:
            check_cache(call.cache)
            self._shorten(call)
        if call.generation is not None:
            if call.generation.told:  # without a cache every step reads the prompt again
                return
            call.generation.told = True
        self._done(call.report(), call.told())
        warn_if_idle(call.policy, call.selections)

    def _shorten(self, call: Call) -> None:
        assert call.prompt is not None
        place, prompt = call.policy.place, call.past + call.length - call.prompt.drafts
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
