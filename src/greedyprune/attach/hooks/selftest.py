"""The self-test of a model type that is not in the table. Its first prompt must show that a cut is correct.

The prompt runs four times without a KV cache:

1. without pruning;
2. pruned with everything kept, which must not change the states;
3. pruned with every other visual token dropped;
4. without pruning, with those tokens masked in the layers after the cut, which must give the states of run 3.

Runs 3 and 4 need full attention in all layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from greedyprune.attach.context import TRIAL, Trial
from greedyprune.budget import Ratio
from greedyprune.hints import Hints
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.models.release import without_cache
from greedyprune.ops.cut import uncut
from greedyprune.ops.masks import additive, allowed_by
from greedyprune.policy import Policy
from greedyprune.selection import PruneWarning
from greedyprune.stages import Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from greedyprune.cues import Cues
    from greedyprune.models.parts import Parts
    from greedyprune.ops.cut import Cut
    from greedyprune.selection import Report, Selection


@dataclass(frozen=True, kw_only=True)
class EveryOther(Method):
    """Keeps tokens 0, 2, 4, ... of any image."""

    @property
    def exact(self) -> bool:
        """False, since it always keeps half."""
        return False

    def select(self, cues: Cues, k: int) -> Keep:
        """Keep half of the tokens. -> Keep"""
        rows = torch.arange(0, cues.n, 2, device=cues.features.device)
        return Keep.from_order(rows, cues.features.new_zeros(len(rows), dtype=torch.float32), cues.n)


@dataclass
class _Check:
    """The wish of one run of the test. It drops the report."""

    policy: Policy
    hints: Hints = field(default_factory=Hints)
    of_one_call: bool = True

    def record(self, report: Callable[[], Report] | None, selections: list[Selection]) -> None:
        """Do nothing with the result."""


def prove(parts: Parts, policy: Policy, outer: nn.Module, kwargs: dict[str, Any]) -> None:
    """Run the self-test at the policy's place. Raises NotImplementedError if the model fails, and warns if it passes.

    `kwargs`: the arguments of the outer model's forward.
    """
    place = Layer(policy.starts[0]) if policy.starts else policy.at
    kwargs = without_cache(kwargs)
    if kwargs.get("attention_mask") is not None:  # only this turn's part
        kwargs["attention_mask"] = kwargs["attention_mask"][:, -kwargs["input_ids"].shape[1] :]
    run = partial(_run, parts, outer, kwargs)
    plain = run(None)
    kept = run(Policy(EveryOther(), Ratio(1.0), place))
    worst = _apart(plain, kept, kept.cut_made)
    if parts.plain and not worst > _bound(plain):
        half = run(Policy(EveryOther(), Ratio(0.5), place))
        with _masked(parts, half.cut_made, policy.starts[0] if policy.starts else 0):
            worst = _apart(run(None), half, half.cut_made)
    if not worst <= _bound(plain):
        raise NotImplementedError(
            f"a {parts.family.model_type!r} model is not in the table of families and did not pass the self-test at "
            f"{place}: its states changed by {worst:.2g}, and they must not change. Try at=Input(), or report it with "
            "the model's name."
        )
    warnings.warn(
        f"a {parts.family.model_type!r} model is not in the table of families. It passed the self-test at {place}. "
        "Each entry of its features, or each unbroken run of placeholders, counts as one image.",
        PruneWarning,
        stacklevel=2,
    )


@torch.no_grad()
def _run(parts: Parts, outer: nn.Module, kwargs: dict[str, Any], policy: Policy | None) -> Trial:
    trial = Trial(None if policy is None else _Check(policy))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        trial.states = output[0]

    token, handle = TRIAL.set(trial), parts.text.register_forward_hook(after)
    try:
        outer(**kwargs)
    finally:
        handle.remove()
        TRIAL.reset(token)
    return trial


def _apart(plain: Trial, cut: Trial, columns: Cut | None) -> float:
    """Return the largest difference between kept states and those of the plain run; infinite if there are none."""
    if plain.states is None or cut.states is None or columns is None:
        return float("inf")
    apart = (columns.take(plain.states, -2) - cut.states).float().abs().amax(-1)[columns.valid.to(cut.states.device)]
    return float(apart.max())


def _bound(plain: Trial) -> float:
    """Return the largest difference that rounding may cause."""
    assert plain.states is not None
    share = 1e-3 if plain.states.dtype == torch.float32 else 5e-2
    return share * float(plain.states.float().abs().max())


@contextmanager
def _masked(parts: Parts, cut: Cut | None, start: int) -> Generator[None]:
    """Inside this block, no layer from `start` on attends to the dropped tokens."""
    assert cut is not None
    seen = torch.zeros(cut.columns.shape[0], cut.length, dtype=torch.bool, device=cut.columns.device)
    whole = uncut(cut.length, seen.shape[0], seen.scatter(1, cut.columns, cut.valid), seen.device)

    def hide(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        mask, states = kwargs.get("attention_mask"), kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        dtype = states.dtype if mask is None else mask.dtype
        allowed = whole.allowed(cut.length).to(states.device)
        if mask is not None and mask.ndim == 4:
            allowed = allowed & allowed_by(mask)
        return args, {**kwargs, "attention_mask": additive(allowed, dtype)}

    handles = [layer.register_forward_pre_hook(hide, with_kwargs=True) for layer in list(parts.layers)[start:]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
