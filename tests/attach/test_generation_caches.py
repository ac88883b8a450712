"""Caches that are not the default one, prompts in chunks, and models that are spread out or kept elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from torch import Tensor
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import QuantizedLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

import greedyprune as gp
import proofs
from breadth import some
from proofs import EARLY, MADE, MODEL, ONE, RAGGED, TEXT, TWO, WORDS, assert_near, can_be_cut, forward, generate, same
from tiny import fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")

both = pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)


# Quantised caches -----------------------------------------------------------------------------------------------------


class Lossless(QuantizedLayer):
    """A quantised cache layer that keeps a form of its own, from which everything comes back exactly."""

    def _quantize(self, tensor: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        return tensor[..., 1:].clone(), tensor[..., :1].clone()

    def _dequantize(self, q_tensor: tuple[Tensor, Tensor]) -> Tensor:
        return torch.cat([q_tensor[1], q_tensor[0]], -1)


def quantised() -> DynamicCache:
    """A cache of such layers, which are quantised anew every 4 tokens."""
    cache = DynamicCache()
    cache.layers = [Lossless(residual_length=4) for _ in MODEL.get_decoder().layers]
    return cache


@both
@pytest.mark.parametrize("inputs", [ONE, RAGGED], ids=["one", "ragged"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_a_quantised_cache_holds_what_is_kept(at: gp.Stage, inputs: dict[str, Tensor], options: dict[str, Any]) -> None:
    try:
        generate(MODEL, inputs, past_key_values=quantised(), **options)
    except IndexError:
        pytest.skip("this release of transformers cannot reorder a quantised cache")
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at) as handle:
        answer, report = generate(MODEL, inputs, **options), handle.report()
        run = generate(MODEL, inputs, past_key_values=quantised(), **options)
        assert handle.report().to_dict() | {"select_ms": 0} == report.to_dict() | {"select_ms": 0}
    assert_near(run, answer)
    shorts = [
        layer._quantized_keys[0].shape[-2] + layer.keys.shape[-2] * (layer.keys.ndim == 4) for layer in run.cache.layers
    ]
    assert shorts == [layer.keys.shape[-2] for layer in answer.cache.layers]
    assert [layer.get_seq_length() for layer in run.cache.layers] == [inputs["input_ids"].shape[1] + 19] * 4


@both
def test_a_second_turn_continues_a_quantised_cache(at: gp.Stage) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at):
        runs = []
        for cache in (None, quantised()):
            first = generate(MODEL, ONE, past_key_values=cache)
            runs.append(generate(MODEL, proofs.turn(MADE, ONE, first, WORDS), past_key_values=first.cache))
    assert_near(*runs)


def test_quantised_keys_cannot_be_taken_out_later() -> None:
    cache = quantised()
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=EARLY):
        answer = generate(MODEL, ONE)
        with pytest.raises(NotImplementedError, match="early=True"):
            generate(MODEL, ONE, past_key_values=cache)
        assert cache.get_seq_length() == 0
        assert same(generate(MODEL, ONE), answer)


@both
@pytest.mark.parametrize("name", ["static", "offloaded_static"])
def test_static_caches_are_refused_with_the_remedy(at: gp.Stage, name: str) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at):
        answer = generate(MODEL, ONE)
        with pytest.raises(NotImplementedError, match="use the default dynamic cache"):
            generate(MODEL, ONE, cache_implementation=name)
        assert same(generate(MODEL, ONE), answer)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="an offloaded cache moves layers to a GPU and back")
@both
def test_an_offloaded_cache_changes_nothing(at: gp.Stage) -> None:
    model = fresh("llava").model.cuda()
    inputs = {name: value.cuda() for name, value in RAGGED.items()}
    with gp.prune(model, gp.GreedyPrune(), 5, at=at):
        assert_near(generate(model, inputs, cache_implementation="offloaded"), generate(model, inputs))


# Prompts in chunks ----------------------------------------------------------------------------------------------------

CHUNKED = ("llava", "qwen2_5_vl", "gemma3 short window", "qwen3_5", "llava_next", "qwen3_vl video", "voxtral")


def chunked(model: Any, inputs: dict[str, Tensor], size: int) -> proofs.Run:
    """A run that prefills in chunks of this many tokens."""
    return generate(model, inputs, prefill_chunk_size=size, max_new_tokens=proofs.FEW)


@both
@pytest.mark.parametrize("family", some(CHUNKED, "llava", "gemma3 short window", "qwen3_5", "llava_next"))
@pytest.mark.parametrize("where", ["before", "at the image", "inside", "last", "whole"])
def test_images_in_chunks_are_refused_or_right(family: str, at: gp.Stage, where: str) -> None:
    made = tiny(family)
    inputs = made.prompt(((0,),))
    length, first = inputs["input_ids"].shape[1], int(proofs.is_visual(inputs["input_ids"])[0].int().argmax())
    size = {"before": 3, "at the image": first, "inside": first + 4, "last": length - 1, "whole": length}[where]
    plain = generate(made.model, inputs, max_new_tokens=proofs.FEW)
    try:
        reads_images = torch.equal(chunked(made.model, inputs, size).tokens, plain.tokens)
    except (RuntimeError, ValueError):
        reads_images = True  # it is refused without pruning, too
    if not reads_images:
        pytest.skip("this release of transformers loses the image when it prefills in chunks")
    with gp.prune(made.model, gp.GreedyPrune(), 5, at=at) as handle:
        answer = generate(made.model, inputs, max_new_tokens=proofs.FEW)
        try:
            run = chunked(made.model, inputs, size)
        except (NotImplementedError, ValueError, RuntimeError) as refusal:
            told = "prefill_chunk_size" in str(refusal)
            assert told or not isinstance(refusal, NotImplementedError)  # noqa: PT017
        else:  # in one piece, as it came
            assert size == length
            assert_near(run, answer)
            assert [selection.k for selection in handle.selections] == [5]
        assert same(generate(made.model, inputs, max_new_tokens=proofs.FEW), answer)
    assert same(generate(made.model, inputs, max_new_tokens=proofs.FEW), plain)


@pytest.mark.parametrize("family", ["llava", "glm4v video"])  # transformers itself loses GLM's videos in chunks
@pytest.mark.parametrize("said", ["argument", "config", "own config"])
def test_chunks_are_refused_before_anything_runs(family: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, ran = tiny(family), list[Any]()
    rules: dict[str, Any] = {"argument": {"prefill_chunk_size": 9}, "config": {}, "own config": {}}[said]
    if said == "config":
        rules = {"generation_config": GenerationConfig(prefill_chunk_size=9, max_new_tokens=2)}
    elif said == "own config":
        monkeypatch.setattr(made.model.generation_config, "prefill_chunk_size", 9, raising=False)
    hooks = [each.register_forward_pre_hook(lambda *_: ran.append(1)) for each in made.model.modules()]
    with gp.prune(made.model, gp.Random(), 5), pytest.raises(Exception, match="leave out prefill_chunk_size") as caught:
        made.model.generate(**made.prompt(((0,),)), **rules)
    assert caught.type is NotImplementedError
    for hook in hooks:
        hook.remove()
    assert ran == []


def test_features_of_a_chunk_are_refused() -> None:
    """A chunk gets its part of the features, without the encoder's states."""
    part = BaseModelOutputWithPooling(pooler_output=torch.zeros(4, 32))  # type: ignore[arg-type]
    chunk = {"input_ids": ONE["input_ids"][:, :8], "mm_encoder_outputs": {"image": part}}
    with gp.prune(MODEL, gp.Random(), 5), pytest.raises(Exception, match="leave out prefill_chunk_size") as caught:
        MODEL(**chunk)
    assert caught.type is NotImplementedError


