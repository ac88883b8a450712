"""How often the host waits for a GPU in a pruned prompt: equally often, whatever the images. A CPU plays the GPU."""

from __future__ import annotations

import pytest
import torch

import far
import greedyprune as gp
import proofs
from tiny import tiny

pytestmark = pytest.mark.usefixtures("untouched")

RULES = [gp.SoftGreedyPrune(), gp.GreedyPrune(), gp.GreedyPrune(tau=0.5), gp.DivPrune(), gp.MMR()]
WAITS = {"llava": 2, "qwen2_5_vl": 3, "llava_next": 3}
"""Token ids with the mask, and the choice of all images; of some families the positions, or the newlines."""


def waits(family: str, rule: gp.Method, at: gp.Stage, images: int) -> list[str]:
    """What the host waits for; the pruned prompt must be that of the CPU."""
    made, rows = tiny(family), ((0, 1) * (images // 2) or (0,),)
    with torch.no_grad(), gp.prune(made.model, rule, 4, at=at) as pruned:
        expected = proofs.forward(made.model, made.prompt(rows)).logits
        chosen = [one.order.tolist() for one in pruned.selections]
        inputs = {name: far.sent(value) for name, value in made.prompt(rows).items()}
        with far.far(made.model) as seen:
            logits = made.model(**inputs).logits
        assert torch.equal(logits, expected)
        assert [one.order.tolist() for one in pruned.selections] == chosen
        assert len(chosen) == images
        assert pruned.report().kept < pruned.report().tokens
    return seen.of("greedyprune")


@pytest.mark.parametrize("family", WAITS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_host_waits_as_often_for_eight_images_as_for_one(rule: gp.Method, family: str) -> None:
    at = gp.Input() if RULES.index(rule) % 2 else gp.Layer(2)
    assert len(waits(family, rule, at, 8)) == WAITS[family]


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("family", WAITS)
def test_the_host_waits_as_often_for_few_images(family: str, images: int) -> None:
    at = gp.Input() if images == 2 else gp.Layer(2)
    assert len(waits(family, gp.SoftGreedyPrune(), at, images)) == WAITS[family]


def test_visual_features_of_layers_are_added_without_a_wait() -> None:
    """DeepStack, before and behind the cut."""
    assert len(waits("qwen3_vl", gp.SoftGreedyPrune(), gp.Layer(1), 2)) == WAITS["qwen2_5_vl"]


def test_each_further_cut_waits_for_its_own_choice() -> None:
    assert len(waits("llava", gp.SoftGreedyPrune(), gp.Layers((1, 2)), 2)) == WAITS["llava"] + 1


def test_the_time_of_a_choice_is_read_if_somebody_asks_for_it() -> None:
    made = tiny("llava")
    inputs = {name: far.sent(value) for name, value in made.prompt(((0,),)).items()}
    with torch.no_grad(), gp.prune(made.model, keep=4) as pruned, far.far(made.model) as seen:
        made.model(**inputs)
        before = len(seen.found)
        assert pruned.report().select_ms > 0
        pruned.report()
    assert [name.split(" at ")[0] for _, name in seen.found[before:]] == ["Event.synchronize"]
