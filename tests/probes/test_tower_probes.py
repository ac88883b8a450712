"""The vision tower's cues on every family: which rows become which token, and what is seen there is what its own eager
attention computes, whether images come with the call or were computed before it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.ovis2.configuration_ovis2 import Ovis2VisionConfig

import greedyprune as gp
import proofs
from breadth import some
from greedyprune.cues import Attention, Encoded, Keys
from greedyprune.models.parts import find_parts
from greedyprune.models.table import FAMILIES
from greedyprune.probes import rows as arithmetic
from looks import asking, near
from proofs import CASES, CORE, forward, generate
from tiny import BUILDERS, IMAGE, Tiny, decoder, fresh, squares, tiny, tower
from towers import (
    BATCH,
    PROJECTORS,
    assert_seen,
    by_token,
    counts,
    flat,
    folding,
    inside,
    look,
    of_batch,
    of_own_rows,
    read_layer,
    sizes_of,
    vision,
)

pytestmark = pytest.mark.usefixtures("untouched")

FEW = {"max_new_tokens": 2}
TAKES_FEATURES = "mm_encoder_outputs" in inspect.signature(proofs.MODEL.forward).parameters
"""Whether this release of transformers computes image features before the forward, for generate()."""
UNNAMED = () if Ovis2VisionConfig.model_type else ("ovis2",)
"""Their towers have no type on this release of transformers, so they are refused."""
READ = [name for name in BUILDERS if FAMILIES[name].tower is not None and name not in UNNAMED]
"""Every family whose tower can be read."""
WITH_CLASS = [name for name in READ if FAMILIES[name].tower.class_token is not None]
PACKED = [name for name in READ if FAMILIES[name].tower.packs]
"""Their rows go the way that the model sends its tokens, and no fold says which they are."""
PADDED = ("lfm2_vl", "gemma4")
"""Their towers pad the images of a call to equally many rows."""
AS_THEY_ARE = [name for name in READ if name in PROJECTORS and name not in (*PACKED, "vipllava")]
"""Their projectors get one layer's rows, token by token."""
KINDS = ("llava", "qwen2_5_vl", "internvl", "mistral3", "gemma4", "llava_next")
"""One family for every kind of tower."""

family = pytest.mark.parametrize("family", some(CORE, "llava", "qwen2_5_vl", "internvl"))
every = pytest.mark.parametrize("family", some(READ, *KINDS))
how = pytest.mark.parametrize("how", some([forward, generate], generate))


# Rows and tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", some([name for name in READ if name not in PACKED], *KINDS[:-1]))
def test_a_row_of_the_tower_reaches_the_token_that_the_fold_says(family) -> None:
    made = tiny(family)
    rows = of_batch(family).states[0].shape[:-1]
    numbers, sizes = torch.arange(rows.numel()).view(rows), sizes_of(family, made.prompt(BATCH))
    folded = FAMILIES[family].tower.fold(made.model.config, numbers, sizes)
    assert [sorted(token) for token in folded.tolist()] == folding(family)
    left = rows.numel() - folded.numel()
    assert left > 0 if family in PADDED else left == (rows[0] if family in WITH_CLASS else 0)
    assert sum(counts(family)) == len(folding(family))


# The cues -------------------------------------------------------------------------------------------------------------


@every
@how
@pytest.mark.parametrize("layer", some([0, -1, None], None))
def test_what_a_token_receives_is_that_of_the_eager_tower(family, how, layer) -> None:
    noted = of_batch(family)
    real = read_layer(noted.parts) if layer is None else layer
    assert_seen(look(family, Attention("received", layer), how), by_token(family, noted.received(real)))


@pytest.mark.parametrize("family", some(WITH_CLASS, "llava", "internvl"))
@how
@pytest.mark.parametrize("layer", some([0, -1, None], 0, None))
@pytest.mark.parametrize("heads", ["mean", "one"])
def test_what_the_class_token_looks_at_is_that_of_the_eager_tower(family, how, layer, heads) -> None:
    noted = of_batch(family)
    real = read_layer(noted.parts) if layer is None else layer
    expected = by_token(family, noted.cls(real, one=heads == "one"))
    assert_seen(look(family, Attention("cls", layer, heads), how), expected)


