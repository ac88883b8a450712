"""Attention cues: computed again from queries and keys, equal to the weights that eager attention returns, given to
the right image in its own tokens."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlavaConfig, LlavaForConditionalGeneration

import greedyprune as gp
import proofs
from breadth import some
from greedyprune.cues import Attention, Need
from greedyprune.models.parts import find_parts
from greedyprune.models.readable import READABLE
from greedyprune.probes.decoder import decoder_keys, decoder_queries, decoder_rows
from looks import (
    CLS,
    LAST,
    RATERS,
    Cls,
    Last,
    all_near,
    asking,
    class_rows,
    eager_rows,
    near,
    noting,
    prompt_of,
    raters_of,
)
from proofs import CASES, CORE, FIRST, MODEL, ONE, RAGGED, TWO, WORDS, forward, generate, keep_of, turn
from tiny import IMAGE, Tiny, decoder, fresh, squares, tiny, tower

pytestmark = pytest.mark.usefixtures("untouched")

FEW = {"max_new_tokens": 3}
TAKES_FEATURES = "mm_encoder_outputs" in inspect.signature(MODEL.forward).parameters
"""Whether this release of transformers computes image features before the forward, for generate()."""
case = pytest.mark.parametrize("case", some(CASES, "ragged"), ids=str)
attention = pytest.mark.parametrize("attention", proofs.ATTENTIONS)


# The decoder ----------------------------------------------------------------------------------------------------------


HEADED = ("gemma3", "llava gemma3")
"""Models with Gemma 3's decoder: norms of every head, a scale of its own, another rotation in layer 0 than in layer 2.

In the first, an image's tokens see each other."""


@pytest.mark.parametrize(
    "family", some([*CORE, "qwen2_vl", "qwen3_vl_moe", "paligemma", *HEADED], *FIRST, "paligemma", *HEADED)
)
@attention
@case
@pytest.mark.parametrize("layer", [0, 2])
def test_the_last_tokens_row_is_that_of_eager_attention(family, attention, case, layer) -> None:
    eager, made, seen = tiny(family, "eager"), tiny(family, attention), []
    inputs = made.prompt(case.rows)
    weights = forward(eager.model, inputs, output_attentions=True).attentions[layer]
    with gp.prune(made.model, Last(choose=noting(seen, LAST)), keep_of(case), at=gp.Layer(layer + 1)) as handle:
        forward(made.model, inputs)
        generate(made.model, inputs, max_new_tokens=2)
    expected = eager_rows(weights, inputs, [selection.n for selection in handle.selections])
    all_near(seen, expected * 2)


def decoders() -> list[Any]:
    """Every usual decoder that a LLaVA can have here, with heads that share keys and with heads that do not."""
    unusual = ("cohere2", "lfm2", "deepseek_v3")  # no rotation, convolutions, latents: their own families show these
    kinds = [kind for kind in READABLE if not kind.endswith("_text") or kind == "gemma3_text"]
    kinds = [kind for kind in kinds if kind not in unusual]
    return [pytest.param(kind, heads, id=f"{kind}-{heads}") for kind in kinds for heads in (1, 2, 4)]


@pytest.mark.parametrize(("kind", "heads"), decoders())
def test_every_readable_decoder_is_read_right(kind, heads) -> None:
    vision = tower(model_type="clip_vision_model", num_hidden_layers=3, image_size=24, patch_size=6, projection_dim=32)
    # Wider than hidden_size / heads, and for Gemma not as wide as its default, which is for heads of a large model.
    options = {"head_dim": 16} if kind in ("qwen3", "gemma", "gemma3_text") else {}
    if kind == "granite":
        options["attention_multiplier"] = 0.1  # its default, 1, leaves nearly all attention on one token
    window = 512 if kind == "gemma3_text" else None
    text = decoder(model_type=kind, sliding_window=window, num_key_value_heads=heads, **options)
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=16)
    model = LlavaForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        own = kind.startswith("gemma") and "language_model" in name  # whose norms add 1 themselves
        one = "norm" in name and not own
        weight.data = torch.randn(weight.shape) * (0.3 if weight.ndim > 1 else 0.2) + one
    made, seen = Tiny(model, squares(side=24, tokens=16)), []
    inputs = made.prompt(CASES[2].rows)
    model.set_attn_implementation("eager")
    weights = forward(model, inputs, output_attentions=True).attentions[1]
    model.set_attn_implementation("sdpa")
    with gp.prune(model, Last(choose=noting(seen, LAST)), 4):
        forward(model, inputs)
    all_near(seen, eager_rows(weights, inputs, [16] * 3))


