"""Compact positions and merged tokens, against an unpatched text model that reads short inputs built by hand."""

import pytest
import torch
from torch import nn

import greedyprune as gp
import proofs
from breadth import some
from proofs import (
    CASES,
    CORE,
    EAGER,
    EARLY,
    IMAGE_PIECE,
    MADE,
    MODEL,
    ONE,
    RAGGED,
    WORDS,
    assert_near,
    entering,
    forward,
    generate,
    hooked,
    keep_of,
    near,
    places_only,
    same,
    turn,
)
from tiny import fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")


def has_mrope(family: str) -> bool:
    """Whether a family numbers tokens by time, height and width."""
    return "mrope_section" in (tiny(family).model.get_decoder().config.rope_parameters or {})


PLAIN = [family for family in CORE if not has_mrope(family)]
MROPE = [family for family in CORE if has_mrope(family)]
GRIDS = [family for family in CORE if tiny(family).has_grid]
STAGES = [gp.Input(), gp.Layer(1), gp.Layer(2), EARLY]
FEW = {"max_new_tokens": proofs.FEW}


@torch.no_grad()
def short(made, inputs, sequences, selections, *, compact=False, pool=False) -> list[torch.Tensor]:
    """Logits of the answer, prompt by prompt, when the text model itself gets the short embeddings. -> [(steps, v)]

    What merges and what is added to visual rows (DeepStack) is taken from the unpatched model's own call.
    """
    model, length = made.model, inputs["input_ids"].shape[1]
    full = made.continued(inputs, sequences[:, :-1])
    text = model.get_decoder()
    given = entering(text, model, full)
    embeds, deep = given["inputs_embeds"].clone(), given.get("deepstack_visual_embeds")
    planes = [torch.zeros_like(embeds) for _ in deep or ()]
    for dense, plane in zip(planes, deep or (), strict=True):
        dense[given["visual_pos_masks"]] = plane
    for image in proofs.image_columns(inputs["input_ids"], selections) if pool else ():
        for states in (embeds, *planes):
            _pool(states, image)
    dropped = proofs.dropped_columns(inputs["input_ids"], selections)
    stay = full["attention_mask"].bool()
    stay[:, :length] &= ~dropped
    rows = []
    for row, flags in enumerate(stay):
        kept = flags.nonzero()[:, 0]
        positions = given.get("position_ids")
        if compact:
            own = torch.arange(len(kept))[None]
        elif positions is None:
            own = kept[None]
        else:
            own = positions.expand(*positions.shape[:-2], len(stay), -1)[..., row : row + 1, :].index_select(-1, kept)
        more = {}
        if deep is not None:
            visual = given["visual_pos_masks"][row : row + 1, kept]
            more = {"visual_pos_masks": visual}
            more["deepstack_visual_embeds"] = [dense[row : row + 1, kept][visual] for dense in planes]
        ones = torch.ones(1, len(kept), dtype=torch.long)
        out = text(
            inputs_embeds=embeds[row : row + 1, kept], attention_mask=ones, position_ids=own, use_cache=False, **more
        )
        rows.append(model.lm_head(out[0])[0, -(sequences.shape[1] - length) :])
    return rows


# Compact positions ----------------------------------------------------------------------------------------------------


def compacted(family, attention, at, case, method=None):
    """A pruned run with compact positions."""
    made = tiny(family, attention)
    inputs = made.prompt(case.rows)
    method = method or gp.GreedyPrune()
    with gp.prune(made.model, method, keep_of(case), at=at, positions="compact") as handle:
        return inputs, generate(made.model, inputs, **FEW), handle.selections


