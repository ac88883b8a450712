"""HoloV, PruneSID and AgilePruner equal float64 references in plain loops; the conventions are those of `golden`."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import brute
import cases
import greedyprune as gp
from golden import (
    KINDS,
    SEEDS,
    SLACK,
    WAVES,
    Rows,
    best,
    both,
    dot,
    follows,
    gram,
    jacobi,
    kept,
    lists,
    mean,
    of_groups,
    parts_of,
    problems,
    quota,
    unit,
)
from greedyprune.cues import Attention, Encoded
from greedyprune.ops.groups import best_of_each, budgets_of_survivors, proportions, suppress_in_each
from greedyprune.ops.reach import suppress_by_own
from greedyprune.ops.runs import even_runs, run_budgets, run_worth
from greedyprune.ops.spectrum import effective_rank, principal_groups
from greedyprune.ops.suppression import suppress


def holov_shares(x: Rows, look: list[float], runs: int, weight: float) -> tuple[list[int], list[float]]:
    n = len(x)
    runs = min(runs, n)
    run = [r for r in range(runs) for _ in range(n // runs + (r < n % runs))]
    spread = []
    for i in range(n):
        mine = [j for j in range(n) if run[j] == run[i]]
        row = [gram([x[i], x[j]])[0][1] for j in mine]
        spread.append(mean([(value - mean(row)) ** 2 for value in row]))
    a, v = mean(look), mean(spread)
    score = [(look[i] / a if a > 0 else 0.0) + weight * (spread[i] / v if v > 0 else 0.0) for i in range(n)]
    return run, parts_of([mean([score[i] for i in range(n) if run[i] == r]) for r in range(runs)])


def holov(x: Rows, look: list[float], k: int, guard: list[int], runs: int = 16, weight: float = 0.0):
    run, shares = holov_shares(x, look, runs, weight)
    free = [i for i in best(look) if i not in guard]
    room = [sum(run[i] == r for i in free) for r in range(len(shares))]
    left = k - len(guard)
    parts = [math.floor(left * share) for share in shares]
    for r in best(shares)[: left - sum(parts)]:
        parts[r] += 1
    parts = [min(part, most) for part, most in zip(parts, room, strict=True)]
    more = quota(left - sum(parts), shares, [most - part for part, most in zip(parts, room, strict=True)])
    return guard + of_groups(free, run, [part + extra for part, extra in zip(parts, more, strict=True)])


def groups_by_the_book(x: Rows, count: int) -> tuple[list[int], float]:
    """The groups, and how far apart the components' variances are, as a share of the largest."""
    away = [[value - mean(row) for value in row] for row in x]
    values, vectors = jacobi(
        [[dot(list(a), list(b)) for b in zip(*away, strict=True)] for a in zip(*away, strict=True)]
    )
    real = [value for value in values if value > 1e-12 * values[0]][:count]
    more = values[len(real)] if len(values) > len(real) else 0.0
    gap = min((a - b) / values[0] for a, b in zip(real, [*real[1:], more], strict=True)) if real else 1.0
    group = []
    for row in away:
        size = [abs(dot(row, vectors[g])) / math.sqrt(value) for g, value in enumerate(real)] or [0.0]
        group.append(min(g for g, value in enumerate(size) if value >= max(size) - 1e-9))
    return group, gap


def prunesid_budgets(left: int, alive: list[int], size: list[int], most: int) -> list[int]:
    limit = [min(most, a, s) for a, s in zip(alive, size, strict=True)]
    while sum(limit) < min(left + 1, sum(size)):
        limit = [min(m + 1, s) for m, s in zip(limit, size, strict=True)]
    ones, part, done = 0, [], 0
    for s in size:
        part.append(int(s > 0 and ones < left))
        ones += part[-1]
    for g in range(len(size)):
        until = round(Fraction(left - ones) * Fraction(sum(alive[: g + 1]), max(1, sum(alive))))
        part[g], done = min(part[g] + until - done, limit[g]), until
    for g in sorted(range(len(size)), key=lambda g: (-alive[g], g)):
        part[g] += min(limit[g] - part[g], left - sum(part))
    return part


