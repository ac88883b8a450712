"""What bfloat16 costs a pruned model: no more than twice what it costs the plain one on the same tokens."""

from functools import cache

import pytest
import torch

import greedyprune as gp
import proofs
from breadth import some
from proofs import CASES, CORE, FIRST, generate, places_only
from tiny import Tiny, fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")


@cache
def halved(family: str, attention: str) -> Tiny:
    """The tiny model of a family with bfloat16 weights."""
    made = fresh(family, attention)
    made.model.to(torch.bfloat16)
    return made


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far logits are from others on average. A mean, since the largest of a few thousand is a matter of luck."""
    return float((a.float() - b).abs().mean())


@pytest.mark.parametrize("family", some(CORE, *FIRST))
@pytest.mark.parametrize("attention", some(proofs.ATTENTIONS, "sdpa"))
@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
@pytest.mark.parametrize("case", some([CASES[0], CASES[2]], "ragged"), ids=str)
def test_bfloat16_costs_no_more_than_without_pruning(family, attention, at, case) -> None:
    made, exact = halved(family, attention), tiny(family, "eager")
    inputs = exact.prompt(case.rows)
    rough = {**inputs, "pixel_values": inputs["pixel_values"].bfloat16()}
    with gp.prune(made.model, places_only(family), case.keep, at=at) as handle:  # rounding must not change the choice
        pruned = generate(made.model, rough, max_new_tokens=proofs.FEW)
    assert pruned.logits.dtype in (torch.bfloat16, torch.float32)
    assert next(layer.keys.dtype for layer in pruned.cache.layers) == torch.bfloat16
    dropped = proofs.dropped_columns(inputs["input_ids"], handle.selections)

    def forced(row: int, read: torch.Tensor) -> list[int]:
        return [int(pruned.sequences[row, len(read)])]

    plain = generate(made.model, rough, prefix_allowed_tokens_fn=forced, max_new_tokens=proofs.FEW)
    assert torch.equal(plain.sequences, pruned.sequences)
    cost = error(plain.logits, proofs.masked(exact, inputs, pruned.sequences, torch.zeros_like(dropped), at))
    truth = proofs.masked(exact, inputs, pruned.sequences, dropped, at)
    assert 0 < error(pruned.logits, truth) <= 2 * cost
    assert error(plain.logits, truth) > 2 * cost  # so little that what was dropped can be told from what was kept