@pytest.mark.parametrize("at", some(STAGES, gp.Input(), gp.Layer(2), EARLY), ids=str)
@pytest.mark.parametrize("case", some([CASES[0], CASES[2], CASES[3]], "ragged"), ids=str)
@pytest.mark.parametrize(
    ("family", "attention"),
    some([*((family, "sdpa") for family in PLAIN), ("llava", "eager"), ("internvl", "eager")], "llava", spread=True),
)
def test_compact_positions_number_the_kept_tokens(family, attention, at, case) -> None:
    inputs, run, selections = compacted(family, attention, at, case)
    dropped, eager = proofs.dropped_columns(inputs["input_ids"], selections), tiny(family, "eager")
    truth = proofs.masked(eager, inputs, run.sequences, dropped, at, compact=True)
    near(run.logits, truth)
    assert (truth - proofs.masked(eager, inputs, run.sequences, dropped, at)).abs().max() > 0.01
    if at == gp.Input():
        for row, logits in enumerate(short(eager, inputs, run.sequences, selections, compact=True)):
            near(run.logits[row], logits)


@pytest.mark.parametrize("at", some(STAGES[:3], gp.Input(), gp.Layer(2)), ids=str)
@pytest.mark.parametrize("case", some([CASES[0], CASES[2], CASES[3]], "ragged"), ids=str)
@pytest.mark.parametrize("family", some(PLAIN, "llava", "smolvlm"))
def test_a_cache_and_company_change_nothing_of_it(family, at, case) -> None:
    method, made = places_only(family), tiny(family)
    inputs, run, _ = compacted(family, "sdpa", at, case, method)
    with gp.prune(made.model, method, keep_of(case), at=at, positions="compact"):
        assert_near(run, generate(made.model, inputs, use_cache=False, **FEW))
    for index in range(len(case.rows) if len(case.rows) > 1 else 0):
        _, alone, _ = compacted(family, "sdpa", at, case.row(index), method)
        near(alone.logits[0], run.logits[index])


@pytest.mark.parametrize("at", some(STAGES, gp.Input(), gp.Layer(2), EARLY), ids=str)
def test_keeping_all_is_compact_already(at) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), gp.Ratio(1.0), at=at, positions="compact"):
        run = generate(MODEL, RAGGED)
    assert_near(run, proofs.plain("llava", "sdpa", CASES[2]))


@pytest.mark.parametrize("family", some(MROPE, "qwen2_5_vl"))
@pytest.mark.parametrize("at", some(STAGES, gp.Input(), gp.Layer(2), EARLY), ids=str)
def test_positions_with_gaps_on_purpose_are_refused_by_name(family, at) -> None:
    made = tiny(family)
    inputs, before = made.prompt(((0,),)), proofs.fingerprint(made.model)

    def attempt() -> None:
        with gp.prune(made.model, gp.GreedyPrune(), 5, at=at, positions="compact"):
            generate(made.model, inputs)

    with pytest.raises(NotImplementedError, match=r'"compact".*M-RoPE.*positions="original"'):
        attempt()
    assert proofs.fingerprint(made.model) == before
    assert same(generate(made.model, inputs), proofs.plain(family, "sdpa", CASES[0]))


def test_unknown_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="choose one of original, compact"):
        gp.prune(MODEL, gp.GreedyPrune(), 5, positions="short")


@pytest.mark.parametrize("at", some(STAGES, gp.Input(), gp.Layer(2), EARLY), ids=str)
@pytest.mark.parametrize("case", some([CASES[0], CASES[2], CASES[3]], "ragged"), ids=str)
def test_a_second_turn_of_text_goes_on_counting(at, case) -> None:
    inputs = MADE.prompt(case.rows)
    with gp.prune(MODEL, gp.GreedyPrune(), keep_of(case), at=at, positions="compact") as handle:
        first = generate(MODEL, inputs)
        dropped = proofs.dropped_columns(inputs["input_ids"], handle.selections)
        more = turn(MADE, inputs, first, WORDS)
        second = generate(MODEL, more, past_key_values=first.cache)
    dropped = nn.functional.pad(dropped, (0, more["input_ids"].shape[1] - dropped.shape[1]))
    ends = [inputs["input_ids"].shape[1], more["input_ids"].shape[1]]
    near(
        second.logits,
        proofs.masked(EAGER, {**inputs, **more}, second.sequences, dropped, at, compact=True, prompts=ends),
    )