def prunesid(rows: Rows, look: list[float], group: list[int], groups: int, k: int, guard: list[int]):
    cos, free = gram(rows), [i for i in best(look) if i not in guard]
    pairs = [cos[i][j] for i in range(len(rows)) for j in range(i)]
    tau = (k + 1) / 32 * mean(pairs) if pairs else 1.0
    alive = []
    for g in range(groups):
        first = [i for i in guard if group[i] == g]
        alive += brute.nms(cos, [i for i in free if group[i] == g], tau, len(rows), first)[len(first) :]
    size, survivors = ([sum(group[i] == g for i in some) for g in range(groups)] for some in (free, alive))
    budgets = prunesid_budgets(k - len(guard), survivors, size, 5 * math.ceil((k + 1) / 64))
    taken = of_groups(alive + [i for i in free if i not in alive], group, budgets)
    own = guard + [i for i in taken if i in alive]
    return own + [i for i in taken if i not in alive], len(own)


def erank_by_the_book(x: Rows) -> float:
    units = [unit(row) for row in x]
    columns = [list(column) for column in zip(*units, strict=True)]
    values, _ = jacobi([[dot(a, b) for b in columns] for a in columns])
    sizes = [math.sqrt(value) for value in values if value > 1e-12 * values[0]]
    shares = [size / math.fsum(sizes) for size in sizes]
    return math.exp(-math.fsum(share * math.log(share) for share in shares)) if sizes else 0.0


def by_own(cos: Rows, order: list[int], taus: list[float], k: int, guard: list[int]) -> list[int]:
    taken = list(guard)
    for i in order:
        if len(taken) < k and all(cos[s][i] <= taus[s] + SLACK for s in taken):
            taken.append(i)
    return taken


def agile(x: Rows, look: list[float], k: int, guard: list[int], average: float | None = None):
    ranking = best(look)
    pace = 0.01 * erank_by_the_book(x) / (average or len(x) / 6)
    taus = [1 - min(0.5, (ranking.index(i) + 1) * pace) for i in range(len(x))]
    own = by_own(gram(x), [i for i in ranking if i not in guard], taus, k, guard)
    return (own + [i for i in ranking if i not in own])[:k], len(own)


@settings(deadline=None)
@given(problem=problems(range(1, 25)), runs=st.sampled_from([16, 4, 1]), weight=st.sampled_from([0.0, 0.09]))
def test_holov_equals_the_book(problem, runs, weight) -> None:
    x, look, _, k, guard = problem
    expected = lambda rows: holov(rows, look.tolist(), k, guard, runs, weight)  # noqa: E731
    both(gp.HoloV(runs=runs, weight=weight), x, k, guard, expected, attention=look)


