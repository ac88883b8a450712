"""HiRED, HiPrune and G-Prune equal float64 references in plain loops; the conventions are those of `golden`."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import brute
import cases
import greedyprune as gp
from golden import (
    FIRST,
    KINDS,
    SEEDS,
    SLACK,
    TWO_LAYERS,
    VIEWS,
    Rows,
    best,
    both,
    follows,
    gram,
    grids,
    lists,
    of_groups,
    problems,
    quota,
)
from greedyprune.cues import Attention, Grid
from greedyprune.ops.crops import cells_in_crops, crop_budgets, top_in_crops
from greedyprune.ops.neighbours import beside, beside_in_sequence
from greedyprune.ops.propagation import propagate
from greedyprune.tiles import Tiles


def hired(
    look: list[float],
    first: list[float],
    tiles: Tiles | None,
    alpha: float,
    k: int,
    guard: list[int],
    runs: bool = False,
):
    free = [i for i in best(look) if i not in guard]
    if tiles is None:
        return (guard + free)[:k]
    crop, (rows, columns), (h, w) = tiles.crop.tolist(), tiles.layout, tiles.whole
    whole = [i for i, c in enumerate(crop) if c < 0]
    wanted = [0] * (rows * columns)
    for place in best([first[i] for i in whole])[: math.floor((1 - alpha) * len(whole))]:
        y, x = place // w + 0.5, place % w + 0.5
        centre = math.floor(y * rows / h + 1e-9) * columns + math.floor(x * columns / w + 1e-9)
        wanted[place * len(wanted) // (h * w) if runs else centre] += 1
    room = [sum(crop[i] == c for i in free) for c in range(-1, rows * columns)]
    left = k - len(guard)
    mine = min(max(math.floor(left * alpha), left - sum(room[1:])), room[0])
    return guard + of_groups(free, [c + 1 for c in crop], [mine, *quota(left - mine, wanted, room[1:])])


def hiprune(
    middle: list[float],
    late: list[float],
    grid: tuple[int, int, int],
    k: int,
    guard: list[int],
    share: float = 0.1,
    flat: bool = False,
):
    t, h, w = grid
    anchors = best(middle)[: round(share * k / 5)]
    near = {
        (f * h + y + dy) * w + x + dx
        for f, y, x in product(range(t), range(h), range(w))
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))
        if (f * h + y) * w + x in anchors and 0 <= y + dy < h and 0 <= x + dx < w
    }
    if flat:
        near = {min(max(i + step, 0), t * h * w - 1) for i in anchors for step in (-1, 1, -w, w)}
    order = guard + anchors + sorted(near) + best(late)
    return list(dict.fromkeys(order))[:k]


def gprune_scores(x: Rows, threshold: float = 0.5, temperature: float = 0.03, steps: int = 5) -> list[float]:
    cos, n = gram(x), len(x)
    longest = max(abs(value) for row in x for value in row) or 1.0
    scores = [math.sqrt(math.fsum((value / longest) ** 2 for value in row)) for row in x]
    scores = [score / (max(scores) or 1.0) for score in scores]
    links = [[j for j in range(n) if j == i or cos[i][j] > threshold + SLACK] for i in range(n)]
    for _ in range(steps):
        new = [0.0] * n
        for i in range(n):
            top = max(cos[i][j] for j in links[i])
            weights = [math.exp((cos[i][j] - top) / temperature) for j in links[i]]
            for j, weight in zip(links[i], weights, strict=True):
                new[j] += scores[i] * weight / math.fsum(weights)
        scores = new
    return [score / len(links[i]) for i, score in enumerate(scores)]


def gprune(x: Rows, k: int, guard: list[int]):
    return (guard + [i for i in brute.ranking_of(gprune_scores(x)) if i not in guard])[:k]


@given(problem=problems(), alpha=st.sampled_from([0.0, 0.25, 0.5, 1.0]), runs=st.booleans(), data=st.data())
def test_hired_equals_the_book(problem, alpha, runs, data) -> None:
    x, look, other, k, guard = problem
    n, method = x.shape[0], gp.HiRED(alpha=alpha, counted="sequence" if runs else "crop")
    both(method, x, k, guard, lambda _: hired(look.tolist(), other.tolist(), None, alpha, k, guard), attention=look)
    h, w = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    assume(h * w <= n)
    layout = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    crop = [-1] * (h * w) + data.draw(
        st.lists(st.integers(0, layout[0] * layout[1] - 1), min_size=n - h * w, max_size=n - h * w)
    )
    tiles = Tiles(torch.tensor(data.draw(st.permutations(crop))), layout, (h, w))
    more = {Attention("tower"): look, Attention("tower", layer=0): other}
    expected = hired(look.tolist(), other.tolist(), tiles, alpha, k, guard, runs)
    both(method, x, k, guard, lambda _: expected, more=more, tiles=tiles)


@given(problem=problems([1, 6, 12, 48, 60]), flat=st.booleans(), data=st.data())
def test_hiprune_equals_the_book(problem, flat, data) -> None:
    x, look, other, k, guard = problem
    grid = data.draw(grids(x.shape[0]))
    more = {Attention("received", layer=1): look, Attention("received"): other}
    expected = hiprune(look.tolist(), other.tolist(), grid, k, guard, 0.5, flat)
    method = gp.HiPrune(layer=1, share=0.5, adjacency="sequence" if flat else "grid")
    both(method, x, k, guard, lambda _: expected, more=more, grid=grid)


@settings(deadline=None)
@given(problem=problems())
def test_gprune_equals_the_book(problem) -> None:
    x, _, _, k, guard = problem
    both(gp.GPrune(), x, k, guard, lambda rows: gprune(rows, k, guard))


@given(
    k=st.integers(0, 200),
    alpha=st.floats(0, 1),
    top=st.lists(st.integers(0, 50), min_size=1, max_size=6),
    room=st.lists(st.integers(0, 60), min_size=7, max_size=7),
)
def test_budgets_of_crops_sum_up_and_fit(k, alpha, top, room) -> None:
    room = room[: 1 + len(top)]
    k = min(k, sum(room))
    budgets = crop_budgets(k, alpha, top, room)
    assert sum(budgets) == k
    assert all(0 <= part <= limit for part, limit in zip(budgets, room, strict=True))
    if alpha * k <= room[0] and (1 - alpha) * k <= sum(room[1:]):
        assert budgets[0] == int(alpha * k)
    if all(limit >= k for limit in room[1:]) and sum(top):
        rest = sum(budgets[1:])
        assert all(abs(b - rest * t / sum(top)) < 1 for b, t in zip(budgets[1:], top, strict=True))


def test_budgets_of_crops_by_hand() -> None:
    assert crop_budgets(20, 0.5, [3, 1, 0, 0], [64, 16, 16, 16, 16]) == [10, 8, 2, 0, 0]  # 7.5 and 2.5
    assert crop_budgets(20, 0.5, [4, 0, 0, 0], [64, 6, 16, 16, 16]) == [10, 6, 2, 1, 1]  # the first crop is full
    assert crop_budgets(20, 0.5, [1, 1], [4, 16, 16]) == [4, 8, 8]
    assert crop_budgets(20, 1.0, [0, 0], [64, 16, 16]) == [20, 0, 0]
    assert crop_budgets(20, 1.0, [0, 0], [15, 16, 16]) == [15, 3, 2]


def test_crops_divide_the_whole_view_by_area() -> None:
    cells = torch.arange(16)
    assert cells_in_crops(cells, (4, 4), (2, 2)).tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2
    assert cells_in_crops(cells, (4, 4), (1, 1)).tolist() == [0] * 16
    assert cells_in_crops(torch.arange(3), (1, 3), (1, 2)).tolist() == [0, 1, 1]  # the middle cell's centre
    # Runs of the raster, which the official code counts, would say something else.
    left = torch.zeros(4, 4)
    left[:, 0] = 1.0
    assert top_in_crops(left.flatten(), 0.25, (4, 4), (1, 2)) == [4, 0]
    assert top_in_crops(left.flatten(), 0.25, (4, 4), (2, 2)) == [2, 0, 2, 0]
    assert top_in_crops(torch.zeros(16), 0.25, (4, 4), (2, 2)) == [2, 2, 0, 0]  # ties go to the lowest cell
    assert sum(top_in_crops(torch.zeros(16), 0.1, (4, 4), (2, 2))) == 1  # of 1.6
    runs = top_in_crops(left.flatten(), 0.25, (4, 4), (2, 2), in_sequence=True)
    assert runs == [1, 1, 1, 1]  # a row of four cells each


@given(h=st.integers(1, 4), w=st.integers(1, 4), rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_crops_have_as_many_cells_as_they_have_area(h, w, rows, columns) -> None:
    found = cells_in_crops(torch.arange(h * rows * w * columns), (h * rows, w * columns), (rows, columns))
    assert found.bincount(minlength=rows * columns).tolist() == [h * w] * (rows * columns)


@given(seed=SEEDS, k=st.integers(1, 40))
def test_hired_does_not_care_how_the_views_are_laid_out(seed, k) -> None:
    g = torch.Generator().manual_seed(seed)
    look, first = torch.rand(40, generator=g), torch.rand(40, generator=g)
    crop = torch.tensor([-1] * 16 + [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6)
    mixed = torch.cat([torch.arange(16), 16 + torch.randperm(24, generator=g)])  # crops as one map, say
    mixed = torch.cat([mixed[16:28], mixed[:16], mixed[28:]])  # and the whole view anywhere

    def of(order: Tensor) -> gp.Keep:
        tiles = Tiles(crop[order], (2, 2), (4, 4))
        more = {Attention("tower"): look[order], Attention("tower", layer=0): first[order]}
        return gp.select("hired", gp.Cues(torch.ones(40, 1), tiles=tiles, more=more), k)

    plain, moved = of(torch.arange(40)), of(mixed)
    assert mixed[moved.order].tolist() == plain.order.tolist()
    budgets = crop_budgets(k, 0.5, top_in_crops(first[:16], 0.5, (4, 4), (2, 2)), [16, 6, 6, 6, 6])
    assert (crop[plain.rows] + 1).bincount(minlength=5).tolist() == budgets


def test_tiles_check_themselves() -> None:
    good = Tiles(torch.tensor([-1, -1, 0, 1]), (1, 2), (1, 2))
    assert gp.Cues(torch.ones(4, 1), tiles=good).tiles is good
    with pytest.raises(ValueError, match="tiles is about 4 tokens: pass the crop of all 5"):
        gp.Cues(torch.ones(5, 1), tiles=good)
    for crop in (torch.ones(2), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"crop has shape .*int64"):
            Tiles(crop, (1, 1), (1, 1))
    for crop, layout in (([-1, 2], (1, 2)), ([-1, -2], (1, 2)), ([-1, 0], (0, 2))):
        with pytest.raises(ValueError, match="layout="):
            Tiles(torch.tensor(crop), layout, (1, 1))
    for whole in ((1, 2), (0, 1)):
        with pytest.raises(ValueError, match="does not hold the 1 tokens of the whole view"):
            Tiles(torch.tensor([-1, 0]), (1, 1), whole)


def test_neighbours_do_not_wrap_around() -> None:
    assert beside(torch.tensor([5]), (1, 3, 4)).tolist() == [1, 4, 6, 9]
    assert beside(torch.tensor([3]), (1, 3, 4)).tolist() == [2, 7]  # not 4, the next row's first
    assert beside(torch.tensor([0, 1]), (1, 3, 4)).tolist() == [2, 4, 5]
    assert beside(torch.tensor([4]), (2, 2, 2)).tolist() == [5, 6]  # no frame before
    assert beside(torch.tensor([], dtype=torch.int64), (1, 2, 2)).tolist() == []
    assert beside(torch.tensor([0]), (1, 1, 1)).tolist() == []


def test_neighbours_in_sequence_wrap_around() -> None:
    assert beside_in_sequence(torch.tensor([3]), (1, 3, 4)).tolist() == [0, 2, 4, 7]  # 3 - 4 is the first cell
    assert beside_in_sequence(torch.tensor([8]), (1, 3, 4)).tolist() == [4, 7, 9, 11]
    assert beside_in_sequence(torch.tensor([0, 1]), (1, 3, 4)).tolist() == [2, 4, 5]
    assert beside_in_sequence(torch.tensor([], dtype=torch.int64), (1, 2, 2)).tolist() == []


@given(seed=SEEDS, h=st.integers(1, 6), w=st.integers(1, 6))
def test_neighbours_are_mutual(seed, h, w) -> None:
    a, b = (int(v) for v in torch.randint(h * w, (2,), generator=torch.Generator().manual_seed(seed)))
    near = [beside(torch.tensor([i]), (1, h, w)).tolist() for i in (a, b)]
    assert (b in near[0]) == (a in near[1])
    assert all(abs(i // w - a // w) + abs(i % w - a % w) == 1 for i in near[0])


def test_the_layer_of_the_anchors_is_a_knob() -> None:
    assert gp.HiPrune(layer=8).needs == (Attention("received", layer=8), Attention("received"), Grid())
    assert gp.HiPrune().needs[0] == Attention("received", layer=1 / 3)
    assert gp.HiPrune(layer=8) != gp.HiPrune()
    assert replace(gp.HiPrune(), layer=5).needs[0] == Attention("received", layer=5)


def test_a_tenth_of_the_budget_is_anchors_and_what_lies_beside() -> None:
    middle, late = torch.zeros(144), torch.linspace(1, 0, 144)
    middle[100] = middle[50] = 1.0
    more = {Attention("received", layer=1 / 3): middle, Attention("received"): late}
    keep = gp.select("hiprune", gp.Cues(torch.ones(144, 1), grid=(1, 12, 12), more=more), 100)
    assert keep.order[:10].tolist() == [50, 100, 38, 49, 51, 62, 88, 99, 101, 112]
    assert keep.order[10:].tolist() == [i for i in range(144) if i not in keep.order[:10].tolist()][:90]
    few = gp.select("hiprune", gp.Cues(torch.ones(144, 1), grid=(1, 12, 12), more=more), 24)
    assert few.order.tolist() == list(range(24))  # 0.48 anchors are none


@given(seed=SEEDS, kind=KINDS, steps=st.integers(0, 8))
def test_the_sum_of_scores_stays_while_they_flow(seed, kind, steps) -> None:
    x, _ = cases.draw(kind, 20, 6, seed)
    links = (torch.tensor(gram(lists(x))) > 0.5 + SLACK).fill_diagonal_(True).sum(1)
    before, after = (float((propagate(x, 0.5, 0.03, s) * links).sum()) for s in (0, steps))
    assert math.isclose(before, after, rel_tol=1e-9, abs_tol=1e-12)


def test_rows_without_links_keep_their_length_and_duplicates_share() -> None:
    scores = propagate(torch.eye(4) * torch.tensor([1.0, 2.0, 4.0, 0.0]), 0.5, 0.03, 5)
    assert scores.tolist() == [0.25, 0.5, 1.0, 0.0]
    twins = propagate(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 3.0]]), 0.5, 0.03, 1)
    torch.testing.assert_close(twins, torch.tensor([1 / 3, 1 / 3, 1.0], dtype=torch.float64))  # (1 + 3) / 3 / 2 / 2


def test_scores_flow_to_the_more_similar() -> None:
    angle = torch.tensor([0.0, 0.3, 0.8], dtype=torch.float64)  # 1 is nearer to 0 than to 2
    x = torch.stack([angle.cos(), angle.sin()], 1) * torch.tensor([[1e-6], [1.0], [1e-6]], dtype=torch.float64)
    scores = propagate(x, 0.5, 0.03, 1)
    assert scores[0] > 2 * scores[2]
    hot = propagate(x, 0.5, 1e6, 1)  # so warm that links count alike
    torch.testing.assert_close(hot, torch.full((3,), 1 / 9, dtype=torch.float64), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("method", "k", "more", "order"),
    [
        (gp.HiRED(), 8, {}, [17, 10, 3, 20, 13, 6, 23, 16]),
        (
            gp.HiRED(),
            9,
            {"tiles": VIEWS, "more": {Attention("tower", layer=0): FIRST}},
            [3, 6, 2, 5, 17, 10, 16, 20, 13],
        ),
        (
            gp.HiPrune(layer=2, share=1.0),
            12,
            {"grid": (2, 3, 4), "more": TWO_LAYERS},
            [13, 2, 1, 3, 6, 12, 14, 17, 10, 20, 23, 16],
        ),
        (gp.GPrune(), 8, {}, [4, 9, 20, 23, 17, 21, 3, 22]),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, gp.Method) else None,
)
def test_the_orders_of_a_fixed_example(method, k, more, order) -> None:
    follows(method, k, more, order)


@pytest.mark.parametrize(
    ("cls", "options", "match"),
    [
        (gp.HiRED, {"alpha": 1.5}, "alpha=1.5 is no share"),
        (gp.HiPrune, {"layer": 1.5}, "layer=1.5 is no layer of the tower"),
        (gp.HiRED, {"counted": "area"}, "counted='area' is unknown: choose one of crop, sequence"),
        (gp.HiPrune, {"share": -1}, "share=-1 is no share"),
        (gp.HiPrune, {"adjacency": 4}, "adjacency=4 is unknown: choose one of grid, sequence"),
        (gp.GPrune, {"temperature": 0}, "temperature=0: write a number above 0"),
        (gp.GPrune, {"steps": -1}, "steps=-1: write the number of steps"),
    ],
)
def test_knobs_out_of_range_are_refused(cls, options, match) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        cls(**options)


def test_needs_are_those_that_the_papers_read() -> None:
    assert gp.HiRED().needs == (Attention("tower"), Attention("tower", layer=0))
    assert gp.GPrune().needs == ()