@both
@pytest.mark.parametrize("family", ["llava", "llava mistral short window"])
def test_text_in_chunks_is_left_alone(family: str, at: gp.Stage) -> None:
    made = tiny(family)
    inputs = made.prompt(TEXT.rows)
    plain = chunked(made.model, inputs, 4)
    with gp.prune(made.model, gp.GreedyPrune(), 5, at=at):
        assert same(chunked(made.model, inputs, 4), plain)


@both
def test_a_later_turn_of_text_may_come_in_chunks(at: gp.Stage) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at):
        runs = []
        for size in (None, 4):
            first = generate(MODEL, TWO)
            more = proofs.turn(MADE, TWO, first, WORDS, WORDS)
            try:
                runs.append(generate(MODEL, more, past_key_values=first.cache, prefill_chunk_size=size))
            except RuntimeError:
                pytest.skip("this release of transformers reads a later turn from its beginning again")
    if (
        not torch.equal(runs[0].tokens, runs[1].tokens)
        and runs[1].cache.get_seq_length() != runs[0].cache.get_seq_length()
    ):
        pytest.skip("this release of transformers reads a later turn from its beginning again")
    assert_near(*runs)


# Models that are spread out -------------------------------------------------------------------------------------------

SPREAD = [
    (name, at)
    for name in ("gemma3 short window", "gemma4 shared keys", "qwen3_5", "llava_next", "qwen3_vl")
    for at in (gp.Input(), gp.Layer(2), EARLY)
    if can_be_cut(name, at)
]


def on_disk(model: Any, folder: Any) -> None:
    """The last two decoder layers on disk, everything else where it was."""
    text = next(name for name, module in model.named_modules() if module is model.get_decoder())
    last = {f"{text}.layers.{index}": "disk" for index in (2, 3)}

    def above(name: str) -> bool:
        return name == "" or any(key.startswith(f"{name}.") for key in last)

    modules = [name for name, _ in model.named_modules() if not above(name) and above(name.rpartition(".")[0])]
    own = [name for name, _ in model.named_parameters() if above(name.rpartition(".")[0])]
    dispatch_model(
        model, dict.fromkeys([*modules, *own], "cpu") | last, main_device="cpu", offload_dir=folder, force_hooks=True
    )


@pytest.mark.parametrize(("family", "at"), some(SPREAD, "gemma4 shared keys", "qwen3_5", spread=True), ids=str)
@pytest.mark.parametrize("way", ["cpu offload", "disk"])
@pytest.mark.filterwarnings("ignore:You are calling .generate:UserWarning")  # 5.16 takes offloaded weights for a device
@pytest.mark.filterwarnings("ignore:The following device_map keys:UserWarning")  # weights beside modules
def test_a_model_that_is_spread_out_answers_alike(family: str, at: gp.Stage, way: str, tmp_path: Any) -> None:
    answer = proofs.pruned(family, "sdpa", at, proofs.CASES[2], gp.GreedyPrune())
    made = fresh(family)
    inputs, model = made.prompt(proofs.CASES[2].rows), made.model
    if way == "disk":
        on_disk(model, tmp_path)
    else:
        cpu_offload(model, execution_device=torch.device("cpu"))
    try:
        generate(model, inputs, max_new_tokens=1)
    except (RuntimeError, NotImplementedError, KeyError):
        pytest.skip("accelerate cannot offload this family: it reads weights outside of any forward")
    with gp.prune(model, gp.GreedyPrune(), proofs.keep_of(proofs.CASES[2]), at=at):
        assert_near(generate(model, inputs, max_new_tokens=proofs.FEW), answer)
        assert forward(model, inputs).logits.shape[1] < inputs["input_ids"].shape[1]
    remove_hook_from_submodules(model)
