"""Releases of transformers: every name that pruning relies on is looked for, whatever a release calls the cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache

import greedyprune as gp
import proofs
from greedyprune.models import release
from greedyprune.models.parts import find_parts
from greedyprune.models.release import Seam, cache_in, cache_of, is_tested, missing, probe_seams, seams
from proofs import MODEL, ONE, near
from tiny import NAMES, fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")

SEAMS = [*dict.fromkeys(seams(find_parts(MODEL)))]
DEEP = [seam for seam in dict.fromkeys(seams(find_parts(tiny("qwen3_vl").model))) if seam not in SEAMS]
PROBED = list(probe_seams(find_parts(MODEL)))


def hide(monkeypatch: pytest.MonkeyPatch, seam: Seam) -> None:
    """Let a release have renamed it."""
    if seam.arguments:
        monkeypatch.setattr(seam.owner, seam.name, without(getattr(seam.owner, seam.name), seam.arguments))
        return
    if not isinstance(seam.owner, type):
        monkeypatch.delattr(seam.owner, seam.name)
        return
    for owner in seam.owner.__mro__:
        if seam.name in vars(owner):
            monkeypatch.delattr(owner, seam.name)
    fields = getattr(seam.owner, "__dataclass_fields__", {})
    if seam.name in fields:  # in a dict of its own, whose order is that of the arguments
        others = {name: field for name, field in fields.items() if name != seam.name}
        monkeypatch.setattr(seam.owner, "__dataclass_fields__", others)


def without(method: Callable[..., Any], arguments: tuple[str, ...]) -> Callable[..., Any]:
    """A method whose arguments of these names have others."""

    def renamed(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    own = inspect.signature(method)
    named = [p.replace(name=f"{p.name}_renamed") if p.name in arguments else p for p in own.parameters.values()]
    renamed.__signature__ = own.replace(parameters=named)
    return renamed


@pytest.mark.parametrize("seam", [*SEAMS, *DEEP], ids=str)
def test_whatever_a_release_renames_is_noticed_before_anything_is_attached(seam: Seam, monkeypatch: Any) -> None:
    model = MODEL if seam in SEAMS else tiny("qwen3_vl").model
    before = proofs.fingerprint(model)
    with monkeypatch.context() as patch:
        hide(patch, seam)
        with pytest.raises(NotImplementedError) as refused:
            gp.prune(model, keep=4)
    assert str(seam) in str(refused.value)
    assert transformers.__version__ in str(refused.value)
    assert proofs.fingerprint(model) == before
    gp.prune(model, keep=4).remove()


@pytest.mark.parametrize("name", ["keys", "values", "is_initialized"])
def test_attributes_of_cache_layers_are_looked_for_too(name: str, monkeypatch: Any) -> None:
    class Renamed(release.DynamicLayer):
        def __getattribute__(self, wanted: str) -> Any:
            if wanted == name:
                raise AttributeError(wanted)
            return super().__getattribute__(wanted)

    monkeypatch.setattr(release, "DynamicLayer", Renamed)
    with pytest.raises(NotImplementedError, match=name):
        gp.prune(MODEL, keep=4)


@pytest.mark.parametrize("seam", PROBED, ids=lambda seam: seam.name)
def test_what_probes_rely_on_is_looked_for_where_a_method_asks(seam: Seam, monkeypatch: Any) -> None:
    if seam.name in ("input_layernorm", "self_attn", "q_proj", "k_proj", "v_proj"):
        monkeypatch.delitem(seam.owner._modules, seam.name)
    else:
        monkeypatch.delattr(seam.owner, seam.name)
    with pytest.raises(ValueError, match=f"lacks .*{seam.name}"):
        gp.prune(MODEL, gp.FastV(), keep=4)
    gp.prune(MODEL, gp.GreedyPrune(), keep=4).remove()  # which asks for nothing of it


def test_a_placeholder_token_under_another_name_is_noticed(monkeypatch: Any) -> None:
    made = fresh("llava")
    config = made.model.config
    for name in ("image_token_id", "image_token_index"):
        hide(monkeypatch, Seam(type(config), name))
        vars(config).pop(name, None)
    monkeypatch.setattr(type(config), "attribute_map", {})
    with pytest.raises(NotImplementedError, match="image_token_id"):
        gp.prune(made.model, keep=4)


@pytest.mark.parametrize("name", NAMES)
def test_this_release_has_everything(name: str) -> None:
    assert missing(find_parts(tiny(name).model)) == []


@pytest.mark.parametrize(
    ("version", "tested"),
    [
        ("5.15.1", False),
        ("5.16.0", True),
        ("5.19.0", True),
        ("5.24.0", True),
        ("5.24.7", True),
        ("5.25.0", False),
        ("5.25.0.dev0", False),
        ("5.103.0", False),
        ("6.0.0", False),
    ],
)
def test_a_release_that_nobody_has_tested_is_met_with_a_word(version: str, tested: bool, monkeypatch: Any) -> None:
    assert is_tested(version) == tested
    release._warn_of.cache_clear()
    monkeypatch.setattr(release.transformers, "__version__", version)
    if tested:
        gp.prune(MODEL, keep=4).remove()
        return
    with pytest.warns(gp.PruneWarning, match=rf"transformers {version} was not tested"):
        gp.prune(MODEL, keep=4).remove()
    gp.prune(MODEL, keep=4).remove()  # once is enough
    release._warn_of.cache_clear()


# Names of the cache ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cache", "past_key_values", "cache_params"])
def test_a_cache_is_found_under_any_name(name: str) -> None:
    cache = DynamicCache()
    assert cache_in({name: cache}) is cache
    assert cache_in({**dict.fromkeys(release.CACHE_NAMES), name: cache}) is cache
    assert cache_in({name: None}) is None
    assert name not in release.without_cache({name: cache})


@proofs.places
def test_a_model_that_returns_tuples_fills_the_same_cache(at: gp.Stage) -> None:
    with gp.prune(MODEL, proofs.GRID, 5, at=at):
        told, plain = proofs.forward(MODEL, ONE), proofs.forward(MODEL, ONE, return_dict=False)
        lengths = [layer.keys.shape[2] for layer in cache_of(told).layers]
        assert [layer.keys.shape[2] for layer in cache_of(plain).layers] == lengths
        assert cache_of(plain).get_seq_length() == ONE["input_ids"].shape[1]
        step = {"input_ids": torch.tensor([[11]])}
        first, second = (proofs.forward(MODEL, step, past_key_values=cache_of(out)).logits for out in (told, plain))
        near(first, second)