@family
def test_the_class_token_looks_where_there_is_one_and_else_all_do(family) -> None:
    kind = "cls" if family in WITH_CLASS else "received"
    for heads in ("mean", "one"):
        assert_seen(look(family, Attention("tower", heads=heads)), look(family, Attention(kind, heads=heads)))


@family
def test_a_layer_may_be_a_share_of_the_depth(family) -> None:
    layers = len(of_batch(family).states)
    for share in (0.0, 0.4, 0.5, 0.9):
        layer = int(share * layers)
        assert_seen(look(family, Attention("received", share)), look(family, Attention("received", layer)))
        assert_seen(look(family, Encoded(share)), look(family, Encoded(layer)))


@every
@pytest.mark.parametrize("layer", some([0, -1], -1))
def test_all_heads_can_be_one(family, layer) -> None:
    expected = by_token(family, of_batch(family).received(layer, one=True))
    assert_seen(look(family, Attention("received", layer, "one")), expected)


@every
@how
@pytest.mark.parametrize("layer", some([0, -1, None], None))
def test_keys_are_those_of_the_layers_weights_before_any_rotation(family, how, layer) -> None:
    noted = of_batch(family)
    real = read_layer(noted.parts) if layer is None else layer
    seen = look(family, Keys("tower", layer), how)
    assert seen[0].shape[1:] == (4, 8)
    assert_seen(seen, by_token(family, noted.keys(real), mean=True))


@every
@how
@pytest.mark.parametrize("layer", some([0, -1], -1))
def test_features_are_what_a_layer_returned(family, how, layer) -> None:
    expected = by_token(family, of_batch(family).outputs[layer], mean=True)
    assert_seen(look(family, Encoded(layer), how), expected)


@pytest.mark.parametrize("family", some(AS_THEY_ARE, "llava", "qwen2_5_vl", "mistral3"))
@how
def test_features_without_a_layer_are_what_the_projector_reads(family, how) -> None:
    read = of_batch(family).read
    if family in ("llava", "internvl"):  # without the class token; InternVL's gets the rows of a token side by side
        expected = list(read.flatten(0, 1).unflatten(-1, (-1, 32)).mean(1).split(counts(family)))
    else:
        expected = by_token(family, flat(read), mean=True)
    assert_seen(look(family, Encoded(), how), expected)


def test_features_are_read_through_the_last_norm_or_not_as_the_projector_does() -> None:
    for family in ("llava", "internvl"):
        for feature in (-1, 1, -2):
            made, seen = fresh(family, "eager"), list[Tensor]()
            made.model.config.vision_feature_layer = feature
            if family == "internvl":
                made.model.model.vision_tower.layernorm = nn.LayerNorm(32, bias=False)
                nn.init.normal_(made.model.model.vision_tower.layernorm.weight)
            inputs = made.prompt(BATCH)
            read = inside(made, inputs).read
            with gp.prune(made.model, asking(seen, Encoded(), gp.Input()), 2):
                forward(made.model, inputs)
            assert_seen(seen, list(read.flatten(0, 1).unflatten(-1, (-1, 32)).mean(1).split(counts(family))))


def test_norms_of_queries_and_keys_are_applied() -> None:
    made, seen, keys = fresh("internvl", "eager"), list[Tensor](), list[Tensor]()
    config = made.model.config
    config.vision_config.use_qk_norm = True
    torch.manual_seed(0)
    made = Tiny(InternVLForConditionalGeneration(config).eval(), made.images)
    for name, weight in made.model.named_parameters():
        weight.data = torch.randn(weight.shape) * 0.3 + ("norm" in name)
    inputs = made.prompt(BATCH)
    noted = inside(made, inputs)
    for need, into in ((Attention("received", 1), seen), (Keys("tower", 1), keys)):
        with gp.prune(made.model, asking(into, need, gp.Input()), 2):
            forward(made.model, inputs)
    assert_seen(seen, by_token("internvl", noted.received(1)))
    (_, used, _, _) = noted.calls[1][0]
    assert_seen(keys, by_token("internvl", used.transpose(1, 2).flatten(0, 1), mean=True))


