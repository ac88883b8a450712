"""Statistics of an evaluation: the bootstrap against a slow plain reference, floors, subsets, and the rows."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from greedyprune.eval import rows
from greedyprune.eval.stats import Bootstrap, auc, centred, guess_floor, hard, interval, majority_floor, recall
from made_answers import RIGHT, answers, item


def plain_interval(values: list[float], pictures: list[str], weights: list[list[int]]) -> tuple[float, float]:
    """Every resample spelled out: each image as often as it was drawn, with all its questions."""
    names = list(dict.fromkeys(pictures))
    means: list[float] = []
    for drawn in weights:
        some = [v for name, times in zip(names, drawn, strict=True) for _ in range(times) for v, p in
                zip(values, pictures, strict=True) if p == name]  # fmt: skip
        means.append(sum(some) / len(some))
    means.sort()

    def at(share: float) -> float:
        place = share * (len(means) - 1)
        low = int(place)
        return means[low] + (place - low) * (means[min(low + 1, len(means) - 1)] - means[low])

    return at(0.025), at(0.975)


def test_the_bootstrap_is_that_of_a_plain_loop() -> None:
    draw = random.Random(0)
    pictures = [f"p{draw.randrange(12)}" for _ in range(40)]
    values = [draw.random() - 0.4 for _ in pictures]
    bootstrap = Bootstrap(pictures, resamples=200, seed=3)
    assert bootstrap.weights.sum(1).eq(bootstrap.weights.shape[1]).all()
    means = bootstrap.means(torch.tensor(values)[:, None], torch.ones(40, dtype=torch.bool))[:, 0]
    expected = plain_interval(values, pictures, bootstrap.weights.int().tolist())
    assert interval(means) == pytest.approx(expected, abs=1e-6)


def test_questions_outside_the_group_do_not_count_and_nobody_is_divided_by_zero() -> None:
    bootstrap = Bootstrap(["a", "b", "c"], resamples=50)
    among = torch.tensor([True, False, False])
    means = bootstrap.means(torch.tensor([[1.0], [5.0], [5.0]]), among)[:, 0]
    assert set(means[~means.isnan()].tolist()) == {1.0}
    assert means.isnan().any()  # resamples without image a
    assert interval(means) == (1.0, 1.0)


def width(values: torch.Tensor, pictures: list[str]) -> float:
    low, high = interval(Bootstrap(pictures).means(values[:, None], torch.ones(len(pictures), dtype=torch.bool))[:, 0])
    return high - low


def test_intervals_shrink_with_more_images_and_not_with_more_questions_about_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.rand(400, generator=generator) < 0.7).double()
    few, many = width(values[:100], list(map(str, range(100)))), width(values, list(map(str, range(400))))
    assert 0.4 < many / few < 0.65  # one half
    copied = width(values[:100].repeat(4), list(map(str, range(100))) * 4)
    assert copied == pytest.approx(few, rel=1e-6)


def test_differences_of_the_same_questions_are_tighter_than_those_of_others() -> None:
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(300, generator=generator) < 0.7
    b = a & (torch.rand(300, generator=generator) < 0.95)  # nearly the same questions
    pictures = list(map(str, range(300)))
    one, other = (Bootstrap(pictures, seed=seed) for seed in (0, 1))
    every = torch.ones(300, dtype=torch.bool)
    ours, theirs, unpaired = (boot.means(x[:, None], every)[:, 0] for boot, x in ((one, a), (one, b), (other, b)))
    paired, apart = (interval(ours - means) for means in (theirs, unpaired))
    assert paired[1] - paired[0] < 0.5 * (apart[1] - apart[0])
    assert paired[0] > 0


def test_accuracy_is_centred_on_chance() -> None:
    assert centred(0.25, 0.25) == 0
    assert centred(1.0, 0.25) == 1
    assert centred(0.5, 0.25) == pytest.approx(1 / 3)
    assert centred(0.0, 0.5) == -1
    assert centred(1.0, 1.0) is None


def test_floors_are_those_of_majority_and_of_guessing() -> None:
    items = [item(0), item(1), item(2, answer="no", guesses=("no", "yes")), item(3, answer="no", guesses=("a",))]
    assert majority_floor([*items, item(4)]) == 0.6
    assert guess_floor(items) == 0.25  # one half and none; two are unknown
    assert guess_floor(items[:2]) is None


def test_the_hard_subset_is_what_dense_knows_and_the_control_does_not() -> None:
    dense, control = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool()
    assert hard(dense, control).tolist() == [False, True, False, False]


def test_auc_counts_pairs() -> None:
    generator = torch.Generator().manual_seed(2)
    scores, positive = torch.randint(0, 6, (40,), generator=generator), torch.rand(40, generator=generator) < 0.3
    pairs = list(itertools.product(scores[positive].tolist(), scores[~positive].tolist()))
    expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert auc(scores, positive) == pytest.approx(expected)
    assert auc(torch.arange(4), torch.tensor([0, 0, 1, 1]).bool()) == 1
    assert auc(torch.arange(4), torch.zeros(4).bool()) != auc(torch.arange(4), torch.zeros(4).bool())  # NaN


def test_recall_is_the_mean_over_the_orders_of_ties() -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        scores, positive = torch.randint(0, 3, (6,), generator=generator), torch.arange(6) < 2
        orders = [order for order in itertools.permutations(range(6)) if scores[list(order)].diff().le(0).all()]
        for k in range(1, 7):
            found = [sum(place < 2 for place in order[:k]) / 2 for order in orders]
            assert recall(scores, positive, k) == pytest.approx(sum(found) / len(found))
    assert recall(torch.arange(3), torch.zeros(3).bool(), 1) != recall(torch.arange(3), torch.zeros(3).bool(), 1)  # NaN


# Rows -----------------------------------------------------------------------------------------------------------------


def test_rows_say_what_was_counted() -> None:
    made, _ = answers(RIGHT)
    found = {(row["method"], row["seed"], row["task"]): row for row in rows(made, resamples=200)}
    assert len(found) == 6 * 3
    ours, mean = found["greedyprune", None, "a"], found["greedyprune", None, "mean"]
    assert (ours["n"], ours["correct"], ours["accuracy"], ours["relative"]) == (2, 2, 1.0, 1.0)
    assert (mean["accuracy"], mean["dense_difference"]) == (0.5, -0.25)
    assert (ours["majority_floor"], ours["guess_floor"], ours["centred"]) == (1.0, 0.5, None)
    assert ours["region_recall"] == 0.75
    assert mean["regions"] == 2
    assert (mean["best_other"], mean["best_difference"]) == ("pool input", 0.25)
    assert mean["random_difference"] == 0.375  # to the mean of both seeds
    assert (mean["hard_n"], mean["hard_correct"], mean["hard_accuracy"]) == (2, 1, 0.5)
    assert found["pool", None, "mean"]["region_recall"] is None
    assert found["pool", None, "mean"]["hard_correct"] == 0
    assert found["oracle", None, "mean"]["best_other"] == "greedyprune layer:2"
    dense = found["dense", None, "mean"]
    assert dense["dense_difference"] is dense["best_other"] is dense["hard_n"] is None
    assert found["random", 1, "a"]["random_difference"] is None
    assert found["random", 1, "a"]["best_other"] == "greedyprune layer:2"  # no seed of itself


def test_equal_runs_give_equal_rows_and_the_seed_matters_only_to_intervals() -> None:
    made, _ = answers(RIGHT)
    one, same, other = rows(made), rows(made), rows(made, seed=1)
    assert one == same
    ends = {f"{name}_{end}" for name in ("dense", "best", "random") for end in ("low", "high")}
    strip = [[{k: v for k, v in row.items() if k not in ends} for row in some] for some in (one, other)]
    assert strip[0] == strip[1]
