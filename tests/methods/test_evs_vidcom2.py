"""EVS and VidCom2 equal float64 references in plain loops; the conventions are those of `golden`."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import brute
import cases
import greedyprune as gp
from golden import (
    KINDS,
    SEEDS,
    Rows,
    both,
    follows,
    gram,
    grids,
    lists,
    mean,
    of_groups,
    parts_of,
    problems,
    quota,
    unit,
)
from greedyprune.cues import Grid
from greedyprune.ops.video import changes, likeness, quiet_channels


def evs_changes(x: Rows, frame: int) -> list[float]:
    return [2.0 if i < frame else 1 - gram([x[i], x[i - frame]])[0][1] for i in range(len(x))]


def evs(x: Rows, grid: tuple[int, int, int], k: int, guard: list[int]):
    frame = grid[1] * grid[2]
    ranking = brute.ranking_of(evs_changes(x, frame))
    if k < frame:  # spread evenly over the first frame, by the rule of the uniform grid
        ranking = gp.select("grid", gp.Cues(torch.ones(frame, 1), grid=(1, *grid[1:])), k).rows.tolist() + ranking
    return list(dict.fromkeys(guard + ranking))[:k]


def vidcom2_parts(x: Rows, frames: int) -> tuple[list[float], list[float]]:
    """Each frame's share, and how like each token is to video and frame."""
    n, d = len(x), len(x[0])
    largest = max(abs(value) for row in x for value in row) or 1.0
    columns = [[row[j] / largest for row in x] for j in range(d)]
    spread = [math.sqrt(mean([(value - mean(column)) ** 2 for value in column])) for column in columns]
    quiet = brute.ranking_of([-value / (max(spread) or 1.0) for value in spread])[: max(1, math.floor(d / 2 + 0.5))]
    units = [unit([row[j] for j in sorted(quiet)]) for row in x]
    size = n // frames
    videos = [mean(list(column)) for column in zip(*units, strict=True)]

    def like(a: list[float], b: list[float]) -> float:
        square = math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True))
        return math.fsum(math.exp(-square / (2 * width)) for width in (0.125, 0.25, 0.5, 1, 2))

    similar, means = [], []
    for f in range(frames):
        mine = units[f * size : (f + 1) * size]
        centre = [mean(list(column)) for column in zip(*mine, strict=True)]
        means.append(mean([like(row, videos) for row in mine]))
        similar += [like(row, videos) + like(row, centre) for row in mine]
    powers = [math.exp(-(m - min(means)) / 0.01) for m in means]
    unlike = [power / math.fsum(powers) for power in powers]
    return parts_of([1 + u - mean(unlike) for u in unlike]), similar