WINDOWED = [
    *("gemma3 short window", "llava gemma3 short window"),
    *("llava mistral short window", "llava qwen2 mixed window", "llava qwen2 full first"),
]
"""Models with a window that no prompt fits into; in some, not in all layers."""


@pytest.mark.parametrize("family", some(WINDOWED, *WINDOWED[:2]))
@attention
@case
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("need", [LAST, RATERS], ids=["last", "raters"])
def test_a_prompt_longer_than_the_window_is_read_as_in_eager_attention(family, attention, case, layer, need) -> None:
    eager, inputs, embeds, images = prompt_of(family, case)
    weights = forward(eager.model, inputs, output_attentions=True).attentions[layer].mean(1)
    made, seen = tiny(family, attention), list[Tensor]()
    with gp.prune(made.model, asking(seen, need, gp.Layer(layer + 1)), keep_of(case)):
        forward(made.model, inputs)
        generate(made.model, inputs, max_new_tokens=2)
    raters = [[-1] if need == LAST else raters_of(inputs, embeds, row, columns) for row, columns in images]
    expected = [weights[row][at][:, columns].mean(0) for at, (row, columns) in zip(raters, images, strict=True)]
    for mine, wanted in zip(seen, expected * 2, strict=True):
        near(mine, wanted)
    kind = find_parts(made.model).kinds[layer]
    assert (min(float(row.min()) for row in seen) == 0) == (kind.window is not None)
    assert max(float(row.max()) for row in seen) > 1e-3


@attention
def test_a_later_cut_looks_back_from_what_the_earlier_one_left(attention) -> None:
    eager, schedule = tiny("llava", "eager").model, gp.PerLayer({1: 11, 2: 7, 3: 4})
    seen: list[Tensor] = []
    with gp.prune(eager, Last(choose=noting([], LAST)), schedule) as handle:
        weights = forward(eager, RAGGED, output_attentions=True).attentions
        last = [(s.row, s.rows.tolist()) for s in handle.selections]
    with gp.prune(tiny("llava", attention).model, Last(choose=noting(seen, LAST)), schedule) as handle:
        forward(tiny("llava", attention).model, RAGGED)
        assert [(s.row, s.rows.tolist()) for s in handle.selections] == last
    assert [len(cue) for cue in seen] == [16] * 3 + [11] * 3 + [7] * 3
    kept = torch.ones(3, 16, dtype=torch.bool)
    for cut, layer in enumerate((0, 1, 2)):
        row = weights[layer].mean(1)[:, -1]
        # The columns that were left when this layer ran: text, and of each image what is kept so far, left-padded.
        flags = RAGGED["attention_mask"].bool().clone()
        flags[RAGGED["input_ids"] == IMAGE] = kept.flatten()
        width = int(flags.sum(1).max())
        visual = [(RAGGED["input_ids"][r] == IMAGE)[flags[r]] for r in range(2)]
        found = torch.cat([row[r, width - len(v) :][v] for r, v in enumerate(visual)])
        all_near(seen[3 * cut : 3 * cut + 3], list(found.split(kept.sum(1).tolist())))
        for image, k in enumerate([(11, 7, 4)[cut]] * 3):
            left = kept[image].nonzero()[:, 0]
            picked = torch.randperm(len(left), generator=torch.Generator().manual_seed(k))[:k]
            kept[image] = False
            kept[image, left[picked]] = True


@pytest.mark.parametrize("layer", [0, 1])
def test_an_earlier_layer_can_be_named(layer) -> None:
    named, seen = Attention("last_text", layer), []

    @dataclass(frozen=True, kw_only=True)
    class Named(proofs.Custom):
        needs: ClassVar[tuple[Need, ...]] = (named,)

    weights = forward(tiny("llava", "eager").model, TWO, output_attentions=True).attentions[layer]
    with gp.prune(MODEL, Named(choose=noting(seen, named)), gp.PerLayer({2: 16, 3: 4})):
        forward(MODEL, TWO)
    all_near(seen, eager_rows(weights, TWO, [16, 16]))
    seen.clear()
    with gp.prune(MODEL, Named(choose=noting(seen, named)), gp.PerLayer({2: 9, 3: 4})):
        forward(MODEL, TWO)
    assert [len(cue) for cue in seen] == [9 + 7] * 2 + [9] * 2
    picked = torch.randperm(16, generator=torch.Generator().manual_seed(9))[:9].sort().values
    near(seen[2], seen[0][picked])


