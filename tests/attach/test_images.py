"""Images as users have them: padding on either side, the same image twice, one token, no text behind, one budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import greedyprune as gp
import proofs
from breadth import some
from greedyprune.models.parts import find_parts
from greedyprune.verify.reference import gathered_row
from proofs import FIRST, forward, generate, near, start_of
from tinies import multimodal_positions, native, newest, videos, windows
from tiny import NAMES, Tiny, tiny

pytestmark = pytest.mark.usefixtures("untouched")

FEW = {"max_new_tokens": 4}
places = pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)


def kept(selections: list[gp.Selection]) -> list[list[int]]:
    """What stayed of each image."""
    return [selection.rows.tolist() for selection in selections]


def hold(name: str, inputs: dict[str, Tensor], keep: Any, at: gp.Stage) -> list[gp.Selection]:
    """Hold a pruned prompt, one row, to the reference that fits the decoder. -> what was kept"""
    made, eager = tiny(name), tiny(name, "eager")
    with gp.prune(made.model, gp.GreedyPrune(), keep, at=at) as handle:
        run = generate(made.model, inputs, **FEW)
    dropped, steps = proofs.dropped_columns(inputs["input_ids"], handle.selections), run.tokens.shape[1]
    if any(kind.recurrent for kind in find_parts(eager.model).kinds):
        full = eager.continued(inputs, run.sequences[:, :-1])
        near(run.logits, gathered_row(eager.model, full, dropped, steps, start_of(at)))
    else:
        near(run.logits, proofs.masked(eager, inputs, run.sequences, dropped, at))
    return handle.selections


# Padding --------------------------------------------------------------------------------------------------------------

SIDES = ["llava", "llava mistral short window", "qwen2_5_vl", "qwen3_vl", "gemma3", "qwen3_5", "llava_next", "smolvlm"]
RAGGED = ((0,), (1, 2))


def turned(made: Tiny, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same batch with its padding on the right."""
    lefts = (inputs["attention_mask"] == 0).sum(1).tolist()
    both = {
        name: torch.stack([row.roll(-n) for row, n in zip(inputs[name], lefts, strict=True)])
        for name in ("input_ids", "attention_mask")
    }
    return {**inputs, **both, **made.extras(both["input_ids"])}


@places
@pytest.mark.parametrize("name", some(SIDES, "llava", "qwen2_5_vl", "gemma3", "qwen3_5", "llava_next"))
def test_padding_on_the_right_is_padding_on_the_left(name, at) -> None:
    made = tiny(name)
    left = made.prompt(RAGGED)
    right = turned(made, left)
    with gp.prune(made.model, gp.GreedyPrune(), gp.Ratio(0.4), at=at) as handle:
        expected, chosen = forward(made.model, left).logits, handle.selections
        logits = forward(made.model, right).logits
        assert kept(handle.selections) == kept(chosen)
        dropped = proofs.dropped_columns(right["input_ids"], handle.selections)
        for row, count in enumerate((right["attention_mask"].bool() & ~dropped).sum(1).tolist()):
            # The cut puts padding to the left: the last column is the last token of every prompt.
            near(logits[row, -count:], expected[row, -count:])
            near(logits[row, -count:], forward(made.model, made.prompt((RAGGED[row],))).logits[0])


@places
@pytest.mark.parametrize("name", some(SIDES, "llava", "qwen2_5_vl", "gemma3", "qwen3_5", "llava_next"))
def test_the_question_of_a_prompt_padded_on_the_right_is_its_own(name, at) -> None:
    made, seen = tiny(name), []

    def look(cues: gp.Cues, k: int) -> gp.Keep:
        seen.append(cues)
        return gp.Keep.from_order(torch.arange(k), torch.zeros(k), cues.n)

    right = turned(made, made.prompt(RAGGED))
    ids, valid = right["input_ids"], right["attention_mask"].bool()
    states = proofs.states_entering(made.model, right, at)
    with gp.prune(made.model, proofs.Custom(choose=look), 3, at=at):
        forward(made.model, proofs.positioned(right))
    for cues, row in zip(seen, (0, 1, 1), strict=True):
        visual = proofs.is_visual(ids[row])
        near(cues.text, states[row][valid[row] & ~visual])
        near(cues.text[cues.question], states[row, int(visual.nonzero().max()) + 1 : int(valid[row].sum())])


