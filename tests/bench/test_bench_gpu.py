"""What a GPU is asked runs at tiny size on the CPU: every part has its rows, and what is left out is said."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from features_given import features_given
from greedyprune.bench import gpu, shapes
from greedyprune.cli.app import app
from greedyprune.ops.kernels import chosen

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest shape and plan."""
    shape = shapes.SHAPES["llava-small"]
    text = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2}
    tower = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "num_attention_heads": 2}
    vision = {**shape.vision, **tower, "image_size": 56}
    monkeypatch.setitem(shapes.SHAPES, "llava-small", replace(shape, text={**shape.text, **text}, vision=vision))
    plan = replace(gpu.TINY, parity=((9, 16),), selections=((2, 9, 2, 16),), batches=(1, 2), keep=5)
    monkeypatch.setattr(gpu, "TINY", plan)
    monkeypatch.setattr(gpu, "REPLAYS", 1)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@features_given
@pytest.mark.usefixtures("small")
def test_every_part_writes_its_rows(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["bench", "gpu", "--tiny", "--device", "cpu", "--save", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert "30 of 30 selections are the CPU's." in told.stdout
    assert [(row["method"], row["equal"]) for row in read(tmp_path / "gpu-parity.csv")] == [
        (name, "6") for name in gpu.DECIDING
    ]
    for row in read(tmp_path / "gpu-select.csv"):
        assert (row["engine"], row["device"], row["graph"], row["why"]) == ("torch", "cpu", "False", "no CUDA device")
        assert float(row["us_low"]) <= float(row["us"]) <= float(row["us_high"])
    for part in ("prefill", "generate"):
        rows = read(tmp_path / f"gpu-{part}.csv")
        assert {(row["method"], row["batch"], row["left_out"]) for row in rows} == {
            (method, batch, "") for method in gpu.TINY.methods for batch in ("1", "2")
        }
        assert {row["equal"] for row in rows} == {"True"}
        assert all(float(row["dense_ms"]) > 0 and row["command"] for row in rows)
    rows = read(tmp_path / "gpu-capture.csv")
    assert [(row["method"], row["why"]) for row in rows] == [(each, "no CUDA device") for each in gpu.TINY.methods]


@pytest.mark.usefixtures("small")
def test_what_no_time_is_left_for_is_a_row(tmp_path: Path) -> None:
    some = ["--device", "cpu", "--minutes", "0", "--save", str(tmp_path)]
    told = CliRunner().invoke(app, ["bench", "gpu", "--tiny", *some])
    assert told.exit_code == 0, told.output
    for part, cases in (("prefill", 4), ("generate", 4), ("capture", 2)):
        rows = read(tmp_path / f"gpu-{part}.csv")
        assert [row["left_out"] for row in rows] == ["the time is over"] * cases


@pytest.mark.usefixtures("small")
def test_a_wrong_decision_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    own = gpu.select_batch

    def wrong(method: Any, *given: Any) -> Any:
        found = own(method, *given)
        return [replace(each, order=each.order.flip(0)) for each in found] if "MMR" in str(method) else found

    monkeypatch.setattr(gpu, "select_batch", wrong)
    told = CliRunner().invoke(app, ["bench", "gpu", "--tiny", "--device", "cpu", "--minutes", "0"])
    assert told.exit_code == 1
    assert "24 of 30 selections are the CPU's." in told.stdout
    assert "cpu decides otherwise than the CPU: mmr." in told.stderr


def test_a_case_that_cannot_be_measured_costs_no_other() -> None:
    def raises() -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory\nand more")

    found = gpu._tried({"batch": 32}, raises, float("inf"))
    assert found == {"batch": 32, "left_out": "OutOfMemoryError: CUDA out of memory"}
    rows = gpu.level([found, {"batch": 1, "dense_ms": 2.0, "left_out": ""}])
    assert [list(row) for row in rows] == [["batch", "dense_ms", "left_out"]] * 2


def test_an_engine_is_put_back() -> None:
    before = chosen.KINDS
    with gpu.scanning("torch"):
        assert not chosen.KINDS
    assert chosen.KINDS is before
    assert gpu.engines(CPU) == ["torch"]


def test_no_gpu_is_one_line() -> None:
    refused = CliRunner().invoke(app, ["bench", "gpu", "--device", "cuda:99"])
    assert refused.exit_code != 0
    assert "--device 'cuda:99' cannot be used" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
