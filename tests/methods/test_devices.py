"""The default device: what the selecting code makes lies where its cues lie, whatever a user set as the default."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cases
import greedyprune as gp
from greedyprune.naming import as_method
from greedyprune.ops.grid import covered_cells
from greedyprune.ops.runs import even_runs
from greedyprune.probes.decoder import raters
from greedyprune.registry import METHODS

ROOT = Path(gp.__file__).parent
FILES = [
    *sorted(ROOT.glob("*.py")),
    *(file for room in ("ops", "methods", "probes") for file in sorted((ROOT / room).rglob("*.py"))),
]
MAKERS = {
    "arange", "as_tensor", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint", "randn",
    "randperm", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros",
}  # fmt: skip
"""What makes a tensor on the default device unless it is told another."""
N, D = 24, 8


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """Another default device than that of the cues: tensors on it hold no values, so that no mixture goes unnoticed."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def everything(kind: str) -> gp.Cues:
    """All cues, made on the CPU."""
    x, _ = cases.draw(kind, N, D, 3)
    return cases.cues(x, torch.randn(5, D, generator=torch.Generator().manual_seed(4)), 3, grid=(2, 3, 4))


def every_choice(name: str, cues: gp.Cues) -> list[gp.Keep]:
    """What a method chooses for several budgets, with and without protected tokens, and frame by frame."""
    method = as_method(name)
    guard = None if as_method(name).merges else torch.tensor([2, 19], device="cpu")
    keeps = [gp.select(method, replace(cues, protect=guard), k) for k in (2, 9, N - 1, N)]
    keeps += [gp.select(method, cues, k) for k in (0, 9)]
    return keeps if method.compares_frames else [*keeps, gp.select(method, cues, gp.PerFrame(4))]


@pytest.mark.parametrize("kind", ["clustered", "extreme"])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_another_default_device_changes_no_selection(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    cues = everything(kind)
    plain = every_choice(name, cues)
    request.getfixturevalue("elsewhere")
    for keep, expected in zip(every_choice(name, cues), plain, strict=True):
        for part in ("rows", "order", "gains", "before_fallback", "suppressed_by", "weights"):
            mine, theirs = getattr(keep, part), getattr(expected, part)
            assert (mine is None) == (theirs is None)
            assert mine is None or (mine.device.type == "cpu" and torch.equal(mine, theirs)), part


@pytest.mark.usefixtures("elsewhere")
def test_another_default_device_changes_nothing_beside_the_methods() -> None:
    assert gp.Keep.everything(3).rows.tolist() == [0, 1, 2]
    assert even_runs(4, 2).tolist() == [0, 0, 1, 1]
    assert covered_cells([(0, 0, 2, 2)], (2, 2), (0, 0, 4, 4)).tolist() == [0]
    near = torch.eye(2, device="cpu")
    assert raters(near, near * torch.tensor([[9.0], [1.0]], device="cpu")).device.type == "cpu"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_tensor_that_is_made_is_told_where(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{maker}" for maker in MAKERS}:
            told = {keyword.arg for keyword in node.keywords}
            assert "device" in told, f"{file.name}:{node.lineno}: {ast.unparse(node)} lies on the default device"
