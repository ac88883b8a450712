"""Decoder layers before the cut run once per batch, and the answers are those of layers that run each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

import greedyprune as gp
from breadth import some
from greedyprune import testbed
from greedyprune.eval import Engine, configurations
from greedyprune.eval import engine as engines
from greedyprune.eval.prefix import shared_prefix
from greedyprune.eval.scenes import Scenes
from greedyprune.models.parts import find_parts

for extra in ("sklearn", "skimage", "matplotlib"):
    pytest.importorskip(extra)

METHODS = ["greedyprune", "fastv", "sparsevlm", "pyramiddrop", "tome", "divprune", "random"]
STAGES = (gp.Input(), gp.Layer(1), gp.Layer(3), gp.Layer(2))


@pytest.fixture(scope="module", params=some(testbed.MODELS, "llava"))
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine(*testbed.load(request.param))


@contextmanager
def runs(model: Any) -> Iterator[list[int]]:
    """Inside, the attention of every decoder layer notes its index for each prompt that it reads."""
    found: list[int] = []
    handles = []
    for index, layer in enumerate(find_parts(model).layers):

        def note(module: Any, args: Any, kwargs: Any, index: int = index) -> None:
            if kwargs["hidden_states"].shape[1] > 1:
                found.append(index)

        handles.append(layer.self_attn.register_forward_pre_hook(note, with_kwargs=True))
    yield found
    for handle in handles:
        handle.remove()


def test_answers_are_those_of_layers_that_run_each_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = engine.prepare(0, Scenes(2, "dev", tasks=("where", "ocr", "digit")).items())
    configs = []
    for method in METHODS:
        for stage in STAGES:
            try:
                configs += configurations([method], {"1/4": gp.Ratio(1 / 4)}, [stage])[1:]
            except ValueError:  # a method that cannot run there
                continue
    configs += configurations(["greedyprune"], {"1/4": gp.Ratio(1 / 4)}, [gp.Layer(2, early=True)])[1:]
    able = [config for config in configs if not _refused(engine, batch, config)]
    assert len(able) > 15
    once = [replace(engine.answer(batch, config), seconds=0.0) for config in able]
    monkeypatch.setattr(engines, "shared_prefix", lambda *_: nullcontext())
    fresh = replace(batch, prefix={})
    assert once == [replace(engine.answer(fresh, config), seconds=0.0) for config in able]
    assert not fresh.prefix
    assert len(set(map(str, once))) > 10


def _refused(engine: Engine, batch: Any, config: Any) -> bool:
    try:
        engine.answer(replace(batch, prefix={}), config)
    except engines.ItemError:
        return True
    return False


def test_a_layer_before_the_cut_runs_once_for_a_batch(engine: Engine) -> None:
    batch = engine.prepare(0, Scenes(2, "dev", tasks=("where", "ocr")).items())
    with runs(engine.model) as found:
        for method in ("greedyprune", "fastv", "random"):
            for config in configurations([method], {"1/4": gp.Ratio(1 / 4)}, [gp.Layer(3)])[1:]:
                engine.answer(batch, config)
    depth = len(engine.parts.layers)
    assert [found.count(index) for index in range(depth)] == [1, 1, 1, *[3] * (depth - 3)]
    assert sorted(batch.prefix) == [0, 1, 2]


def test_other_inputs_run_and_the_model_is_left_as_it_was(engine: Engine) -> None:
    first, second = (engine.prepare(i, Scenes(1, "dev", seed, ("where",)).items()) for i, seed in enumerate((0, 1)))
    (config,) = configurations(["greedyprune"], {"1/4": gp.Ratio(1 / 4)}, [gp.Layer(2)])[1:]
    told = engine.answer(second, config).told
    before = [dict(vars(layer)) for layer in engine.parts.layers]
    engine.answer(first, config)
    second.prefix.update(first.prefix)  # runs of another picture
    assert engine.answer(second, config).told == told
    assert not torch.equal(first.prefix[0].given[0][0], second.prefix[0].given[0][0])
    with pytest.raises(ZeroDivisionError), shared_prefix(engine.parts, {}, 2):
        raise ZeroDivisionError
    assert [dict(vars(layer)) for layer in engine.parts.layers] == before
