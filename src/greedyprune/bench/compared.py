"""What every row about a whole model holds: the case, and dense, pruned and oracle side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greedyprune.bench.clock import clock_name, median_of
from greedyprune.models.parts import find_parts

if TYPE_CHECKING:
    from greedyprune.selection import Report

SIDES = ("dense", "pruned", "oracle")


@dataclass(frozen=True, kw_only=True)
class Case:
    """The model, the method and the prompts that were measured."""

    model: str
    method: str
    at: str
    layers: int
    width: int
    dtype: str
    device: str
    clock: str
    """The time that was measured: process CPU time, or on CUDA the device's."""
    batch: int
    images: int
    """Images of each prompt."""
    tokens: int
    """Visual tokens of each prompt."""
    kept: int
    sequence: int
    """Tokens of each prompt, text included."""
    sequence_kept: int
    threads: int

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class First:
    """What one prefill of each side shows: its memory, and whether the pruned model computes what the oracle does."""

    dense_peak_bytes: int
    """The most bytes at a time during the prefill, above weights and inputs; the KV cache is among them."""
    pruned_peak_bytes: int
    oracle_peak_bytes: int
    embeddings_bytes: int
    """Of the whole prompt, which the oracle never makes."""
    within_bound: bool
    """True if the pruned peak is at most the oracle's and those embeddings."""
    dense_cache_bytes: int
    pruned_cache_bytes: int
    oracle_cache_bytes: int
    error: float
    """The largest difference between logits of the pruned model and of the oracle."""
    equal: bool
    """True if these logits are equal bit for bit."""


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """The times of all three, medians in milliseconds, and their ratios; `low` and `high` bound 95 % intervals."""

    dense_ms: float
    pruned_ms: float
    oracle_ms: float
    speedup: float
    """dense / pruned, median of the rounds' ratios."""
    speedup_low: float
    speedup_high: float
    oracle_speedup: float
    oracle_speedup_low: float
    oracle_speedup_high: float
    share: float
    """(dense - pruned) / (dense - oracle): the part of the oracle's saving that is reached."""
    share_low: float
    share_high: float
    rounds: int


def case_of(model: Any, name: str, report: Report, batch: int) -> dict[str, Any]:
    """The fields of a `Case`."""
    text: Any = find_parts(model).text.config
    return {
        "model": name or str(model.config.model_type),
        "method": report.method,
        "at": report.at,
        "layers": text.num_hidden_layers,
        "width": text.hidden_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": _device(model.device),
        "clock": clock_name(model.device),
        "batch": batch,
        "images": report.images // batch,
        "tokens": report.tokens // batch,
        "kept": report.kept // batch,
        "sequence": report.sequence,
        "sequence_kept": report.sequence_kept,
        "threads": torch.get_num_threads(),
    }


def ratios_of(seconds: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of `Ratios`, of the seconds of each side by round."""
    dense, pruned, ideal = (seconds[side] for side in SIDES)
    found: dict[str, Any] = {f"{side}_ms": milliseconds(seconds[side]) for side in SIDES}
    for name, values in (
        ("speedup", dense / pruned),
        ("oracle_speedup", dense / ideal),
        ("share", (dense - pruned) / (dense - ideal)),
    ):
        found[name], found[f"{name}_low"], found[f"{name}_high"] = median_of(values)
    return {**found, "rounds": len(dense)}


def milliseconds(seconds: Tensor) -> float:
    """The median."""
    return round(1e3 * float(seconds.quantile(0.5)), 3)


def _device(device: torch.device) -> str:
    """The device, on CUDA with its name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