@pytest.mark.parametrize("need", [LAST, RATERS], ids=repr)
def test_a_second_turn_looks_at_the_whole_conversation(need) -> None:
    eager = fresh("llava", "eager")
    for attention in ("eager", "sdpa"):
        eager.model.set_attn_implementation(attention)
        seen: list[Tensor] = []
        with gp.prune(eager.model, asking(seen, need, gp.Layer(2)), 5) as handle:
            first = generate(eager.model, RAGGED, **FEW)
            more = turn(eager, RAGGED, first, WORDS, proofs.IMAGE_PIECE, WORDS)
            more["pixel_values"] = torch.cat([ONE["pixel_values"]] * 2)
            seen.clear()
            length = first.cache.get_seq_length()
            ids, mask = more["input_ids"][:, length:], more["attention_mask"]
            step = {"input_ids": ids, "attention_mask": mask, "pixel_values": more["pixel_values"]}
            asked = {"output_attentions": True} if attention == "eager" else {}
            out = forward(eager.model, step, past_key_values=first.cache, **asked)
            assert [selection.n for selection in handle.selections] == [16, 16]
        if attention == "eager":
            weights, expected = out.attentions[1].mean(1)[:, :, -ids.shape[1] :], []
            embeds = proofs.entering(eager.model.get_decoder().layers[0], eager.model, {**step, "attention_mask": None})
            for row in range(2):
                columns = (ids[row] == IMAGE).nonzero()[:, 0]
                turned = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                chosen = raters_of(turned, embeds["hidden_states"], row, columns) if need == RATERS else [-1]
                expected.append(weights[row][chosen][:, columns].mean(0))
            assert out.attentions[1].shape[-1] > ids.shape[1]
        all_near(seen, expected)


def test_prompts_padded_on_the_right_look_from_their_own_last_token() -> None:
    inputs = {**RAGGED}
    lengths = inputs["attention_mask"].sum(1)
    rolled = [torch.roll(inputs["input_ids"][r], int(n)) for r, n in enumerate(lengths)]
    inputs["input_ids"] = torch.stack(rolled)
    inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    positions = torch.arange(lengths.max()).expand(2, -1)
    seen: list[Tensor] = []
    weights = forward(tiny("llava", "eager").model, inputs, position_ids=positions, output_attentions=True)
    row = weights.attentions[1].mean(1)[torch.arange(2), lengths - 1]
    places = (inputs["input_ids"] == IMAGE).nonzero().split([16] * 3)
    with gp.prune(MODEL, Last(choose=noting(seen, LAST)), 5):
        forward(MODEL, inputs, position_ids=positions)
    assert int(lengths.min()) < int(lengths.max())
    all_near(seen, [row[p[:, 0], p[:, 1]] for p in places])


@pytest.mark.parametrize("kind", ["none", "padding", "bool", "float"])
def test_every_kind_of_mask_hides_the_same_keys(kind) -> None:
    attention = tiny("llava").model.get_decoder().layers[0].self_attn
    states = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    rotary = tiny("llava").model.get_decoder().rotary_emb(states, torch.arange(6)[None])
    at = torch.tensor([[5, 4, 2], [3, 5, 0]])
    valid = torch.ones(2, 6, dtype=torch.bool)
    if kind != "none":
        valid[0, :2] = False
    seen = torch.ones(6, 6, dtype=torch.bool).tril()[None, None] & valid[:, None, None]
    lowest = torch.finfo(torch.float32).min
    masks = {"none": None, "padding": valid.long(), "bool": seen, "float": torch.where(seen, 0.0, lowest)}
    keys = decoder_keys(attention, states, rotary)
    rows = decoder_rows(attention, decoder_queries(attention, states, rotary), keys, at, masks[kind])
    near(rows.sum(2), torch.ones(2, 3))
    hidden = torch.stack([~seen[b, 0][at[b]] for b in range(2)])
    assert (rows[hidden] == 0).all()
    assert (rows[~hidden] > 0).all()
    # The same when the first three tokens are keys in a cache already.
    cache = DynamicCache()
    with torch.no_grad():
        attention(states[:, :3], tuple(x[:, :3] for x in rotary), None, **{proofs.cache_name(attention): cache})
    near(cache.layers[0].keys, keys[:, :, :3])
    late = masks[kind] if kind in ("none", "padding") else masks[kind][:, :, 3:]
    later = tuple(x[:, 3:] for x in rotary)
    all_keys = torch.cat([cache.layers[0].keys, decoder_keys(attention, states[:, 3:], later)], 2)
    late_queries = decoder_queries(attention, states[:, 3:], later)
    late_rows = decoder_rows(attention, late_queries, all_keys, at[:, :1] - 3, late)
    near(late_rows, rows[:, :1])


