"""What holds for every family of the table, at every place where it says it can be cut (house rules, section 7)."""

from dataclasses import fields

import pytest
import torch
from transformers import CONFIG_MAPPING

import greedyprune as gp
import proofs
from greedyprune.models.parts import find_parts
from greedyprune.models.readable import READABLE
from greedyprune.models.table import FAMILIES
from proofs import (
    CASES,
    NEAR,
    TEXT,
    Case,
    assert_near,
    cells,
    combinations,
    forward,
    generate,
    keep_of,
    methods,
    places_only,
    type_of,
)
from tiny import BUILDERS, NAMES, tiny

pytestmark = pytest.mark.usefixtures("untouched")

UNCACHED = [name for name in NAMES if type_of(name) != "ernie4_5_vl_moe"]  # which cannot generate so, pruned or not
cells_only, cells_and_cases = combinations(), combinations(cases=CASES)

TIGHT = {"rtol": 0.0, "atol": 1e-5}
"""Keeping all computes the same sums in the same order (measured: 0), unless an explicit mask changes the kernel."""


def test_every_family_has_a_tiny_model() -> None:
    known = set(CONFIG_MAPPING)  # the oldest supported release does not have the newest families
    assert set(BUILDERS) == set(FAMILIES) & known
    assert set(FAMILIES) - known <= {"molmo2"}


@pytest.mark.parametrize("name", BUILDERS)
def test_the_table_says_what_methods_can_have_of_a_family(name) -> None:
    family, made = FAMILIES[name], tiny(name)
    parts = find_parts(made.model)
    assert parts.decoder_type in READABLE
    assert family.late == parts.kinds[0].recurrent
    unnamed = name == "ovis2" and not parts.tower_type  # 5.16 names no type of Ovis2's tower, so it is refused there
    assert (family.tower is None or unnamed) == (parts.tower is None)
    assert parts.class_token == (family.tower is not None and family.tower.class_token is not None)
    assert (family.grid == "yes") == made.has_grid


@pytest.mark.parametrize("name", ["keeping_all_changes_nothing", "a_dropped_token_is_a_masked_token"])
def test_what_families_promise_is_what_the_proofs_run(name) -> None:
    (runs,) = [mark.args[1] for mark in globals()[f"test_{name}"].pytestmark if mark.name == "parametrize"]
    ran = {(family, type(at), attention) for family, at, attention, _ in (run.values for run in runs)}
    stages = {(name, kind) for name, family in FAMILIES.items() for kind in family.stages if name in BUILDERS}
    assert ran >= {(name, kind, attention) for name, kind in stages for attention in ("sdpa", "eager")}
    assert {family for family, _, _ in ran} == set(NAMES)
    assert {run.values[3].name for run in runs} >= {"one", "two", "ragged", "unequal", "mixed"}
    # A new option of a stage, such as `early`, must be run, in every family whose decoder can be cut so.
    options = {kind: {str(at) for _, at in cells() if type(at) is kind} for _, kind in stages}
    assert options == {gp.Input: {"input"}, gp.Layer: {"layer:1", "layer:2", "layer:2:early"}}
    assert {field.name for field in fields(gp.Layer)} == {"index", "early"}
    early = {name for name, at in cells() if proofs.is_early(at)}
    assert early == {name for name in NAMES if find_parts(tiny(name).model).plain}


def candidates(ids, handle) -> int:
    """How many tokens of a prompt a method may choose from."""
    return int(proofs.is_visual(ids).sum()) - sum(len(selection.structure) for selection in handle.selections)


@combinations(attention=True, cases=[*CASES, TEXT], everywhere=True)
def test_keeping_all_changes_nothing(family, at, attention, case) -> None:
    made, before = tiny(family, attention), proofs.plain(family, attention, case)
    inputs = made.prompt(case.rows)
    prefill = forward(made.model, inputs).logits
    with gp.prune(made.model, gp.GreedyPrune(), gp.Ratio(1.0), at=at) as handle:
        after = generate(made.model, inputs)
        real = inputs["attention_mask"].bool()
        torch.testing.assert_close(forward(made.model, inputs).logits[real], prefill[real], **TIGHT)
    assert torch.equal(after.tokens, before.tokens)
    torch.testing.assert_close(after.logits, before.logits, **TIGHT)
    assert handle.report().kept == handle.report().tokens == candidates(inputs["input_ids"], handle)


