"""Faults that users of neighbouring libraries reported: interrupts, and forwards that others end or remove."""

from __future__ import annotations

import copy
import gc
import threading
import time
import weakref
from typing import Any

import pytest
import torch

import greedyprune as gp
import proofs
from breadth import some
from field import cuts
from greedyprune.attach.context import FORWARD
from greedyprune.verify.traces import changed
from proofs import (
    GRID,
    MADE,
    ONE,
    WORDS,
    forward,
    generate,
    near,
)
from tiny import fresh

pytestmark = pytest.mark.usefixtures("untouched")


# Interrupts -----------------------------------------------------------------------------------------------------------


def stop(kind: type[BaseException]) -> Any:
    """A hook that raises."""

    def hook(*_: Any) -> None:
        raise kind("stop")

    return hook


@cuts
@pytest.mark.parametrize("kind", some([ValueError, KeyboardInterrupt, SystemExit], KeyboardInterrupt))
@pytest.mark.parametrize("family", some(["llava", "qwen2_5_vl", "gemma3"], "llava", "gemma3"))
def test_an_interrupt_leaves_no_door_open_for_a_pruned_cache(family: str, kind: Any, at: gp.Stage) -> None:
    made = fresh(family)
    inputs = made.prompt(((0,),))
    handle = gp.prune(made.model, gp.Random(), 5, at=at)
    first = generate(made.model, inputs, max_new_tokens=3)
    cache = copy.deepcopy(first.cache)
    with proofs.hooked(made.model.get_decoder().layers[3].register_forward_hook(stop(kind))), pytest.raises(kind):
        generate(made.model, inputs)
    assert FORWARD.get() is None
    more = made.continued(
        {key: inputs[key] for key in ("attention_mask", "input_ids")}, torch.cat([first.sequences, WORDS], 1)
    )
    other = fresh(family)
    for model in (other.model, made.model):  # an unpruned model while the call still stands there, then its own
        if model is made.model:
            handle.remove()
        with pytest.raises(RuntimeError, match="filled while the model was pruned"):
            generate(model, more, past_key_values=copy.deepcopy(cache), max_new_tokens=2)
    assert FORWARD.get() is None


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_nothing_is_alive_after_an_interrupt(kind: Any) -> None:
    made = fresh("llava")
    model, inputs, seen = made.model, ONE, weakref.ref(made.model)
    with pytest.raises(kind), gp.prune(model, gp.Random(), 5, at=gp.Layer(2)):  # noqa: PT012
        model.get_decoder().layers[3].register_forward_hook(stop(kind))
        generate(model, inputs)
    del made, model
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize("where", ["tower", "decoder"])
def test_a_method_that_looks_into_the_tower_goes_on_after_an_interrupt(where: str) -> None:
    made = fresh("llava")
    module = made.model.model.vision_tower if where == "tower" else made.model.get_decoder().layers[1]
    with gp.prune(made.model, gp.ClsTopK(), 5) as handle:
        with proofs.hooked(module.register_forward_pre_hook(stop(KeyboardInterrupt))), pytest.raises(KeyboardInterrupt):
            generate(made.model, ONE)
        generate(made.model, ONE, max_new_tokens=2)
        assert [s.k for s in handle.selections] == [5]


@cuts
def test_a_forward_is_pruned_as_a_whole_or_not_at_all(at: gp.Stage) -> None:
    """While one thread is in the middle of a forward, another removes the pruning, and a third begins one."""
    made = fresh("llava")
    plain = forward(made.model, ONE).logits
    inside, go, found = threading.Event(), threading.Event(), dict[str, Any]()

    def wait(*_: Any) -> None:
        if threading.current_thread().name == "first":
            inside.set()
            go.wait(10)

    def run(name: str) -> None:
        found[name] = forward(made.model, ONE, use_cache=True)

    handle = gp.prune(made.model, GRID, 5, at=at)
    pruned = forward(made.model, ONE).logits
    threads = [threading.Thread(target=run, args=(name,), name=name) for name in ("first", "second")]
    threads.append(threading.Thread(target=handle.remove))
    with proofs.hooked(made.model.get_decoder().layers[1].register_forward_hook(wait)):
        threads[0].start()
        assert inside.wait(10)
        threads[2].start()
        while not handle._outer._closing:
            time.sleep(0.001)
        threads[1].start()
        threads[1].join(10)
        assert threads[2].is_alive()  # it waits for the first
        go.set()
        for thread in threads:
            thread.join(10)
    near(found["first"].logits, pruned)
    near(found["second"].logits, plain)
    assert proofs.hooks_on(made.model) == 0
    assert "forward" not in vars(made.model.model)


def test_removal_waits_for_no_forward_that_an_interrupt_ended_and_refuses_inside_one() -> None:
    made = fresh("llava")
    handle = gp.prune(made.model, GRID, 5)
    inside = lambda *_: handle.remove()  # noqa: E731
    hook = made.model.get_decoder().layers[1].register_forward_hook(inside)
    with proofs.hooked(hook), pytest.raises(RuntimeError, match="inside a forward"):
        generate(made.model, ONE)
    generate(made.model, ONE, max_new_tokens=2)
    assert [s.k for s in handle.selections] == [5]
    handle.remove()
    assert proofs.hooks_on(made.model) == 0


@cuts
def test_a_forward_that_somebody_put_back_leaves_nothing_either(at: gp.Stage) -> None:
    """Libraries that wrap a module's forward put the former one back, and with it go what stood in front."""
    made = fresh("llava")
    outer = made.model.model
    with gp.prune(made.model, GRID, 5, at=at) as handle:
        outer.forward = type(outer).forward.__get__(outer)
        hook = made.model.get_decoder().layers[3].register_forward_hook(stop(ValueError))
        with proofs.hooked(hook), pytest.raises(ValueError, match="stop"):
            generate(made.model, ONE)
        assert FORWARD.get() is None
        generate(made.model, ONE, max_new_tokens=2)
        assert [s.k for s in handle.selections] == [5]
    assert "forward" in vars(outer)  # which is theirs


def test_a_call_that_nobody_ended_opens_no_door_for_a_pruned_cache() -> None:
    made, other = fresh("llava"), fresh("llava")
    outer = made.model.model
    handle = gp.prune(made.model, GRID, 5)
    first = generate(made.model, ONE, max_new_tokens=3)
    outer.forward = type(outer).forward.__get__(outer)
    hook = made.model.get_decoder().layers[3].register_forward_hook(stop(KeyboardInterrupt))
    with proofs.hooked(hook), pytest.raises(KeyboardInterrupt):
        generate(made.model, ONE)
    assert FORWARD.get() is not None
    more = proofs.turn(MADE, ONE, first, WORDS)
    with pytest.raises(RuntimeError, match="filled while the model was pruned"):
        generate(other.model, more, past_key_values=first.cache, max_new_tokens=2)
    handle.remove()  # which ends it
    assert FORWARD.get() is None


def test_what_cannot_be_put_on_whole_is_taken_off_again(monkeypatch: Any) -> None:
    made = fresh("llava")
    generate(made.model, ONE, max_new_tokens=1)
    before = proofs.fingerprint(made.model)

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("greedyprune.attach.handle.FeatureWatch.register", fail)
    with pytest.raises(MemoryError):
        gp.prune(made.model, GRID, 5)
    assert changed(before, proofs.fingerprint(made.model)) == set()
