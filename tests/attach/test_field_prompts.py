"""Faults that users of neighbouring libraries reported: prompts that end with an image, packed, padded or cropped."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import greedyprune as gp
import proofs
from breadth import some
from field import cuts, prompt_of
from greedyprune.models.parts import find_parts
from proofs import (
    GRID,
    MADE,
    MODEL,
    ONE,
    RAGGED,
    WORDS,
    forward,
    generate,
    near,
    places,
)
from tinies import fixed
from tiny import IMAGE, Tiny, tiny

pytestmark = pytest.mark.usefixtures("untouched")


# The last token of a prompt stays -------------------------------------------------------------------------------------

BARE = [IMAGE] * 16


@places
@pytest.mark.parametrize("method", [gp.GreedyPrune(), gp.UniformGrid(), gp.Random()], ids=["greedy", "grid", "random"])
@pytest.mark.parametrize("ids", [[5, 6, 7, 8, *BARE], [5, *BARE, 6, 7, *BARE]], ids=["one", "two"])
def test_the_next_token_is_read_off_the_last_one_of_an_image(ids: list[int], method: gp.Method, at: gp.Stage) -> None:
    inputs = prompt_of(ids, ((0,),) if ids.count(IMAGE) == 16 else ((0, 1),))
    with gp.prune(MODEL, method, 3, at=at) as handle:
        run = generate(MODEL, inputs, max_new_tokens=5)
    assert [s.k for s in handle.selections] == [3] * len(handle.selections)
    assert 15 in handle.selections[-1].rows.tolist()
    near(run.logits, proofs.truth(inputs, run.sequences, handle.selections, at))


@cuts
def test_the_last_token_stays_in_every_row_and_at_every_cut(at: gp.Stage) -> None:
    ids = torch.tensor([[5, 6, *BARE], [0, 0, 0, 0, 0, 0, *BARE[:12]]])  # the second row: fewer words, padded
    ids[1] = torch.tensor([0, 7, *BARE])
    inputs = {**MADE.prompt(((0,), (1,))), "input_ids": ids, "attention_mask": (ids != 0).long()}
    keep = gp.PerLayer({1: 9, 3: 2}) if at != gp.Input() else 2
    with gp.prune(MODEL, gp.Random(), keep, at=None if at != gp.Input() else at) as handle:
        run = generate(MODEL, inputs, max_new_tokens=4)
        alone = [
            generate(MODEL, prompt_of([t for t in row.tolist() if t], ((i,),)), max_new_tokens=4)
            for i, row in enumerate(ids)
        ]
    assert all(15 in s.rows.tolist() for s in handle.selections)
    for row, single in enumerate(alone):
        near(run.logits[row : row + 1], single.logits)


def test_a_newline_that_ends_a_prompt_stays() -> None:
    made, eager = tiny("llava_next"), tiny("llava_next", "eager")
    whole = made.prompt(((0,),))
    end = int((whole["input_ids"][0] == IMAGE).nonzero()[-1]) + 1
    inputs = {**whole, **{key: whole[key][:, :end] for key in ("input_ids", "attention_mask")}}
    with gp.prune(made.model, gp.Random(), 1, at=gp.Layer(2)) as handle:
        run = generate(made.model, inputs, max_new_tokens=4)
    selection = handle.selections[0]
    assert selection.places[-1] == selection.n + len(selection.structure) - 1
    dropped = proofs.dropped_columns(inputs["input_ids"], handle.selections)
    near(run.logits, proofs.masked(eager, inputs, run.sequences, dropped, gp.Layer(2)))


@pytest.mark.parametrize(
    ("method", "keep", "match"),
    [(gp.ToMe(), 5, "ToMe merges tokens"), (gp.AveragePool(), 4, "AveragePool merges"), (GRID, 0, "budget keeps 0")],
    ids=str,
)
def test_what_cannot_keep_the_last_token_is_refused(method: gp.Method, keep: int, match: str) -> None:
    with gp.prune(MODEL, method, keep), pytest.raises(ValueError, match=f"prompt 0 ends with an image.*{match}"):
        generate(MODEL, prompt_of([5, 6, *BARE]))


def test_a_method_that_reads_text_says_that_a_prompt_has_none() -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5), pytest.raises(ValueError, match=r"prompt 0 holds no text.*GreedyPrune"):
        generate(MODEL, prompt_of(BARE))


# Packed prompts -------------------------------------------------------------------------------------------------------


@cuts
@pytest.mark.parametrize("family", ["llava", "smolvlm", "qwen2_5_vl"])
def test_two_prompts_in_one_row_are_refused(family: str, at: gp.Stage) -> None:
    made = tiny(family)
    a, b = made.prompt(((0,),)), made.prompt(((1,),))
    counts = [torch.arange(each["input_ids"].shape[1]) for each in (a, b)]
    positions = torch.cat(counts)[None] if family != "qwen2_5_vl" else torch.cat(counts).expand(3, 1, -1)
    pixels = {key: torch.cat([a[key], b[key]], int(family == "smolvlm")) for key in a if key.startswith("pixel")}
    grids = {key: torch.cat([a[key], b[key]]) for key in a if key.endswith("grid_thw")}
    packed = {"input_ids": torch.cat([a["input_ids"], b["input_ids"]], 1), "position_ids": positions, **pixels, **grids}
    with gp.prune(made.model, gp.Random(), 5, at=at) as handle:
        with pytest.raises(NotImplementedError, match="go back, as those of several prompts packed"):
            forward(made.model, packed, use_cache=False)
        text = {"input_ids": WORDS.repeat(1, 2), "position_ids": torch.arange(6).repeat(2)[None]}
        if family == "llava":  # packed text is as it was
            packed_text = forward(made.model, text, use_cache=False).logits
        assert not handle.selections
    if family == "llava":
        near(packed_text, forward(made.model, text, use_cache=False).logits)


@cuts
@pytest.mark.parametrize("name", ["cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"])
def test_borders_of_packed_prompts_are_refused(name: str, at: gp.Stage) -> None:
    value = 3 if name.startswith("max") else torch.tensor([0, ONE["input_ids"].shape[1]], dtype=torch.int32)
    with gp.prune(MODEL, GRID, 5, at=at), pytest.raises(NotImplementedError, match=name):
        forward(MODEL, ONE, use_cache=False, **{name: value})


def test_positions_that_go_back_in_padding_are_no_packing() -> None:
    """Padded rows get position 1 in their padding and count from 0 behind it; a kernel of flash type sees no mask."""
    AttentionInterface.register("flash_stand_in", lambda *a, cu_seq_lens_q=None, **k: sdpa_attention_forward(*a, **k))
    positions = (RAGGED["attention_mask"].cumsum(1) - 1).masked_fill(RAGGED["attention_mask"] == 0, 1)
    with gp.prune(MODEL, GRID, 5) as handle:
        forward(MODEL, {**RAGGED, "position_ids": positions})
        assert len(handle.selections) == 3


# Padding on the right -------------------------------------------------------------------------------------------------


def right_padded(made: Tiny, rows: proofs.Rows) -> dict[str, Tensor]:
    """The prompts of a batch with their padding behind them."""
    inputs = made.prompt(rows)
    lefts = (inputs["attention_mask"] == 0).sum(1).tolist()
    names = [key for key in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids") if key in inputs]
    rolled = {key: torch.stack([row.roll(-n) for row, n in zip(inputs[key], lefts, strict=True)]) for key in names}
    return {**inputs, **rolled}


@cuts
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "smolvlm", "gemma3"])
def test_generation_behind_padding_is_refused(family: str, at: gp.Stage) -> None:
    made = tiny(family)
    with gp.prune(made.model, gp.Random(), 5, at=at) as handle:
        with pytest.raises(NotImplementedError, match='padding_side = "left"'):
            generate(made.model, right_padded(made, ((0,), (1, 2))))
        assert not handle.selections  # nothing ran
        generate(made.model, right_padded(made, ((0,), (0,))), max_new_tokens=2)  # rows of one length have none


def test_padding_that_generate_finds_itself_is_refused_too() -> None:
    inputs = right_padded(MADE, ((0,), (1, 2)))
    del inputs["attention_mask"]
    with gp.prune(MODEL, GRID, 5), pytest.raises(NotImplementedError, match="padding_side"):
        generate(MODEL, inputs)


@cuts
def test_a_forward_and_steps_by_hand_may_be_padded_on_the_right(at: gp.Stage) -> None:
    rows = ((0,), (1, 2))
    inputs = right_padded(MADE, rows)
    with gp.prune(MODEL, GRID, 5, at=at):
        alone = [generate(MODEL, MADE.prompt((row,)), max_new_tokens=3) for row in rows]
        out, mask = forward(MODEL, inputs, use_cache=True), inputs["attention_mask"]
        words, lengths = torch.cat([run.tokens for run in alone]), mask.sum(1)
        for step in (0, 1):
            mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
            given = {
                "input_ids": words[:, step : step + 1],
                "attention_mask": mask,
                "position_ids": (lengths + step)[:, None],
            }
            out = forward(MODEL, given, past_key_values=proofs.cache_of(out))
            for row, run in enumerate(alone):
                near(out.logits[row, -1], run.logits[0, step + 1])


# Towers decide what an image is ---------------------------------------------------------------------------------------


@cuts
@pytest.mark.parametrize("rows", [((0,),), ((1,),), ((3,),), ((0, 1),), ((0,), (1, 2))], ids=str)
def test_a_llava_with_pixtrals_tower_has_images_of_any_size(rows: proofs.Rows, at: gp.Stage) -> None:
    made, eager = tiny("llava pixtral"), tiny("llava pixtral", "eager")
    inputs = made.prompt(rows)
    with gp.prune(made.model, gp.GreedyPrune(), 5, at=at) as handle:
        run = generate(made.model, inputs, max_new_tokens=4)
    sizes = [fixed.SIZES[number % 4] for row in rows for number in row]
    assert [(s.n, s.grid, s.k) for s in handle.selections] == [(h * w // 16, (1, h // 4, w // 4), 5) for h, w in sizes]
    dropped = proofs.dropped_columns(inputs["input_ids"], handle.selections)
    near(run.logits, proofs.masked(eager, inputs, run.sequences, dropped, at))


# Crops of one picture -------------------------------------------------------------------------------------------------


def of_crops(made: Tiny) -> dict[str, Tensor]:
    """Gemma 3's pan and scan makes several pictures of one, told apart from the user's own by nothing but text."""
    _, pieces = made.images(((0,),))

    def crops(rows: proofs.Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        pixels = [made.images(((n,),))[0]["pixel_values"] for row in rows for n in row for _ in range(3)]
        run = pieces[0]
        return {"pixel_values": torch.cat(pixels)}, [
            [11, 12, *run, 13, 14, *run, 15, *run] for row in rows for _ in row
        ]

    return replace(made, images=crops).prompt(((0,),))


@pytest.mark.parametrize(
    ("keep", "remedy"),
    [
        (5, r"keep=5 would be kept .* 3 pictures: write keep=Total\(5\) .* or keep=\[5, 5, 5\] for that many of each"),
        (2, r"write keep=Total\(2, floor=0\)"),
        (gp.PerFrame(5), r"keep=5/frame .* as shares"),
        (gp.LayerAverage(9), "keep=9 per layer .* as shares"),
        (gp.PerLayer({1: gp.Ratio(0.5), 2: 3}), "keep=layer:1 50%, layer:2 3 .* as shares"),
    ],
    ids=str,
)
def test_one_number_for_crops_of_one_picture_is_refused(keep: Any, remedy: str) -> None:
    made = tiny("gemma3")
    ran: list[int] = []
    hook = find_parts(made.model).layers[0].register_forward_pre_hook(lambda *_: ran.append(1))
    with gp.prune(made.model, gp.Random(), keep, at=None if isinstance(keep, gp.PerLayer) else gp.Layer(1)) as handle:
        with pytest.raises(ValueError, match=f"crops of one picture.*{remedy}.*do_pan_and_scan"):
            generate(made.model, of_crops(made), max_new_tokens=2)
        assert not ran
        assert not handle.selections
        generate(made.model, made.prompt(((0, 1, 2),)), max_new_tokens=2)  # pictures with words between them
    hook.remove()


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ([5, 5, 5], [5, 5, 5]),
        (gp.Total(5), [2, 2, 1]),
        (gp.Total(2, floor=0), [1, 1, 0]),
        (gp.Ratio(0.5), [8, 8, 8]),
        (gp.parse_keep("50%"), [8, 8, 8]),
        ([gp.Ratio(0.5), 2, 1], [8, 2, 1]),
        (gp.PerFrame(gp.Ratio(0.5)), [8, 8, 8]),
        (0, [0, 0, 0]),
    ],
    ids=str,
)
def test_a_budget_that_says_what_it_means_of_crops_is_followed(keep: Any, kept: list[int]) -> None:
    made = tiny("gemma3")
    with warnings.catch_warnings(), gp.prune(made.model, gp.Random(), keep, at=gp.Layer(1)) as handle:
        warnings.simplefilter("error", gp.PruneWarning)
        generate(made.model, of_crops(made), max_new_tokens=2)
    assert [s.k for s in handle.selections] == kept


# The default device ---------------------------------------------------------------------------------------------------


@places
@pytest.mark.parametrize("family", some(["llava", "qwen2_5_vl", "smolvlm", "llava_next", "gemma3"], "llava"))
def test_index_tensors_do_not_follow_the_default_device(family: str, at: gp.Stage) -> None:
    made = tiny(family)
    if not proofs.can_be_cut(family, at):
        pytest.skip("it cannot be cut there")
    inputs = made.prompt(((0,), (1, 2)))
    with gp.prune(made.model, gp.GreedyPrune(), gp.Ratio(0.4), at=at) as handle:
        plain, kept = forward(made.model, inputs, use_cache=True).logits, [s.places.tolist() for s in handle.selections]
        with OnlyOurs():
            moved = forward(made.model, inputs, use_cache=True).logits
            assert [s.places.tolist() for s in handle.selections] == kept
    assert torch.equal(plain, moved)


FACTORIES = ("arange", "ones", "zeros", "full", "tensor", "empty", "eye", "linspace", "rand", "randn", "randperm")


class OnlyOurs(torch.overrides.TorchFunctionMode):
    """Inside, what this library makes without a device is made on "meta", as if the default device were another."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        import sys

        kwargs = kwargs or {}
        caller = sys._getframe(1).f_globals.get("__name__", "")
        ours = caller.startswith("greedyprune") and getattr(function, "__name__", "") in FACTORIES
        if ours and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return function(*args, **kwargs)
