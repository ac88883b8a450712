"""The ten lines of the docs that add a family, run as they stand there, and the family they add, proven."""

import re
from pathlib import Path

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

import greedyprune as gp
import proofs
from greedyprune.models import FAMILIES
from proofs import CASES, generate, near
from tiny import fresh

DOCS = Path(__file__).parents[2] / "docs" / "families.md"


class PocketConfig(LlavaConfig):
    """A model type that nobody knows."""

    model_type = "pocket_vl"


class Pocket(LlavaForConditionalGeneration):
    """Its model."""

    config_class = PocketConfig


def lines() -> str:
    """The code between the marks of the docs."""
    shown = DOCS.read_text(encoding="utf-8")
    (code,) = re.findall(
        r"<!-- a family in ten lines: begin -->\n```python\n(.*?)```\n<!-- a family in ten lines: end -->",
        shown,
        re.DOTALL,
    )
    return code


@pytest.fixture
def added():
    """The family, for one test."""
    exec(compile(lines(), str(DOCS), "exec"), {})
    yield FAMILIES["pocket_vl"]
    del FAMILIES["pocket_vl"]


def pocket(attention: str) -> Pocket:
    """LLaVA under another name."""
    made = fresh("llava", attention).model
    told = {name: value for name, value in made.config.to_dict().items() if name != "model_type"}
    model = Pocket(PocketConfig(**told))
    model.load_state_dict(made.state_dict())
    model.generation_config = made.generation_config
    model.set_attn_implementation(attention)
    return model.eval()


def test_they_are_ten() -> None:
    assert len([line for line in lines().splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
@pytest.mark.parametrize("attention", proofs.ATTENTIONS)
def test_the_family_is_pruned_without_a_self_test(added, at, attention) -> None:
    case, made = CASES[2], fresh("llava")
    model, inputs = pocket(attention), made.prompt(case.rows)
    with gp.prune(model, gp.UniformGrid(), gp.Ratio(0.4), at=at) as handle:
        run = generate(model, inputs, max_new_tokens=proofs.FEW)
    assert model.config.model_type == "pocket_vl"
    assert [(s.n, s.grid, s.k) for s in handle.selections] == [(16, (1, 4, 4), 6)] * 3
    dropped = proofs.dropped_columns(inputs["input_ids"], handle.selections)
    near(run.logits, proofs.masked(proofs.EAGER, inputs, run.sequences, dropped, at))


def test_without_them_it_has_to_prove_itself() -> None:
    made = fresh("llava")
    with gp.prune(pocket("sdpa"), gp.Random(), 4) as handle, pytest.warns(gp.PruneWarning, match="'pocket_vl' model"):
        handle._parts.holders[0](**made.prompt(((0,),)))
    assert torch.tensor([s.k for s in handle.selections]).tolist() == [4]
