"""The matrix of methods and families says what really runs: every method on every family, through `generate`."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from typer.testing import CliRunner

import greedyprune as gp
from breadth import some
from greedyprune import testbed
from greedyprune.cli.app import app
from greedyprune.models.support import matrix
from greedyprune.naming import method_class
from greedyprune.registry import METHODS
from proofs import CORE, FIRST, generate
from tiny import tiny

MATRIX = matrix()
FEW = {"max_new_tokens": 2}


@pytest.mark.parametrize("family", some(CORE, *FIRST))
@pytest.mark.parametrize("name", METHODS)
def test_what_the_matrix_says_runs_runs_and_nothing_else(name: str, family: str) -> None:
    made, claim, cls = tiny(family), MATRIX[name][family], method_class(name)
    if claim == "no":
        with pytest.raises(ValueError, match=f"{cls.__name__} cannot run at .* Methods that can: "):
            gp.prune(made.model, name, 5)
        return
    own, layers = cls().at, len(made.model.get_decoder().layers)
    at = gp.Layer(2) if isinstance(own, gp.Layer) and own.index >= layers else own  # these models have few layers
    with gp.prune(made.model, name, 5, at=at) as pruned:
        # Picture 2 is several tiles in the families that have them, picture 1 is not.
        for pictures in ((1,), (1,)), ((1,), (2,)):
            if claim == "one tile" and 2 in pictures[1]:
                with pytest.raises(ValueError, match=f"{cls.__name__} needs grid"):
                    generate(made.model, made.prompt(pictures), **FEW)
                continue
            generate(made.model, made.prompt(pictures), **FEW)
            for one in pruned.selections:
                assert one.k == 5 or not cls().exact
                assert 0 < one.k <= 5 < one.n
                assert one.per_layer[-1] == one.k


def test_the_command_prints_it() -> None:
    told = CliRunner().invoke(app, ["methods", "--matrix", "--json"])
    assert json.loads(told.stdout) == MATRIX
    shown = CliRunner().invoke(app, ["methods", "--matrix"], env={"COLUMNS": "150"}).stdout
    assert all(name in shown for name in METHODS)
    assert {value for row in MATRIX.values() for value in row.values()} == {"yes", "no", "one tile", "later"}


@cache
def bundled() -> tuple[object, dict[str, torch.Tensor]]:
    """The bundled LLaVA-type model and two questions."""
    pytest.importorskip("sklearn")
    model, processor = testbed.load("llava")
    items = testbed.sample(2, "dev", seed=4)
    text = [testbed.prompt(processor, item.question) for item in items]
    images = [item.image for item in items]
    return model, dict(processor(images=images, text=text, return_tensors="pt", padding=True))


@pytest.mark.parametrize("k", some([72, 36, 16, 8], 16))
@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_on_the_bundled_model_at_every_budget(name: str, k: int) -> None:
    model, inputs = bundled()
    method = method_class(name)()
    with gp.prune(model, method, gp.Ratio(k / 144)) as pruned:
        out = generate(model, inputs, **FEW)
    assert out.sequences.shape[0] == 2
    for one in pruned.selections:
        assert one.n == 144
        assert one.k == k or (not method.exact and 0 < one.k < k)
