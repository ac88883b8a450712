"""The cut of a sequence: the columns that stay, and functions that cut every tensor with a sequence axis.

Letters in shapes: b rows of a batch, L tokens before the cut, l after it, q queries of one forward. If rows keep
different numbers of tokens, they are padded on the left, as generation pads prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from greedyprune.resident import send


@dataclass(frozen=True, eq=False)
class Cut:
    """The columns that stay of `length` logical ones, in order. Column numbers are the original positions."""

    length: int
    columns: Tensor
    """(b, l) int64, ascending where valid."""
    valid: Tensor
    """(b, l) bool: False for the left padding of a shorter row, and for padding of the prompt."""
    ragged: bool
    """True if any entry of `valid` is False."""
    shift: Tensor | None = None
    """(b, 1) original minus compact position of the tokens after this cut; None for original positions."""

    @classmethod
    def keeping(cls, keep: Tensor) -> Cut:
        """Make a cut from a mask that is True for tokens that stay. (b, L) bool -> Cut"""
        longest = int(keep.sum(1).max())
        # A stable sort of 0/1 puts the kept columns last and in order, with arbitrary dropped ones as left padding.
        columns = keep.to(torch.uint8).argsort(dim=1, stable=True)[:, keep.shape[1] - longest :]
        return cls.of(keep.shape[1], columns, keep.gather(1, columns))

    @classmethod
    def of(cls, length: int, columns: Tensor, valid: Tensor) -> Cut:
        """Make a cut from columns and their validity."""
        return cls(length, columns, valid, not bool(valid.all()))

    @property
    def dropped(self) -> int:
        """The number of columns that the cut removes."""
        return self.length - self.columns.shape[1]

    def on(self, device: torch.device) -> Cut:
        """The same cut on a device. From the CPU to a GPU the host does not wait for the copy."""
        if self.columns.device == device:
            return self
        shift = None if self.shift is None else send(self.shift, device)
        return replace(self, columns=send(self.columns, device), valid=send(self.valid, device), shift=shift)

    def grown(self, total: int) -> Cut:
        """Add the columns that came after the cut. All of them stay. -> Cut of `total` columns"""
        tail = torch.arange(self.length, total, device=self.columns.device).expand(self.columns.shape[0], -1)
        columns = torch.cat([self.columns, tail], 1)
        valid = torch.cat([self.valid, self.valid.new_ones(tail.shape)], 1)
        return replace(self, length=total, columns=columns, valid=valid)

    def inside(self, outer: Cut) -> Cut:
        """Combine this cut with the earlier cut `outer` into one cut of the original sequence."""
        valid = outer.valid.gather(1, self.columns) & self.valid
        return Cut.of(outer.length, outer.columns.gather(1, self.columns), valid)

    def then(self, other: Cut) -> Cut:
        """Append the cut of the next part of the sequence to this cut."""
        return Cut(
            self.length + other.length,
            torch.cat([self.columns, other.columns + self.length], 1),
            torch.cat([self.valid, other.valid], 1),
            self.ragged or other.ragged,
            other.shift if self.shift is None or other.shift is None else self.shift + other.shift,
        )

    def of_rows(self, rows: Tensor) -> Cut:
        """The cut of a batch that was reordered, repeated or reduced. (b',) -> Cut"""
        rows = rows.to(self.columns.device)
        shift = None if self.shift is None else self.shift[rows]
        return Cut(self.length, self.columns[rows], self.valid[rows], self.ragged, shift)

    def take(self, x: Tensor, dim: int) -> Tensor:
        """Gather along a negative `dim`. The batch axis precedes it. (..., b, L, ...) -> (..., b, l, ...)"""
        axis, batch = x.ndim + dim, x.ndim + dim - 1
        rows, kept = self.columns.shape
        shape, view = list(x.shape), [1] * x.ndim
        shape[batch], view[batch] = rows, rows
        shape[axis], view[axis] = kept, kept
        if x.shape[batch] != rows:  # one row for the whole batch
            x = x.expand([rows if i == batch else size for i, size in enumerate(x.shape)])
        return x.gather(axis, self.columns.to(x.device).view(view).expand(shape))

    def heads(self, x: Tensor) -> Tensor:
        """Cut the keys or values of a cache layer. (b, h, L, d) -> (b, h, l, d)"""
        index = self.columns.to(x.device)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
        return x.gather(2, index)

    def gaps(self, valid: Tensor) -> Tensor:
        """The number of valid tokens that were dropped before each column that stays. (b, L) -> (b, l)"""
        kept = torch.zeros_like(valid).scatter_(1, self.columns, self.valid)
        return (valid & ~kept).cumsum(1).gather(1, self.columns)

    def mask_columns(self, mask: Tensor) -> Tensor:
        """Cut a 4-D attention mask along its keys. (b, 1, q, L) -> (b, 1, q, l)"""
        rows = self.columns.shape[0]
        mask = mask.expand(rows, -1, -1, -1)
        index = self.columns.to(mask.device)[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1)
        return mask.gather(3, index).masked_fill(~self.valid.to(mask.device)[:, None, None, :], forbidden(mask.dtype))

    def mask_rows(self, mask: Tensor) -> Tensor:
        """Cut a 4-D attention mask along its queries. (b, 1, L, t) -> (b, 1, l, t)"""
        rows = self.columns.shape[0]
        mask = mask.expand(rows, -1, -1, -1)
        index = self.columns.to(mask.device)[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3])
        return mask.gather(2, index)

    def padding_mask(self, given: Tensor | None, total: int) -> Tensor:
        """A 2-D mask of the full logical length. Its last columns are the physical ones. -> (b, total)

        A cache layer with a logical length makes transformers skip the first `dropped` columns (`kv_offset`). So the
        mask has that number of zeros, then the kept columns, then the caller's tail.
        """
        rows = self.valid.shape[0]
        tail = self.valid.new_ones(rows, total - self.length) if given is None else given[:, self.length :].bool()
        return torch.cat([self.valid.new_zeros(rows, self.dropped), self.valid, tail.to(self.valid.device)], 1).long()

    def allowed(self, queries: int, window: int | None = None) -> Tensor:
        """True for the kept columns that each of the last `queries` tokens may attend to. -> (b, 1, queries, l) bool

        A sliding window counts the tokens that stay, as their cache does.
        """
        width = self.columns.shape[1]
        seen = torch.ones(queries, width, dtype=torch.bool, device=self.valid.device).tril(width - queries)
        if window is not None:
            seen = seen.triu(width - queries - window + 1)
        return seen[None, None] & self.valid[:, None, None, :]


def uncut(length: int, batch: int, valid: Tensor | None, device: torch.device) -> Cut:
    """A cut that keeps all of the first `length` columns."""
    columns = torch.arange(length, device=device).expand(batch, -1)
    mask = torch.ones(batch, length, dtype=torch.bool, device=device) if valid is None else valid[:, :length].bool()
    return Cut.of(length, columns, mask)


def forbidden(dtype: torch.dtype) -> float | bool:
    """The mask value, for this type, of a column that a query must not attend to."""
    return False if dtype == torch.bool else torch.finfo(dtype).min
