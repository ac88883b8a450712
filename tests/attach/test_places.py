"""Cuts before several decoder layers (`PerLayer`): each is the masked reference of its own layer, in every family."""

import pytest
import torch

import greedyprune as gp
import proofs
from breadth import some
from greedyprune.budget import count
from proofs import (
    CASES,
    CORE,
    EAGER,
    FIRST,
    GRID,
    IMAGE_PIECE,
    MADE,
    MODEL,
    ONE,
    RAGGED,
    TWO,
    WORDS,
    assert_near,
    forward,
    generate,
    near,
    turn,
)
from tiny import tiny

pytestmark = pytest.mark.usefixtures("untouched")

SCHEDULE = gp.PerLayer({1: gp.Ratio(0.5), 3: 4})
ROWS = {case.name: case.rows for case in CASES} | {"uneven": ((0,), (1,))}
PARTIAL = gp.GreedyPrune(tau=0.3, fallback="none")
"""Keeps fewer than asked for, differently many per image and layer."""


class Watched:
    """A method, and every decision it makes."""

    def __init__(self, method: gp.Method) -> None:
        self.taken: list[gp.Keep] = []
        self._inner = method
        self.method = proofs.Custom(choose=self._choose)

    def _choose(self, cues: gp.Cues, k: int) -> gp.Keep:
        self.taken.append(gp.select(self._inner, cues, k))
        return self.taken[-1]


class Inexact(proofs.Custom):
    """The same for methods that may keep fewer."""

    exact = property(lambda self: False)


def stays(schedule: gp.PerLayer, sizes: list[int], taken: list[gp.Keep]) -> dict[int, list[torch.Tensor]]:
    """What stays of every image behind every cut, in the images' own tokens, retold from the method's decisions."""
    decisions, left = iter(taken), [torch.arange(n) for n in sizes]
    after = {}
    for layer, budget in schedule.schedule.items():
        for image, n in enumerate(sizes):
            k = count(budget, n)
            if k < len(left[image]):
                made = next(decisions)
                assert made.n == len(left[image])
                assert made.k <= k
                left[image] = left[image][made.rows]
        after[layer] = list(left)
    assert next(decisions, None) is None
    return after


def columns(ids, after) -> dict[int, torch.Tensor]:
    """What is gone behind every cut. -> {layer: (b, L) bool}"""
    sizes = [len(rows) for rows in proofs.image_columns(ids, after["all"])]
    return {
        layer: proofs.dropped_columns(ids, [proofs.chosen(n, r) for n, r in zip(sizes, rows, strict=True)])
        for layer, rows in after.items()
        if layer != "all"
    }


def run(made, inputs, method, schedule=SCHEDULE, **options):
    """A pruned run, what is gone behind each of its cuts, and what the handle says."""
    watched = Watched(method)
    if not method.exact:
        watched.method = Inexact(choose=watched._choose)
    with gp.prune(made.model, watched.method, schedule, **options) as handle:
        answer = generate(made.model, inputs, max_new_tokens=proofs.FEW)
        selections, report = handle.selections, handle.report()
    after = stays(schedule, [selection.n for selection in selections], watched.taken)
    for selection, rows in zip(selections, after[max(after)], strict=True):
        assert selection.rows.tolist() == sorted(selection.order.tolist()) == rows.tolist()
    return answer, columns(inputs["input_ids"], {**after, "all": selections}), after, report


def lengths(inputs, gone) -> list[int]:
    """How long every layer's cache is after the prompt."""
    valid, by_layer = inputs["attention_mask"].bool(), []
    for layer in range(4):
        behind = [flags for start, flags in gone.items() if start <= layer]
        by_layer.append(int((valid & ~behind[-1]).sum(1).max()) if behind else valid.shape[1])
    return by_layer


