"""One forward of a pruned model: what is known about it, what was decided, and how tensors of it are cut."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greedyprune.attach.cache import bytes_of, cut_of
from greedyprune.attach.decide import decide
from greedyprune.attach.forward.quotas import Ask
from greedyprune.models.flops import decode_flops, prefill_flops
from greedyprune.models.prompt import Prompt
from greedyprune.ops.cut import Cut, uncut
from greedyprune.policy import Policy
from greedyprune.selection import Report, Selection

if TYPE_CHECKING:
    from greedyprune.attach.generating import Generation
    from greedyprune.cues import Need
    from greedyprune.keep import Keep
    from greedyprune.models.needs import Seen
    from greedyprune.models.parts import Parts


UNEVEN = (
    "a later turn's images must keep equally many tokens in every prompt of a batch where the decoder has windows or "
    "carries a state: its layers would count the padding. Use a batch of one prompt."
)


@dataclass(frozen=True, eq=False)
class Step:
    """One cut made in this forward."""

    start: int
    """The decoder layer before which it was made, 0 for a cut before the decoder."""
    fresh: Cut
    """What stays of this forward's tokens, in their original columns."""
    whole: Cut
    """What stays of everything so far and this forward's tokens: what a cache layer behind the cut then holds."""
    masked: Cut
    """The same, in the columns of the masks that the text model makes."""
    keeps: list[Keep]
    """Per image, from all its tokens to those that stay."""


