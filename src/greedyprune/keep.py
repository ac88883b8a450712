"""Keep: the decision about one image's tokens. It is a value that cuts any tensor with those rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from greedyprune.checks import check_tensor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Certificate:
    """Proven facts about a selection under a similarity threshold, before a fallback added tokens.

        found: Certificate | None = select("greedyprune", Cues(features, text=text), 64).certificate
        found.pairwise_max <= found.tau

    GreedyPrune returns one with each selection, and SoftGreedyPrune a `SoftCertificate`; other methods return None.
    """

    tau: float
    """The threshold used."""
    pairwise_max: float
    """The largest cosine between two kept tokens: at most tau, unless protected tokens are closer."""
    maximal: bool
    """True if every other token is too similar to a kept one, so that none could be added."""
    share: float | None
    """The total saliency is at least this share of the largest that any k tokens could have. None if a weight in it is
    negative."""


@dataclass(frozen=True)
class SoftCertificate:
    """Proven facts about a selection of SoftGreedyPrune, with its weight a, saliencies w_i and unit rows u_i.

        found: SoftCertificate | None = select("soft_greedyprune", Cues(features, text=text), 64).certificate
        found.level, found.factor

    Let g be the level. The threshold of token i is τ_i = 1 - exp(g - a w_i): stricter for dull tokens, looser for
    salient ones. All facts hold up to 1e-12 in a cosine, as the decisions do.

    - No token that the rule took has a cosine above its τ_i with a token taken before it.
    - Every dropped token has a kept one whose cosine with it is at least its τ_i, so none could be added.
    - Let R(S) = max over all i of exp(a w_i / 2) min over s in S of |u_i - u_s|. Then R of the kept tokens is at most
      sqrt(2 exp(g)), and at most `factor` times the smallest R that any k tokens have (weighted k-centre). Here a zero
      row counts as a direction of its own. docs/rule.md has the proofs.
    """

    level: float
    """g, the value of the last token when it was taken; for k = 1 its upper bound a max w_i + log 2."""
    factor: int | None
    """3, or 2 if all saliencies are equal; None if tokens are protected, since they may be anywhere."""


@dataclass(frozen=True, eq=False)
class Keep:
    """The k of n tokens that stay. All tensors lie on the device of the cues.

        keep = Keep.from_order(order, gains, n)     # in a method's select()
        features, positions = keep(features), keep(positions)

    `keep.merge(features)` returns weighted means if the method merges tokens.
    """

    n: int
    """The number of tokens before the cut."""
    rows: Tensor
    """(k,) the kept rows, ascending, int64."""
    order: Tensor
    """(k,) the same rows in the order taken."""
    gains: Tensor
    """(k,) the value of each row when it was taken, in the order of `order`. The method defines the unit."""
    before_fallback: Tensor
    """() the number of rows that the method took by its own rule, before a fallback filled the budget."""
    suppressed_by: Tensor | None = None
    """(n,) the kept token that each token was passed over for; -1 if there is none (kept, or never looked at)."""
    certificate: Certificate | SoftCertificate | None = None
    weights: Tensor | None = None
    """(k, n) for methods that merge: row r of the result is this weighted sum of all rows, at position `rows[r]`."""

    @classmethod
    def from_order(
        cls,
        order: Tensor,
        gains: Tensor,
        n: int,
        *,
        before_fallback: int | None = None,
        suppressed_by: Tensor | None = None,
        certificate: Certificate | SoftCertificate | None = None,
    ) -> Keep:
        """Make a decision from the rows in the order taken. (k,), (k,) -> Keep

        Types and shapes are checked here; `check` checks the values after a selection.
        """
        _check_rows("order", order)
        check_tensor("gains", gains, what="a (k,)")
        _check_gains(gains, order.shape[0])
        own = order.shape[0] if before_fallback is None else before_fallback
        own = torch.full((), own, dtype=torch.int64, device=order.device)  # unlike torch.tensor it waits for no device
        return cls(n, order.sort().values, order, gains, own, suppressed_by, certificate)

    @classmethod
    def everything(cls, n: int, device: torch.device | str = "cpu") -> Keep:
        """Keep all n tokens, in order, with gains of 0."""
        rows = torch.arange(n, device=device)
        return cls.from_order(rows, torch.zeros(n, device=device), n)

    @property
    def k(self) -> int:
        """The number of tokens that stay."""
        return self.rows.shape[0]

    def check(self, n: int, device: torch.device) -> None:
        """Raise unless this is a valid decision about n tokens, with all tensors on this device.

        Rows must be distinct, ascending and in range; `order` must hold the same rows; gains and weights must be
        finite. The check waits for the device once.
        """
        rules = rules_of(self, n, device)
        require_rules(self, rules, read_tests([test for test, _ in rules]))

    def __call__(self, x: Tensor, dim: int = 0) -> Tensor:
        """Cut any tensor that has these n rows along `dim`. (..., n, ...) -> (..., k, ...)"""
        _check_cut(x, dim)
        if x.shape[dim] != self.n:
            raise ValueError(
                f"the tensor has {x.shape[dim]} rows along dim {dim}, this decision is about {self.n} tokens."
            )
        return x.index_select(dim, self.rows.to(x.device))

    def of(self, outer: Keep) -> Keep:
        """This decision about the rows that `outer` kept, in the row numbers of `outer`'s own input."""
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
        """Weighted sums of the rows if there are weights, else the plain cut. (n, d) -> (k, d)"""
        if self.weights is None:
            return self(x)
        _check_cut(x, 0)
        if x.shape[0] != self.n:
            raise ValueError(f"the tensor has {x.shape[0]} rows, this decision is about {self.n} tokens.")
        return (self.weights.to(x.device, torch.float32) @ x.float()).to(x.dtype)

    def __repr__(self) -> str:
        return f"Keep({self.k} of {self.n})"