@places
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_a_prompt_padded_on_the_right_goes_on(at, positions) -> None:
    made = tiny("llava")
    answers = []
    for inputs in (made.prompt(RAGGED), turned(made, made.prompt(RAGGED))):
        with gp.prune(made.model, gp.GreedyPrune(), 5, at=at, positions=positions):
            inputs = proofs.positioned(inputs)
            prefill = forward(made.model, inputs, use_cache=True)
            after = inputs["attention_mask"].sum(1, keepdim=True)
            step = {"input_ids": torch.tensor([[11], [12]]), "position_ids": after}
            step["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
            step["past_key_values"] = proofs.cache_of(prefill)
            answers.append(forward(made.model, step).logits)
    near(*answers)


# The same image twice, and images of one token ------------------------------------------------------------------------

TWICE = [
    "llava",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava_next",
    "smolvlm",
    "gemma3",
    "qwen3_5",
    "qwen3_vl video",
    "aya_vision",
]


@places
@pytest.mark.parametrize("name", some(TWICE, "llava", "qwen2_5_vl", "llava_next", "qwen3_vl video"))
def test_the_same_image_twice_is_two_images(name, at) -> None:
    made = tiny(name)
    first, second = hold(name, made.prompt(((2, 2),)), [3, 7], at)
    assert (first.k, second.k, first.n) == (3, 7, second.n)
    if at == gp.Input():  # before the decoder both look the same to a question that both share
        assert set(first.rows.tolist()) == set(second.order[:3].tolist())
    with gp.prune(made.model, gp.GreedyPrune(), [3, 7], at=at) as handle:
        generate(made.model, made.prompt(((2,), (2,))), **FEW)
        assert [(one.row, one.k) for one in handle.selections] == [(0, 3), (1, 7)]
        with handle.using(keep=5):
            generate(made.model, made.prompt(((2,), (2,))), **FEW)
            assert kept(handle.selections[:1]) == kept(handle.selections[1:])


SMALL = [
    (multimodal_positions, "SIZES", (2, 2)),
    (windows, "SIZES", (2, 2)),
    (newest, "SIZES", (2, 2)),
    (native, "GRIDS", (1, 1)),
    (videos, "STILLS", (1, 1)),
    (videos, "FILMS", (1, 2, 2)),
]
ONE_TOKEN = [
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5",
    "paddleocr_vl",
    "glm4v",
    "glm4v video",
    "qwen3_vl video",
    "gemma4",
    "mistral3",
    "kimi_k25",
    "video_llama_3",
    "lighton_ocr",
]


@pytest.fixture
def smallest(monkeypatch) -> None:
    """Picture 0 is one token."""
    for module, name, size in SMALL:
        monkeypatch.setattr(module, name, (size, *getattr(module, name)[1:]))


@places
@pytest.mark.parametrize("name", some(ONE_TOKEN, "qwen2_5_vl", "qwen3_5", "glm4v video"))
@pytest.mark.parametrize(("keep", "k"), [(1, 1), (0, 0), (gp.Ratio(0.5), 1), (gp.Ratio(0.4), 1), (9, 1)], ids=str)
@pytest.mark.usefixtures("smallest")
@pytest.mark.filterwarnings("ignore:keep=9 .* is more than all of them")
def test_an_image_of_one_token_stays_or_goes(name, at, keep, k) -> None:
    one, other = hold(name, tiny(name).prompt(((0, 1),)), [keep, 5], at)
    assert (one.n, one.k, other.k) == (1, k, 5)
    assert one.grid in ((1, 1, 1), None)
    assert (one.grid is None) == (other.grid is None)
    if name == "mistral3":  # which cannot read an image of one token alone, pruned or not
        return
    alone = tiny(name).prompt(((0,),))
    if isinstance(keep, gp.Ratio):  # less was asked for and nothing left: that is said
        with pytest.warns(gp.PruneWarning, match="1 visual tokens rounds to all"):
            hold(name, alone, keep, at)
    else:
        assert [one.k for one in hold(name, alone, keep, at)] == [k]


# Text and images in any order -----------------------------------------------------------------------------------------


def arranged(made: Tiny, *parts: int | None) -> dict[str, Tensor]:
    """A prompt of these pictures in this order, None for three words."""
    vision, pieces = made.images((tuple(part for part in parts if part is not None),))
    left, words, tokens = iter(pieces), iter(range(5, 90)), list[int]()
    for part in parts:
        tokens += [next(words) for _ in range(3)] if part is None else next(left)
    ids = torch.tensor([tokens])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **vision, **made.extras(ids)}


