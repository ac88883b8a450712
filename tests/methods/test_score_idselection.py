"""SCoRe and ID-Selection equal float64 brute forces, order and gains included, and what each makes of no saliency."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

import brute
import cases
import greedyprune as gp
from greedyprune.ops import nearest
from greedyprune.ops.subtraction import subtract
from greedyprune.testing import check_method

ROUNDS = 160
"""For each of the nine kinds of rows: 1,440 cases for each method."""
LOOK = gp.Attention("tower")
Book = tuple[list[int], list[float]]


def attention(n: int, dice: random.Random) -> Tensor:
    """Attention with large differences, ties or zeros. -> (n,)"""
    g = torch.Generator().manual_seed(dice.randrange(10**6))
    noise = torch.randn(n, generator=g)
    how = dice.choice(["soft", "peaked", "tied", "zeros", "equal"])
    if how == "tied":
        return noise.round().abs() / 8
    if how == "zeros":
        return noise.clamp_min(0)
    if how == "equal":
        return torch.full((n,), 0.25)
    return noise.mul(4 if how == "peaked" else 1).softmax(0)


def drawn(kind: str, seed: int) -> tuple[random.Random, Tensor, Tensor, list[int], int]:
    """Rows in some precision, their attention, protected rows and a budget. -> dice, (n, d), (n,), (p,), k"""
    dice = random.Random(f"{kind} {seed}")
    x, _ = cases.draw(kind, dice.randint(1, 18), dice.choice([1, 2, 3, 8, 16]), seed)
    x = dice.choice([lambda y: y, lambda y: y.double(), lambda y: y.clamp(-1e4, 1e4).bfloat16()])(x)
    n = x.shape[0]
    k = dice.choice([dice.randint(1, n), n, n + 2])
    given = sorted(dice.sample(range(n), dice.choice([0, 0, min(k, n, 3)])))
    return dice, x, attention(n, dice), given, k


def chosen(method: gp.Method, x: Tensor, look: Tensor, given: list[int], k: int) -> gp.Keep:
    return gp.select(method, gp.Cues(x, attention=look, protect=torch.tensor(given) if given else None), k)


def pools(dice: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(cases.POOLS, dice.choice(cases.SIZES), strict=True):
        monkeypatch.setattr(nearest, name, value)


def same(keep: gp.Keep, book: Book, what: object) -> None:
    assert keep.order.tolist() == book[0], what
    torch.testing.assert_close(keep.gains.double(), torch.tensor(book[1]).double(), rtol=1e-6, atol=1e-6, msg=str(what))


# SCoRe ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", cases.KINDS)
def test_score_is_a_float64_brute_force(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(ROUNDS):
        dice, x, look, given, k = drawn(kind, seed)
        pools(dice, monkeypatch)
        alpha = dice.choice([0.0, 0.8, 0.8, 3.0])
        worth = [math.log(max(a, 2.2250738585072014e-308)) for a in look.double().tolist()]
        book = brute.log_barrier(x, worth, min(k, x.shape[0]), alpha, given)
        same(chosen(gp.SCoRe(alpha=alpha), x, look, given, k), book, (seed, alpha))


def test_score_takes_the_largest_product_of_attention_and_distance() -> None:
    """The paper's own form, on rows without copies and attention without zeros."""
    for seed in range(30):
        x, _ = cases.draw("iid", 24, 8, seed)
        look = torch.randn(24, generator=torch.Generator().manual_seed(seed)).softmax(0)
        gram, a = brute.cosines(x), look.double().tolist()
        order = [max(range(24), key=lambda i: a[i])]
        products = [a[order[0]] ** 0.8]
        while len(order) < 9:
            value = {i: a[i] ** 0.8 * min(1 - gram[i][s] for s in order) for i in range(24) if i not in order}
            order.append(max(value, key=lambda i: value[i]))
            products.append(value[order[-1]])
        keep = chosen(gp.SCoRe(), x, look, [], 9)
        assert keep.order.tolist() == order
        torch.testing.assert_close(keep.gains.double().exp(), torch.tensor(products).double(), rtol=1e-5, atol=0)


def test_tokens_without_attention_come_last_and_the_farthest_of_them_first() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.05], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    look = torch.tensor([0.5, 1e-30, 0.0, 0.0, 0.4])
    # Row 4 is a copy of row 0, at a distance of 1e-12. Of the tokens without attention, row 2 is opposite.
    assert chosen(gp.SCoRe(), x, look, [], 5).order.tolist() == [0, 4, 1, 2, 3]
    assert chosen(gp.SCoRe(), x, 0 * look, [], 3).order.tolist() == [0, 2, 3]  # nobody has any: the lowest row begins


def test_without_an_exponent_score_is_farthest_first_and_with_a_large_one_top_k() -> None:
    for seed in range(20):
        x, _ = cases.draw("clustered", 40, 8, seed)
        look = torch.randn(40, generator=torch.Generator().manual_seed(seed)).softmax(0)
        far = gp.select("divprune", gp.Cues(x, protect=look.argmax()[None]), 12).order
        assert chosen(gp.SCoRe(alpha=0), x, look, [], 12).order.tolist() == far.tolist()
        assert chosen(gp.SCoRe(alpha=1e4), x, look, [], 12).order.tolist() == look.topk(12).indices.tolist()


# ID-Selection ---------------------------------------------------------------------------------------------------------