@settings(deadline=None, max_examples=60)
@given(problem=problems(range(1, 25)))
def test_prunesid_equals_the_book(problem) -> None:
    x, look, _, k, guard = problem
    x = x.clamp(-1e4, 1e4)
    groups = max(1, (k + 1) // 4)
    for rows in (x, x.double(), x.bfloat16()):
        squashed = [[1 / (1 + math.exp(-v)) if v > -700 else 0.0 for v in row] for row in lists(rows)]
        group, gap = groups_by_the_book(squashed, groups)
        assume(gap > 1e-6)  # else the components are not unique
        keep = kept("prunesid", x[:, :1], k, guard, attention=look, encoded=rows)
        order, own = prunesid(lists(rows), look.tolist(), group, groups, k, guard)
        assert (keep.order.tolist(), int(keep.before_fallback)) == (order, own)


@settings(deadline=None, max_examples=60)
@given(problem=problems(), average=st.sampled_from([None, 0.05, 1.0]))
def test_agilepruner_equals_the_book(problem, average) -> None:
    x, look, _, k, guard = problem
    for rows in (x, x.double(), x.clamp(-1e4, 1e4).bfloat16()):
        keep = kept(gp.AgilePruner(erank_avg=average), rows, k, guard, attention=look)
        order, own = agile(lists(rows), look.tolist(), k, guard, average)
        assert (keep.order.tolist(), int(keep.before_fallback)) == (order, own)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_the_engine_with_own_thresholds_equals_the_book_in_560_cases(kind) -> None:
    for seed in range(63):
        g = torch.Generator().manual_seed(seed)
        n, d = 1 + seed % 21, (1, 2, 8)[seed % 3]
        x, _ = cases.draw(kind, n, d, seed)
        order = torch.randperm(n, generator=g)
        guard, free = order[: seed % 3], order[seed % 3 :]
        k = max(guard.shape[0], 1 + seed % n)
        # Some thresholds sit on cosines that occur, up to what float64 tells apart.
        cos = gram(lists(x))
        taus = torch.rand(n, generator=g, dtype=torch.float64) * 2 - 1
        for i in range(0, n, 2):
            taus[i] = cos[i][int(order[i])]
        found = suppress_by_own(x, free, taus, k, given=guard if guard.numel() else None)
        assert found.tolist() == by_own(cos, free.tolist(), taus.tolist(), k, guard.tolist())
        flat = torch.full((n,), 0.3, dtype=torch.float64)
        assert suppress_by_own(x, order, flat, k).tolist() == suppress(x, order, 0.3, k).order.tolist()


@given(n=st.integers(1, 200), count=st.integers(1, 40))
def test_runs_are_even_and_in_order(n, count) -> None:
    count = min(n, count)
    run = even_runs(n, count)
    sizes = run.bincount(minlength=count)
    assert int(sizes.max() - sizes.min()) <= 1
    assert int(sizes.min()) >= 1
    assert bool((run.diff() >= 0).all())


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, kind=KINDS, n=st.integers(1, 60), data=st.data())
def test_budgets_of_runs_sum_up_and_follow_their_worth(seed, kind, n, data) -> None:
    x, _ = cases.draw(kind, n, 8, seed)
    look = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    k, count = data.draw(st.integers(1, n)), min(16, n)
    run = even_runs(n, count)
    keep = gp.select("holov", gp.Cues(x, attention=look), k)
    budgets, sizes = run[keep.rows].bincount(minlength=count), run.bincount()
    assert int(budgets.sum()) == k
    assert bool((budgets <= sizes).all())
    share = run_worth(x, look, run, 0.0)
    share = share / share.sum()
    if bool((share * k < sizes).all()):
        assert bool(((budgets - share * k).abs() <= 1).all())
    for r in range(count):  # inside a run attention decides
        mine = keep.rows[run[keep.rows] == r]
        rest = [i for i in (run == r).nonzero()[:, 0].tolist() if i not in mine.tolist()]
        assert not rest or not mine.numel() or float(look[mine].min()) >= float(look[rest].max())


def test_budgets_of_runs_by_hand() -> None:
    assert run_budgets(10, [0.5, 0.3, 0.2], [9, 9, 9]) == [5, 3, 2]
    assert run_budgets(9, [0.45, 0.35, 0.2], [9, 9, 9]) == [
        5,
        3,
        1,
    ]  # 4.05, 3.15, 1.8: the largest share, not remainder
    assert run_budgets(9, [0.45, 0.35, 0.2], [3, 9, 9]) == [3, 4, 2]  # a full run
    assert run_budgets(2, [0.0, 0.0, 0.0], [9, 9, 9]) == [1, 1, 0]


