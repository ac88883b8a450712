"""The recipe, from another seed, follows the curve it left in `results/testbed`. Ten minutes for each model, two cores.

Left out of `make test`; `make test-slow` runs it.
"""

import csv
from pathlib import Path

import pytest
import torch

from greedyprune.testbed.train.loop import Run
from greedyprune.testbed.train.models import ARCHITECTURES
from greedyprune.testbed.train.start import start_tower
from greedyprune.testbed.train.symbols import STEPS as SYMBOL_STEPS
from greedyprune.testbed.train.symbols import run_symbols
from greedyprune.testbed.train.vision import STEPS as VISION_STEPS
from greedyprune.testbed.train.vision import run_vision

RECORDED = Path(__file__).parents[2] / "results" / "testbed"
SEED = 11
NAMES = tuple(ARCHITECTURES)


def recorded(name: str, stage: str, step: int) -> dict[str, float]:
    with (RECORDED / f"{name}-seed0-{stage}.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["step"] == str(step))
    return {key: float(value) for key, value in row.items() if key not in ("stage", "step", "seconds")}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_decoder_learns_as_fast_as_recorded(name: str, tmp_path: Path) -> None:
    torch.manual_seed(SEED)
    architecture = ARCHITECTURES[name]
    run = Run("symbols", tmp_path, SEED, SYMBOL_STEPS, stop=800)
    run_symbols(run, architecture, architecture.build())
    found, before = run.history[-1], recorded(name, "symbols", 800)
    for kind in ("color", "shape", "digit", "ocr"):
        assert float(found[kind]) >= before[kind] - 0.15, kind
    assert float(found["mean"]) >= before["mean"] - 0.12


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_tower_learns_as_fast_as_recorded(name: str, tmp_path: Path) -> None:
    torch.manual_seed(SEED)
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    start_tower(architecture, model)
    run = Run("vision", tmp_path, SEED, VISION_STEPS, stop=400)
    run_vision(run, architecture, model)
    found, before = run.history[-1], recorded(name, "vision", 400)
    for share in ("kind", "letter", "slot"):
        assert float(found[share]) >= before[share] - 0.12, share
    assert float(found["distance"]) <= 1.2 * before["distance"]
