"""The result of a pruned prompt as counts: tokens, bytes of the KV cache and FLOPs, with and without the cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greedyprune.models.flops import decode_flops, prefill_flops
from greedyprune.selection import Report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greedyprune.policy import Policy
    from greedyprune.selection import Selection


@dataclass(frozen=True)
class Lengths:
    """The numbers of tokens in each decoder layer, per prompt of a batch, padding included."""

    batch: int
    past: int
    """The number of tokens of earlier turns, in the original numbering."""
    length: int
    """The number of tokens of this prompt before the cut."""
    now: Sequence[int]
    """Per decoder layer, the number of this prompt's tokens that it computes."""
    held: Sequence[int]
    """Per decoder layer, the number of tokens in its KV cache after the prompt."""
    before: Sequence[int]
    """Per decoder layer, the number of tokens of earlier turns that it attends to."""
    visual: Sequence[int]
    """Per decoder layer, the number of visual tokens that it computes, over all images of the batch."""


def report_of(
    policy: Policy, config: Any, lengths: Lengths, selections: list[Selection], cache_bytes: tuple[int, int], ms: float
) -> Report:
    """Count one prompt. `config`: the model's. `cache_bytes`: with and without the cut. `ms`: time of the decision."""
    layers, whole = len(lengths.now), lengths.past + lengths.length
    every = [lengths.length] * layers
    return Report(
        method=type(policy.method).__name__,
        at=policy.place,
        tokens=sum(s.n for s in selections),
        kept=sum(s.k for s in selections),
        images=len(selections),
        sequence=lengths.length,
        sequence_kept=lengths.now[-1],
        layers=layers,
        layer_averaged=sum(lengths.visual) / layers,
        cache_bytes=cache_bytes[0],
        cache_bytes_full=cache_bytes[1],
        prefill_flops=lengths.batch * prefill_flops(config, list(lengths.now), list(lengths.before)),
        prefill_flops_full=lengths.batch * prefill_flops(config, every, [lengths.past] * layers),
        decode_flops=lengths.batch * decode_flops(config, list(lengths.held)),
        decode_flops_full=lengths.batch * decode_flops(config, [whole] * layers),
        select_ms=ms,
        certificates=tuple(s.keep.certificate for s in selections),
    )