@combinations(attention=True, cases=CASES, everywhere=True)
def test_a_dropped_token_is_a_masked_token(family, at, attention, case) -> None:
    inputs = tiny(family).prompt(case.rows)
    for method in methods(family):
        run = proofs.pruned(family, attention, at, case, method)
        dropped = proofs.dropped_columns(inputs["input_ids"], run.selections)
        truth = proofs.truth_of(family, case, run, dropped, at)
        torch.testing.assert_close(run.logits, truth, **NEAR)
        # The proof says something only if the tokens that went away mattered.
        unmasked = proofs.truth_of(family, case, run, torch.zeros_like(dropped), at)
        assert (truth - unmasked).abs().max() > 0.1
        if proofs.is_early(at):  # and that later tokens cannot look back is seen, too, but not in the first answer
            late = proofs.truth_of(family, case, run, dropped, gp.Layer(at.index))
            torch.testing.assert_close(truth[:, 0], late[:, 0], **NEAR)
            assert (truth - late).abs().max() > 0.01


# An early cut takes from later tokens what the prompt saw: without a cache, the answer is another one.
@combinations(attention=True, cases=CASES, names=UNCACHED, early=False)
def test_a_cache_changes_nothing(family, at, attention, case) -> None:
    # Without a cache every step decides anew, so the method must look at places only.
    method, made = places_only(family), tiny(family, attention)
    if family == "paligemma":  # the oldest release lets its prompt look at the answer, where there is no cache
        plain = generate(made.model, made.prompt(case.rows), use_cache=False, max_new_tokens=proofs.FEW)
        if not torch.equal(plain.tokens, proofs.plain(family, attention, case).tokens[:, : proofs.FEW]):
            pytest.skip("this release of transformers answers otherwise without a cache, pruned or not")
    with gp.prune(made.model, method, keep_of(case), at=at):
        uncached = generate(made.model, made.prompt(case.rows), use_cache=False, max_new_tokens=proofs.FEW)
    assert_near(proofs.pruned(family, attention, at, case, method), uncached)


@combinations(attention=True, cases=[case for case in CASES if len(case.rows) > 1])
def test_a_row_alone_equals_the_row_in_its_batch(family, at, attention, case) -> None:
    batch = proofs.pruned(family, attention, at, case, gp.GreedyPrune())
    for index in range(len(case.rows)):
        alone = proofs.pruned(family, attention, at, case.row(index), gp.GreedyPrune())
        assert torch.equal(alone.tokens[0], batch.tokens[index])
        torch.testing.assert_close(alone.logits[0], batch.logits[index], **NEAR)
        mine = [selection.rows.tolist() for selection in batch.selections if selection.row == index]
        assert [selection.rows.tolist() for selection in alone.selections] == mine


@cells_and_cases
def test_budgets_are_per_image(family, at, case) -> None:
    ids = tiny(family).prompt(case.rows)["input_ids"]
    owners = [row for row, images in enumerate(case.rows) for _ in images]
    for method in methods(family):
        selections = proofs.pruned(family, "sdpa", at, case, method).selections
        assert [selection.row for selection in selections] == owners
        assert sum(selection.n + len(selection.structure) for selection in selections) == proofs.is_visual(ids).sum()
        for selection, budget in zip(selections, case.budgets(), strict=True):
            assert selection.k == (budget.of(selection.n) if isinstance(budget, gp.Ratio) else budget)
            assert selection.rows.tolist() == sorted(set(selection.order.tolist()))
            assert set(selection.rows.tolist()) <= set(range(selection.n))
        for places, selection in zip(proofs.image_columns(ids, selections), selections, strict=True):
            assert places[:, 0].unique().tolist() == [selection.row]


@combinations(attention=True)
def test_text_is_left_alone(family, at, attention) -> None:
    for method in methods(family):
        run = proofs.pruned(family, attention, at, TEXT, method)
        plain = proofs.plain(family, attention, TEXT)
        assert torch.equal(run.tokens, plain.tokens[:, : proofs.FEW])
        assert torch.equal(run.logits, plain.logits[:, : proofs.FEW])
        assert run.selections == []
        assert run.report.images == 0


@cells_and_cases
def test_decisions_are_made_on_the_states_of_the_plain_model(family, at, case) -> None:
    made = tiny(family)
    inputs = made.prompt(case.rows)
    states = proofs.states_entering(made.model, inputs, at)
    is_text = inputs["attention_mask"].bool() & ~proofs.is_visual(inputs["input_ids"])
    for method in methods(family):
        selections = proofs.pruned(family, "sdpa", at, case, method).selections
        columns = proofs.image_columns(inputs["input_ids"], selections)
        for places, selection, budget in zip(columns, selections, case.budgets(), strict=True):
            cues = gp.Cues(
                states[selection.row, places[:, 1]],
                text=states[selection.row][is_text[selection.row]],
                grid=selection.grid,
            )
            truth = gp.select(method, cues, budget)
            assert selection.order.tolist() == truth.order.tolist()
            torch.testing.assert_close(selection.keep.gains, truth.gains, rtol=0, atol=1e-6)