def rules_of(keep: Keep, n: int, device: torch.device) -> list[tuple[Tensor, str]]:
    """Check a decision's types and shapes, and return the tests of its values, each () with what its failure means.

    Reads no value.
    """
    if keep.n != n:
        raise ValueError(f"n={keep.n!r}, but there are {n} tokens: pass n=cues.n.")
    parts = {"rows": keep.rows, "order": keep.order, "gains": keep.gains, "before_fallback": keep.before_fallback}
    others = {"suppressed_by": keep.suppressed_by, "weights": keep.weights}
    for name, value in (parts | {name: value for name, value in others.items() if value is not None}).items():
        if isinstance(value, torch.Tensor) and value.device != device:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"{name} lies on {value.device}, the cues on {device}: make it with device={device}.")
        check_tensor(name, value)
    _check_rows("rows", keep.rows)
    _check_rows("order", keep.order)
    k = keep.k
    if keep.order.shape[0] != k:
        raise ValueError(f"order has {keep.order.shape[0]} rows and rows {k}: they are the same rows.")
    _check_gains(keep.gains, k)
    for name, shape in (("before_fallback", ()), ("suppressed_by", (n,)), ("weights", (k, n))):
        value = getattr(keep, name)
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}: pass one of shape {shape}.")
    rows, by = keep.rows, keep.suppressed_by
    inside = ((keep.order >= 0) & (keep.order < n)).all()
    rules = [
        (inside, f"it holds a row that is not one of 0 to {n - 1}"),
        ((keep.order.sort().values.diff() > 0).all(), "it holds a row twice"),
        ((rows.diff() > 0).all(), "its rows are not in ascending order"),
        ((keep.order.sort().values == rows).all(), "its rows and its order are not the same rows"),
        (keep.gains.isfinite().all(), "its gains hold NaN or infinity"),
        ((keep.before_fallback >= 0) & (keep.before_fallback <= k), f"before_fallback is not one of 0 to {k}"),
    ]
    if by is not None:
        rules.append((((by >= -1) & (by < n)).all(), f"suppressed_by holds a row that is not one of -1 to {n - 1}"))
    if keep.weights is not None:
        rules.append((keep.weights.isfinite().all(), "its weights hold NaN or infinity"))
    return rules


def stacked_tests(tests: list[Tensor]) -> Tensor:
    """Some tests of values as one tensor, on the device of the first. m of () bool -> (m,)"""
    return torch.stack([each if each.device == tests[0].device else each.to(tests[0].device) for each in tests])


def read_tests(tests: list[Tensor]) -> list[bool]:
    """What some tests of values say, each (). The host waits once."""
    return cast("list[bool]", cast("Any", stacked_tests(tests)).tolist()) if tests else []


def require_rules(keep: Keep, rules: list[tuple[Tensor, str]], holds: list[bool]) -> None:
    """Raise ValueError if a test of `rules_of` failed. `holds`: what they say."""
    for (_, rule), true in zip(rules, holds, strict=True):
        if not true:
            raise ValueError(f"{rule}: order is {_listed(keep.order)}, gains are {_listed(keep.gains)}.")


def _check_rows(name: str, rows: Tensor) -> None:
    check_tensor(name, rows, what="a (k,) int64")
    if rows.ndim != 1 or rows.dtype != torch.int64:
        raise ValueError(
            f"{name} has shape {tuple(rows.shape)} and type {rows.dtype}: pass (k,) row numbers, int64 "
            "(of a mask: mask.nonzero()[:, 0])."
        )


def _check_gains(gains: Tensor, k: int) -> None:
    if gains.shape != (k,) or gains.is_complex():
        raise ValueError(
            f"gains has shape {tuple(gains.shape)} and type {gains.dtype}: pass what each of the {k} rows was worth, "
            "in the order of order, or zeros."
        )


def _check_cut(x: object, dim: int) -> None:
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"a {type(x).__name__} cannot be cut: pass a torch tensor.")
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim={dim!r}: the tensor has {x.ndim} dimensions, of shape {tuple(x.shape)}.")


def _listed(values: Tensor) -> str:
    """The first 12 values as text, in brackets."""
    shown = ", ".join(f"{float(value):.6g}" for value in values[:12])
    return f"[{shown}{', ...' if values.shape[0] > 12 else ''}]"


def protected_first(order: Tensor, protect: Tensor | None) -> Tensor:
    """Put the protected rows at the front of a ranking. (c,), (p,) -> (c' >= c,)"""
    if protect is None:
        return order
    return torch.cat([protect, order[~torch.isin(order, protect)]])
