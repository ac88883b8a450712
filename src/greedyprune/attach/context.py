"""Everything that is true only while something runs: the context variables, and the values that they hold.

A context variable belongs to one thread or one asynchronous task, so two calls of one model never meet here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ReferenceType

import torch
from torch import Tensor

from greedyprune.models.reads import layers_of

if TYPE_CHECKING:
    from greedyprune.hints import Hints
    from greedyprune.models.needs import Seen
    from greedyprune.models.parts import Parts
    from greedyprune.ops.cut import Cut
    from greedyprune.policy import Policy
    from greedyprune.selection import Report, Selection


class Wish(Protocol):
    """What is to be done to the prompts of a call, and the place for what was done."""

    @property
    def policy(self) -> Policy:
        """A method, a budget, the place of the cut and positions."""
        ...

    @property
    def hints(self) -> Hints:
        """What is known of the images of the call."""
        ...

    @property
    def of_one_call(self) -> bool:
        """True if it was made for one call; False if it holds for all calls of a pruned model."""
        ...

    def record(self, report: Report | None, selections: list[Selection]) -> None:
        """Take the result of a prompt; None for one without images."""
        ...


class Work(Protocol):
    """What one forward has to do in the decoder layers."""

    skips_unmasked: bool
    """True if there is nothing to do in a layer that gets no attention mask."""

    def before_layer(self, index: int, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Edit the arguments of decoder layer `index`; None leaves them as they are."""
        ...

    def after_layer(self, index: int, output: Tensor) -> Tensor | None:
        """Edit the states that come out of decoder layer `index`; None leaves them as they are."""
        ...


@dataclass(eq=False)
class Forward:
    """One forward of the outer model, from its first hook to its last."""

    parts: Parts
    """The parts of the pruned model that runs; each handle has its own."""
    wish: Wish | None
    """None for one token without images: such a step prunes nothing."""
    ids: Tensor
    """(b, q) the token ids."""
    places: Mapping[str, Tensor]
    """The placeholders of each kind of input that came along, (b, q) bool on the CPU; empty while decoding."""
    cache: Any
    """The KV cache that came with the call."""
    mask: Tensor | None
    """The attention mask as the caller gave it."""
    generation: Generation | None
    """The run of `generate` that this forward belongs to."""
    features: dict[str, Any]
    """The features of each kind of input, as the model computed them."""
    seen: dict[str, dict[Seen, Tensor]]
    """What the hooks saw in the vision tower, for each kind, by the visual tokens of all its inputs."""
    work: Work | None = None
    """What is to be done in the decoder layers; None if there is nothing to do."""
    plain_prompt: bool = False
    """True for a prompt without images that begins a sequence."""
    thread: int = field(default_factory=threading.get_ident)
    """The thread that runs it."""

    @property
    def brings_images(self) -> bool:
        """True if the ids hold a placeholder of an image, a video or a sound that came along."""
        for places in self.places.values():  # noqa: SIM110 - every step of decoding asks, so no generator
            if bool(places.any()):
                return True
        return False

    def fills(self, layer: object) -> bool:
        """True if a cache layer belongs to the cache that this forward fills."""
        for mine in layers_of(self.cache):  # noqa: SIM110 - mostly the first, so no generator
            if mine is layer:
                return True
        return False


@dataclass(eq=False)
class Generation:
    """One run of `generate` of a pruned model. It alone knows how long the prompt is."""

    parts: Parts
    """The parts of the pruned model that runs."""
    ids: Tensor
    """(b, n) the token ids it was called with, on the CPU: the prompt, or the part of it that the cache lacks."""
    length: int
    """The number of tokens of the prompt, those in the cache included."""
    recorded: bool = False
    """True once the prompt's result is recorded: without a cache the prompt is read again at every step."""

    def reads(self, ids: Tensor, past: int) -> bool:
        """True if a forward reads this prompt; False for a forward that somebody makes by hand meanwhile.

        `ids` (b', q) on the CPU; b' is a multiple of b for beams and several returned sequences.
        """
        count, times = self.length - past, ids.shape[0] // self.ids.shape[0]
        if not 0 < count <= min(ids.shape[1], self.ids.shape[1]) or times * self.ids.shape[0] != ids.shape[0]:
            return False
        return torch.equal(ids[:, :count], self.ids[:, -count:].repeat_interleave(times, 0))


@dataclass(eq=False)
class Trial:
    """One run of the self-test of an unknown model type (`selftest.py`)."""

    wish: Wish | None
    """What the hooks shall do; None for a run without pruning."""
    cut_made: Cut | None = None
    """The cut that the hooks made."""
    states: Tensor | None = None
    """The states that came out of the text model."""


@dataclass(eq=False)
class TowerRun:
    """One run of a vision tower in which something is looked for."""

    owner: ReferenceType[object]
    """The hooks that look: two pruned models may share a tower. A weak reference, so that nothing stays alive."""
    wanted: list[Seen]
    """What is looked for, each with the number of its layer."""
    grids: Tensor | None
    """The images' patch grids, if the tower is called with them."""
    rows: dict[Seen, Tensor] = field(default_factory=dict["Seen", Tensor])
    """What was seen so far, by the tower's rows."""


FORWARD: ContextVar[Forward | None] = ContextVar("greedyprune_forward", default=None)
"""The forward of a pruned model that runs now, None outside."""

GENERATION: ContextVar[Generation | None] = ContextVar("greedyprune_generation", default=None)
"""The innermost `generate` of a pruned model that runs now, None outside."""

REQUESTS: ContextVar[tuple[Any, ...]] = ContextVar("greedyprune_requests", default=())
"""The requests that were entered in this context, the innermost last. Some may be over: see `Pruned.request`."""

TRIAL: ContextVar[Trial | None] = ContextVar("greedyprune_trial", default=None)
"""The run of a self-test that is under way, None otherwise."""

ENCODING: ContextVar[str | None] = ContextVar("greedyprune_encoding", default=None)
"""The kind of input whose features are being computed, None outside."""

TOWER_RUNS: ContextVar[tuple[TowerRun, ...]] = ContextVar("greedyprune_tower_runs", default=())
"""The runs of vision towers in which something is looked for now."""
