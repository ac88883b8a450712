"""Pruned models under torch.compile: equal logits, a bounded number of graphs, and none for a prompt of a known kind.

A hook ends a graph, so there are more of them than without pruning: two for each module that has hooks around the
decoder, and about one for each decoder layer if the cut is inside, since Dynamo gives up a loop that it cannot trace
whole. The numbers are those that were reached.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import greedyprune as gp
from tiny import fresh

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what torch warns of while it compiles
LENGTHS = (0, 3, 5)
"""Tokens of text more, in each prompt."""
MORE = {gp.Input(): (1, 3, 3), gp.Layer(2): (7, 18, 18)}
"""Graphs more than without pruning, after each prompt."""


def prompts(made: Any) -> list[dict[str, Tensor]]:
    """Prompts of several lengths with one image."""
    inputs = made.prompt(((0,),))
    ids = [torch.cat([inputs["input_ids"], torch.arange(5, 5 + more)[None]], 1) for more in LENGTHS]
    return [{**inputs, "input_ids": each, "attention_mask": torch.ones_like(each)} for each in ids]


def graphs(at: gp.Stage | None, backend: str = "eager") -> list[int]:
    """The number of graphs after each prompt; the logits must be those of the model that is not compiled."""
    torch._dynamo.reset()
    made, found, counts = fresh("llava"), list[int](), [0]

    def counting(graph: Any, inputs: Any) -> Any:
        counts[0] += 1
        return graph.forward

    with torch.no_grad(), nullcontext() if at is None else gp.prune(made.model, gp.Random(), 4, at=at):
        compiled = torch.compile(made.model, backend=counting if backend == "eager" else backend)
        for inputs in prompts(made):
            logits = compiled(**inputs).logits
            found.append(counts[0])
            torch.testing.assert_close(logits, made.model(**inputs).logits, rtol=0, atol=1e-5)
    return found


def test_graphs_are_few_and_a_known_kind_of_prompt_adds_none() -> None:
    plain = graphs(None)
    for at, more in MORE.items():
        found = graphs(at)
        assert all(mine <= theirs + extra for mine, theirs, extra in zip(found, plain, more, strict=True)), (at, found)
        assert found[2] == found[1]


def test_inductor_gives_equal_logits() -> None:
    graphs(gp.Input(), "inductor")
