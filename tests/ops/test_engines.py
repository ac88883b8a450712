"""The greedy engines equal plain float64 loops, order and gains: on every kind of rows, ties and duplicates among them.

Each reference shares no code with the library but the convention that values closer than rounding are ties, which go to
the lowest row. The engines' block sizes are made tiny, so that every path is walked on small inputs.
"""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

import brute
import cases
from greedyprune.ops import coverage, determinantal, marginal, nearest, soft, sums
from greedyprune.ops.cosine import UnitRows
from greedyprune.ops.suppression import suppress

CASES = 60
"""For each kind of rows: 540 in all."""
kinds = pytest.mark.parametrize("kind", cases.KINDS)


def drawn(kind: str, seed: int) -> tuple[random.Random, Tensor, int, list[int]]:
    """Rows in some precision, how many to take, and given ones."""
    dice = random.Random(f"{kind} {seed}")
    n, d = dice.randint(1, 18), dice.choice([1, 2, 3, 8, 16])
    x, _ = cases.draw(kind, n, d, seed)
    x = dice.choice([x, x.double(), x.clamp(-1e4, 1e4).bfloat16()])
    k = dice.randint(1, n)
    return dice, x, k, sorted(dice.sample(range(n), dice.randint(0, min(k, 3))))


def weights(dice: random.Random, n: int) -> Tensor:
    """Equal, any, or tied and partly zero."""
    g = torch.Generator().manual_seed(dice.randint(0, 10**6))
    return dice.choice([torch.ones(n), torch.rand(n, generator=g), torch.randint(0, 3, (n,), generator=g).float()])


def rows(given: list[int]) -> Tensor | None:
    return torch.tensor(given) if given else None


def clamped(x: Tensor) -> list[list[float]]:
    return [[min(1.0, max(-1.0, value)) for value in row] for row in brute.cosines(x)]


def same(found, order: list[int], gains: list[float], near: float = 1e-5) -> None:
    assert found.order.tolist() == order
    torch.testing.assert_close(found.gains.double().cpu(), torch.tensor(gains).double(), atol=near, rtol=near)


# Determinantal --------------------------------------------------------------------------------------------------------


def by_volume(x: Tensor, quality: Tensor, k: int, given: list[int]) -> tuple[list[int], list[float]]:
    """What is left of each vector beside those taken, by Gram-Schmidt done twice; until nothing is left of any."""
    vectors = [(brute.unit(row) * float(q)).tolist() for row, q in zip(x, quality.double(), strict=True)]
    size = [math.fsum(a * a for a in v) for v in vectors]
    basis: list[list[float]] = []
    order: list[int] = []
    gains: list[float] = []

    def rest(i: int) -> list[float]:
        v = list(vectors[i])
        for _ in range(2):
            for b in basis:
                c = math.fsum(p * q for p, q in zip(v, b, strict=True))
                v = [p - c * q for p, q in zip(v, b, strict=True)]
        return v

    def take(i: int) -> None:
        v = rest(i)
        left = math.fsum(a * a for a in v)
        counts = size[i] > 0 and left > 1e-10 * size[i]
        order.append(i)
        gains.append(left if counts else 0.0)
        if counts:
            basis.append([a / math.sqrt(left) for a in v])

    for i in given:
        take(i)
    while len(order) < k:
        left = {i: math.fsum(a * a for a in rest(i)) for i in range(len(vectors)) if i not in order}
        left = {i: value for i, value in left.items() if value > 1e-10 * size[i]}
        if not left:
            break
        most = max(value - 5e-13 * size[i] for i, value in left.items())
        take(min(i for i, value in left.items() if value + 5e-13 * size[i] >= most))
    return order, gains