# The vision tower -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [generate, forward])
@attention
@case
@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
def test_the_class_tokens_row_is_that_of_the_eager_tower(how, attention, case, at) -> None:
    made, seen = tiny("llava", attention), []
    inputs = made.prompt(case.rows)
    with gp.prune(made.model, Cls(choose=noting(seen, CLS)), keep_of(case), at=at):
        how(made.model, inputs)
    rows = class_rows(tiny("llava", "eager"), inputs["pixel_values"], -2)
    all_near(seen, list(rows[:, 1:]))
    assert all(float(row.sum()) < 1 - 1e-3 for row in seen)  # the class token looks at itself, too


@pytest.mark.parametrize(("feature", "layer"), [(-2, 1), (-1, 2), (-3, 0), (1, 0), (2, 1), (3, 2)])
def test_the_layer_is_the_one_that_the_projector_reads(feature, layer) -> None:
    made, seen = fresh("llava", "eager"), []
    made.model.config.vision_feature_layer = feature
    with gp.prune(made.model, Cls(choose=noting(seen, CLS)), 4):
        forward(made.model, TWO)
    all_near(seen, list(class_rows(made, TWO["pixel_values"], layer)[:, 1:]))


@pytest.mark.parametrize(("named", "layer"), [(0, 0), (2, 2), (-1, 2), (-3, 0)])
def test_a_layer_of_the_tower_can_be_named(named, layer) -> None:
    need, seen = Attention("cls", named), []

    @dataclass(frozen=True, kw_only=True)
    class Named(proofs.Custom):
        needs: ClassVar[tuple[Need, ...]] = (need, CLS)

    with gp.prune(MODEL, Named(choose=noting(seen, need)), 4):
        generate(MODEL, TWO, **FEW)
    all_near(seen, list(class_rows(tiny("llava", "eager"), TWO["pixel_values"], layer)[:, 1:]))


def test_a_class_token_that_reaches_the_decoder_keeps_its_own_weight() -> None:
    made, seen = fresh("llava", "eager"), []
    made.model.config.vision_feature_select_strategy = "full"
    made = Tiny(made.model, squares(side=24, tokens=17))
    inputs = made.prompt(((0,), (1, 2)))
    with gp.prune(made.model, Cls(choose=noting(seen, CLS)), 4):
        forward(made.model, inputs)
    all_near(seen, list(class_rows(made, inputs["pixel_values"], -2)))


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_return_sequences": 3, "do_sample": True}], ids=str)
def test_repeated_prompts_have_the_rows_of_their_images(options) -> None:
    seen: list[Tensor] = []
    alone: list[Tensor] = []
    torch.manual_seed(0)
    with gp.prune(MODEL, Cls(choose=noting(seen, CLS)), 4) as handle:
        generate(MODEL, RAGGED, **options, **FEW)
        owners = [selection.row for selection in handle.selections]
    with gp.prune(MODEL, Cls(choose=noting(alone, CLS)), 4):
        generate(MODEL, RAGGED, **FEW)
    times = options.get("num_beams") or options["num_return_sequences"]
    assert owners == [*range(times), *(row for row in range(times, 2 * times) for _ in range(2))]
    if TAKES_FEATURES:
        all_near(seen, alone[:1] * times + alone[1:] * times)
    else:  # older releases give a prompt's copies the images in this order, and the rows are those of the images
        all_near(seen, [row for row in alone for _ in range(times)])


def test_features_computed_elsewhere_are_refused_and_those_computed_here_are_not() -> None:
    if not TAKES_FEATURES:
        pytest.skip("this release of transformers takes no image features")
    inputs = {name: value for name, value in TWO.items() if name != "pixel_values"}
    with torch.no_grad():
        outside = MODEL.get_image_features(TWO["pixel_values"], return_dict=True)
    seen: list[Tensor] = []
    with gp.prune(MODEL, Cls(choose=noting(seen, CLS)), 4) as handle:
        with pytest.raises(ValueError, match="image features of this call came without it: pass pixel_values"):
            forward(MODEL, inputs, mm_encoder_outputs={"image": outside})
        with torch.no_grad():
            inside = MODEL.get_image_features(TWO["pixel_values"], return_dict=True)
        forward(MODEL, inputs, mm_encoder_outputs={"image": inside})
        with handle.using("greedyprune"):
            forward(MODEL, inputs, mm_encoder_outputs={"image": outside})
            other = MODEL.get_image_features(TWO["pixel_values"], return_dict=True)
        with pytest.raises(ValueError, match="Cls needs the class token's attention"):
            forward(MODEL, inputs, mm_encoder_outputs={"image": other})
    all_near(seen, list(class_rows(tiny("llava", "eager"), TWO["pixel_values"], -2)[:, 1:]))
