"""Text between the tokens of an image inside vLLM: it stays where it is, whatever tokens leave."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

import greedyprune as gp
from greedyprune.engines.vllm.between import BETWEEN, OWN, PrunesBetweenText, between, interleaved
from greedyprune.engines.vllm.plan import FIELD, Plan
from greedyprune.engines.vllm.store import Store
from greedyprune.engines.vllm.tower import Tower

D, IMAGE = 3, 7


class Engine:
    """What the mixins need of a model class: rows that count, and a table whose rows are minus their id."""

    def embed_multimodal(self, **fields: Any) -> list[torch.Tensor]:
        return [torch.arange(1.0, int(n) + 1)[:, None].repeat(1, D) for n in fields["n"]]

    def get_language_model(self) -> Any:
        return SimpleNamespace(embed_input_ids=lambda ids: -ids[:, None].repeat(1, D).float())


class Pruned(PrunesBetweenText, Engine):
    def __init__(self) -> None:
        self.most_rows, self.store, self.tower = 10**6, Store(10**6, "cpu"), Tower(SimpleNamespace())

    def sizes(self, fields: Any, images: int) -> list[int]:
        return [int(n) for n in fields["n"]]

    def grids(self, fields: Any, sizes: Any) -> list[None]:
        return [None] * len(sizes)


def test_the_field_of_an_image_reaches_from_its_first_token_to_its_last() -> None:
    ids = [9, IMAGE, IMAGE, 8, IMAGE, 6]
    assert between(ids, [token == IMAGE for token in ids]).tolist() == [OWN, OWN, 8, OWN]
    assert between([IMAGE], [True]).tolist() == [OWN]


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.data())
def test_rows_and_text_come_in_the_order_of_the_prompt(own: list[bool], data: st.DataObject) -> None:
    n = sum(own)
    places = sorted(data.draw(st.sets(st.integers(0, n - 1)) if n else st.just(set[int]())))
    want, seen = list[float](), 0
    before = list[int]()
    for number, mine in enumerate(own):
        if not mine:
            want.append(-float(number))
            before.append(seen)
        elif seen in places:
            want.append(float(seen))
        seen += mine
    text = torch.tensor([-float(number) for number, mine in enumerate(own) if not mine])[:, None]
    rows = torch.tensor(places, dtype=torch.float32)[:, None]
    found = interleaved(rows, torch.tensor(places, dtype=torch.int64), text, torch.tensor(before, dtype=torch.int64))
    assert found[:, 0].tolist() == want


def test_a_pruned_image_has_its_text_and_a_whole_one_is_as_vllm_has_it() -> None:
    policy = gp.Policy("divprune", 2, "input", "compact")
    ids = [torch.tensor([OWN, OWN, 21, OWN, 22, 23, OWN]), torch.tensor([OWN, 24, OWN]), torch.tensor([OWN, 25, OWN])]
    plans = [Plan(policy), Plan(policy), Plan()]
    fields = {"n": torch.tensor([4, 2, 2]), BETWEEN: ids, FIELD: [plan.to_tensor() for plan in plans]}
    first, second, third = (each[:, 0].tolist() for each in Pruned().embed_multimodal(**fields))
    assert [row for row in first if row < 0] == [-21, -22, -23]
    assert len(first) == 2 + 3
    assert sorted(first, key=lambda row: {1: 0, 2: 1, -21: 2, 3: 3, -22: 4, -23: 5, 4: 6}[row]) == first
    assert second == [1, -24, 2]  # every token stays, and so does the text that the prompt has a placeholder for
    assert third == [1, 2]
