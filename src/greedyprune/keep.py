"""Keep: a decision about one image's tokens, as a value that can cut any tensor which has those rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Certificate:
    """What is proven about a selection under a similarity threshold, before any fallback filled it up."""

    tau: float
    """The threshold used."""
    pairwise_max: float
    """The largest cosine between two kept tokens: at most tau, unless protected tokens are closer."""
    maximal: bool
    """Whether every other token is too similar to a kept one, so that none could be added."""
    share: float | None
    """At least this share of the largest total saliency any k tokens could have; None where weights are negative."""


@dataclass(frozen=True, eq=False)
class Keep:
    """Which k of n tokens stay. Everything lies on the device of the cues it was decided from."""

    n: int
    """How many tokens there were."""
    rows: Tensor
    """(k,) the kept rows, ascending, int64."""
    order: Tensor
    """(k,) the same rows in the order in which they were taken."""
    gains: Tensor
    """(k,) what each was worth when it was taken, in the order of `order`; the unit is the method's."""
    before_fallback: Tensor
    """() how many the method took by its own rule, before a fallback filled the budget."""
    suppressed_by: Tensor | None = None
    """(n,) the kept token for which a token was passed over, -1 where none was (kept, or never looked at)."""
    certificate: Certificate | None = None
    weights: Tensor | None = None
    """(k, n) for methods that merge: row r of the result is this mean of the rows, and stands at `rows[r]`."""

    @classmethod
    def from_order(
        cls,
        order: Tensor,
        gains: Tensor,
        n: int,
        *,
        before_fallback: int | None = None,
        suppressed_by: Tensor | None = None,
        certificate: Certificate | None = None,
    ) -> Keep:
        """From the rows in the order taken. (k,), (k,) -> Keep"""
        own = torch.tensor(order.shape[0] if before_fallback is None else before_fallback, device=order.device)
        return cls(n, order.sort().values, order, gains, own, suppressed_by, certificate)

    @classmethod
    def everything(cls, n: int, device: torch.device | str = "cpu") -> Keep:
        """All n tokens, in order, with no gain attributed."""
        rows = torch.arange(n, device=device)
        return cls.from_order(rows, torch.zeros(n, device=device), n)

    @property
    def k(self) -> int:
        """How many tokens stay."""
        return self.rows.shape[0]

    def __call__(self, x: Tensor, dim: int = 0) -> Tensor:
        """Cut any tensor that has these n rows along `dim`. (..., n, ...) -> (..., k, ...)"""
        if x.shape[dim] != self.n:
            raise ValueError(
                f"the tensor has {x.shape[dim]} rows along dim {dim}, this decision is about {self.n} tokens."
            )
        return x.index_select(dim, self.rows.to(x.device))

    def of(self, outer: Keep) -> Keep:
        """This decision about the rows that `outer` kept, told in the rows that `outer` was about."""
        weights = None
        if outer.weights is not None:
            weights = self.merge(outer.weights)
        elif self.weights is not None:
            weights = self.weights.new_zeros(self.k, outer.n).index_copy_(1, outer.rows, self.weights)
        return replace(
            self,
            n=outer.n,
            rows=outer.rows[self.rows],
            order=outer.rows[self.order],
            suppressed_by=None,
            weights=weights,
        )

    def merge(self, x: Tensor) -> Tensor:
        """Weighted means where there are weights, else the plain cut. (n, d) -> (k, d)"""
        if self.weights is None:
            return self(x)
        return (self.weights.to(x.device, torch.float32) @ x.float()).to(x.dtype)

    def __repr__(self) -> str:
        return f"Keep({self.k} of {self.n})"


def protected_first(order: Tensor, protect: Tensor | None) -> Tensor:
    """A ranking with the protected rows moved to its front. (c,), (p,) -> (c' >= c,)"""
    if protect is None:
        return order
    return torch.cat([protect, order[~torch.isin(order, protect)]])
