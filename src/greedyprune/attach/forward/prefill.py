"""The work of one forward that reads a prompt with images: find them, decide, cut, and adapt masks and positions.

At `Input()` the text model gets a shorter sequence. At `Layer(l)` the states are cut before decoder layer l, and the
layers from l on get masks and positions of the tokens that stay. Afterwards the short cache layers get the original
length as their logical length (`cache.py`), so decoding continues in the original numbering.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from greedyprune.attach.forward import refusals
from greedyprune.attach.forward.cache import bytes_of, shorten
from greedyprune.attach.forward.decide import Decider, Shared, Step, tower_cues, warn_if_nothing_pruned, with_layers
from greedyprune.attach.forward.decode import TextInputs, held_before, mask_of
from greedyprune.attach.forward.record import Lengths, report_of
from greedyprune.models.needs import in_decoder, layers_read
from greedyprune.models.prompt import Prompt, find_images
from greedyprune.ops.cut import Cut, uncut
from greedyprune.ops.masks import anew, anew_with, padding_mask
from greedyprune.resident import send

if TYPE_CHECKING:
    from collections.abc import Callable

    from greedyprune.cues import Need, Seen
    from greedyprune.policy import Policy
    from greedyprune.selection import Report, Selection


@dataclass(eq=False)
class Prefill:
    """The work of one forward that reads a prompt with images."""

    text: TextInputs
    prompt: Prompt
    """The current places of the images. They change with each cut."""
    decider: Decider
    seen: dict[Need, list[Tensor]]
    """The method's needs beyond the states, per image, one row per original visual token."""
    generated: bool
    """True if this is the prompt of the `generate` that runs; False for a direct call of the model."""
    raters: list[Tensor] = field(default_factory=list[Tensor])
    """Per image, the numbers of its text raters; empty unless the method reads their attention."""
    entered: dict[Need, list[Tensor]] = field(default_factory=dict["Need", "list[Tensor]"])
    """Per image, the states that entered the decoder layer that runs, for each need of what it adds to them."""
    behind: list[Callable[[], None]] = field(default_factory=list["Callable[[], None]"])
    """Reads the method's needs of the decoder layer that runs, behind it."""
    deepstack: tuple[Tensor, list[Tensor]] | None = None
    """The mask and features that this library adds after early layers. The model's own mask fits only full states."""
    steps: list[Step] = field(default_factory=list[Step])
    shared: dict[str, Shared] = field(default_factory=dict[str, Shared])
    """For each kind of decoder layer, what its last layer behind a cut got."""
    selections: list[Selection] = field(default_factory=list["Selection"])
    skips_unmasked: bool = False

    @classmethod
    def begin(cls, text: TextInputs, arguments: dict[str, Any]) -> Prefill:
        """Find the images, check everything, and cut here if the policy cuts before the decoder.

        It edits the text model's arguments. It raises before any layer runs if text, images and the wish do not fit.
        """
        forward, parts, embeds = text.forward, text.forward.parts, arguments["inputs_embeds"]
        wish = forward.wish
        assert wish is not None and forward.host is not None  # noqa: PT018
        policy, ids = wish.policy, forward.host.ids
        text.fit_to_cache(arguments, unmasked=False)
        refusals.refuse_other_place(text.held.place, policy.place)
        refusals.refuse_unknown_arguments(parts, ids, arguments)
        valid, positions = text.on_host(forward.host)
        refusals.refuse_packed(arguments, positions if text.may_be_packed else None, valid)
        media = find_images(parts, forward.places, forward.features, ids, positions, embeds)
        generation = forward.generation
        generated = generation is not None and generation.reads(ids, text.past)
        drafts = text.total - generation.length if generation is not None and generated else 0
        prompt = replace(Prompt.of(valid, media), drafts=drafts)
        uncached = generated and arguments.get("use_cache") is False
        refusals.refuse_early_cut(policy, followed=bool(drafts) or uncached)
        refusals.refuse_no_text(prompt, policy.method)
        refusals.refuse_crops(parts, prompt, ids, policy)
        decider = Decider.of(policy, wish.hints, parts, prompt, ids, embeds[:, : text.length - drafts])
        if text.past and not parts.plain and policy.starts and ids.shape[0] > 1 and decider.uneven(prompt):
            refusals.refuse_uneven()
        work = cls(text, prompt, decider, tower_cues(policy, parts, prompt, forward.seen), generated)
        if not policy.starts:
            work._cut_input(arguments)
        else:
            work._take_deepstack(arguments)
        return work

    @property
    def policy(self) -> Policy:
        """The policy of this prompt."""
        return self.decider.policy

    @cached_property
    def starts(self) -> list[int]:
        """The decoder layers that a cut precedes; empty if the cut is before the decoder."""
        return self.policy.starts

    @cached_property
    def looks(self) -> dict[int, list[Seen]]:
        """The method's needs in each decoder layer that gives any."""
        found: dict[int, list[Seen]] = {}
        for need in in_decoder(self.policy):
            for index in layers_read(self.text.forward.parts, need, self.starts):
                found.setdefault(index, []).append(need)
        return found

    @property
    def _compact(self) -> bool:
        return self.policy.positions == "compact"

    def step_at(self, index: int) -> Step | None:
        """Return the last cut before decoder layer `index`; None if there is none."""
        for step in reversed(self.steps):
            if step.start <= index:
                return step
        return None

    def held_before(self, index: int, device: torch.device) -> Cut:
        """Return the tokens that cache layer `index` held before this forward, as a cut."""
        return held_before(self.text, index, device, compact=self._compact)

    def held_earlier(self, index: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the keys and values of earlier tokens in the cache of decoder layer `index`. -> (b, g, p, c) each"""
        layer = self.text.forward.cache.layers[index]
        if layer.keys.shape[2] != self.held_before(index, device).columns.shape[1]:
            refusals.refuse_look_back(layer, self.policy.method)
        return layer.keys, layer.values

    # -- the cut

    def cut(self, hidden: Tensor, start: int) -> Tensor:
        """Decide before decoder layer `start` and cut the states. (b, q, d) -> (b, q', d)"""
        text, parts, device = self.text, self.text.forward.parts, hidden.device
        made = self.decider.decide(start, hidden, self.prompt, self.seen, self.selections)
        host = made.host.inside(self.steps[-1].host) if self.steps else made.host
        fresh = host.on(device) if self.steps else made.cut
        if self._compact:
            valid = text.padding_now
            valid = torch.ones_like(text.forward.ids, dtype=torch.bool) if valid is None else valid
            lost = valid.to(device).sum(1, keepdim=True) - fresh.valid.sum(1, keepdim=True)
            fresh = replace(fresh, shift=lost)
        if text.past and fresh.ragged and not parts.plain:
            refusals.refuse_uneven()
        whole = self.held_before(start, device).then(fresh) if text.past else fresh
        masked = whole  # in the columns of the model's own masks, which transformers sizes on layer `parts.full`
        if text.held.cut_at(parts.full) is not None:  # that layer is short already
            base = self.held_before(parts.full, device)
            masked = uncut(base.columns.shape[1], base.columns.shape[0], base.valid, device).then(fresh)
        self.steps.append(Step(start, fresh, host, whole, masked, [s.keep for s in made.selections], made.clock))
        short = made.shorten(hidden, self.prompt)
        self.prompt = self.prompt.after(made.host, made.rows)
        self.selections = made.selections
        return short

    def _cut_input(self, arguments: dict[str, Any]) -> None:
        """Cut the decoder's input, and every argument that has the sequence as an axis."""
        text, parts = self.text, self.text.forward.parts
        arguments["inputs_embeds"] = hidden = self.cut(arguments["inputs_embeds"], 0)
        step, positions = self.steps[-1], text.own_positions(hidden.device)
        compact = self._compact
        arguments["position_ids"] = self._compact_ids(step) if compact else step.fresh.take(positions, -1)
        self._along(step, arguments)
        mask = arguments.get("attention_mask")
        by_kind = cast("dict[str, Tensor | None]", mask) if isinstance(mask, dict) else None
        if by_kind is not None:
            first = {kind.name: kind.first for kind in parts.kinds}
            masks = {name: self._mask(step, first.get(name, 0), m, hidden) for name, m in by_kind.items()}
            arguments["attention_mask"] = masks
        elif text.outer_masks:
            arguments["attention_mask"] = self._mask(step, parts.full, cast("Tensor", mask), hidden)
        else:
            # Always pass a mask, even if it is all ones. Without a mask, transformers takes gaps in the positions for
            # several packed sequences, which do not attend to each other. The mask covers the logical past and the
            # physical prompt, which is the length that the cache layers imply.
            past = step.fresh.valid[:, :0].long()
            if text.past:
                past = self.held_before(0, hidden.device).padding_mask(None, text.past)
            arguments["attention_mask"] = torch.cat([past, step.fresh.valid.long()], 1)
        if (names := parts.family.deepstack) is not None and arguments.get(names[1]) is not None:
            arguments[names[0]] = step.fresh.take(arguments[names[0]], -1) & step.fresh.valid
            arguments[names[1]] = step.planes(arguments[names[1]])

    def _take_deepstack(self, arguments: dict[str, Any]) -> None:
        """Take over the features that the model would add after a layer whose states are cut already."""
        names = self.text.forward.parts.family.deepstack
        features = None if names is None else arguments.get(names[1])
        if names is not None and features is not None and len(features) > self.policy.starts[0]:
            self.deepstack = arguments.pop(names[0]), arguments.pop(names[1])

    # -- the decoder layers

    def before_layer(self, index: int, hidden: Tensor, arguments: dict[str, Any]) -> Tensor:
        """Cut before decoder layer `index` if the policy cuts there. After a cut, adapt its mask and positions."""
        text, starts = self.text, self.starts
        if not starts:  # the sequence was cut before the first layer
            self._without_gaps(arguments)
            return hidden
        if index < starts[0]:
            mask = arguments.get("attention_mask")
            if text.past and text.held.cut_at(index) is None and mask is not None and not text.outer_masks:
                # A later turn's padding mask was made for short layers, and this layer is full.
                arguments["attention_mask"] = mask_of(text, index, mask, hidden, masks_fit=False)
                self._without_gaps(arguments)
            return hidden
        if index in starts:
            hidden = self.cut(hidden, index)
        step = self.steps[-1]
        if text.forward.parts.family.along:
            self._along(step, arguments)
        arguments.update(self._edits(step, index, hidden, arguments))
        return hidden

    def _edits(self, step: Step, index: int, hidden: Tensor, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the mask and the positions of decoder layer `index` behind a cut. `hidden` (b, q', d) is cut already.

        All layers of a kind share them, since the model gives all of them the same objects.
        """
        kind = self.text.forward.parts.kinds[index].name
        mask, rotary = arguments.get("attention_mask"), arguments["position_embeddings"]
        last = self.shared.get(kind)
        if last is not None and last.step is step and last.mask is mask and last.rotary is rotary:
            return last.edits
        edits = {"attention_mask": self._mask(step, index, mask, hidden)}
        edits |= self._positions(step, index, hidden, arguments)
        self._without_gaps(edits)
        self.shared[kind] = Shared(step, mask, rotary, edits)
        return edits

    def _without_gaps(self, arguments: dict[str, Any]) -> None:
        """Remove the position ids if FlashAttention would take their gaps for packed prompts.

        `position_embeddings` rotate keys and queries. Few decoders use position ids for anything else.
        """
        parts, ids = self.text.forward.parts, arguments.get("position_ids")
        if "flash" in parts.attention and ids is not None:
            if not parts.counts:
                arguments["position_ids"] = None
            elif self.text.past and ids.shape[0] == 1:
                refusals.refuse_gaps(parts)

    def after_layer(self, index: int, output: Tensor) -> Tensor | None:
        """DeepStack: after an early layer, add the features of the visual tokens that are still there."""
        if self.deepstack is None or index >= len(self.deepstack[1]):
            return None
        (mask, features), step = self.deepstack, self.step_at(index)
        found = self.text.made(("deepstack", step), mask)
        if found is None:
            # The visual tokens are those of the mask, and their places are known on the host.
            places = tuple(send(each, output.device) for each in self.prompt.visual.nonzero(as_tuple=True))
            found = places, features if step is None else step.planes(features)
            self.text.share(("deepstack", step), mask, found)
        (places, features), output = found, output.clone()
        output[places] = output[places] + features[index].to(output)
        return output

    def _mask(self, step: Step, index: int, mask: Tensor | None, hidden: Tensor) -> Tensor | None:
        """Return the mask of decoder layer `index` after a cut of this forward. `hidden` (b, q', d) is cut already."""
        text, queries = self.text, hidden.shape[1]
        kind = text.forward.parts.kinds[index]
        if kind.recurrent:  # a recurrent layer gets a padding mask; None if nothing is padding
            return step.fresh.valid.long() if step.fresh.ragged and not text.past else None
        if mask is None:
            return text.kernel_mask(step.masked, kind, hidden)
        if text.must_rebuild_masks:
            width = text.width_of(index, queries)
            if mask.ndim == 2:
                return anew(step.whole, mask, queries, kind.window, width)
            return anew_with(step.whole, step.fresh, mask, queries, kind.window, width)
        if mask.ndim == 2:
            return padding_mask(step.masked, mask)
        return step.fresh.mask_rows(step.masked.mask_columns(mask))

    def _along(self, step: Step, arguments: dict[str, Any]) -> None:
        """Cut the family's further arguments that have the sequence as their second axis."""
        for name in self.text.forward.parts.family.along:
            if (value := arguments.get(name)) is None:
                continue
            found = self.text.made((name, step), value)
            if found is None:
                found = self.text.share((name, step), value, step.fresh.take(value, 1 - value.ndim))
            arguments[name] = found

    def _positions(self, step: Step, index: int, hidden: Tensor, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the position ids, if the layer gets any, and the rotary embeddings of the tokens that stay."""
        rotary, ids = arguments["position_embeddings"], arguments.get("position_ids")
        if self._compact:
            ids = self._compact_ids(step)
            return {"position_ids": ids, "position_embeddings": self.text.forward.parts.rotate(hidden, ids, index)}
        made: dict[str, Any] = {} if ids is None else {"position_ids": step.fresh.take(ids, -1)}
        return {**made, "position_embeddings": tuple(step.fresh.take(x, -2) for x in rotary)}

    def _compact_ids(self, step: Step) -> Tensor:
        """Compute position ids without gaps for the tokens that stay. -> (b, q')"""
        text, device = self.text, step.fresh.columns.device
        positions = text.own_positions(device)
        refusals.refuse_compact_multimodal(positions)
        valid = text.padding_now
        if valid is None:
            valid = positions.new_ones(text.forward.ids.shape[0], text.length, dtype=torch.bool)
        ids = step.fresh.take(positions, -1) - step.fresh.gaps(valid.to(positions.device))
        shift = self.held_before(step.start, positions.device).shift if text.past else None
        return ids if shift is None else ids - shift

    # -- afterwards

    def finish(self, cache: Any) -> None:
        """Give the short cache layers their logical length, and record the result."""
        wish, generation = self.text.forward.wish, self.text.forward.generation
        assert wish is not None
        if cache is not None:
            refusals.refuse_cache(cache)
            self._shorten(cache)
        if generation is not None and self.generated:
            if generation.recorded:  # without a KV cache, every step reads the prompt again
                return
            generation.recorded = True
        steps = [self.step_at(index) for index in range(len(self.text.forward.parts.layers))]
        wish.record(self._report(steps, cache), with_layers(self.selections, steps))
        warn_if_nothing_pruned(self.policy, self.selections)

    def _shorten(self, cache: Any) -> None:
        place, length = self.policy.place, self.text.total - self.prompt.drafts
        for index in range(len(cache.layers)):
            step = self.step_at(index)
            if step is not None:
                shorten(cache, index, step.whole, place, length)
            elif self.policy.early:
                # Its keys keep their original positions, even if the layers after the cut have compact ones.
                whole = replace(self.steps[0].whole, shift=None)
                shorten(cache, index, whole, place, length, early=self.steps[0].masked)
            else:  # the layer is full, but it must not be cropped further than the other layers
                shorten(cache, index, None, place, length)

    def _report(self, steps: list[Step | None], cache: Any) -> Callable[[], Report]:
        """Return what counts this prompt if somebody asks. `steps`: the last cut before each decoder layer."""
        text, tokens = self.text, sum(s.n for s in self.selections)
        now = [text.length if step is None else step.fresh.columns.shape[1] for step in steps]
        held = [text.total if step is None else step.whole.columns.shape[1] for step in steps]
        visual = [tokens if step is None else sum(step.kept) for step in steps]
        lengths = Lengths(text.forward.ids.shape[0], text.past, text.length, now, held, visual)
        config, clocks = text.forward.parts.config, [step.clock for step in self.steps]
        return partial(report_of, self.policy, config, lengths, self.selections, bytes_of(cache), clocks)
