"""The result of a pruned prompt as counts: tokens, bytes of the KV cache and FLOPs, with and without the cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greedyprune.models.flops import decode_flops, prefill_flops
from greedyprune.selection import Report

if TYPE_CHECKING:
    from greedyprune.clock import Clock
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
    now: list[int]
    """Per decoder layer, the number of this prompt's tokens that it computes."""
    held: list[int]
    """Per decoder layer, the number of tokens in its KV cache after it ran."""
    visual: list[int]
    """Per decoder layer, the number of visual tokens that it computes, over all images of the batch."""


def report_of(
    policy: Policy,
    config: Any,
    lengths: Lengths,
    selections: list[Selection],
    cache_bytes: tuple[int, int],
    clocks: list[Clock],
) -> Report:
    """Count one prompt. `config`: the model's. `cache_bytes`: with and without the cut. `clocks`: of each decision."""
    layers, batch, now, held = len(lengths.now), lengths.batch, lengths.now, lengths.held
    before = [total - new for total, new in zip(held, now, strict=True)]  # tokens of earlier turns
    if policy.early:  # caches before the cut are cut after each prompt, in earlier turns too
        held = held[-1:] * layers
        before = before[-1:] * layers
    return Report(
        method=type(policy.method).__name__,
        at=policy.place,
        tokens=sum(s.n for s in selections),
        kept=sum(s.k for s in selections),
        images=len(selections),
        sequence=lengths.length,
        sequence_kept=now[-1],
        layers=layers,
        layer_averaged=sum(lengths.visual) / layers,
        cache_bytes=cache_bytes[0],
        cache_bytes_full=cache_bytes[1],
        prefill_flops=batch * prefill_flops(config, now, before),
        prefill_flops_full=batch * prefill_flops(config, [lengths.length] * layers, [lengths.past] * layers),
        decode_flops=batch * decode_flops(config, held),
        decode_flops_full=batch * decode_flops(config, [lengths.past + lengths.length] * layers),
        select_ms=1e3 * sum(clock.seconds for clock in clocks),
        certificates=tuple(s.keep.certificate for s in selections),
    )
