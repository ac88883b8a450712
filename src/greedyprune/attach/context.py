"""The context variables, which hold values only while something runs, and the types of these values.

A context variable belongs to one thread or one asynchronous task, so two calls of one model never share values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ReferenceType

import torch
from torch import Tensor

from greedyprune.resident import read

if TYPE_CHECKING:
    from greedyprune.cues import Seen
    from greedyprune.hints import Hints
    from greedyprune.models.parts import Parts
    from greedyprune.ops.cut import Cut
    from greedyprune.policy import Policy
    from greedyprune.selection import Report, Selection


class Wish(Protocol):
    """The policy and the hints for the prompts of a call. It also stores the result."""

    @property
    def policy(self) -> Policy:
        """The method, the budget, the place of the cut and the positions."""
        ...

    @property
    def hints(self) -> Hints:
        """The user's hints about the images of the call."""
        ...

    @property
    def of_one_call(self) -> bool:
        """True if it was made for one call; False if it holds for all calls of a pruned model."""
        ...

    def record(self, report: Callable[[], Report] | None, selections: list[Selection]) -> None:
        """Store the result of a prompt. `report` makes the report if it is asked for; None: there are no images."""
        ...


class Work(Protocol):
    """The edits that one forward makes in the decoder layers."""

    skips_unmasked: bool
    """True if a layer without an attention mask needs no edit."""

    def before_layer(self, index: int, hidden: Tensor, arguments: dict[str, Any]) -> Tensor:
        """Edit the arguments of decoder layer `index`, and return the states that enter it. (b, q, d) -> (b, q', d)"""
        ...

    def after_layer(self, index: int, output: Tensor) -> Tensor | None:
        """Edit the output states of decoder layer `index`. None leaves them as they are."""
        ...


@dataclass(eq=False)
class Host:
    """What the caller of a prompt with images passed, on the CPU: one read for all of it, before the model runs."""

    ids: Tensor
    """(b, q) the token ids."""
    copies: list[tuple[Tensor, Tensor]]
    """Further arguments that were passed, each with its copy."""

    @classmethod
    def of(cls, ids: Tensor, *others: object) -> Host:
        """Read the ids, and those of the others that are tensors."""
        given = [each for each in others if isinstance(each, Tensor)]
        first, *rest = read([ids, *given])
        return cls(first, list(zip(given, rest, strict=True)))

    def copy(self, x: Tensor) -> Tensor:
        """Return a tensor on the CPU: the copy that was read if it is one of these arguments, or else a new one."""
        for given, copy in self.copies:
            if given is x:
                return copy
        return x.cpu()


@dataclass(eq=False)
class Forward:
    """One forward of the outer model, from its first hook to its last hook."""

    parts: Parts
    """The parts of the pruned model that runs. Each handle has its own."""
    wish: Wish | None
    """The wish for this call. None for a step of decoding, one token without images, which prunes nothing."""
    ids: Tensor
    """(b, q) the token ids."""
    places: Mapping[str, Tensor]
    """The placeholders of each kind of input that this call brings, (b, q) bool on the CPU; empty while decoding."""
    cache: Any
    """The KV cache that the caller passed; None if there is none."""
    past: int
    """The number of tokens that it holds, as `length_of` says."""
    mask: Tensor | None
    """The attention mask that the caller passed."""
    generation: Generation | None
    """The run of `generate` that makes this forward; None if there is none."""
    features: dict[str, Any]
    """The features of each kind of input that the model computed."""
    seen: dict[str, dict[Seen, Tensor]]
    """The values that the hooks read in the vision tower, for each kind of input, one row per visual token."""
    host: Host | None = None
    """The ids, the mask and the positions on the CPU; None if the call brings no images."""
    work: Work | None = None
    """The edits in the decoder layers; None if there are none."""
    plain_prompt: bool = False
    """True for a prompt without images that begins a sequence."""
    thread: int = field(default_factory=threading.get_ident)
    """The thread that runs it."""

    @property
    def brings_images(self) -> bool:
        """True if the ids hold a placeholder of an image, a video or a sound that came along."""
        return any(bool(places.any()) for places in self.places.values())


@dataclass(eq=False)
class Generation:
    """One run of `generate` of a pruned model. Only `generate` knows the length of the prompt."""

    parts: Parts
    """The parts of the pruned model that runs."""
    ids: Tensor
    """(b, n) the token ids that the caller passed, on the CPU: the prompt, or the part that the KV cache lacks."""
    length: int
    """The number of tokens of the prompt, including those in the KV cache."""
    wish: Wish | None = None
    """The wish that holds while it runs if no request is in force around a call."""
    recorded: bool = False
    """True if the prompt's result is recorded. Without a KV cache, every step reads the prompt again."""

    def reads(self, ids: Tensor, past: int) -> bool:
        """True if a forward reads this prompt; False if other code calls the model while `generate` runs.

        `ids` (b', q) on the CPU. With beams or several returned sequences, b' is a multiple of b.
        """
        unread, copies = self.length - past, ids.shape[0] // self.ids.shape[0]
        if copies * self.ids.shape[0] != ids.shape[0]:  # another batch
            return False
        if not 0 < unread <= min(ids.shape[1], self.ids.shape[1]):  # the prompt was read, or these are other tokens
            return False
        return torch.equal(ids[:, :unread], self.ids[:, -unread:].repeat_interleave(copies, 0))


@dataclass(eq=False)
class Trial:
    """One run of the self-test of an unknown model type (`selftest.py`)."""

    wish: Wish | None
    """The wish that the hooks follow; None for a run without pruning."""
    cut_made: Cut | None = None
    """The cut that the hooks made; None until then."""
    states: Tensor | None = None
    """The output states of the text model; None until then."""


@dataclass(eq=False)
class TowerRun:
    """One run of a vision tower in which hooks read needs of a method."""

    owner: ReferenceType[object]
    """The hooks that read. Two pruned models may share a tower. The reference is weak, so it keeps nothing alive."""
    wanted: list[Seen]
    """The needs to read, each with the number of its layer."""
    sizes: Tensor | None
    """What the tower is told of the images' sizes; None if it is told nothing."""
    rows: dict[Seen, Tensor] = field(default_factory=dict["Seen", Tensor])
    """The values that were read so far, one row per tower row."""
    seen: dict[Seen, Tensor] = field(default_factory=dict["Seen", Tensor])
    """The same by visual token, once they are known."""


FORWARD: ContextVar[Forward | None] = ContextVar("greedyprune_forward", default=None)
"""The forward of a pruned model that runs now; None if there is none."""

GENERATION: ContextVar[Generation | None] = ContextVar("greedyprune_generation", default=None)
"""The innermost `generate` of a pruned model that runs now; None if there is none."""

REQUESTS: ContextVar[tuple[Any, ...]] = ContextVar("greedyprune_requests", default=())
"""The requests that were entered in this context, the innermost last. A request that has
ended in another context may still be here: `Requests.in_force` passes it over. A thread that got no context has no
value here, not even (): `Requests._adopted` reads that."""

TRIAL: ContextVar[Trial | None] = ContextVar("greedyprune_trial", default=None)
"""The run of a self-test that runs now; None if there is none."""

ENCODING: ContextVar[str | None] = ContextVar("greedyprune_encoding", default=None)
"""The kind of input whose features the model computes now; None if there is none."""

TOWER_RUNS: ContextVar[tuple[TowerRun, ...]] = ContextVar("greedyprune_tower_runs", default=())
"""The runs of vision towers in which hooks read needs now."""