@pytest.mark.parametrize("family", some(CORE, *FIRST, "qwen3_vl"))
@pytest.mark.parametrize("attention", some(proofs.ATTENTIONS, "sdpa"))
@pytest.mark.parametrize("case", some(["one", "two", "ragged", "mixed", "uneven"], "ragged", "uneven"))
def test_every_cut_is_a_mask_from_its_layer_on(family, attention, case) -> None:
    made = tiny(family, attention)
    inputs = made.prompt(ROWS[case])
    method = PARTIAL if case == "uneven" else gp.GreedyPrune()
    answer, gone, after, report = run(made, inputs, method)
    eager = tiny(family, "eager")
    near(answer.logits, proofs.masked(eager, inputs, answer.sequences, gone))
    for first, last in zip(after[1], after[3], strict=True):
        assert set(last.tolist()) <= set(first.tolist())
    sizes = lengths(inputs, gone)
    assert [layer.keys.shape[-2] for layer in answer.cache.layers] == [size + proofs.FEW - 1 for size in sizes]
    length = inputs["input_ids"].shape[1] + proofs.FEW - 1
    assert [layer.get_seq_length() for layer in answer.cache.layers] == [length] * 4
    seen = [report.tokens, *[sum(map(len, after[layer])) for layer in (1, 1, 3)]]
    assert report.layer_averaged == sum(seen) / 4
    assert (report.kept, report.sequence_kept, report.layers) == (seen[-1], sizes[-1], 4)
    if not method.exact:
        return
    assert [len(rows) for rows in after[3]] == [4] * len(after[3])
    for layer in gone:  # each of the two cuts matters
        other = {start: flags for start, flags in gone.items() if start != layer}
        assert (proofs.masked(eager, inputs, answer.sequences, other) - answer.logits).abs().max() > 0.01


@pytest.mark.parametrize("family", some(CORE, *FIRST, "qwen3_vl"))
def test_shares_are_of_all_tokens_at_every_layer(family) -> None:
    made, inputs = tiny(family), tiny(family).prompt(ROWS["ragged"])
    schedule = gp.PerLayer({1: gp.Ratio(0.75), 2: gp.Ratio(0.5), 3: gp.Ratio(0.2)})  # between all DeepStack planes
    answer, gone, after, _ = run(made, inputs, gp.GreedyPrune(), schedule)
    near(answer.logits, proofs.masked(tiny(family, "eager"), inputs, answer.sequences, gone))
    with gp.prune(made.model, gp.GreedyPrune(), gp.Ratio(0.5), at=gp.Input()) as handle:
        forward(made.model, inputs)
    sizes = [selection.n for selection in handle.selections]
    assert [len(rows) for rows in after[2]] == [int(n / 2 + 0.5) for n in sizes]
    assert [len(rows) for rows in after[3]] == [int(n / 5 + 0.5) for n in sizes]


@pytest.mark.parametrize("family", some(CORE, *FIRST, "qwen3_vl"))
@pytest.mark.parametrize("case", some(["two", "ragged", "mixed"], "ragged"))
def test_a_cache_and_company_change_nothing(family, case) -> None:
    made, rows = tiny(family), ROWS[case]
    inputs = made.prompt(rows)
    with gp.prune(made.model, gp.Random(), SCHEDULE):
        answer = generate(made.model, inputs, max_new_tokens=proofs.FEW)
        assert_near(answer, generate(made.model, inputs, max_new_tokens=proofs.FEW, use_cache=False))
        for index in range(len(rows) if len(rows) > 1 else 0):
            alone = generate(made.model, made.prompt((rows[index],)), max_new_tokens=proofs.FEW)
            near(alone.logits[0], answer.logits[index])


@pytest.mark.parametrize("family", some(CORE, *FIRST, "qwen3_vl"))
def test_keeping_all_at_every_layer_changes_nothing(family) -> None:
    made = tiny(family)
    inputs = made.prompt(ROWS["ragged"])
    with gp.prune(made.model, gp.GreedyPrune(), gp.PerLayer({1: gp.Ratio(1.0), 2: gp.Ratio(1.0)})) as handle:
        answer = generate(made.model, inputs)
    plain = proofs.plain(family, "sdpa", CASES[2])
    assert torch.equal(answer.tokens, plain.tokens)
    torch.testing.assert_close(answer.logits, plain.logits, rtol=0, atol=1e-5)
    assert handle.report().kept == handle.report().tokens == handle.report().layer_averaged


def test_a_later_budget_gives_nothing_back() -> None:
    answer, gone, after, _ = run(MADE, TWO, gp.GreedyPrune(), gp.PerLayer({1: 4, 2: 8, 3: 3}))
    assert [[len(rows) for rows in after[layer]] for layer in (1, 2, 3)] == [[4, 4], [4, 4], [3, 3]]
    near(answer.logits, proofs.masked(EAGER, TWO, answer.sequences, gone))


