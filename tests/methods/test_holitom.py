"""HoliTom equals a float64 reference in plain loops, and its windows save as much as any division of the clip."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import brute
import greedyprune as gp
from clips import GRIDS, clips, merges_as, peaks
from golden import Rows, gram, lists, quota
from greedyprune.ops.video import still_windows


def still(x: Rows, size: int, first: int, last: int, tau: float) -> list[int]:
    """The cells that are still from one frame to another; none in one frame."""
    return [
        cell
        for cell in range(size)
        if first < last
        and all(gram([x[f * size + cell], x[(f + 1) * size + cell]])[0][1] > tau + 1e-12 for f in range(first, last))
    ]


def windows(x: Rows, t: int, size: int, tau: float) -> list[tuple[int, int]]:
    """First and last frames of the windows that save most; of equal ones the last, shortest windows."""
    saved = {(a, b): len(still(x, size, a, b, tau)) * (b - a) for b in range(t) for a in range(b + 1)}
    best: list[tuple[int, list[tuple[int, int]]]] = [(0, [])]
    for last in range(t):
        options = [(best[a][0] + saved[a, last], [*best[a][1], (a, last)]) for a in range(last, -1, -1)]
        best.append(max(options, key=lambda option: option[0]))  # the first of equal ones
    return best[t][1]


def holitom(method: gp.HoliTom, x: Rows, look: list[float], grid: tuple[int, int, int], k: int):
    t, size = grid[0], grid[1] * grid[2]
    if k == len(x):
        return list(range(k)), {i: {i: 1.0} for i in range(k)}
    parts: list[tuple[list[int], int]] = []
    for a, b in windows(x, t, size, method.tau):
        cells = still(x, size, a, b, method.tau)
        parts.append(([a * size + cell for cell in cells], b - a + 1))
        parts += [([f * size + c for c in range(size) if c not in cells], 1) for f in range(a, b + 1)]
    room = [len(rows) for rows, _ in parts]
    order: list[int] = []
    weights: dict[int, dict[int, float]] = {}
    for (rows, length), count in zip(parts, quota(min(k, sum(room)), [float(r) for r in room], room), strict=True):
        if length == 1:
            taken = [rows[i] for i in brute.ranking_of([look[i] for i in rows])[:count]]
            weights |= {i: {i: 1.0} for i in taken}
        elif count:
            over = [[i + f * size for f in range(length)] for i in rows]
            means = [[math.fsum(c) / length for c in zip(*(x[i] for i in each), strict=True)] for each in over]
            centres, of = peaks(means, count, min(count, 7) if count > 1 else 7)
            for c in centres:
                others = [i for i, o in enumerate(of) if o == c and i != c]
                own = method.beta if others else 1.0
                weights[rows[c]] = dict.fromkeys(over[c], own / length)
                weights[rows[c]] |= {i: (1 - own) / len(others) / length for other in others for i in over[other]}
            taken = [rows[c] for c in centres]
        else:
            taken = []
        order += taken
    return order, weights


@settings(deadline=None)
@given(clip=clips(), options=st.sampled_from([{}, {"tau": 0.0}, {"tau": 0.5, "beta": 1.0}, {"tau": -1.0, "beta": 0.2}]))
def test_holitom_equals_the_book(clip, options) -> None:
    x, look, grid, k = clip
    method = gp.HoliTom(**options)
    merges_as(method, x, look, grid, k, lambda rows: holitom(method, rows, look.tolist(), grid, k))


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid[0] < 6])
def test_no_other_windows_save_more(grid) -> None:
    t, size = grid[0], grid[1] * grid[2]
    for seed in range(4):
        x = torch.randn(t * size, 2, generator=torch.Generator().manual_seed(seed))
        rows = lists(x)
        ours, start, lengths = 0, 0, []
        for length, mask in still_windows(x, grid, 0.0):
            assert mask.nonzero()[:, 0].tolist() == still(rows, size, start, start + length - 1, 0.0)
            ours += int(mask.sum()) * (length - 1)
            start += length
            lengths.append(length)
        assert sum(lengths) == t
        for count in range(t):
            for cuts in combinations(range(1, t), count):
                ends = [0, *cuts, t]
                pairs = pairwise(ends)
                assert sum(len(still(rows, size, a, b - 1, 0.0)) * (b - 1 - a) for a, b in pairs) <= ours


def test_a_clip_that_stands_still_is_one_frame() -> None:
    frame = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    cues = gp.Cues(frame.repeat(5, 1), attention=torch.rand(30), grid=(5, 2, 3))
    keep = gp.select("holitom", cues, 20)
    assert keep.rows.tolist() == list(range(6))
    assert torch.allclose(keep.merge(cues.features), frame, atol=1e-6)
    assert gp.kept_count("holitom", 20, 30, (5, 2, 3)) is None


@pytest.mark.parametrize(
    ("options", "match"), [({"tau": 1.5}, r"tau=1\.5 is no cosine"), ({"beta": -1}, "beta=-1 is no share")]
)
def test_knobs_out_of_range_are_refused(options, match) -> None:
    with pytest.raises(ValueError, match=match):
        gp.HoliTom(**options)