@kinds
def test_a_determinant_grows_by_what_is_left_of_each_vector(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short = 0
    for seed in range(CASES):
        dice, x, k, given = drawn(kind, seed)
        for name, value in zip(("JOINING", "MOST"), dice.choice([(1, 1), (2, 5), (3, 30), (64, 512)]), strict=True):
            monkeypatch.setattr(determinantal, name, value)
        quality = weights(dice, x.shape[0])
        order, gains = by_volume(x, quality, k, given)
        found = determinantal.determinantal(x, quality, k, given=rows(given))
        same(found, order, gains)
        short += len(order) < k
    assert short or kind not in ("duplicates", "zero rows")  # kernels without full rank end early


def test_directions_stay_orthogonal_where_little_is_left_of_a_vector() -> None:
    """A rest of 3e-5 still holds 3e-12 of its length of the basis, by rounding: that is taken away once more."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(6, 32, generator=generator, dtype=torch.float64)
    near = vectors + 3e-5 * torch.randn(6, 32, generator=generator, dtype=torch.float64)
    x = UnitRows(torch.cat([vectors, near]))
    residual = determinantal._Residual(x, torch.ones(12), 12)
    for row in range(12):
        residual.give(row)
    residual.update()
    basis = residual.basis[: residual.size]
    assert residual.size == 12
    assert (basis @ basis.T - torch.eye(12, dtype=torch.float64)).abs().max() < 1e-14


# Suppression ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 4, 64])
@kinds
def test_who_is_passed_over_names_the_first_row_taken_that_is_too_similar(kind: str, block: int) -> None:
    for seed in range(12):
        x, _ = cases.draw(kind, 30, 6, seed)
        order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
        given = order[:2] if seed % 2 else None
        found = suppress(x, order if given is None else order[2:], 0.3, 20, given=given, block=block)
        taken, gram = found.order.tolist(), brute.cosines(x)
        for row, by in enumerate(found.by.tolist()):
            close = [one for one in taken if gram[one][row] > 0.3 + 1e-12]
            # Behind the last row taken nobody looks.
            assert by in ([-1] if row in taken else close[:1] if len(taken) < 20 else [-1, *close[:1]])


# Marginal relevance ---------------------------------------------------------------------------------------------------


@kinds
def test_marginal_relevance(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(CASES):
        dice, x, k, given = drawn(kind, seed)
        for name, value in zip(cases.POOLS, dice.choice(cases.SIZES), strict=True):
            monkeypatch.setattr(nearest, name, value)
        worth, trade, gram = weights(dice, x.shape[0]), dice.choice([0, 0.3, 0.5, 1]), clamped(x)
        order: list[int] = []
        gains: list[float] = []
        while len(order) < k:
            values = {
                i: trade * float(worth[i]) - (1 - trade) * max((gram[i][j] for j in order), default=0.0)
                for i in range(x.shape[0])
                if i not in order
            }
            best = min(i for i in values if values[i] >= max(values.values()) - 1e-12)
            order.append(given[len(order)] if len(order) < len(given) else best)
            gains.append(values[order[-1]])
        same(marginal.marginal_relevance(x, worth, k, trade, given=rows(given)), order, gains)


# Sums of distances ----------------------------------------------------------------------------------------------------


@kinds
def test_farthest_in_sum(kind: str) -> None:
    for seed in range(CASES):
        _, x, k, given = drawn(kind, seed)
        gram, starts = clamped(x), given or [x.shape[0] // 2]
        order: list[int] = []
        gains: list[float] = []
        while len(order) < k:
            total = {i: math.fsum(gram[i][j] for j in order) for i in range(x.shape[0]) if i not in order}
            best = min(i for i in total if total[i] <= min(total.values()) + 1e-12)
            row = starts[len(order)] if len(order) < len(starts) else best
            gains.append(len(order) - total[row])
            order.append(row)
        same(sums.farthest_in_sum(x, k, given=torch.tensor(starts)), order, gains)


# Coverage -------------------------------------------------------------------------------------------------------------


@kinds
def test_coverage(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(CASES):
        dice, x, k, given = drawn(kind, seed)
        n = x.shape[0]
        monkeypatch.setattr(coverage, "GRAM_LIMIT", dice.choice([4096, 5, 3]))
        monkeypatch.setattr(coverage, "BATCH", dice.choice([1, 2, 16]))
        ours, factor = weights(dice, n), weights(dice, n)
        temperature, floor, more = dice.choice([None, 0.2]), dice.choice([0.0, 0.3]), dice.random() < 0.5
        benefit, share = clamped(x), [float(w) for w in ours.double()]
        if temperature:
            benefit = [[math.exp((value - 1) / temperature) for value in row] for row in benefit]
            share = [w / math.fsum(row) for w, row in zip(share, benefit, strict=True)]
        parts: list[coverage.Benefits] = [coverage.Alike(x, ours, temperature)]
        table = torch.rand(4, n, generator=torch.Generator().manual_seed(seed))
        if more:
            parts.append(coverage.Given(table))
            benefit, share = benefit + table.double().tolist(), share + [1.0] * 4
        order, gains = by_coverage(benefit, share, factor.double().tolist(), k, floor, given)
        same(coverage.cover(parts, k, factor=factor, floor=floor, given=rows(given)), order, gains, 1e-6)


def by_coverage(
    benefit: list[list[float]], share: list[float], factor: list[float], k: int, floor: float, given: list[int]
) -> tuple[list[int], list[float]]:
    covered = [floor] * len(benefit)
    order: list[int] = []
    gains: list[float] = []

    def gain(j: int) -> float:
        return factor[j] * math.fsum(
            w * max(0.0, row[j] - c) for w, row, c in zip(share, benefit, covered, strict=True)
        )

    slack = 1e-12 * max(gain(j) for j in range(len(factor)))
    while len(order) < k:
        left = {j: gain(j) for j in range(len(factor)) if j not in order}
        best = min(j for j in left if left[j] >= max(left.values()) - slack)
        order.append(given[len(order)] if len(order) < len(given) else best)
        gains.append(left[order[-1]])
        covered = [max(c, row[order[-1]]) for c, row in zip(covered, benefit, strict=True)]
    return order, gains


# Soft suppression -----------------------------------------------------------------------------------------------------


@kinds
def test_soft_suppression(kind: str) -> None:
    for seed in range(CASES):
        dice, x, _, _ = drawn(kind, seed)
        n = x.shape[0]
        h = dice.choice([side for side in range(1, n + 1) if n % side == 0])
        w, radius, spread, tolerance = n // h, dice.choice([1.0, 2.5, 5.0]), 1.5, dice.choice([0.05, 1.0])
        k, score, gram = dice.randint(1, n), weights(dice, n), clamped(x)
        left = [float(value) for value in score.double()]
        order: list[int] = []
        gains: list[float] = []
        while len(order) < k:
            best = max(left[i] for i in range(n) if i not in order)
            row = min(i for i in range(n) if i not in order and left[i] >= best - 1e-12 * abs(best))
            order.append(row)
            gains.append(left[row])
            for i in range(n):
                square = (i // w - row // w) ** 2 + (i % w - row % w) ** 2
                if 0 < square <= radius**2:
                    alike = math.exp(-((1 - gram[row][i]) ** 2) / (2 * tolerance**2))
                    left[i] *= 1 - math.exp(-square / (2 * spread**2)) * alike
        found = soft.soft_suppress(score, soft.nearby(x, (1, h, w), radius, spread, tolerance), k)
        same(found, order, gains)


# Many rows ------------------------------------------------------------------------------------------------------------


def test_many_rows_need_no_matrix_of_all_pairs() -> None:
    n, k = 20_000, 12  # all pairs in float32 would be 1.6 GB
    g = torch.Generator().manual_seed(0)
    x, worth = torch.randn(n, 16, generator=g), torch.rand(n, generator=g)
    for found in (
        determinantal.determinantal(x, worth, k),
        marginal.marginal_relevance(x, worth, k),
        sums.farthest_in_sum(x, k, given=torch.tensor([7])),
    ):
        assert len(set(found.order.tolist())) == k