@pytest.mark.parametrize("at", some(STAGES, gp.Input(), gp.Layer(2), EARLY), ids=str)
@pytest.mark.parametrize("rows", [((0,),), ((0,), (0,)), ((),)], ids=["one", "unequal", "text first"])
def test_a_second_image_is_numbered_behind_the_first(at, rows) -> None:
    inputs, fresh_pixels = MADE.prompt(rows), MADE.prompt(tuple((3,) for _ in rows))["pixel_values"]
    with gp.prune(MODEL, gp.GreedyPrune(), [4, 11] if len(rows) == 2 else 5, at=at, positions="compact") as handle:
        first = generate(MODEL, inputs)
        seen = handle.selections
        more = turn(MADE, inputs, first, WORDS[:, :3], IMAGE_PIECE, WORDS)
        second = generate(MODEL, {**more, "pixel_values": fresh_pixels}, past_key_values=first.cache)
        seen = [*seen, *handle.selections]
    old = inputs.get("pixel_values", fresh_pixels[:0])
    order = [i for row in range(len(rows)) for i in ([row] if len(old) else []) + [len(old) + row]]
    whole = {**more, "pixel_values": torch.cat([old, fresh_pixels])[order]}
    dropped = proofs.dropped_columns(more["input_ids"], [seen[i] for i in order])
    ends = [inputs["input_ids"].shape[1], more["input_ids"].shape[1]]
    near(second.logits, proofs.masked(EAGER, whole, second.sequences, dropped, at, compact=True, prompts=ends))


@pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids=str)
def test_every_layer_of_a_schedule_counts_for_itself(case) -> None:
    inputs = MADE.prompt(case.rows)
    with gp.prune(MODEL, gp.Random(), gp.PerLayer({1: 8, 3: 3}), positions="compact"):
        run = generate(MODEL, inputs)
    one = gp.select("random", gp.Cues(torch.ones(16, 2)), 8).rows
    two = one[gp.select("random", gp.Cues(torch.ones(8, 2)), 3).rows]
    images = sum(map(len, case.rows))
    gone = {
        layer: proofs.dropped_columns(inputs["input_ids"], [proofs.chosen(16, rows)] * images)
        for layer, rows in ((1, one), (3, two))
    }
    near(run.logits, proofs.masked(EAGER, inputs, run.sequences, gone, compact=True))


@pytest.mark.parametrize("at", some(STAGES, gp.Input(), gp.Layer(2), EARLY), ids=str)
def test_a_loop_by_hand_counts_alike(at) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at, positions="compact"):
        answer = generate(MODEL, ONE)
        step = {**ONE, "past_key_values": None}
        for index in range(6):
            out = forward(MODEL, {**step, "attention_mask": None}, use_cache=True)
            near(out.logits[:, -1], answer.logits[:, index])
            step = {"input_ids": answer.tokens[:, index : index + 1], "past_key_values": proofs.cache_of(out)}


# Merged tokens --------------------------------------------------------------------------------------------------------


def _cells(grid) -> torch.Tensor:
    """The tokens at the centres of 2 x 2 cells. -> (4,)"""
    _, h, w = grid
    y, x = ([int((i + 0.5) * side / 2) for i in (0, 1)] for side in (h, w))
    return torch.tensor([row * w + column for row in y for column in x])


SIDES = {16: (4, 4), 12: (3, 4), 20: (4, 5), 9: (3, 3)}
"""The grids of the tiny images, by their number of tokens."""


def _pool(states, image) -> None:
    """Put the means of 2 x 2 cells of an image where their centres stand, in place. (b, L, d), (n, 2)"""
    h, w = SIDES[len(image)]
    rows, columns = image.unbind(1)
    plane = states[rows, columns].view(1, h, w, -1).permute(0, 3, 1, 2)
    means = nn.functional.adaptive_avg_pool2d(plane, (2, 2)).flatten(2)[0].T
    centres = _cells((1, h, w))
    states[rows[centres], columns[centres]] = means


