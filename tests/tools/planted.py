"""Faults that tests of `greedyprune verify` plant, and what it found."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from greedyprune.ops.cut import Cut


def failures(verdicts: Any) -> set[str]:
    """The names of what does not hold."""
    return {verdict.name for verdict in verdicts if verdict.passed is False}


def lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break pruning: at the input, prompts are numbered two less than the answers behind them expect."""
    take = Cut.take

    def shifted(self: Cut, x: torch.Tensor, dim: int) -> torch.Tensor:
        found = take(self, x, dim)
        return found - 2 if x.dtype == torch.int64 else found

    monkeypatch.setattr(Cut, "take", shifted)


def shaken(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
    """A foreign hook on short sequences: steps of a decoding with a cache say something else."""
    return out + (out.shape[1] == 1) * out.roll(1, -1)
