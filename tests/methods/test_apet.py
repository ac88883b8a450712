"""ApET against plain float64 algebra: a basis of tokens that lie far apart, and what it misses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cases
import greedyprune as gp
from examples import cosine


def spread(x: torch.Tensor, count: int) -> list[int]:
    """Farthest-first, from the row that is farthest from the mean."""
    far = (x - x.mean(0)).norm(dim=1).tolist()
    taken = [far.index(max(far))]
    while len(taken) < count:
        left = {i: min(float((x[i] - x[j]).norm()) for j in taken) for i in range(x.shape[0]) if i not in taken}
        taken.append(max(left, key=lambda i: left[i]))
    return taken


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 5000), n=st.integers(2, 14), rows=st.sampled_from(("tower", "tokens")), data=st.data())
def test_apet_keeps_the_basis_and_what_it_misses(seed: int, n: int, rows: str, data) -> None:
    k, basis = data.draw(st.integers(1, n)), data.draw(st.integers(1, 6))
    x, _ = cases.draw("iid", n, 7, seed)
    other, _ = cases.draw("iid", n, 5, seed + 1)
    used = (other if rows == "tower" else x).double()
    cues = gp.Cues(x, encoded=other)
    keep = gp.select(gp.ApET(basis=basis, rows=rows), cues, k)  # type: ignore[arg-type]
    m = min(basis, k)
    chosen = spread(used, m)
    assert keep.order.tolist()[:m] == chosen
    b = used[chosen]
    projected = used @ b.T @ torch.linalg.inv(b @ b.T + 1e-5 * torch.eye(m, dtype=torch.float64)) @ b
    error = (used - projected).norm(dim=1)
    others = sorted(set(range(n)) - set(chosen), key=lambda i: -float(error[i]))[: k - m]
    assert [float(error[i]) for i in keep.order.tolist()[m:]] == pytest.approx([float(error[i]) for i in others])
    assert keep.gains.tolist() == pytest.approx([float(error[i]) for i in keep.order.tolist()], abs=1e-6)
    joined = {row: [row] for row in keep.order.tolist()}
    targets = sorted(keep.order.tolist()[m:] or chosen)
    for i in set(range(n)) - set(joined):
        alike = [cosine(used[i], used[row]) for row in targets]
        joined[targets[alike.index(max(alike))]].append(i)
    means = torch.stack([x[joined[row]].double().mean(0) for row in keep.rows.tolist()])
    if k < n:
        torch.testing.assert_close(keep.merge(x).double(), means, rtol=1e-5, atol=1e-5)
    plain = gp.select(gp.ApET(basis=basis, rows=rows, merge=False), cues, k)  # type: ignore[arg-type]
    assert plain.order.tolist() == keep.order.tolist()
    assert torch.equal(plain.merge(x), x[plain.rows])


def test_apet_needs_the_tower_only_for_its_rows_and_refuses_wrong_options() -> None:
    assert gp.ApET().needs == (gp.Encoded(),)
    assert gp.ApET(rows="tokens").needs == ()
    for option, why in (
        ({"basis": 0}, "basis=0: write the number of basis tokens"),
        ({"ridge": -1}, "ridge=-1: write a number from 0"),
        ({"rows": "keys"}, "rows='keys' is unknown: choose one of tower, tokens"),
    ):
        with pytest.raises(ValueError, match=why):
            gp.ApET(**option)  # type: ignore[arg-type]
