"""What a pruned call did: per image the selection, per call the counts, as values that print and serialise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.budget import Budget
    from greedyprune.keep import Certificate, Keep


class PruneWarning(UserWarning):
    """Something about pruning is not as you asked for it: nothing left, or evenly spaced tokens stay instead."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What was kept of one image. Indices are the image's own visual tokens, 0 the first.

    first = pruned.selections[0]
    first.k, first.rows, first.order[:3]
    """

    index: int
    """Which image of the call, in the order of the placeholders."""
    row: int
    """Which prompt of the batch it belongs to."""
    grid: tuple[int, int, int] | None
    """(t, h, w) of its tokens, None where no grid fits."""
    budget: Budget
    keep: Keep
    """The decision itself: rows, order, gains, what was passed over for whom."""
    breaks: tuple[int, ...] = ()
    """The structure tokens that stay, such as newlines of tiles, as places among the image's placeholders."""
    kind: str = "image"
    """What it is: image, video or audio."""
    structure: tuple[int, ...] = ()
    """The places of all its structure tokens."""
    per_layer: tuple[int, ...] = ()
    """How many of the image's tokens each decoder layer sees."""

    @property
    def n(self) -> int:
        """How many visual tokens the image has."""
        return self.keep.n

    @property
    def k(self) -> int:
        """How many stayed."""
        return self.keep.k

    @property
    def rows(self) -> Tensor:
        """(k,) the kept tokens, ascending."""
        return self.keep.rows

    @property
    def places(self) -> Tensor:
        """What stays of the image's placeholders, structure tokens included, ascending."""
        if not self.structure:
            return self.rows
        plain = torch.ones(self.n + len(self.structure), dtype=torch.bool, device="cpu")
        plain[list(self.structure)] = False
        kept = plain.nonzero()[:, 0].to(self.rows.device)[self.rows]
        return torch.cat([kept, kept.new_tensor(self.breaks)]).sort().values

    @property
    def order(self) -> Tensor:
        """(k,) the kept tokens in the order taken."""
        return self.keep.order

    @property
    def gains(self) -> Tensor:
        """(k,) what each kept token was worth when it was taken, in the order taken."""
        return self.keep.gains

    @property
    def suppressed_by(self) -> Tensor | None:
        """(n,) for which kept token each dropped one was passed over; None of methods that do not say."""
        return self.keep.suppressed_by

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        by = self.keep.suppressed_by
        return {
            "image": self.index,
            "kind": self.kind,
            "prompt": self.row,
            "grid": list(self.grid) if self.grid else None,
            "budget": str(self.budget),
            "tokens": self.n,
            "kept": self.k,
            "structure": len(self.structure),
            "structure_kept": len(self.breaks),
            "per_layer": list(self.per_layer),
            "rows": _listed(self.rows),
            "order": _listed(self.order),
            "gains": [round(gain, 6) for gain in _listed(self.keep.gains)],
            "before_fallback": int(self.keep.before_fallback),
            "suppressed_by": _listed(by) if by is not None else None,
            "certificate": asdict(self.keep.certificate) if self.keep.certificate else None,
        }


def _listed(values: Tensor) -> list[float]:
    """The values as plain numbers. (k,) -> k"""
    return cast("list[float]", cast("Any", values).tolist())


@dataclass(frozen=True)
class Report:
    """The counts of one call (its prompt; decoding adds nothing to them).

    report = pruned.report()
    print(report)               # greedyprune at layer:2: 576 -> 64 visual tokens, ...
    report.kept / report.tokens
    """

    method: str
    at: str
    tokens: int = 0
    """Visual tokens of the call, all images."""
    kept: int = 0
    """Visual tokens that stayed."""
    images: int = 0
    sequence: int = 0
    """Length of the prompt batch before the cut, padding and text included."""
    sequence_kept: int = 0
    """Length after it."""
    layers: int = 0
    layer_averaged: float = 0.0
    """Visual tokens per decoder layer on average, which some papers call the budget."""
    cache_bytes: int = 0
    """Keys and values after the prompt, as held."""
    cache_bytes_full: int = 0
    """What they would take without pruning."""
    prefill_flops: int = 0
    """Of the decoder for the prompt as it was cut, padding included."""
    prefill_flops_full: int = 0
    """What it would take without pruning."""
    decode_flops: int = 0
    """Of the decoder for one new token of every prompt, right after it."""
    decode_flops_full: int = 0
    select_ms: float = 0.0
    """Host time of choosing, all images."""
    certificates: tuple[Certificate | None, ...] = ()
    """Per image, what is proven about its selection."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {**self.__dict__, "certificates": [asdict(c) if c else None for c in self.certificates]}

    def __str__(self) -> str:
        if not self.images:
            return f"{self.method} at {self.at}: no prompt with images has run yet, nothing was pruned"
        saved = 1 - self.cache_bytes / self.cache_bytes_full if self.cache_bytes_full else None
        cache = f"KV -{100 * saved:.0f} %" if saved is not None else "no KV cache"
        flops = 1 - self.prefill_flops / max(self.prefill_flops_full, 1)
        return (
            f"{self.method} at {self.at}: {self.tokens} -> {self.kept} visual tokens "
            f"({self.layer_averaged:.0f} averaged over {self.layers} layers), "
            f"{self.sequence} -> {self.sequence_kept} in sequence, prompt FLOPs -{100 * flops:.0f} %, {cache}, "
            f"selector {self.select_ms:.1f} ms"
        )
