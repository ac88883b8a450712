"""The time of a whole answer: prompt and steps of decoding, dense, pruned, and the oracle. Vision runs before.

All three say so many tokens, the likeliest each time, in the same numbering. The oracle says what the pruned model
says; what the dense one says may be something else, and takes as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from greedyprune.bench.clock import interleaved
from greedyprune.bench.compared import SIDES, Case, Ratios, case_of, milliseconds, ratios_of
from greedyprune.bench.prefill import ROUNDS
from greedyprune.bench.trio import trio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from greedyprune.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Row(Ratios, Case):
    """One measured answer."""

    generated: int
    """Tokens of the answer."""
    vision_ms: float
    """Time of the vision tower and the projector, which pruning leaves as it is."""
    equal: bool
    """True if the pruned model and the oracle said the same tokens."""


@torch.no_grad()
def measure(
    model: Any,
    inputs: Mapping[str, Tensor],
    policy: Policy,
    *,
    generated: int = 32,
    name: str = "",
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Row:
    """Measure answers of `generated` tokens to a batch of prompts without padding. The model is not changed.

        row = measure(model, inputs, Policy("greedyprune", 64, "layer:2"), generated=128)
        row.speedup, row.equal

    Raises Unmeasurable, a ValueError, if the model has no oracle.
    """
    with trio(model, inputs, policy) as three:
        works: dict[str, Any] = {side: partial(three.calls[side].answer, generated) for side in SIDES}
        said = {side: work() for side, work in works.items()}  # the first answer of each is not counted
        times = interleaved({**works, "vision": three.encode}, model.device, rounds, seed)
        report = three.handle.report()
    return Row(
        **case_of(model, name, report, inputs["input_ids"].shape[0]),
        **ratios_of(times),
        generated=generated,
        vision_ms=milliseconds(times["vision"]),
        equal=torch.equal(said["pruned"], said["oracle"]),
    )