@cells_and_cases
def test_the_cache_is_physically_short(family, at, case) -> None:
    made, method = tiny(family), places_only(family)
    inputs = made.prompt(case.rows)
    length = inputs["input_ids"].shape[1]
    with gp.prune(made.model, method, keep_of(case), at=at) as handle:
        cache = proofs.cache_of(forward(made.model, inputs, use_cache=True))
    dropped = proofs.dropped_columns(inputs["input_ids"], handle.selections)
    short = int((inputs["attention_mask"].bool() & ~dropped).sum(1).max())
    start = 0 if proofs.is_early(at) else proofs.start_of(at)
    kinds = find_parts(made.model).kinds

    def held(index: int, tokens: int) -> int:
        return tokens if kinds[index].window is None else min(tokens, kinds[index].window - 1)

    keyed = [index for index in range(4) if not kinds[index].recurrent]
    expected = {index: length if index < start else short for index in keyed}
    layers = {index: cache.layers[index] for index in keyed}
    assert short < length
    assert {i: layer.keys.shape[-2] for i, layer in layers.items()} == {i: held(i, n) for i, n in expected.items()}
    assert all(layer.values.shape[-2] == layer.keys.shape[-2] for layer in layers.values())
    assert all(layer.get_seq_length() == length for layer in layers.values())
    assert cache.get_seq_length() == length
    report, plain = handle.report(), proofs.cache_of(forward(made.model, inputs, use_cache=True))
    assert report.cache_bytes == sum(layer.keys.nbytes + layer.values.nbytes for layer in layers.values())
    whole = [plain.layers[index] for index in keyed]
    assert report.cache_bytes_full == sum(layer.keys.nbytes + layer.values.nbytes for layer in whole)
    assert (report.sequence, report.sequence_kept) == (length, short)
    # Every generated token but the last is in the cache, too.
    after = proofs.pruned(family, "sdpa", at, case, method).cache
    grown = {i: held(i, n + proofs.FEW - 1) for i, n in expected.items()}
    assert {i: after.layers[i].keys.shape[-2] for i in keyed} == grown
    assert after.get_seq_length() == length + proofs.FEW - 1


@cells_and_cases
def test_a_method_is_shown_its_image_and_its_prompt(family, at, case) -> None:
    made, seen = tiny(family), []

    def look(cues: gp.Cues, k: int) -> gp.Keep:
        seen.append(cues)
        return gp.Keep.from_order(torch.arange(k), torch.zeros(k), cues.n)

    inputs = proofs.positioned(made.prompt(case.rows))
    states, ids = proofs.states_entering(made.model, inputs, at), inputs["input_ids"]
    with gp.prune(made.model, proofs.Custom(choose=look), keep_of(case), at=at) as handle:
        forward(made.model, inputs)
    is_text = inputs["attention_mask"].bool() & ~proofs.is_visual(ids)
    assert len(seen) == len(handle.selections)
    for cues, selection, places in zip(
        seen, handle.selections, proofs.image_columns(ids, handle.selections), strict=True
    ):
        row, last = selection.row, int(proofs.is_visual(ids[selection.row]).nonzero().max())
        assert torch.equal(cues.features, states[row, places[:, 1]])
        assert torch.equal(cues.text, states[row][is_text[row]])
        assert torch.equal(cues.text[cues.question], states[row, last + 1 :])
        assert cues.grid == selection.grid


def _fail(cues: gp.Cues, k: int) -> gp.Keep:
    raise ZeroDivisionError("a method that fails")


@combinations(cases=CASES[2:3])
def test_nothing_is_left_behind(family, at, case: Case) -> None:
    made = tiny(family)
    inputs = made.prompt(case.rows)
    proofs.plain(family, "sdpa", case)
    generate(made.model, inputs)  # transformers puts hooks of its own on a model that runs first, of some parts later
    before = proofs.fingerprint(made.model)

    def is_as_before() -> None:
        assert proofs.fingerprint(made.model) == before
        assert proofs.same(generate(made.model, inputs), proofs.plain(family, "sdpa", case))

    with gp.prune(made.model, gp.GreedyPrune(), 3, at=at):
        assert proofs.hooks_on(made.model) > 0
        generate(made.model, inputs)
    is_as_before()
    with pytest.raises(KeyError), gp.prune(made.model, gp.GreedyPrune(), 3, at=at):
        raise KeyError
    is_as_before()
    with pytest.raises(ZeroDivisionError), gp.prune(made.model, proofs.Custom(choose=_fail), 3, at=at):
        generate(made.model, inputs)
    is_as_before()
    floats = {name: x for name, x in inputs.items() if x.is_floating_point() and x.ndim > 1}  # no seconds; padding is 0
    broken = {**inputs, **{name: torch.where(x == 0, x, torch.nan) for name, x in floats.items()}}
    with gp.prune(made.model, gp.GreedyPrune(), 3, at=at) as handle:
        with pytest.raises(ValueError, match="features holds NaN"):
            forward(made.model, broken)
        generate(made.model, inputs)  # the failed call left nothing behind for this one
        assert [selection.k for selection in handle.selections] == [3, 3, 3]
    is_as_before()
