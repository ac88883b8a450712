"""OTPrune against plain float64 algebra: what each kept token adds to the determinant."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cases
import greedyprune as gp
from greedyprune.ops.volume import most_volume

KINDS = ("iid", "offset", "clustered", "integers")


def kernel(x: torch.Tensor, gamma: float) -> torch.Tensor:
    x = x.double()
    x = torch.stack([column / column.norm() if column.norm() > 0 else column for column in x.T], 1)
    z = x @ x.T
    return torch.eye(x.shape[0], dtype=torch.float64) + gamma * z @ z.T


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 5000), n=st.integers(1, 12), d=st.integers(1, 9), kind=st.sampled_from(KINDS), data=st.data()
)
def test_otprune_takes_what_grows_the_determinant_most(seed: int, n: int, d: int, kind: str, data) -> None:
    k, gamma = data.draw(st.integers(1, n)), data.draw(st.sampled_from((0.01, 1.0, 30.0)))
    x, _ = cases.draw(kind, n, d, seed)
    protect = data.draw(st.sampled_from((None, torch.tensor([n - 1]))))
    keep = gp.select(gp.OTPrune(gamma=gamma), gp.Cues(x, protect=protect), k)
    whole, order = kernel(x, gamma), list[int]()
    for row, gain in zip(keep.order.tolist(), keep.gains.tolist(), strict=True):
        before = torch.logdet(whole[order][:, order]) if order else torch.zeros((), dtype=torch.float64)
        grown = {
            i: float(torch.logdet(whole[[*order, i]][:, [*order, i]]) - before) for i in range(n) if i not in order
        }
        given_row = protect is not None and not order
        assert given_row or grown[row] >= max(grown.values()) - 1e-9
        assert gain == pytest.approx(grown[row], abs=1e-9)
        order.append(row)
    assert protect is None or order[0] == n - 1


def test_equal_tokens_are_taken_from_the_lowest_on() -> None:
    assert gp.select("otprune", gp.Cues(torch.ones(5, 3)), 3).order.tolist() == [0, 1, 2]
    assert gp.select("otprune", gp.Cues(torch.zeros(5, 3)), 4).gains.tolist() == [0.0] * 4
    a = torch.full((4, 2), 1e150, dtype=torch.float64)  # residuals stay at least 1, whatever rounding does
    assert most_volume(a, a, 4).gains.isfinite().all()
    with pytest.raises(ValueError, match="gamma=-1 is no weight"):
        gp.OTPrune(gamma=-1)