def from_0_to_1(worth: list[float]) -> list[float]:
    low, high = min(worth), max(worth)
    return [1.0 if high - low <= brute.SLACK else (w - low) / (high - low) for w in worth]


def suppressed(x: Tensor, worth: list[float], k: int, gamma: float, given: list[int]) -> tuple[Book, int]:
    """The rule in plain loops, and how many it took before no score was left."""
    gram, scores, order, gains = brute.cosines(x), from_0_to_1(worth), list[int](), list[float]()
    while len(order) < k:
        left = {i: s for i, s in enumerate(scores) if i not in order and s > brute.SLACK}
        if len(order) < len(given):
            i = given[len(order)]
        elif left:
            i = min(i for i, s in left.items() if s >= max(left.values()) - brute.SLACK)
        else:
            break
        order.append(i)
        gains.append(scores[i])
        shares = [math.exp(-gamma * (1 - min(1.0, cosine)) ** 2) for cosine in gram[i]]
        scores = [max(0.0, s - share * gains[-1]) for s, share in zip(scores, shares, strict=True)]
    rest = [i for i in brute.ranking_of(worth) if i not in order][: k - len(order)]
    return (order + rest, gains + [0.0] * len(rest)), len(order)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_idselection_is_a_float64_brute_force(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filled = 0
    for seed in range(ROUNDS):
        dice, x, look, given, k = drawn(kind, seed)
        pools(dice, monkeypatch)
        gamma = dice.choice([0.0, 1.0, 20.0, 20.0, 1e4])
        book, own = suppressed(x, look.double().tolist(), min(k, x.shape[0]), gamma, given)
        keep = chosen(gp.IDSelection(gamma=gamma), x, look, given, k)
        same(keep, book, (seed, gamma))
        assert int(keep.before_fallback) == own
        filled += own < len(book[0])
    assert 0 < filled < ROUNDS


def test_a_copy_of_a_kept_token_has_no_score_left_and_a_stranger_all_of_it() -> None:
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    keep = chosen(gp.IDSelection(), x, torch.tensor([0.9, 0.8, 0.5, 0.1]), [], 4)
    assert keep.order.tolist() == [0, 2, 1, 3]  # the copy's score is 0, and so is that of the least important one
    torch.testing.assert_close(keep.gains.double(), torch.tensor([1, 0.5, 0, 0]).double(), rtol=0, atol=1e-6)
    assert int(keep.before_fallback) == 2


def test_at_no_gamma_it_is_top_k_and_a_smaller_selection_is_the_start_of_a_larger_one() -> None:
    for seed in range(10):
        x, _ = cases.draw("clustered", 40, 8, seed)
        look = torch.randn(40, generator=torch.Generator().manual_seed(seed)).softmax(0)
        assert chosen(gp.IDSelection(gamma=0), x, look, [], 12).order.tolist() == look.topk(12).indices.tolist()
        whole = chosen(gp.IDSelection(), x, look, [], 40).order.tolist()
        for k in (1, 7, 23, 39):
            assert chosen(gp.IDSelection(), x, look, [], k).order.tolist() == whole[:k]


def test_a_float32_cosine_decides_neither_the_best_score_nor_which_is_0() -> None:
    """Row 0 lowers every other by a share of its score that differs by 1e-9 from row to row."""
    g = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(64, 64, generator=g, dtype=torch.float64))[0]
    cosine = 0.9 - 1e-9 * torch.arange(40, dtype=torch.float64)[:, None]
    around = torch.nn.functional.normalize(torch.randn(40, 63, generator=g, dtype=torch.float64), dim=1) @ axes[1:]
    x = torch.cat([axes[:1], cosine * axes[:1] + (1 - cosine**2).sqrt() * around])
    score = torch.full((41,), 0.95, dtype=torch.float64)
    score[0] = 1.0
    assert subtract(x, score, 2, 20.0).order.tolist() == [0, 40]
    # Row 21 has exactly nothing left, those before it neither, and those behind it a few billionths.
    score[1:] = math.exp(-20 * float(1 - cosine[20]) ** 2)
    found = subtract(x, score, 41, 20.0).order.tolist()
    assert found[:2] == [0, 40]
    assert min(found[1:]) > 21


# Both -----------------------------------------------------------------------------------------------------------------

BOTH = [gp.SCoRe, gp.IDSelection]
both = pytest.mark.parametrize("kind", BOTH)


@both
@pytest.mark.parametrize("options", [{}, {"saliency": "cosine", "text": "question_max"}], ids=str)
def test_the_contract_holds(kind: type[gp.Method], options: dict[str, str]) -> None:
    check_method(kind(**options))  # type: ignore[arg-type]


@both
def test_a_cosine_is_weighed_from_0_to_1(kind: type[gp.Method]) -> None:
    x, t = cases.draw("iid", 20, 8, 1)
    cosines = torch.tensor(from_0_to_1(brute.saliency(x, t)), dtype=torch.float64)
    asked = gp.select(kind(saliency="cosine"), gp.Cues(x, text=t[None]), 9)  # type: ignore[call-arg]
    given = gp.select(kind(), gp.Cues(x.double(), attention=cosines), 9)
    assert asked.order.tolist() == given.order.tolist()


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 1e7, True, "8", None])
def test_a_constant_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"alpha=.* is no weight: write a number from 0 to 1e\+06"):
        gp.SCoRe(alpha=value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"gamma=.* is no weight: write a number from 0 to 1e\+06"):
        gp.IDSelection(gamma=value)  # type: ignore[arg-type]