def test_runs_that_look_alike_share_equally_and_a_varied_one_gets_more() -> None:
    keep = gp.select("holov", gp.Cues(torch.ones(64, 3), attention=torch.ones(64)), 32)
    assert (keep.rows // 4).bincount().tolist() == [2] * 16
    x = torch.ones(64, 2)
    x[60::2] = torch.tensor([1.0, -1.0])  # the last run holds two kinds of rows
    varied = gp.select(gp.HoloV(weight=0.1), gp.Cues(x, attention=torch.ones(64)), 32)
    assert (varied.rows // 4).bincount()[-1] == 4
    dark = torch.ones(64)
    dark[60:] = 0.0
    assert 60 not in gp.select("holov", gp.Cues(torch.ones(64, 3), attention=dark), 30).rows.tolist()


def test_rows_are_grouped_by_the_component_they_lie_on() -> None:
    p, q = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1]], dtype=torch.float64)
    x = torch.stack([9 * p, -9 * p, 2 * q, -2 * q, 9 * p + 2 * q, 0 * p])  # the fifth weighs equally in both
    assert principal_groups(x, 2).tolist() == [0, 0, 1, 1, 0, 0]
    assert principal_groups(x + torch.arange(6)[:, None], 2).tolist() == [0, 0, 1, 1, 0, 0]
    assert principal_groups(x, 1).tolist() == [0] * 6
    assert principal_groups(x[:, :2], 9).tolist() == [0] * 6  # the others have no variance
    assert principal_groups(torch.ones(5, 3) / 3, 4).tolist() == [0] * 5
    assert principal_groups(torch.zeros(1, 3), 4).tolist() == [0]
    for seed in range(20):  # a short row is not claimed by components that are rounding
        x = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        axis = torch.linalg.svd(x - x.mean(1, keepdim=True)).Vh[1]
        assert principal_groups(torch.cat([x, 1e-6 * axis[None] + 1]), 6)[5] == 1


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, kind=st.sampled_from(["iid", "offset", "clustered", "duplicates"]), count=st.integers(1, 5))
def test_groups_depend_on_no_sign_order_or_repeated_channel(seed, kind, count) -> None:
    x = cases.draw(kind, 14, 5, seed)[0].double()
    group = principal_groups(x, count)
    permute = torch.randperm(14, generator=torch.Generator().manual_seed(seed))
    assert principal_groups(x[permute], count).tolist() == group[permute].tolist()
    assert principal_groups(-x, count).tolist() == group.tolist()
    wide = x.repeat(1, 7)  # wider than long: the other Gram matrix
    assert principal_groups(wide, count).tolist() == group.tolist()
    for i, j in product(range(14), range(14)):
        assert bool((x[i] != x[j]).any()) or group[i] == group[j]


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, k=st.integers(1, 40))
def test_every_group_keeps_some_and_survivors_are_not_similar(seed, k) -> None:
    x, _ = cases.draw("clustered", 40, 8, seed)
    look = torch.rand(40, generator=torch.Generator().manual_seed(seed))
    keep = gp.select(gp.PruneSID(tau=0.6), gp.Cues(x, attention=look, encoded=x), k)
    group = principal_groups(x.double().sigmoid(), max(1, (k + 1) // 4))
    assert set(group.tolist()) <= set(group[keep.rows].tolist())
    own = keep.order[: int(keep.before_fallback)].tolist()
    cos = gram(lists(x))
    assert all(cos[i][j] <= 0.6 + SLACK for i in own for j in own if i < j and group[i] == group[j])
    rest = keep.order[len(own) :].tolist()
    for g in range(int(group.max()) + 1):  # the fallback goes by attention in its group
        passed = [i for i in best(look.tolist()) if i not in own and group[i] == g]
        more = [i for i in rest if group[i] == g]
        assert not more or set(more) <= set(passed[: len(more) + sum(group[i] == g for i in own)])


def test_a_group_of_one_keeps_it() -> None:
    p, q = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1]])
    x = torch.stack([4 * p, -4 * p] * 20)
    x[39] = 3 * q
    assert principal_groups(x.double().sigmoid(), 2).tolist() == [0] * 39 + [1]
    cues = gp.Cues(x, attention=torch.linspace(1, 0, 40), encoded=x)
    keep = gp.select(gp.PruneSID(tau=1.0), cues, 8)  # by survivors it would get 0.2
    assert keep.rows.tolist() == [*range(7), 39]
    assert gp.select(gp.PruneSID(tau=1.0), cues, 6).rows.tolist() == list(range(6))  # one group


def test_budgets_of_survivors_by_hand() -> None:
    # 1 each, then 4 in the proportion 5 : 3 : 1, rounded along the sum: 2.2, 3.6, 4.
    assert budgets_of_survivors(7, [5, 3, 1], [6, 6, 2], 5) == [3, 3, 1]
    # A half of the way goes to the even number, 2.5 to 2. A group without survivors gets none, the largest gets more.
    assert budgets_of_survivors(7, [5, 3, 0], [6, 6, 2], 5) == [4, 3, 0]
    # Limits of 3, 3, 0 hold 6 of 8, so they rise to 4, 4, 1.
    assert budgets_of_survivors(7, [5, 3, 0], [6, 6, 2], 3) == [3, 3, 1]
    assert budgets_of_survivors(2, [1, 1, 1], [4, 4, 4], 5) == [1, 1, 0]
    assert budgets_of_survivors(3, [0, 0], [1, 2], 5) == [1, 2]
    assert budgets_of_survivors(0, [3], [3], 5) == [0]


def test_suppression_looks_at_nothing_outside_a_group() -> None:
    x = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0]])
    order, group = torch.tensor([3, 2, 1, 0]), torch.tensor([0, 1, 0, 0])
    assert suppress_in_each(x, order, group, 0.5).tolist() == [3, 2, 1]
    assert suppress_in_each(x, order[1:], group, 0.5, given=order[:1]).tolist() == [2, 1]
    assert best_of_each(order, group, [2, 0]).tolist() == [3, 2]
    assert best_of_each(order, group, [9, 9]).tolist() == [3, 2, 0, 1]
    assert proportions(torch.tensor([1.0, 3.0, -2.0])) == [0.25, 0.75, 0.0]
    assert proportions(torch.zeros(2)) == [0.0, 0.0]