@dataclass(eq=False)
class Call:
    """One forward. It lives in a context variable while it runs, never on the model, so threads do not meet."""

    owner: object
    """The hooks it belongs to."""
    parts: Parts
    policy: Policy
    input_ids: Tensor
    media: dict[str, Tensor]
    """The placeholders of each kind of input that came along, (b, q) bool on the CPU; empty while decoding."""
    features: dict[str, Any]
    """What the model computed for each kind."""
    cache: Any
    past: int = 0
    length: int = 0
    padding: Tensor | None = None
    """(b, past + q) the 2-D mask as the caller gave it."""
    positions: Tensor | None = None
    """Position ids as the text model got them."""
    outer_masks: bool = False
    """Whether the outer model made the masks, which the text model only hands on."""
    fitting: bool = False
    """Whether the masks that the model makes in this step have the physical width for every layer."""
    quiet: bool = False
    """Whether there is nothing to do in the decoder layers."""
    open: bool = False
    """Whether there is nothing to do in those decoder layers that get no mask."""
    generation: Generation | None = None
    """The run of `generate` whose prompt this forward reads, None for a forward by hand."""
    prompt: Prompt | None = None
    """None while decoding and for text-only prompts."""
    asked: dict[int, list[Ask]] = field(default_factory=dict)
    """For the cut before each decoder layer, what is asked for of each image."""
    seen: dict[str, dict[Seen, Tensor]] = field(default_factory=dict)
    """What was seen in the vision tower, for each kind by the visual tokens of all that it ran for."""
    raters: list[Tensor] = field(default_factory=list)
    """Per image the text tokens that rate it, where the method asks what they look at."""
    probed: dict[Need, list[Tensor]] = field(default_factory=dict)
    """What the method needs of this call beyond the states, per image in its original visual tokens."""
    steps: list[Step] = field(default_factory=list)
    deep: tuple[Tensor, list[Tensor]] | None = None
    """Mask and features of a DeepStack that this library adds itself, since the model would index a longer state."""
    selections: list[Selection] = field(default_factory=list)
    seconds: float = 0.0
    memo: dict[tuple[int, int], tuple[Any, Any, Any]] = field(default_factory=dict)
    thread: int = field(default_factory=threading.get_ident)
    """Which thread runs it."""

    def holds(self, layer: object) -> bool:
        """Whether a cache layer is one of the cache that this forward fills."""
        for mine in getattr(self.cache, "layers", None) or []:  # noqa: SIM110 - mostly the first, so no generator
            if mine is layer:
                return True
        return False

    def once(self, value: Any, cut: Any, make: Callable[[Any], Any]) -> Any:
        """make(value) for one cut, computed once per forward although every layer asks; both are held, so ids stay."""
        key = (id(value), id(cut))
        if key not in self.memo:
            self.memo[key] = (value, cut, make(value))
        return self.memo[key][2]

    def step_at(self, index: int) -> Step | None:
        """The last cut before decoder layer `index`."""
        return next((step for step in reversed(self.steps) if step.start <= index), None)

    def so_far(self, layer: int, device: torch.device) -> Cut:
        """What cache layer `layer` held before this forward, as a cut of the `past` logical columns."""
        kinds = self.parts.kinds  # layers that carry a state hold no tokens: the next one behind them does
        layer = next((i for i in range(layer, len(kinds)) if not kinds[i].recurrent), layer)
        before = cut_of(self.cache, layer)
        if before is not None:
            return before.grown(self.past)
        batch = self.input_ids.shape[0]
        earlier = uncut(self.past, batch, self.padding, device)
        if self.policy.positions == "compact":
            earlier = replace(earlier, shift=torch.zeros(batch, 1, dtype=torch.int64, device=device))
        return earlier

    def cut_now(self, hidden: Tensor, start: int) -> Tensor:
        """Decide before decoder layer `start` and cut the states. (b, q, d) -> (b, q', d)"""
        assert self.prompt is not None
        asked, norm = self.asked[start], self.parts.norm
        made = decide(hidden, self.prompt, self.policy.method, asked, self.probed, norm, self.selections)
        previous = self.steps[-1] if self.steps else None
        fresh = made.cut if previous is None else made.cut.inside(previous.fresh)
        if self.policy.positions == "compact":
            valid = torch.ones_like(self.input_ids, dtype=torch.bool) if self.padding is None else self.padding_now()
            lost = valid.to(hidden.device).sum(1, keepdim=True) - fresh.valid.sum(1, keepdim=True)
            fresh = replace(fresh, shift=lost)
        if self.past and fresh.ragged and not self.parts.plain:
            raise NotImplementedError(UNEVEN)
        whole = masked = self.so_far(start, hidden.device).then(fresh)
        if cut_of(self.cache, self.parts.full) is not None:  # masks are sized on this layer, which is short already
            base = self.so_far(self.parts.full, hidden.device)
            masked = uncut(base.columns.shape[1], base.columns.shape[0], base.valid, hidden.device).then(fresh)
        keeps = [s.keep for s in made.selections]
        self.steps.append(Step(start, fresh, whole, masked, keeps))
        short = made.cut.take(hidden, -2)
        _merge(short, hidden, made.cut, self.prompt, made.keeps)
        self.prompt = self.prompt.after(made.cut, made.keeps)
        self.selections, self.seconds = made.selections, self.seconds + made.seconds
        return short

    def refuse_uneven(self) -> None:
        """Raise where prompts may come out uneven behind layers whose caches would hold the turn that failed then."""
        batch = self.input_ids.shape[0]
        if not self.past or self.parts.plain or not self.policy.starts or batch == 1:
            return
        assert self.prompt is not None
        for asks in self.asked.values():
            counts = (self.prompt.valid & ~self.prompt.visual).sum(1)
            sure = True
            for span, ask in zip(self.prompt.spans, asks, strict=True):
                k = min(ask.count(span.image.n), span.image.n)
                whole = k == span.image.n
                counts[span.row] += span.image.length if whole else k
                sure = sure and (whole or not k or (self.policy.method.exact and not span.breaks))
            if not sure or bool((counts != counts[0]).any()):
                raise NotImplementedError(UNEVEN)

    def own_positions(self, states: Tensor) -> Tensor:
        """The position ids of this forward's tokens, as the text model got them or counts them."""
        if self.positions is not None:
            return self.positions
        return torch.arange(self.past, self.past + self.length, device=states.device)[None]

    def padding_now(self) -> Tensor:
        """(b, q) bool: this forward's part of the caller's 2-D mask."""
        assert self.padding is not None
        return self.padding[:, self.past : self.past + self.length].bool()

    def compact_positions(self, step: Step, positions: Tensor) -> Tensor:
        """Positions without gaps, for the tokens that stay. (b, q) -> (b, q')"""
        if positions.ndim != 2:
            raise NotImplementedError(
                'positions="compact" is not defined for multimodal position ids (M-RoPE): use positions="original".'
            )
        batch = self.input_ids.shape[0]
        valid = positions.new_ones(batch, self.length, dtype=torch.bool)
        if self.padding is not None:
            valid = self.padding_now().to(positions.device)
        shift = self.so_far(step.start, positions.device).shift if self.past else None
        short = step.fresh.take(positions, -1) - step.fresh.gaps(valid)
        return short if shift is None else short - shift

    def planes(self, features: list[Tensor], step: Step) -> list[Tensor]:
        """DeepStack features of the tokens that stay, merged where the tokens were. (n of all images, d) each"""
        cut: list[Tensor] = []
        for plane in features:
            parts, start = [], 0
            for keep in step.keeps:
                parts.append(keep.merge(plane[start : start + keep.n]))
                start += keep.n
            cut.append(torch.cat(parts))
        return cut

    def told(self) -> list[Selection]:
        """The selections, with what each decoder layer sees of an image."""
        steps = [self.step_at(index) for index in range(len(self.parts.layers))]
        return [
            replace(one, per_layer=tuple(one.n if step is None else step.keeps[i].k for step in steps))
            for i, one in enumerate(self.selections)
        ]

    def report(self) -> Report:
        """The counts of this forward."""
        name = type(self.policy.method).__name__
        if not self.steps:
            return Report(name, self.policy.place)
        held, full = bytes_of(self.cache)
        tokens, layers = sum(s.n for s in self.selections), len(self.parts.layers)
        steps = [self.step_at(index) for index in range(layers)]
        config, batch, whole = self.parts.config, self.input_ids.shape[0], self.past + self.length
        now = [self.length if step is None else step.fresh.columns.shape[1] for step in steps]
        left = [whole if step is None else step.whole.columns.shape[1] for step in steps]
        past = [total - new for total, new in zip(left, now, strict=True)]
        if self.policy.early:  # caches in front of the cut are cut behind each prompt, those of earlier turns too
            left = [self.steps[-1].whole.columns.shape[1]] * layers
            past = [left[0] - self.steps[-1].fresh.columns.shape[1]] * layers
        return Report(
            method=name,
            at=self.policy.place,
            tokens=tokens,
            kept=sum(s.k for s in self.selections),
            images=len(self.selections),
            sequence=self.length,
            sequence_kept=self.steps[-1].fresh.columns.shape[1],
            layers=layers,
            layer_averaged=sum(tokens if s is None else sum(keep.k for keep in s.keeps) for s in steps) / layers,
            cache_bytes=held,
            cache_bytes_full=full,
            prefill_flops=batch * prefill_flops(config, now, past),
            prefill_flops_full=batch * prefill_flops(config, [self.length] * layers, [self.past] * layers),
            decode_flops=batch * decode_flops(config, left),
            decode_flops_full=batch * decode_flops(config, [whole] * layers),
            select_ms=1e3 * self.seconds,
            certificates=tuple(s.keep.certificate for s in self.selections),
        )


def _merge(short: Tensor, hidden: Tensor, cut: Cut, prompt: Prompt, keeps: list[Keep]) -> None:
    """Put the means of a merging method where its representative tokens stand, in place."""
    for span, keep in zip(prompt.spans, keeps, strict=True):
        if keep.weights is None:
            continue
        row, columns = span.row, span.columns.to(hidden.device)
        stands = (cut.columns[row] == keep(columns)[:, None]) & cut.valid[row]
        short[row, stands.to(torch.uint8).argmax(1)] = keep.merge(hidden[row, columns])