def merging(made, inputs, at, selections, planes_too=True):
    """Hooks that let an unpatched model go on with merged states: it is the masked reference's other half."""
    start, text = proofs.start_of(at), made.model.get_decoder()
    images = proofs.image_columns(inputs["input_ids"], selections)

    def states(module, args, kwargs):
        hidden = args[0].clone()
        for image in images:
            _pool(hidden, image)
        return (hidden, *args[1:]), kwargs

    def planes(module, args, kwargs):
        deep = kwargs.get("deepstack_visual_embeds")
        if deep is None or not planes_too:
            return args, kwargs
        mask, merged = kwargs["visual_pos_masks"], []
        for index, plane in enumerate(deep):
            dense = plane.new_zeros(*mask.shape, plane.shape[-1])
            dense[mask] = plane
            for image in images if index >= start else ():
                _pool(dense, image)
            merged.append(dense[mask])
        return args, {**kwargs, "deepstack_visual_embeds": merged}

    return hooked(
        text.layers[start].register_forward_pre_hook(states, with_kwargs=True),
        text.register_forward_pre_hook(planes, with_kwargs=True),
    )


@pytest.mark.parametrize("family", some(GRIDS, "llava", "qwen3_vl"))
@pytest.mark.parametrize("attention", some(proofs.ATTENTIONS, "sdpa"))
@pytest.mark.parametrize("at", some(STAGES, gp.Input(), gp.Layer(2), EARLY), ids=str)
@pytest.mark.parametrize(
    "rows", some([((0,),), ((0,), (1, 2)), ((), (3,))], ((0,), (1, 2))), ids=["one", "ragged", "mixed"]
)
def test_a_merged_token_is_the_mean_of_its_cell(family, attention, at, rows) -> None:
    made, eager = tiny(family, attention), tiny(family, "eager")
    inputs = made.prompt(rows)
    with gp.prune(made.model, gp.AveragePool(), 4, at=at) as handle:
        run = generate(made.model, inputs, **FEW)
    selections = handle.selections
    for selection in selections:
        assert selection.rows.tolist() == _cells((1, *SIDES[selection.n])).tolist()
    dropped = proofs.dropped_columns(inputs["input_ids"], selections)
    with merging(eager, inputs, at, selections):
        near(run.logits, proofs.masked(eager, inputs, run.sequences, dropped, at))
    unmerged = proofs.masked(eager, inputs, run.sequences, dropped, at)
    assert (run.logits - unmerged)[-1].abs().max() > 0.01
    if at == gp.Input():
        for row, logits in enumerate(short(eager, inputs, run.sequences, selections, pool=True)):
            near(run.logits[row], logits)


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(1)], ids=str)
def test_merged_planes_are_told_from_unmerged_ones(at) -> None:
    made = tiny("qwen3_vl", "eager")
    inputs = made.prompt(((0,),))
    with gp.prune(made.model, gp.AveragePool(), 4, at=at) as handle:
        run = generate(made.model, inputs, **FEW)
    dropped = proofs.dropped_columns(inputs["input_ids"], handle.selections)
    with merging(made, inputs, at, handle.selections, planes_too=False):
        other = proofs.masked(made, inputs, run.sequences, dropped, at)
    assert (run.logits - other).abs().max() > 0.01


@pytest.mark.parametrize("family", [family for family in CORE if not tiny(family).has_grid])
@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(1)], ids=str)
def test_an_image_without_a_grid_cannot_be_pooled(family, at) -> None:
    made = fresh(family)
    inputs = made.prompt(((2,),))
    plain, before = generate(made.model, inputs), proofs.fingerprint(made.model)
    with gp.prune(made.model, gp.AveragePool(), 4, at=at):
        with pytest.raises(ValueError, match=r"AveragePool needs grid.*pass grid="):
            generate(made.model, inputs)
        text = made.prompt(((),))
        generate(made.model, text)  # the refusal left nothing behind for this one
    assert proofs.fingerprint(made.model) == before
    assert same(generate(made.model, inputs), plain)