def test_effective_rank_counts_directions() -> None:
    assert math.isclose(effective_rank(torch.eye(6)), 6)
    assert math.isclose(effective_rank(torch.eye(6)[:, :3]), 3)
    assert math.isclose(effective_rank(torch.ones(7, 3) * torch.arange(1, 8)[:, None]), 1)
    assert effective_rank(torch.zeros(4, 3)) == 0.0
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    sizes = torch.linalg.svdvals(x.double() / x.double().norm(dim=1, keepdim=True))
    entropy = -(sizes / sizes.sum() * (sizes / sizes.sum()).log()).sum()
    wide = torch.cat([x, torch.zeros(12, 30)], 1)
    assert math.isclose(effective_rank(x), float(entropy.exp()), rel_tol=1e-9)
    assert math.isclose(effective_rank(wide), float(entropy.exp()), rel_tol=1e-9)


@settings(deadline=None, max_examples=40)
@given(seed=SEEDS, kind=KINDS, k=st.integers(1, 24))
def test_agile_budgets_are_prefixes_and_an_attentive_reach_of_zero_is_top_k(seed, kind, k) -> None:
    x, _ = cases.draw(kind, 24, 8, seed)
    look = torch.rand(24, generator=torch.Generator().manual_seed(seed))
    method = gp.AgilePruner(erank_avg=0.3)
    whole, part = (gp.select(method, gp.Cues(x, attention=look), each) for each in (24, k))
    own = int(part.before_fallback)
    assert own == min(k, int(whole.before_fallback))
    assert part.order[:own].tolist() == whole.order[:own].tolist()
    for free in (gp.AgilePruner(step=0.0), gp.AgilePruner(delta_max=0.0)):
        assert gp.select(free, gp.Cues(x, attention=look), k).order.tolist() == best(look.tolist())[:k]


def test_later_tokens_reach_farther() -> None:
    angle = torch.tensor([0.0, 0.2, 1.6, 1.8])  # two close pairs, 0.02 apart in cosine distance
    x, look = torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0.4, 0.3, 0.2, 0.1])
    average = effective_rank(x)  # so that the reach is 0.01 for each place
    keep = gp.select(gp.AgilePruner(erank_avg=average), gp.Cues(x, attention=look), 4)
    assert (keep.order.tolist(), int(keep.before_fallback)) == ([0, 1, 2, 3], 3)


@pytest.mark.parametrize(
    ("method", "k", "more", "order"),
    [
        (gp.HoloV(), 8, {}, [3, 10, 13, 16, 17, 19, 20, 23]),
        (gp.HoloV(runs=4), 8, {}, [3, 10, 6, 17, 13, 16, 20, 23]),
        (gp.PruneSID(), 12, {"encoded": WAVES}, [17, 3, 6, 23, 21, 20, 2, 10, 13, 9, 16, 15]),
        (gp.AgilePruner(), 8, {}, [17, 10, 3, 20, 13, 6, 23, 16]),
        (gp.AgilePruner(erank_avg=0.5), 12, {}, [17, 10, 3, 20, 23, 16, 9, 2, 12, 13, 6, 19]),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, gp.Method) else None,
)
def test_the_orders_of_a_fixed_example(method, k, more, order) -> None:
    follows(method, k, more, order)


@pytest.mark.parametrize(
    ("cls", "options", "match"),
    [
        (gp.HoloV, {"runs": 0}, "runs=0: write the number of runs"),
        (gp.HoloV, {"weight": -0.1}, "weight=-0.1: write a number from 0"),
        (gp.PruneSID, {"per_group": 0}, "per_group=0: write the number"),
        (gp.PruneSID, {"tau": gp.Exact()}, r"tau=Exact\(\) is no cosine"),
        (gp.AgilePruner, {"step": -1}, "step=-1 is no cosine distance"),
        (gp.AgilePruner, {"erank_avg": 0}, "erank_avg=0: write a number above 0"),
    ],
)
def test_knobs_out_of_range_are_refused(cls, options, match) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        cls(**options)


def test_needs_are_those_that_the_papers_read() -> None:
    assert gp.PruneSID().needs == (Attention("tower"), Encoded())