def test_a_llava_may_have_a_tower_without_a_class_token() -> None:
    config = LlavaConfig(
        vision_config=tower(model_type="siglip_vision_model", image_size=24, patch_size=6),
        text_config=decoder(model_type="llama"),
        image_token_id=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    torch.manual_seed(0)
    made = Tiny(LlavaForConditionalGeneration(config).eval(), squares(side=24, tokens=16))
    for name, weight in made.model.named_parameters():
        weight.data = torch.randn(weight.shape) * 0.3 + ("norm" in name)
    inputs = made.prompt(BATCH)
    made.model.set_attn_implementation("eager")
    noted = inside(made, inputs)
    made.model.set_attn_implementation("sdpa")
    wanted = {
        Attention("received"): noted.received(1),
        Keys("tower"): noted.keys(1),
        Encoded(): flat(noted.read),
        Encoded(0): noted.outputs[0],
    }
    for need, rows in wanted.items():
        for how in (forward, generate):
            seen: list[Tensor] = []
            with gp.prune(made.model, asking(seen, need, gp.Input()), 2) as handle:
                how(made.model, inputs)
                assert [selection.grid for selection in handle.selections] == [(1, 4, 4)] * 3
            assert_seen(seen, list(rows.split([16] * 3)))


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
@pytest.mark.parametrize("attention", proofs.ATTENTIONS)
def test_patches_of_padding_are_not_looked_at(family, attention) -> None:
    made, eager, seen = tiny(family, attention), tiny(family, "eager"), list[Tensor]()
    inputs = made.prompt(BATCH)
    mask = torch.ones_like(inputs["pixel_values"][:, :, 0], dtype=torch.bool)
    mask[..., 20:] = False
    inputs["pixel_attention_mask"] = mask  # what is padded is not looked at, and does not look
    with gp.prune(made.model, asking(seen, Attention("received"), gp.Input()), 2):
        forward(made.model, inputs)
    expected = by_token(family, inside(eager, inputs).received(1))
    assert_seen(seen, expected)
    assert all((image[3::4] == 0).all() and (image[::4] > 0).all() for image in seen)


@family
def test_blocks_of_queries_add_up(family, monkeypatch) -> None:
    whole = look(family, Attention("received", 1))
    monkeypatch.setattr(arithmetic, "BLOCK", 5 * 4 * 64)
    for mine, wanted in zip(look(family, Attention("received", 1)), whole, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-7)


# Which image is whose -------------------------------------------------------------------------------------------------


@family
@pytest.mark.parametrize("need", [Attention("received"), Keys("tower"), Encoded()], ids=repr)
@pytest.mark.parametrize("options", [{"num_beams": 2}, {"num_return_sequences": 3, "do_sample": True}], ids=str)
def test_repeated_prompts_see_their_own_images(family, need, options) -> None:
    if family == "internvl" and not TAKES_FEATURES:
        pytest.skip("this release of transformers gives a prompt's copies each other's tiles")
    torch.manual_seed(0)
    alone, made = look(family, need, generate, **FEW), tiny(family)
    seen: list[Tensor] = []
    with gp.prune(made.model, asking(seen, need, gp.Input()), 2) as handle:
        generate(made.model, made.prompt(BATCH), **options, **FEW)
        owners = [selection.row for selection in handle.selections]
    times = options.get("num_beams") or options["num_return_sequences"]
    assert owners == [*range(times), *(row for row in range(times, 2 * times) for _ in range(2))]
    if TAKES_FEATURES or family != "llava":
        expected = alone[:1] * times + alone[1:] * times
    else:  # older releases give a prompt's copies the images in this order, and what is seen is that of the images
        expected = [values for values in alone for _ in range(times)]
    assert_seen(seen, expected)


@every
def test_a_prompt_alone_sees_what_it_sees_in_its_batch(family) -> None:
    made, need = tiny(family), Attention("received")
    batch = look(family, need, generate, **FEW)
    seen: list[Tensor] = []
    with gp.prune(made.model, asking(seen, need, gp.Input()), 2):
        generate(made.model, made.prompt(BATCH[:1]), **FEW)
        generate(made.model, made.prompt(BATCH[1:]), **FEW)
    for mine, wanted in zip(of_own_rows(family, seen), batch, strict=True):
        near(mine, wanted)


@family
@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
def test_looking_changes_nothing(family, at) -> None:
    made, case = tiny(family), CASES[2]
    plain = proofs.plain(family, "sdpa", case)

    @dataclass(frozen=True, kw_only=True)
    class Everything(proofs.Custom):
        needs = (Attention("received"), Attention("received", 0, "one"), Keys("tower"), Encoded(), Encoded(0))

    method = Everything(choose=lambda cues, k: gp.Keep.everything(cues.n, cues.features.device), at=at)
    with gp.prune(made.model, method, gp.Ratio(1.0)):
        proofs.assert_near(generate(made.model, made.prompt(case.rows)), plain)
        assert made.model.get_decoder().config._attn_implementation == "sdpa"


@pytest.mark.filterwarnings(
    "ignore:You are calling .generate:UserWarning"
)  # 5.16 takes offloaded weights for the device
@pytest.mark.parametrize("family", ["qwen2_5_vl", "smolvlm", "internvl"])
@pytest.mark.parametrize("need", [Attention("received"), Keys("tower"), Encoded()], ids=repr)
def test_offloaded_weights_are_read_alike(family, need) -> None:
    made, seen = fresh(family), list[Tensor]()
    accelerate.cpu_offload(made.model, execution_device=torch.device("cpu"))
    with gp.prune(made.model, asking(seen, need, gp.Input()), 2):
        generate(made.model, made.prompt(BATCH), **FEW)
    assert_seen(seen, look(family, need))


@family
def test_features_that_were_computed_without_looking_are_refused(family) -> None:
    made = tiny(family)
    parts, inputs = find_parts(made.model), made.prompt(BATCH)
    if not TAKES_FEATURES:
        pytest.skip("this release of transformers takes no image features")
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    for need, word in ((Attention("received"), "attention inside"), (Keys("tower"), "keys"), (Encoded(), "rows")):
        seen: list[Tensor] = []
        with gp.prune(made.model, "random", 2) as handle:

            def features() -> Any:
                with torch.no_grad():
                    return parts.outer.get_image_features(**vision(inputs), return_dict=True)

            outside = features()
            with handle.using(asking(seen, need, gp.Input())):
                with pytest.raises(ValueError, match=f"vision tower.*{word}|{word}.*vision tower"):
                    forward(made.model, rest, mm_encoder_outputs={"image": outside})
                forward(made.model, rest, mm_encoder_outputs={"image": features()})
        assert len(seen) == 3


# Refused --------------------------------------------------------------------------------------------------------------


@family
@pytest.mark.parametrize(
    ("need", "match"),
    [
        (Attention("received", 7), "has . layers and no layer 7"),
        (Keys("tower", -9), "has . layers and no layer -9"),
        (Encoded(3), "has . layers and no layer 3"),
        (Keys("tower", of="text"), "reads no text, so use Keys"),
    ],
    ids=repr,
)
def test_what_a_tower_cannot_give_is_refused_with_the_methods_that_run(family, need, match) -> None:
    with pytest.raises(ValueError, match=rf"Asking cannot run at 'input' here: .*{match}.*Methods that can: greedy"):
        gp.prune(tiny(family).model, asking([], need, gp.Input()), 2)


def test_an_unknown_tower_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("greedyprune.models.parts.READABLE_TOWERS", ("clip_vision_model",))
    for need in (Attention("received"), Keys("tower"), Encoded()):
        with pytest.raises(ValueError, match=r"is of type 'smolvlm_vision', which is not known here, only clip_"):
            gp.prune(tiny("smolvlm").model, asking([], need, gp.Input()), 2)
    gp.prune(tiny("smolvlm").model, "random", 2).remove()
