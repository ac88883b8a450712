"""The result of a pruned call: a `Selection` per image and a `Report` per call. Both print and serialise."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from greedyprune import notebook

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.budget import Budget
    from greedyprune.keep import Certificate, Keep, SoftCertificate


_PLOTS = "greedyprune.plots"
"""What draws, by name, as the registry names methods: the ground floor imports no floor above."""


class PruneWarning(UserWarning):
    """A warning that pruning did not do what you asked: nothing was dropped, or evenly spaced tokens stay instead.

    warnings.simplefilter("error", gp.PruneWarning)     # makes it an error
    """


@dataclass(frozen=True, eq=False)
class Selection:
    """The tokens that were kept of one image. Indices count the image's own visual tokens from 0.

    first: gp.Selection = pruned.selections[0]
    first.k, first.rows, first.order[:3]
    """

    index: int
    """The number of the image in the call, in the order of the placeholders."""
    row: int
    """The number of its prompt in the batch."""
    grid: tuple[int, int, int] | None
    """(t, h, w) of its tokens; None if no grid fits."""
    budget: Budget
    keep: Keep
    """The decision itself: rows, order, gains, and the kept token that each dropped one was passed over for."""
    breaks: tuple[int, ...] = ()
    """The structure tokens that stay, such as newlines of tiles, as places among the image's placeholders."""
    kind: str = "image"
    """The kind of medium: image, video or audio."""
    structure: tuple[int, ...] = ()
    """The places of all its structure tokens."""
    per_layer: tuple[int, ...] = ()
    """The number of the image's tokens that each decoder layer sees."""

    @property
    def n(self) -> int:
        """The number of visual tokens of the image."""
        return self.keep.n

    @property
    def k(self) -> int:
        """The number of tokens that stayed."""
        return self.keep.k

    @property
    def rows(self) -> Tensor:
        """(k,) the kept tokens, ascending."""
        return self.keep.rows

    @property
    def places(self) -> Tensor:
        """The image's placeholders that stay, structure tokens included, ascending."""
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
        """(k,) the value of each kept token when it was taken, in the order taken."""
        return self.keep.gains

    @property
    def suppressed_by(self) -> Tensor | None:
        """(n,) the kept token that each dropped one was passed over for; None if the method does not say."""
        return self.keep.suppressed_by

    def show(self, image: Any, **options: Any) -> Any:
        """Draw the kept patches on the image: a PIL image, which a notebook displays. `options` are those of `overlay`.

            pruned.selections[0].show(image)                # kept patches in full colour
            pruned.selections[0].show(image, order=True)    # with the turn at which each was taken

        `image` is a PIL image, a path or an array. Needs Pillow, from the extra `plots`. Raises ValueError for a
        selection without a grid of one frame.
        """
        plots: Any = importlib.import_module(_PLOTS)
        return plots.overlay(image, self, **options)

    def _repr_html_(self) -> str:
        """The map of its tokens, in a notebook."""
        about = f"{self.kind} {self.index}: {self.k} of {self.n} tokens kept, budget {self.budget}"
        order = [int(row) for row in _listed(self.order)]
        body = notebook.maps(self.grid, order) if self.grid else "<p>its tokens lie on no grid</p>"
        return notebook.titled(about, body)

    def to_dict(self) -> dict[str, Any]:
        """The selection as plain numbers and lists."""
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
    """The counts of one call. They are about its prompt; decoding does not change them.

    report: gp.Report = pruned.report()
    print(report)               # greedyprune at layer:2: 576 -> 64 visual tokens, ...
    report.kept / report.tokens
    """

    method: str
    at: str
    tokens: int = 0
    """Visual tokens of all images of the call."""
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
    """Bytes of the keys and values after the prompt."""
    cache_bytes_full: int = 0
    """Their bytes without pruning."""
    prefill_flops: int = 0
    """FLOPs of the decoder for the pruned prompt, padding included."""
    prefill_flops_full: int = 0
    """The same without pruning."""
    decode_flops: int = 0
    """FLOPs of the decoder for one new token of every prompt, right after the prompt."""
    decode_flops_full: int = 0
    select_ms: float = 0.0
    """CPU time of the calling thread while it chose for all images, in milliseconds; on CUDA the device's time."""
    certificates: tuple[Certificate | SoftCertificate | None, ...] = ()
    """Per image the proven facts about its selection, or None."""

    def _repr_html_(self) -> str:
        """The counts as a table, in a notebook."""
        if not self.images:
            return notebook.titled(str(self), "")
        rows = [
            ("visual tokens", self.tokens, self.kept, str),
            ("length of the sequence", self.sequence, self.sequence_kept, str),
            ("keys and values", self.cache_bytes_full, self.cache_bytes, notebook.in_bytes),
            ("FLOPs of the prompt", self.prefill_flops_full, self.prefill_flops, notebook.in_flops),
            ("FLOPs of a new token", self.decode_flops_full, self.decode_flops, notebook.in_flops),
        ]
        cells = [
            (name, shown(full), shown(kept), f"{100 * (kept / full - 1):.0f} %")
            for name, full, kept, shown in rows
            if full
        ]
        table = notebook.table(("", "all tokens", "pruned", "change"), cells)
        below = f"<p>{self.layer_averaged:.0f} visual tokens per decoder layer on average</p>"
        about = f"{self.method} at {self.at}, {notebook.counted(self.images, 'image')}"
        return notebook.titled(about, table + below)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain numbers."""
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