def vidcom2(x: Rows, grid: tuple[int, int, int], k: int, guard: list[int]):
    shares, similar = vidcom2_parts(x, grid[0])
    frame = [i // (grid[1] * grid[2]) for i in range(len(x))]
    free = [i for i in brute.ranking_of([-s for s in similar]) if i not in guard]
    room = [sum(frame[i] == f for i in free) for f in range(grid[0])]
    return guard + of_groups(free, frame, quota(k - len(guard), shares, room))


@settings(deadline=None)
@given(problem=problems([1, 2, 6, 12, 16, 18]), data=st.data())
def test_evs_equals_the_book(problem, data) -> None:
    x, _, _, k, guard = problem
    grid = data.draw(grids(x.shape[0]))
    both("evs", x, k, guard, lambda rows: evs(rows, grid, k, guard), grid=grid)


@settings(deadline=None)
@given(problem=problems([1, 2, 6, 12, 16, 18]), data=st.data())
def test_vidcom2_equals_the_book(problem, data) -> None:
    x, _, _, k, guard = problem
    grid = data.draw(grids(x.shape[0]))
    both("vidcom2", x, k, guard, lambda rows: vidcom2(rows, grid, k, guard), grid=grid)


@given(seed=SEEDS, kind=KINDS, t=st.integers(2, 4), k=st.integers(1, 24))
def test_the_first_frame_comes_first(seed, kind, t, k) -> None:
    x, _ = cases.draw(kind, 24, 6, seed)
    frame = 24 // t
    keep = gp.select("evs", gp.Cues(x, grid=(t, 1, frame)), k)
    inside = int((keep.rows < frame).sum())
    assert inside == min(k, frame)
    assert bool((keep.order[:inside] < frame).all())
    worth = changes(x, (t, 1, frame))
    taken = worth[keep.order[inside:]].tolist()
    assert taken == sorted(taken, reverse=True) or max(b - a for a, b in pairwise(taken)) < 1e-9


def test_a_clip_that_stands_still_but_for_one_cell() -> None:
    still = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    clip = still.repeat(4, 1)
    clip[2 * 6 + 5] = -still[5]
    keep = gp.select("evs", gp.Cues(clip, grid=(4, 2, 3)), 8)
    assert keep.order.tolist() == [*range(6), 17, 23]  # it changes, and changes back
    assert keep.gains.tolist() == [2.0] * 8
    assert (changes(clip, (4, 2, 3)) > 1e-9).nonzero()[:, 0].tolist() == [*range(6), 17, 23]


@given(h=st.integers(1, 5), w=st.integers(1, 5), data=st.data())
def test_one_frame_has_a_defined_answer(h, w, data) -> None:
    k = data.draw(st.integers(1, h * w))
    x = torch.randn(h * w, 4, generator=torch.Generator().manual_seed(h * w))
    cues = gp.Cues(x, grid=(1, h, w))
    assert gp.select("evs", cues, k).rows.tolist() == gp.select("grid", cues, k).rows.tolist()
    half = x[:, quiet_channels(x, 0.5)].double()
    units = half / half.norm(dim=1, keepdim=True)
    away = (units - units.mean(0)).norm(dim=1)
    assert gp.select("vidcom2", cues, k).order.tolist() == brute.ranking_of(away.tolist())[:k]


@settings(deadline=None)
@given(seed=SEEDS, kind=KINDS, t=st.sampled_from([1, 2, 3, 4, 6]), k=st.integers(1, 24))
def test_the_budgets_of_frames_sum_up(seed, kind, t, k) -> None:
    x, _ = cases.draw(kind, 24, 6, seed)
    frame = 24 // t
    rows = gp.select("vidcom2", gp.Cues(x, grid=(t, 1, frame)), k).rows
    shares, _ = vidcom2_parts(lists(x), t)
    assert (rows // frame).bincount(minlength=t).tolist() == quota(k, shares, [frame] * t)


def test_the_frame_unlike_the_others_gets_more() -> None:
    g = torch.Generator().manual_seed(0)
    scene = torch.randn(9, 8, generator=g)
    clip = torch.cat([scene + 0.01 * torch.randn(9, 8, generator=g) for _ in range(4)])
    clip[18:27] = torch.randn(9, 8, generator=g)
    rows = gp.select("vidcom2", gp.Cues(clip, grid=(4, 3, 3)), 12).rows
    assert (rows // 9).bincount().tolist() == [3, 2, 4, 3]
    cold = gp.select(gp.VidCom2(temperature=1e-4), gp.Cues(clip, grid=(4, 3, 3)), 12).rows
    assert (cold // 9).bincount().tolist() == [3, 2, 5, 2]  # 2.25, 2.25, 5.25, 2.25
    same = gp.select("vidcom2", gp.Cues(torch.ones(36, 4), grid=(4, 3, 3)), 10)
    assert (same.rows // 9).bincount().tolist() == [3, 3, 2, 2]
    assert same.rows.tolist() == [0, 1, 2, 9, 10, 11, 18, 19, 27, 28]


def test_quiet_channels_and_likeness_by_hand() -> None:
    x = torch.tensor([[1.0, 5, 0, 2], [1.0, -5, 1, 2.5], [1.0, 5, 0, 2], [1.0, -5, 1, 2.5]])
    assert quiet_channels(x, 0.5).tolist() == [0, 3]
    assert quiet_channels(x, 0.1).tolist() == [0]
    assert quiet_channels(x, 1.0).tolist() == [0, 1, 2, 3]
    assert quiet_channels(torch.ones(3, 600), 0.5).tolist() == list(range(300))
    to_clip, to_frame = likeness(torch.tensor([[2.0, 0], [0, 3], [1, 0], [1, 0]]), (2, 1, 2))
    assert float(to_frame[2]) == 5.0  # the mean itself, once for each bandwidth
    widths = (0.125, 0.25, 0.5, 1, 2)
    assert math.isclose(float(to_frame[0]), sum(math.exp(-0.5 / (2 * b)) for b in widths))
    assert math.isclose(float(to_clip[1]), sum(math.exp(-2 * 0.75**2 / (2 * b)) for b in widths))


@pytest.mark.parametrize(
    ("method", "k", "more", "order"),
    [
        (gp.EVS(), 12, {"grid": (4, 2, 3)}, [0, 1, 2, 3, 4, 5, 18, 15, 20, 10, 23, 9]),
        (gp.EVS(), 4, {"grid": (4, 2, 3)}, [0, 2, 3, 5]),
        (gp.VidCom2(), 10, {"grid": (4, 2, 3)}, [4, 1, 9, 7, 14, 17, 19, 20, 23, 22]),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, gp.Method) else None,
)
def test_the_orders_of_a_fixed_example(method, k, more, order) -> None:
    follows(method, k, more, order)


@pytest.mark.parametrize(
    ("cls", "options", "match"),
    [
        (gp.VidCom2, {"channels": 0}, "channels=0 is no share"),
        (gp.VidCom2, {"temperature": -1}, "temperature=-1: write a number above 0"),
    ],
)
def test_knobs_out_of_range_are_refused(cls, options, match) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        cls(**options)


def test_needs_are_those_that_the_papers_read() -> None:
    assert gp.EVS().needs == gp.VidCom2().needs == (Grid(),)
