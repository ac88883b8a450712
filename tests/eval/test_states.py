"""How states look: every number against plain loops, and what planted states must show."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import greedyprune as gp
from greedyprune import testbed
from greedyprune.eval import Engine, Item
from greedyprune.eval.scenes import Scenes
from greedyprune.eval.states import _described, state_rows
from greedyprune.verify.traces import changed, fingerprint

for extra in ("sklearn", "skimage", "matplotlib"):
    pytest.importorskip(extra)


@pytest.fixture(scope="module")
def llava() -> Engine:
    return Engine(*testbed.load("llava"))


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return Scenes(1, seed=4, tasks=("where", "color")).items()[:2]


def cos(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / math.sqrt(float((a * a).sum()) * float((b * b).sum())))


def test_every_number_is_that_of_plain_loops() -> None:
    torch.manual_seed(3)
    visual, prompt = torch.randn(12, 6).double() + 1, torch.randn(15, 6).double()
    found = _described(visual, prompt)
    lengths = sorted(float(row.norm()) for row in visual)
    norm = lengths[5]
    units = [row / row.norm() for row in visual]
    mean = sum(units[1:], units[0]) / 12
    pairs = [(i, j) for i in range(12) for j in range(i + 1, 12)]
    raw = sorted(cos(visual[i], visual[j]) for i, j in pairs)
    centred = sorted(cos(units[i] - mean, units[j] - mean) for i, j in pairs)
    expected = {
        "norm": norm,
        "largest_norm": lengths[-1] / norm,
        "last_norm": float(prompt[-1].norm()) / norm,
        "first_norm": float(prompt[0].norm()) / norm,
        "peak": sum(float((unit * unit).max()) for unit in units) / 12,
        "common": float(mean.norm()),
        "last_common": cos(mean, prompt[-1]),
        "cosine": sum(raw) / 66,
        "centred_cosine": sum(centred) / 66,
        "tau": raw[52],
        "centred_tau": 0.25 * raw_at(centred, 61) + 0.75 * raw_at(centred, 62),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=2e-7)


def raw_at(values: list[float], place: int) -> float:
    return values[place]


def test_a_sink_a_peak_and_a_common_direction_are_seen() -> None:
    torch.manual_seed(0)
    visual, prompt = torch.randn(50, 64).double(), torch.randn(60, 64).double()
    plain = _described(visual, prompt)
    for name, low, high in (("common", 0, 0.3), ("peak", 0, 0.2), ("first_norm", 0.5, 2), ("same", 1, 1)):
        assert low <= plain[name] <= high
    prompt[0] *= 100
    assert _described(visual, prompt)["first_norm"] > 50
    peaked = visual.clone()
    peaked[:, 7] = 100.0
    seen = _described(peaked, prompt)
    assert min(seen[name] for name in ("peak", "common", "cosine", "tau")) > 0.9
    assert abs(seen["centred_cosine"]) < 0.1
    assert seen["centred_tau"] < plain["centred_tau"] + 0.1
    assert _described(peaked, peaked[:1])["last_common"] > 0.95


def test_rounding_cosines_moves_choices_only_where_they_are_close() -> None:
    torch.manual_seed(1)
    close = 0.9 + 0.004 * (torch.rand(60, dtype=torch.float64) - 0.5)  # about a threshold of 0.9, below bfloat16's step
    base, apart = torch.eye(61, dtype=torch.float64)[0], torch.eye(61, dtype=torch.float64)[1:]
    visual = close[:, None] * base + (1 - close.square()).sqrt()[:, None] * apart
    visual = torch.cat([base[None], visual])
    assert _described(visual, base[None] + 0.1 * apart)["same"] < 1


def test_rows_are_those_of_the_model_and_leave_it_as_it_was(llava: Engine, items: list[Item]) -> None:
    state_rows(llava, items)  # transformers puts hooks of its own on the vision tower at the first call
    before = fingerprint(llava.model)
    rows = state_rows(llava, items)
    assert not changed(before, fingerprint(llava.model))
    assert [row["layer"] for row in rows] == ["input", *(f"layer:{i}" for i in range(1, len(llava.parts.layers)))]
    batch = llava.prepare(0, items[:1])
    with torch.inference_mode():
        states = llava.model(**batch.inputs, output_hidden_states=True).hidden_states
    (row,) = [row for row in state_rows(llava, items[:1]) if row["layer"] == "layer:2"]
    span = batch.spans[0]
    mine = _described(states[2][0, span.columns].double(), states[2][0].double())
    assert {name: row[name] for name in mine} == pytest.approx(mine, abs=1e-4)


def test_a_pruned_model_is_refused(llava: Engine, items: list[Item]) -> None:
    with gp.prune(llava.model, "grid", 16, at="layer:1"), pytest.raises(ValueError, match="pruned model"):
        state_rows(llava, items)