def test_a_budget_may_fall_to_nothing() -> None:
    with gp.prune(MODEL, gp.Random(), gp.PerLayer({1: 5, 3: 0})) as handle:
        answer = generate(MODEL, RAGGED)
    assert [selection.k for selection in handle.selections] == [0, 0, 0]
    first = gp.select("random", gp.Cues(torch.ones(16, 2)), 5)
    gone = {
        layer: proofs.dropped_columns(RAGGED["input_ids"], [proofs.chosen(16, rows)] * 3)
        for layer, rows in ((1, first.rows), (3, first.rows[:0]))
    }
    near(answer.logits, proofs.masked(EAGER, RAGGED, answer.sequences, gone))


@pytest.mark.parametrize("rows", [((0,),), ((0,), (1, 2)), ((0,), (1,))], ids=["one", "ragged", "uneven"])
def test_a_second_turn_of_text_continues_every_layer(rows) -> None:
    inputs, watched = MADE.prompt(rows), Watched(PARTIAL)
    with gp.prune(MODEL, Inexact(choose=watched._choose), SCHEDULE) as handle:
        first = generate(MODEL, inputs)
        after = stays(SCHEDULE, [16] * len(handle.selections), watched.taken)
        more = turn(MADE, inputs, first, WORDS)
        second = generate(MODEL, more, past_key_values=first.cache)
        gone = columns(more["input_ids"], {**after, "all": [proofs.chosen(16)] * len(after[1])})
    near(second.logits, proofs.masked(EAGER, {**inputs, **more}, second.sequences, gone))


@pytest.mark.parametrize("rows", [((0,),), ((0,), (1,)), ((),)], ids=["one", "uneven", "text first"])
def test_a_second_turn_may_bring_an_image(rows) -> None:
    inputs, fresh_pixels = MADE.prompt(rows), MADE.prompt(tuple((3,) for _ in rows))["pixel_values"]
    watched, images = Watched(PARTIAL), len(rows)
    old = len(inputs.get("pixel_values", ()))
    with gp.prune(MODEL, Inexact(choose=watched._choose), SCHEDULE):
        first = generate(MODEL, inputs)
        before = stays(SCHEDULE, [16] * old, watched.taken)
        watched.taken.clear()
        more = turn(MADE, inputs, first, WORDS[:, :3], IMAGE_PIECE, WORDS)
        second = generate(MODEL, {**more, "pixel_values": fresh_pixels}, past_key_values=first.cache)
        after = stays(SCHEDULE, [16] * images, watched.taken)
    order = [i for row in range(images) for i in ([row] if old else []) + [old + row]]
    both = {layer: [[*before[layer], *after[layer]][i] for i in order] for layer in after}
    gone = columns(more["input_ids"], {**both, "all": [proofs.chosen(16)] * (old + images)})
    pixels = torch.cat([inputs.get("pixel_values", fresh_pixels[:0]), fresh_pixels])[order]
    near(second.logits, proofs.masked(EAGER, {**more, "pixel_values": pixels}, second.sequences, gone))


def test_a_loop_by_hand_equals_generate() -> None:
    with gp.prune(MODEL, gp.Random(), SCHEDULE):
        answer, mask = generate(MODEL, RAGGED), RAGGED["attention_mask"]
        step = {**RAGGED, "past_key_values": None}
        for index in range(6):
            out = forward(MODEL, {**step, "attention_mask": mask}, use_cache=True)
            near(out.logits[:, -1], answer.logits[:, index])
            step = {"input_ids": answer.tokens[:, index : index + 1], "past_key_values": proofs.cache_of(out)}
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)


@pytest.mark.parametrize(
    ("keep", "options", "match"),
    [
        (SCHEDULE, {"at": gp.Layer(2)}, r"leave out at=Layer"),
        (SCHEDULE, {"at": gp.Input()}, r"leave out at=Input"),
        (gp.PerLayer({1: 5, 4: 3}), {}, r"last place is Layer\(3\)"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused(keep, options, match) -> None:
    before = proofs.fingerprint(MODEL)
    with pytest.raises(ValueError, match=match):
        gp.prune(MODEL, gp.GreedyPrune(), keep, **options)
    assert proofs.fingerprint(MODEL) == before


def test_a_method_that_needs_the_grid_is_refused_where_it_is_cut_already() -> None:
    plain = generate(MODEL, ONE)
    with gp.prune(MODEL, GRID, SCHEDULE) as handle:
        with pytest.raises(ValueError, match="UniformGrid needs grid"):
            generate(MODEL, ONE)
        with handle.using(keep=gp.PerLayer({1: gp.Ratio(1.0), 3: 4})):
            generate(MODEL, ONE)
        assert [selection.k for selection in handle.selections] == [4]
    assert proofs.same(generate(MODEL, ONE), plain)
