"""Protected tokens: what `protect=` names is kept, of the right image, at every place; what cannot be is refused."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

import greedyprune as gp
import proofs
from breadth import some
from greedyprune.naming import as_method
from greedyprune.registry import METHODS
from proofs import EARLY, GRID, MADE, MODEL, ONE, RAGGED, TWO, forward, generate, near, places, same, truth, turn
from tiny import tiny

pytestmark = pytest.mark.usefixtures("untouched")

FEW = {"max_new_tokens": 3}
GUARDING = [name for name in METHODS if not as_method(name).merges]


def kept(handle) -> list[set[int]]:
    """What the last call kept of each image."""
    return [set(selection.rows.tolist()) for selection in handle.selections]


def least_wanted(inputs, count: int, **options) -> list[list[int]]:
    """Per image, tokens that GreedyPrune drops: what only `protect` can keep."""
    with gp.prune(MODEL, gp.GreedyPrune(), 5, **options) as handle:
        forward(MODEL, inputs)
    return [sorted(set(range(s.n)) - set(s.rows.tolist()))[-count:] for s in handle.selections]


@pytest.mark.parametrize("at", some([gp.Input(), gp.Layer(2), EARLY], gp.Layer(2)), ids=str)
@pytest.mark.parametrize("method", GUARDING)
def test_protected_tokens_stay_in_their_own_image(method, at) -> None:
    asked = as_method(method)
    late = any(isinstance(need, gp.Attention) and not need.in_tower for need in asked.needs)
    if not isinstance(at, asked.stages) or (late and at == gp.Input()):
        pytest.skip("this method does not run there")
    wanted = [[0, 7], None, [3, 9, 15]]
    with gp.prune(MODEL, method, 4, at=at, protect=wanted) as handle:
        generate(MODEL, RAGGED, **FEW)
    assert [selection.k for selection in handle.selections] == [4, 4, 4]
    for rows, mine, selection in zip(kept(handle), wanted, handle.selections, strict=True):
        assert set(mine or []) <= rows
        assert selection.order[: len(mine or [])].tolist() == (mine or [])


@places
def test_they_change_the_selection_as_on_plain_tensors(at) -> None:
    guard = least_wanted(RAGGED, 2, at=at)
    states = proofs.states_entering(MODEL, RAGGED, at)
    is_text = RAGGED["attention_mask"].bool() & (RAGGED["input_ids"] != proofs.IMAGE)
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at, protect=guard) as handle:
        run = generate(MODEL, RAGGED)
    for selection, mine, columns in zip(
        handle.selections, guard, proofs.image_columns(RAGGED["input_ids"], handle.selections), strict=True
    ):
        cues = gp.Cues(states[selection.row, columns[:, 1]], text=states[selection.row][is_text[selection.row]])
        alone = gp.select(gp.GreedyPrune(), replace(cues, protect=torch.tensor(mine)), 5)
        assert selection.order.tolist() == alone.order.tolist()
    near(run.logits, truth(RAGGED, run.sequences, handle.selections, at))


def test_they_stay_through_every_cut_of_a_schedule() -> None:
    guard = least_wanted(TWO, 2, at=gp.Layer(1))
    with gp.prune(MODEL, gp.GreedyPrune(), gp.PerLayer({1: 9, 2: 5, 3: 2}), protect=guard) as handle:
        generate(MODEL, TWO, **FEW)
    assert [selection.rows.tolist() for selection in handle.selections] == guard
    with gp.prune(MODEL, "random", gp.PerLayer({1: 9, 3: 3}), protect=[[5, 14], None]) as handle:
        generate(MODEL, TWO, **FEW)
    assert {5, 14} < kept(handle)[0]
    assert [selection.k for selection in handle.selections] == [3, 3]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3", "internvl"])
def test_other_families_keep_them_too(family) -> None:
    made = tiny(family)
    with gp.prune(made.model, gp.GreedyPrune(), 5, protect=[None, [0, 11], [2]]) as handle:
        generate(made.model, made.prompt(((0,), (1, 2))), **FEW)
    assert {0, 11} < kept(handle)[1]
    assert {2} < kept(handle)[2]


@places
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}], ids=str)
def test_repeated_prompts_repeat_their_lists(at, options) -> None:
    guard, times = [[1], None, [2, 3]], 2 if options else 1
    with gp.prune(MODEL, GRID, 4, at=at, protect=guard) as handle:
        torch.manual_seed(0)
        if options and "mm_encoder_outputs" not in inspect.signature(MODEL.forward).parameters:
            with pytest.raises(ValueError, match="protect has 3 lists, and the call has 6 images: give one for each"):
                generate(MODEL, RAGGED, **options)
            return
        generate(MODEL, RAGGED, **options)
    expected = [mine for group in ([[1]], [None, [2, 3]]) for _ in range(times) for mine in group]
    assert len(handle.selections) == len(expected)
    assert all(set(mine or []) <= rows for mine, rows in zip(expected, kept(handle), strict=True))


def test_tensors_ranges_and_repetitions_say_the_same() -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5, protect=[[3, 4, 5], [9]]) as handle:
        wanted = generate(MODEL, TWO)
    for other in (
        [range(3, 6), torch.tensor([9])],
        [torch.tensor([5, 3, 4, 3]), (9, 9)],
        ({4, 5, 3}, torch.tensor([9], dtype=torch.int32)),
    ):
        with gp.prune(MODEL, gp.GreedyPrune(), 5, protect=other) as handle:
            assert same(generate(MODEL, TWO), wanted)
    with gp.prune(MODEL, gp.GreedyPrune(), 5, protect=torch.tensor([[3, 4], [9, 10]])) as handle:
        generate(MODEL, TWO, **FEW)
    assert [{3, 4} < kept(handle)[0], {9, 10} < kept(handle)[1]] == [True, True]


def test_it_can_be_changed_for_some_calls() -> None:
    guard = least_wanted(ONE, 3)
    with gp.prune(MODEL, gp.GreedyPrune(), 5) as handle:
        plain = generate(MODEL, ONE)
        with handle.using(protect=guard):
            generate(MODEL, ONE, **FEW)
            assert set(guard[0]) < kept(handle)[0]
            with handle.using(keep=3):  # what is left out stays
                generate(MODEL, ONE, **FEW)
                assert kept(handle) == [set(guard[0])]
            with handle.using(protect=[]):
                assert same(generate(MODEL, ONE), plain)
            with handle.using(protect=[None]):
                assert same(generate(MODEL, ONE), plain)
        assert same(generate(MODEL, ONE), plain)


def test_prompts_without_images_and_later_turns_are_not_asked() -> None:
    text = MADE.prompt(proofs.TEXT.rows)
    plain = generate(MODEL, text)
    with gp.prune(MODEL, GRID, 5, protect=[[2]]) as handle:
        assert same(generate(MODEL, text), plain)
        first = generate(MODEL, ONE)
        generate(MODEL, turn(MADE, ONE, first, proofs.WORDS), past_key_values=first.cache, **FEW)
        assert 2 in kept(handle)[0]


@pytest.mark.parametrize(
    ("protect", "error", "match"),
    [
        ([0, 5], TypeError, r"does not say which image 0 belongs to: write one list per image.*\[\[0, 5\]\]"),
        (torch.tensor([0, 5]), TypeError, "does not say which image 0 belongs to"),
        (5, TypeError, "protect=5: write one list of token numbers per image"),
        ("0,5", TypeError, "protect='0,5': write one list of token numbers per image"),
        (["0,5"], TypeError, "does not say which image '0,5' belongs to"),
        ([[0.5]], TypeError, "protect holds 0.5, which is no token number"),
        ([torch.tensor([True, False])], TypeError, r"protect holds True, .* mask.nonzero\(\)"),
        ([[-1]], ValueError, "protect holds -1: an image's visual tokens are counted from 0"),
    ],
    ids=str,
)
def test_what_is_no_list_per_image_is_refused_where_it_is_written(protect, error, match) -> None:
    with pytest.raises(error, match=match):
        gp.prune(MODEL, GRID, 5, protect=protect)
    with gp.prune(MODEL, GRID, 5) as handle, pytest.raises(error, match=match), handle.using(protect=protect):
        raise AssertionError("never entered")


def test_a_method_that_merges_cannot_protect() -> None:
    with pytest.raises(ValueError, match="AveragePool merges tokens and cannot protect any"):
        gp.prune(MODEL, "pool", 4, protect=[[0]])
    with gp.prune(MODEL, "pool", 4, protect=[None]):
        generate(MODEL, ONE, **FEW)


SCHEDULE = gp.PerLayer({1: 9, 3: 2})


@pytest.mark.parametrize("call", [generate, forward])
@pytest.mark.parametrize(
    ("keep", "protect", "match"),
    [
        (5, [[0]], "protect has 1 lists, and the call has 2 images: give one for each"),
        (5, [[0], None, [1]], "protect has 3 lists, and the call has 2 images"),
        (5, [[0], [3, 16]], "protect holds token 16 of image 1, which has 16 visual tokens: write numbers from 0"),
        (2, [None, [0, 1, 2]], "protect holds 3 tokens of image 1 and the budget keeps 2: raise keep"),
        ([5, gp.Ratio(0.1)], [[0, 1, 2], [0, 1, 2]], "protect holds 3 tokens of image 1 and the budget keeps 2"),
        (SCHEDULE, [[1, 2, 3], None], "protect holds 3 tokens of image 0 and the budget keeps 2"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_call_is_refused_before_a_layer_runs(call, keep, protect, match) -> None:
    ran: list[int] = []
    watch = MODEL.get_decoder().layers[0].register_forward_pre_hook(lambda *_: ran.append(1))
    plain = generate(MODEL, TWO)
    ran.clear()
    with proofs.hooked(watch), gp.prune(MODEL, gp.GreedyPrune(), keep, protect=protect) as handle:
        with pytest.raises(ValueError, match=match):
            call(MODEL, TWO)
        assert ran == []
        assert handle.selections == []
    assert same(generate(MODEL, TWO), plain)


def test_two_prompts_are_not_two_beams() -> None:
    with gp.prune(MODEL, GRID, 5, protect=[[0]]), pytest.raises(ValueError, match="the call has 2 images"):
        generate(MODEL, MADE.prompt(((0,), (1,))))


def test_a_schedule_may_leave_nothing() -> None:
    with gp.prune(MODEL, "random", gp.PerLayer({1: 4, 2: 0, 3: 0})) as handle:
        generate(MODEL, RAGGED, **FEW)
    assert [(selection.row, selection.k, selection.n) for selection in handle.selections] == [
        (0, 0, 16), (1, 0, 16), (1, 0, 16)
    ]  # fmt: skip