ORDERS: list[tuple[int | None, ...]] = [
    (0, None),
    (None, 0),
    (0,),
    (None, 0, 1, 2, None),
    (0, None, 1, None, 2, None, 0, None),
    (1, 2),
]
ANY_ORDER = [
    "llava",
    "qwen2_5_vl",
    "qwen3_vl",
    "gemma3",
    "gemma4",
    "mistral3",
    "llava_next",
    "llava_onevision",
    "smolvlm",
]
ANY_ORDER += ["idefics3", "internvl", "aya_vision", "cohere2_vision", "ovis2", "lfm2_vl", "minicpmv4_6 slices", "glm4v"]
ANY_ORDER += ["qwen3_vl image and video", "qwen3_5", "molmo2", "got_ocr2"]


@places
@pytest.mark.parametrize("parts", some(ORDERS, *ORDERS[2:5]), ids=str)
@pytest.mark.parametrize(
    "name",
    some([name for name in ANY_ORDER if name in NAMES], *FIRST, "gemma3", "llava_next", "qwen3_5"),
)
def test_images_stand_anywhere(name, at, parts) -> None:
    made = tiny(name)
    numbers = [part for part in parts if part is not None]
    inputs = arranged(made, *parts)
    budgets = [3 + place for place in range(len(numbers))]
    selections = hold(name, inputs, budgets, at)
    assert [one.k for one in selections] == budgets
    sizes = [
        piece.count(token) for piece in made.images((tuple(numbers),))[1] for token in made.media if token in piece
    ]
    assert [one.n + len(one.structure) for one in selections] == sizes
    shares = gp.Total(4 * len(numbers), floor=2)
    total = hold(name, inputs, shares, at)
    assert sum(one.k for one in total) == shares.tokens
    assert [one.k for one in total] == shares.share([one.n for one in selections])
    assert min(one.k for one in total) >= 2


@places
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "smolvlm"])
def test_without_text_behind_the_last_image_all_text_is_the_question(name, at) -> None:
    made, seen = tiny(name), []

    def look(cues: gp.Cues, k: int) -> gp.Keep:
        seen.append(cues)
        first = [] if cues.protect is None else cues.protect.tolist()  # the last token of a prompt must stay
        rows = torch.tensor([*first, *(row for row in range(cues.n) if row not in first)][:k])
        return gp.Keep.from_order(rows, torch.zeros(k), cues.n)

    inputs = arranged(made, None, 0)
    end = 1 + int(proofs.is_visual(inputs["input_ids"]).nonzero().max())
    bare = {k: v[:, :end] if v.shape == inputs["input_ids"].shape else v for k, v in inputs.items()}
    behind = inputs["input_ids"].shape[1] - end
    with gp.prune(made.model, proofs.Custom(choose=look), 3, at=at):
        forward(made.model, inputs)
        if name == "qwen2_5_vl":  # whose images always have a marker behind them
            with pytest.raises(ValueError, match="touches an end of its sequence"):
                forward(made.model, bare)
        else:
            forward(made.model, bare)
    assert len(seen[0].text[seen[0].question]) == behind > 0
    for cues in seen[1:]:
        assert torch.equal(cues.text[cues.question], cues.text)
        assert len(cues.text) == len(seen[0].text) - behind
