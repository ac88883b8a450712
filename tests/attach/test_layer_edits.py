"""What a forward over short cache layers decides about all decoder layers at once, and what they share."""

from itertools import product
from typing import Any

import pytest
import torch

import greedyprune as gp
import proofs
import tiny
from greedyprune.attach.forward.cache import Held
from greedyprune.attach.forward.decode import LayerEdits, TextInputs
from greedyprune.attach.forward.prefill import Prefill
from greedyprune.bench import hooks

BOTH = (True, False)
NONE, MASKED, ALL = "none", "those that get a mask", "all"
LAYERS = {
    **dict.fromkeys(product([True], [True], BOTH), NONE),
    (False, True, True): MASKED,
    (False, True, False): ALL,
    **dict.fromkeys(product(BOTH, [False], BOTH), ALL),
}
"""The layers to edit, by `masks_fit`, `numbered` and `unmasked`."""


@pytest.mark.parametrize("row", list(product(BOTH, BOTH, BOTH)), ids=str)
def test_layers_are_edited_as_the_table_says(row: tuple[bool, bool, bool]) -> None:
    edits = LayerEdits(*row)
    assert edits.none == (LAYERS[row] == NONE)
    if not edits.none:  # no layer is asked otherwise
        assert edits.only_masked == (LAYERS[row] == MASKED)


def test_a_shared_value_is_that_of_its_source_and_its_name() -> None:
    forward: Any = None
    text, source, other = TextInputs(forward, True, Held([]), 0, 4, None, None, outer_masks=False), [1], [1]
    assert text.made(("mask", "full"), source) is None
    assert text.share(("mask", "full"), source, "cut") == "cut"
    assert text.made(("mask", "full"), source) == "cut"
    assert text.made(("mask", "full"), other) is None, "an equal source is another one"
    assert text.made(("mask", "sliding"), source) is None
    assert text.made(("positions", "full"), source) is None


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2_5_vl", "qwen3_5", "gemma4"])
@pytest.mark.parametrize("case", [proofs.CASES[0], proofs.CASES[3]], ids=["one", "unequal"])
def test_layers_of_a_kind_share_what_they_get_behind_a_cut(
    family: str, case: proofs.Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, found = tiny.tiny(family), list[int]()
    own = Prefill._positions

    def watched(self: Prefill, step: Any, index: int, *rest: Any) -> Any:
        found.append(index)
        return own(self, step, index, *rest)

    monkeypatch.setattr(Prefill, "_positions", watched)
    at = next(at for at in (gp.Layer(1), gp.Input()) if proofs.can_be_cut(family, at))
    with gp.prune(made.model, proofs.places_only(family), proofs.keep_of(case), at=at) as pruned:
        kinds = [kind.name for kind in pruned._parts.kinds]
        proofs.forward(made.model, made.prompt(case.rows), use_cache=True)
    behind = range(1, len(kinds)) if at == gp.Layer(1) else []
    assert [kinds[index] for index in found] == list(dict.fromkeys(kinds[index] for index in behind))


@pytest.mark.parametrize("keep", [36, [36, 24]], ids=["one", "ragged"])
@torch.no_grad()
def test_layers_behind_a_cut_dispatch_what_layers_do_without_one(keep: Any) -> None:
    """A deeper decoder costs a pruned prompt no more operations than an unpruned one."""
    batch = 1 if isinstance(keep, int) else len(keep)
    ids = torch.cat([torch.arange(5, 13), torch.full((hooks.TOKENS,), hooks.IMAGE), torch.arange(13, 21)])
    inputs = {"input_ids": ids.expand(batch, -1), "pixel_values": torch.zeros(batch, 3, hooks.SIDE, hooks.SIDE)}

    def counted(depth: int) -> tuple[int, int]:
        model = hooks.llava(32, depth)
        with hooks.Operations() as bare:
            masked = {"attention_mask": torch.ones_like(inputs["input_ids"])}
            model(**inputs, **masked, use_cache=True)
        with gp.prune(model, gp.Random(), keep, at=gp.Layer(2)), hooks.Operations() as pruned:
            model(**inputs, **masked, use_cache=True)
        return bare.count, pruned.count

    (bare, pruned), (bare_deep, pruned_deep) = counted(4), counted(8)
    assert bare_deep > bare
    assert pruned_deep - pruned == bare_deep - bare
