"""VLM-Pruner against plain float64 loops: growing from pivots in rounds, and taking in what is dropped."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cases
import greedyprune as gp
from examples import cosine

GRIDS = ((1, 4, 4), (2, 2, 4), (1, 3, 6))


def drawn(seed: int, grid: tuple[int, int, int]) -> gp.Cues:
    n = math.prod(grid)
    x, _ = cases.draw("iid", n, 6, seed)
    keys, _ = cases.draw("iid", n, 8, seed + 1)
    return gp.Cues(x, keys=keys.view(n, 2, 4), grid=grid)


def vlm(cues: gp.Cues, k: int, theta: float, spread: float, batch: int, channels: int, pivots: int) -> list[int]:
    assert cues.keys is not None
    assert cues.grid is not None
    _, h, w = cues.grid
    keys, x = cues.keys.flatten(1).double(), cues.features.double()
    x = x[:, sorted(range(x.shape[1]), key=lambda c: -float(x[:, c].var(correction=0)))[:channels]]
    place = [(i // (h * w), i // w % h, i % w) for i in range(cues.n)]

    def far(i: int, j: int) -> float:
        (f, y, c), (g, z, d) = place[i], place[j]
        return math.hypot(y - z, c - d) / math.hypot(h, w) if f == g else 1.0

    def alike(i: int) -> float:
        return max(cosine(x[i], x[j]) for j in taken) * (1 + spread * min(far(i, j) for j in taken))

    long = keys.abs().sum(1).tolist()
    taken = [long.index(max(long))]
    while len(taken) < min(pivots, k):
        left = {i: min(float((keys[i] - keys[j]).norm()) for j in taken) for i in range(cues.n) if i not in taken}
        taken.append(max(left, key=lambda i: left[i]))
    while len(taken) < k:
        queue = sorted((i for i in range(cues.n) if i not in taken), key=alike)
        begun = len(taken)
        for start in range(0, len(queue), batch):
            if start == batch and len(taken) == begun:
                break
            some = queue[start : start + batch]
            now = {i: alike(i) for i in some}
            chosen = [i for i in some if now[i] < theta]
            if len(taken) + len(chosen) > k:
                chosen = sorted(some, key=lambda i: now[i])[: k - len(taken)]
            taken += chosen
            if len(taken) == k:
                break
        theta += 0.1
    return taken


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 5000), grid=st.sampled_from(GRIDS), data=st.data())
def test_vlm_pruner_grows_from_pivots_in_rounds(seed: int, grid: tuple[int, int, int], data) -> None:
    n = math.prod(grid)
    k, theta = data.draw(st.integers(1, n)), data.draw(st.sampled_from((-0.43, 0.23, 0.8)))
    spread, batch = data.draw(st.sampled_from((0.0, 0.5, 3.0))), data.draw(st.sampled_from((1, 3, 16)))
    channels, pivots = data.draw(st.sampled_from((4, 256))), data.draw(st.sampled_from((1, 4)))
    cues = drawn(seed, grid)
    method = gp.VLMPruner(threshold=theta, spread=spread, batch=batch, channels=channels, pivots=pivots)
    keep = gp.select(method, cues, k)
    assert keep.order.tolist() == vlm(cues, k, theta, spread, batch, channels, pivots)


def test_vlm_pruner_takes_dropped_tokens_in_by_their_cosines() -> None:
    cues = drawn(3, (1, 4, 4))
    x = cues.features.double()
    keep = gp.select("vlm_pruner", cues, 5)
    joined: dict[int, list[int]] = {row: [] for row in keep.rows.tolist()}
    for i in set(range(16)) - set(joined):
        joined[max(joined, key=lambda row: cosine(x[i], x[row]))].append(i)
    expected = []
    for row, others in joined.items():
        weights = torch.tensor([cosine(x[i], x[row]) for i in others], dtype=torch.float64)
        total = float(weights.sum())
        expected.append(0.3 * x[row] + 0.7 * (weights / total) @ x[others] if total > 0 else x[row])
    torch.testing.assert_close(keep.merge(cues.features).double(), torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert torch.equal(gp.select(gp.VLMPruner(own=1.0), cues, 5).merge(cues.features), cues.features[keep.rows])


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"pivots": 0}, "pivots=0: write a whole number"),
        ({"batch": 1.5}, r"batch=1\.5: write a whole number"),
        ({"threshold": 2}, "threshold=2 is no similarity"),
        ({"spread": -1}, "spread=-1: write a number from 0"),
        ({"own": 2}, "own=2 is no share"),
    ],
)
def test_wrong_options_are_refused(option, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        gp.VLMPruner(**option)
