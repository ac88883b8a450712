"""VScan: both scans and the means against plain loops, what the released code keeps, and odd grids."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cases
import greedyprune as gp
from examples import by_worth, cosine
from greedyprune.cues import Attention, Need
from greedyprune.methods.vscan import GLOBAL, LOCAL


def drawn(seed: int, grid: tuple[int, int, int], kind: str = "iid") -> gp.Cues:
    n = grid[0] * grid[1] * grid[2]
    x, _ = cases.draw(kind, n, 6, seed)
    g = torch.Generator().manual_seed(seed)
    more: dict[Need, torch.Tensor] = {GLOBAL: torch.rand(n, generator=g), LOCAL: torch.rand(n, generator=g)}
    return gp.Cues(x, grid=grid, more=more)


def book(cues: gp.Cues, k: int) -> tuple[set[int], list[int]]:
    """The tokens of the windows, and those of the global scan in their order."""
    assert cues.grid is not None
    t, h, w = cues.grid
    boxes: dict[tuple[int, int, int], list[int]] = {}
    for i in range(t * h * w):
        boxes.setdefault((i // (h * w), i // w % h // 6, i % w // 6), []).append(i)
    shallow, deep = cues[LOCAL].tolist(), cues[GLOBAL].tolist()
    near = {i for box in boxes.values() for i in sorted(box, key=lambda i: -shallow[i])[: k // 2 // len(boxes)]}
    return near, [i for i in by_worth(deep) if i not in near][: k - len(near)]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 5000), t=st.integers(1, 2), h=st.integers(1, 13), w=st.integers(1, 13), data=st.data())
def test_both_scans_and_the_means_are_plain_loops(seed: int, t: int, h: int, w: int, data: st.DataObject) -> None:
    cues = drawn(seed, (t, h, w))
    k = data.draw(st.integers(1, cues.n))
    keep = gp.select("vscan", cues, k)
    near, far = book(cues, k)
    assert set(keep.order.tolist()[: len(near)]) == near
    assert keep.order.tolist()[len(near) :] == far
    assert keep.gains.tolist() == [float(cues[GLOBAL][i]) for i in keep.order.tolist()]
    rows, joined = keep.rows.tolist(), {row: [row] for row in keep.rows.tolist()}
    for i in set(range(cues.n)) - set(rows):
        near_ones = [cosine(cues.features[i], cues.features[row]) for row in rows]
        joined[rows[near_ones.index(max(near_ones))]].append(i)
    means = torch.stack([cues.features[joined[row]].double().mean(0) for row in rows])
    torch.testing.assert_close(keep.merge(cues.features).double(), means, rtol=1e-5, atol=1e-5)


def test_at_the_released_size_both_scans_keep_half() -> None:
    cues = drawn(3, (1, 24, 24))
    near, far = book(cues, 96)
    assert (len(near), len(far)) == (48, 48)
    rows = torch.tensor(sorted(near))
    assert torch.bincount(rows // 24 // 6 * 4 + rows % 24 // 6).tolist() == [3] * 16
    assert gp.select("vscan", cues, 96).rows.tolist() == sorted(near | set(far))
    plain = gp.select(gp.VScan(merge=False), cues, 96)
    assert plain.rows.tolist() == sorted(near | set(far))
    assert torch.equal(plain.merge(cues.features), cues.features[plain.rows])
    alone = gp.select(gp.VScan(local=0), cues, 9)
    assert alone.order.tolist() == by_worth(cues[GLOBAL].tolist())[:9]


def test_what_it_reads_and_refuses() -> None:
    assert Attention("tower", layer=5 / 24) in gp.VScan().needs
    assert 5 / 24 * 24 == 5.0  # so a tower of 24 layers gives layer 5
    with pytest.raises(ValueError, match=r"local=1\.5 is no share of the budget"):
        gp.VScan(local=1.5)
    with pytest.raises(ValueError, match="needs grid"):
        gp.select("vscan", gp.Cues(torch.ones(9, 4), attention=torch.ones(9)), 3)
