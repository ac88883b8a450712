"""FlashAttention without its hardware: what layers hand to such a kernel, and that plain attention over it is right."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask
from transformers.modeling_flash_attention_utils import _is_packed_sequence

import greedyprune as gp
import proofs
from breadth import some
from greedyprune.cues import Attention
from looks import LAST, RATERS, asking
from proofs import CASES, EARLY, Case, can_be_cut, generate, keep_of, near, turn
from tiny import Tiny, fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")

NAME = "flash_on_paper"
COUNTING = "mistral3 ministral3"
"""A family whose attention scales queries by their position ids, and so cannot do without them."""
FAMILIES = (
    "llava",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava_next",
    "qwen3_5",
    "llava mistral short window",
    "llava qwen2 mixed window",
    "llava qwen2 full first",
    "llava gemma3 short window",
    COUNTING,
)
"""Without those whose images are seen in both directions, which such kernels cannot do."""
PLACES = (gp.Input(), gp.Layer(2), EARLY)
CELLS = [(name, at) for name in FAMILIES for at in PLACES if can_be_cut(name, at)]

packed: list[tuple[int, int]] = []
"""Queries and keys of every call that transformers would have split into several packed prompts."""


def on_paper(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention as a FlashAttention kernel is asked for: by which keys are valid, in (b, q, h, d)."""
    assert attention_mask is None or attention_mask.ndim == 2
    batch, queries, width = query.shape[0], query.shape[2], key.shape[2]
    if attention_mask is None and _is_packed_sequence(kwargs.get("position_ids"), batch):
        packed.append((queries, width))
    allowed = torch.ones(queries, width, dtype=torch.bool).tril(width - queries)
    if (window := kwargs.get("sliding_window")) is not None:
        allowed = allowed.triu(width - queries - window + 1)
    allowed = allowed[None, None].expand(batch, 1, -1, -1)
    if attention_mask is not None:
        allowed = allowed & attention_mask[:, None, None, -width:].bool()
    bias = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(query.dtype).min)
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * kwargs.get("scaling", query.shape[-1] ** -0.5) + bias
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The kernel under its name, which says what it is."""
    AttentionInterface.register(NAME, on_paper)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    yield
    for interface in (AttentionInterface, AttentionMaskInterface):
        interface._global_mapping.pop(NAME)


def flashing(family: str) -> Tiny:
    """A tiny model whose decoder asks for that kernel."""
    made = fresh(family)
    made.model.get_decoder().config._attn_implementation = NAME  # set_attn_implementation() would ask for the kernel
    return made


@pytest.mark.parametrize(("family", "at"), CELLS, ids=str)
@pytest.mark.parametrize("case", some(CASES[:4], "ragged"), ids=str)
def test_a_prompt_with_gaps_is_one_prompt(family: str, at: gp.Stage, case: Case) -> None:
    made = flashing(family)
    packed.clear()
    with gp.prune(made.model, gp.GreedyPrune(), keep_of(case), at=at):
        run = generate(made.model, made.prompt(case.rows), max_new_tokens=proofs.FEW)
    near(run.logits, proofs.pruned(family, "eager", at, case, gp.GreedyPrune()).logits)
    # Of one prompt without a past the split makes one piece, which is right, but slower.
    assert packed == [] if family != COUNTING else all(queries == width for queries, width in packed)


@pytest.mark.parametrize("family", ["llava", "llava mistral short window", "llava gemma3 short window"])
@pytest.mark.parametrize("case", some(CASES[:4], "ragged"), ids=str)
@pytest.mark.parametrize("need", [LAST, RATERS], ids=["last", "raters"])
def test_a_kernel_that_has_the_window_itself_is_read_right(family: str, case: Case, need: Attention) -> None:
    seen: dict[str, list[Tensor]] = {"eager": [], NAME: []}
    schedule = gp.PerLayer({1: gp.Ratio(0.7), 2: gp.Ratio(0.5), 3: gp.Ratio(0.3)})
    for attention, made in (("eager", tiny(family, "eager")), (NAME, flashing(family))):
        with gp.prune(made.model, asking(seen[attention], need, gp.Layer(1)), schedule):
            proofs.forward(made.model, made.prompt(case.rows))
    for mine, wanted in zip(seen[NAME], seen["eager"], strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-5)


def second_turn(made: Tiny, at: gp.Stage) -> proofs.Run:
    """The answer to a second image, which stands behind a first one."""
    inputs, picture = made.prompt(((0,),)), made.prompt(((2,),))
    piece = picture["input_ids"][:, 4:-9]  # between the words in front of the image and those behind it
    vision = {name: value for name, value in picture.items() if name not in ("input_ids", "attention_mask")}
    with gp.prune(made.model, gp.GreedyPrune(), 4, at=at):
        first = generate(made.model, inputs, max_new_tokens=4)
        more = turn(made, inputs, first, piece, proofs.WORDS)
        vision |= made.extras(more["input_ids"])
        return generate(made.model, {**vision, **more}, past_key_values=first.cache, max_new_tokens=4)


@pytest.mark.parametrize("family", ["llava", "llava qwen2 mixed window", "llava mistral short window"])
@pytest.mark.parametrize("at", PLACES[:2], ids=str)
def test_a_later_image_sees_what_came_before(family: str, at: gp.Stage) -> None:
    packed.clear()
    near(second_turn(flashing(family), at).logits, second_turn(tiny(family), at).logits)
    assert packed == []


@pytest.mark.parametrize("at", PLACES[:2], ids=str)
def test_a_later_image_is_refused_where_attention_counts(at: gp.Stage) -> None:
    assert second_turn(tiny(COUNTING), at).logits.isfinite().all()
    with pytest.raises(NotImplementedError, match="set_attn_implementation"):
        second_turn(flashing(COUNTING), at)
