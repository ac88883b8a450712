"""Training and compiling: gradients through a cut are those of the short prompt, or it is refused with the remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import greedyprune as gp
import proofs
from breadth import some
from proofs import EARLY, GRID, MODEL, ONE, can_be_cut, forward, generate, near, same
from tiny import Tiny, fresh

pytestmark = pytest.mark.usefixtures("untouched")

FAMILIES = ("llava", "qwen2_5_vl", "gemma3", "llava_next", "qwen3_5")
CELLS = [(name, at) for name in FAMILIES for at in (gp.Input(), gp.Layer(2), EARLY) if can_be_cut(name, at)]
CELLS += [("qwen3_vl", gp.Input()), ("qwen3_vl", gp.Layer(3))]  # DeepStack's planes all behind the cut, or before it


# Gradients ------------------------------------------------------------------------------------------------------------


def learned(made: Tiny, inputs: dict[str, Tensor], rows: slice = slice(None)) -> dict[str, Tensor]:
    """The gradients of a loss that reads the last six tokens, of which every model here has equally many."""
    made.model.zero_grad()
    logits = made.model(**inputs, use_cache=False).logits[:, -6:]
    target = torch.randn(logits.shape, generator=torch.Generator().manual_seed(7))
    (logits * target).sum().backward()
    return {name: weight.grad.clone() for name, weight in made.model.named_parameters() if weight.grad is not None}


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal gradients but for rounding, each by its own size."""
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        size = float(gradient.abs().max())
        assert float((found[name] - gradient).abs().max()) <= 1e-3 * size + 1e-5, name


def gathering(made: Tiny, ids: Tensor, dropped: Tensor, at: gp.Stage) -> Any:
    """Hooks on an unpruned model that take dropped tokens out of the states in front of a layer, and nothing else."""
    stay, start = (~dropped[0]).nonzero()[:, 0], proofs.start_of(at)
    places = {int(place): new for new, place in enumerate(stay)}
    visual = proofs.is_visual(ids)[0]
    mine = torch.tensor([number for number, place in enumerate(visual.nonzero()[:, 0]) if int(place) in places])

    def cut(x: Any, *axes: int) -> Any:
        for axis in axes:
            x = x.index_select(axis, stay) if x is not None else None
        return x

    def hook(index: int, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        states = args[0] if args else kwargs.pop("hidden_states")
        if index == start:
            states = cut(states, 1)
        mask = kwargs.get("attention_mask")
        kwargs["attention_mask"] = cut(mask, *((1,) if mask is not None and mask.ndim == 2 else (2, 3)))
        kwargs["position_embeddings"] = tuple(cut(x, -2) for x in kwargs["position_embeddings"])
        kwargs["position_ids"] = cut(kwargs.get("position_ids"), -1)
        return (states,), kwargs

    def planes(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """DeepStack adds to all visual tokens after the first layers: where these are short, to those that stay."""
        deep = kwargs.get("deepstack_visual_embeds")
        if not deep:
            return None
        if start == 0:
            kwargs["visual_pos_masks"] = cut(kwargs["visual_pos_masks"], 1)
            kwargs["deepstack_visual_embeds"] = [plane[mine] for plane in deep]
        return args, kwargs

    decoder = made.model.get_decoder()
    handles = [decoder.register_forward_pre_hook(planes, with_kwargs=True)]
    for index, layer in enumerate(decoder.layers):
        if index >= start:
            look = lambda layer, args, kwargs, index=index: hook(index, layer, args, kwargs)  # noqa: E731
            handles.append(layer.register_forward_pre_hook(look, with_kwargs=True))
    return proofs.hooked(*handles)


@pytest.mark.parametrize(("family", "at"), some(CELLS, "llava", "qwen3_5", "qwen3_vl", spread=True), ids=str)
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning")  # renamed in newer releases
@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["plain", "checkpoints", "reentrant"])
def test_gradients_are_those_of_the_short_prompt(family: str, at: gp.Stage, checkpointing: bool | None) -> None:
    made = fresh(family)
    inputs = made.prompt(((0,),))
    made.model.train()
    if checkpointing is not None:
        made.model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    layers = made.model.get_decoder().layers
    runs_hooks_again = checkpointing is not None and type(layers[0]).__call__ is not nn.Module.__call__
    with gp.prune(made.model, gp.GreedyPrune(), 5, at=at) as handle:
        if runs_hooks_again and not isinstance(at, gp.Input):
            with pytest.raises(NotImplementedError, match="gradient_checkpointing_disable"):
                learned(made, inputs)
            made.model.gradient_checkpointing_disable()
        found = learned(made, inputs)
    made.model.gradient_checkpointing_disable()
    dropped = proofs.dropped_columns(inputs["input_ids"], handle.selections)
    with gathering(made, inputs["input_ids"], dropped, at):
        expected = learned(made, inputs)
    assert_alike(found, expected)
    whole = learned(made, inputs)
    with pytest.raises(AssertionError):
        assert_alike(whole, expected)


def test_a_loss_of_the_model_itself_is_refused_with_the_remedy() -> None:
    model = fresh("llava").model.train()
    with gp.prune(model, gp.GreedyPrune(), 5), pytest.raises(NotImplementedError, match="remove"):
        model(**ONE, labels=ONE["input_ids"])


# torch.compile --------------------------------------------------------------------------------------------------------


def compile_all(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def compile_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def compile_a_layer(model: Any) -> Any:
    model.get_decoder().layers[1].compile(backend="eager")
    return model


WAYS = [compile_all, compile_forward, compile_a_layer, lambda model: torch.compile(model, backend="eager")]


@pytest.mark.parametrize("way", WAYS, ids=["compile()", "forward", "layer", "wrapper"])
def test_a_model_that_was_compiled_before_is_refused(way: Any) -> None:
    # Its graphs have no guards on hooks: a model that was called before would be pruned without any effect.
    model = way(fresh("llava").model)
    with pytest.raises(NotImplementedError, match=r"prune the model first, and call torch\.compile\(\) then"):
        gp.prune(model, GRID, 5)


def test_a_compiled_tower_is_no_reason_to_refuse() -> None:
    model = fresh("llava").model
    model.model.vision_tower.compile(backend="eager")
    gp.prune(model, GRID, 5).remove()


@pytest.mark.wide
@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_a_model_compiled_while_pruned_answers_alike(at: gp.Stage) -> None:
    torch._dynamo.reset()
    made = fresh("llava")
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at):
        answer = forward(MODEL, ONE).logits
    text = {name: made.prompt(((), ()))[name][:1] for name in ("input_ids", "attention_mask")}
    with gp.prune(made.model, gp.GreedyPrune(), 5, at=at):
        compiled = torch.compile(made.model, backend="eager")
        forward(compiled, text)  # graphs without an image come first
        near(forward(compiled, ONE).logits, answer)
    torch._dynamo.reset()
    assert same(generate(made.model, ONE), generate(MODEL, ONE))
