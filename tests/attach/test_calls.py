"""Calls that differ: overrides for some calls and one thread, budgets per image, plain dicts, warnings, refusals."""

import contextvars
import inspect
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch

import greedyprune as gp
import proofs
from greedyprune.models.parts import find_parts
from greedyprune.plain import from_plain, to_plain
from proofs import (
    EARLY,
    GRID,
    MADE,
    MODEL,
    ONE,
    RAGGED,
    TWO,
    WORDS,
    at_once,
    forward,
    generate,
    near,
    places,
    same,
    truth,
    turn,
)
from tiny import Tiny, fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")

FEW = {"max_new_tokens": 3}


def kept(handle) -> list[list[int]]:
    """What the last call kept of each image."""
    return [selection.rows.tolist() for selection in handle.selections]


def said(handle, inputs=ONE) -> tuple[str, str, list[int]]:
    """Method, place and counts of a call that is made now."""
    generate(MODEL, inputs, **FEW)
    report = handle.report()
    return report.method, report.at, [selection.k for selection in handle.selections]


# Overrides ------------------------------------------------------------------------------------------------------------


def test_overrides_nest_and_end() -> None:
    base = ("GreedyPrune", "layer:2", [5])
    with gp.prune(MODEL, gp.GreedyPrune(), 5) as handle:
        assert said(handle) == base
        with handle.using(keep=3) as request:
            assert isinstance(request, gp.Request)
            assert said(handle) == ("GreedyPrune", "layer:2", [3])
            assert request.report() == handle.report()
            with handle.using("grid", gp.Ratio(0.5), at=gp.Layer(1)):
                assert said(handle) == ("UniformGrid", "layer:1", [8])
                with handle.using(at=gp.Input()):
                    assert said(handle) == ("UniformGrid", "input", [8])
                assert said(handle) == ("UniformGrid", "layer:1", [8])
            with handle.using(keep=gp.PerLayer({1: 9, 3: 2})):
                assert said(handle) == ("GreedyPrune", "layers:1,3", [2])
            assert said(handle) == ("GreedyPrune", "layer:2", [3])
        assert said(handle) == base
        with handle.using():
            assert said(handle) == base


def test_a_new_method_brings_its_own_place() -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=gp.Layer(1)) as handle:
        with handle.using(gp.AveragePool(), 4):
            assert said(handle) == ("AveragePool", "input", [4])
        with handle.using(keep=4):
            assert said(handle) == ("GreedyPrune", "layer:1", [4])


@places
def test_what_is_used_is_what_would_have_been_attached(at) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 7, at=at, positions="compact") as handle:
        wanted, rows = generate(MODEL, RAGGED), kept(handle)
    with gp.prune(MODEL, "random", 2, at=gp.Layer(3)) as handle:
        before = generate(MODEL, RAGGED)
        with handle.using(gp.GreedyPrune(), 7, at=at, positions="compact"):
            assert same(generate(MODEL, RAGGED), wanted)
            assert kept(handle) == rows
            with handle.using(positions="original"):
                run = generate(MODEL, RAGGED)
                near(run.logits, truth(RAGGED, run.sequences, handle.selections, at))
        assert same(generate(MODEL, RAGGED), before)


def test_an_override_leaves_positions_as_they_are() -> None:
    with gp.prune(MODEL, GRID, 3, positions="compact"):
        wanted = generate(MODEL, ONE)
    with gp.prune(MODEL, GRID, 5, positions="compact") as handle, handle.using(keep=3):
        assert same(generate(MODEL, ONE), wanted)


def test_overrides_end_with_an_exception() -> None:
    def fails(handle) -> None:
        with handle.using(keep=3), handle.using(at=gp.Input()):
            raise KeyError

    with gp.prune(MODEL, gp.GreedyPrune(), 5) as handle:
        with pytest.raises(KeyError):
            fails(handle)
        assert said(handle) == ("GreedyPrune", "layer:2", [5])
        with pytest.raises(ValueError, match="give one for each"), handle.using(keep=[3, 4]):
            generate(MODEL, ONE)
        assert said(handle) == ("GreedyPrune", "layer:2", [5])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"keep": 0.5}, TypeError, r"write Ratio\(0.5\)"),
        ({"keep": -3}, ValueError, "cannot be negative"),
        ({"keep": []}, ValueError, "holds no budget"),
        ({"at": gp.Layer(4)}, ValueError, r"last place is Layer\(3\)"),
        ({"method": "gird"}, ValueError, "did you mean 'grid'"),
        ({"positions": "short"}, ValueError, "choose one of original, compact"),
        ({"keep": gp.PerLayer({1: 3}), "at": gp.Layer(1)}, ValueError, "leave out at="),
    ],
)
def test_a_wrong_override_is_refused_where_it_is_written(options, error, match) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5) as handle:
        with pytest.raises(error, match=match), handle.using(**options):
            raise AssertionError("never entered")
        assert said(handle) == ("GreedyPrune", "layer:2", [5])


def test_an_override_is_of_one_handle() -> None:
    other = tiny("llava", "eager").model
    with gp.prune(MODEL, GRID, 5) as mine, gp.prune(other, GRID, 7) as theirs, mine.using(keep=3):
        generate(MODEL, ONE, **FEW)
        generate(other, ONE, **FEW)
        assert [mine.selections[0].k, theirs.selections[0].k] == [3, 7]


def test_an_override_is_of_one_thread() -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), 5) as handle, ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        with handle.using(keep=3):
            assert pool.submit(said, handle).result() == ("GreedyPrune", "layer:2", [5])
            assert said(handle) == ("GreedyPrune", "layer:2", [3])


THREADS, CALLS = 4, 8


def test_many_threads_answer_like_one() -> None:
    budgets = [3, gp.Ratio(0.5), 16, gp.PerLayer({1: 9, 3: 2})]
    prompts = [ONE, RAGGED, MADE.prompt(proofs.TEXT.rows), TWO]
    jobs = [(inputs, keep, at) for (inputs, keep), at in product(product(prompts, budgets), (gp.Input(), EARLY))]
    # A schedule says itself where to cut, and the same budget at another place is another job.
    jobs = [(inputs, keep, None if isinstance(keep, gp.PerLayer) else at) for inputs, keep, at in jobs]
    failures: list[str] = []

    def answer(handle, job) -> tuple[torch.Tensor, list[list[int]], str]:
        inputs, keep, at = job
        with handle.using(keep=keep, at=at):
            run = generate(MODEL, inputs, **FEW)
            return run.tokens, run.logits, kept(handle), handle.report().at

    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=gp.Layer(1)) as handle:
        expected = [answer(handle, job) for job in jobs]
    # Another handle, whose hooks in the layers are put on by whichever thread comes first.
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=gp.Layer(1)) as handle:
        together = threading.Barrier(THREADS)

        def work(first: int) -> None:
            together.wait()
            for call in range(CALLS):
                place = (first * 5 + call * 7) % len(jobs)
                got, wanted = answer(handle, jobs[place]), expected[place]
                if not (torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1]) and got[2:] == wanted[2:]):
                    failures.append(f"thread {first}, call {call}: job {place} differs")

        at_once(work, ((first,) for first in range(THREADS)))
    assert failures == []


def test_decoder_layers_carry_their_hooks_once() -> None:
    with gp.prune(MODEL, "random", gp.Ratio(1.0), at=gp.Layer(2)):
        for _ in range(2):
            forward(MODEL, ONE)
            assert [len(layer._forward_pre_hooks) for layer in MODEL.get_decoder().layers] == [1] * 4


def test_layers_of_the_tower_carry_their_hooks_once_and_only_for_a_method_that_reads_them() -> None:
    attentions = [own for _, own in find_parts(MODEL).tower_layers]
    for method, hooks in (("random", 0), ("hiprune", 1)):
        with gp.prune(MODEL, method, 4):
            for _ in range(2):
                forward(MODEL, ONE)
                assert [len(own._forward_pre_hooks) for own in attentions] == [hooks] * len(attentions)


def test_a_tower_that_runs_while_the_pruning_is_removed_keeps_no_hook() -> None:
    """`generate` runs it outside every forward, so `remove` does not wait for it."""
    own = find_parts(MODEL).tower_layers[0][1]
    handle = gp.prune(MODEL, "hiprune", 4)
    begin = list(find_parts(MODEL).tower._forward_pre_hooks.values())[-1]
    handle.remove()
    contextvars.copy_context().run(begin, find_parts(MODEL).tower, (), {})
    assert not own._forward_pre_hooks


# Budgets per image ----------------------------------------------------------------------------------------------------


@places
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}], ids=str)
def test_budgets_go_to_the_images_in_order(at, options) -> None:
    budgets = [4, gp.Ratio(0.5), 0]
    with gp.prune(MODEL, gp.GreedyPrune(), 5, at=at) as handle, handle.using(keep=budgets):
        torch.manual_seed(0)
        if options and "mm_encoder_outputs" not in inspect.signature(MODEL.forward).parameters:
            # Older releases give a prompt's copies the images of other prompts: no budget can be right there.
            with pytest.raises(ValueError, match="give one for each"):
                generate(MODEL, RAGGED, **options)
            return
        generate(MODEL, RAGGED, **options)
    times = 2 if options else 1
    expected = [(row * times + copy, k) for row, ks in enumerate([[4], [8, 0]]) for copy in range(times) for k in ks]
    assert [(selection.row, selection.k) for selection in handle.selections] == expected


@pytest.mark.parametrize(
    ("rows", "budgets"),
    [
        (((0,), (1, 2)), [4, 5]),
        (((0,), (1, 2)), [4, 5, 6, 7]),
        (((0,), (1, 2)), [4]),
        (((0,), (1,)), [4]),  # not two beams of one prompt
        (((0, 1), (2, 3)), [4, 5]),
    ],
    ids=str,
)
def test_every_image_needs_a_budget(rows, budgets) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), budgets), pytest.raises(ValueError, match="give one for each"):
        generate(MODEL, MADE.prompt(rows))


# Plain dicts ----------------------------------------------------------------------------------------------------------


def test_a_method_may_be_a_plain_dict() -> None:
    plain = {"type": "greedyprune", "tau": 0.9}
    with gp.prune(MODEL, gp.GreedyPrune(tau=0.9), 5) as handle:
        wanted, rows = generate(MODEL, RAGGED), kept(handle)
    with gp.prune(MODEL, plain, from_plain({"type": "ratio", "share": 0.3125})) as handle:
        assert same(generate(MODEL, RAGGED), wanted)
        assert kept(handle) == rows
        with handle.using({"type": "grid"}):
            assert said(handle) == ("UniformGrid", "layer:2", [5])
    with pytest.raises(ValueError, match="no option of 'greedyprune' 'tua': did you mean 'tau'"):
        gp.prune(MODEL, {"type": "greedyprune", "tua": 0.9}, 5)


@pytest.mark.parametrize("keep", [7, gp.Ratio(0.3), [3, gp.Ratio(0.5)], gp.PerLayer({1: gp.Ratio(0.5), 3: 4})], ids=str)
def test_a_call_survives_json(keep) -> None:
    method, at = gp.GreedyPrune(tau=gp.MeanScaled(), fallback="relax"), None if isinstance(keep, gp.PerLayer) else EARLY
    sent = json.dumps([to_plain(value) for value in (method, keep, at)])
    with gp.prune(MODEL, method, keep, at=at) as handle:
        wanted, rows = generate(MODEL, TWO), kept(handle)
    method, keep, at = (from_plain(value) for value in json.loads(sent))
    with gp.prune(MODEL, method, keep, at=at) as handle:
        assert same(generate(MODEL, TWO), wanted)
        assert kept(handle) == rows


# Warnings and refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
def test_a_share_that_rounds_to_all_is_said_once_per_call(at) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), gp.Ratio(0.99), at=at) as handle:
        for _ in range(2):
            with pytest.warns(gp.PruneWarning, match=r"keep=99% of images with 16 visual tokens rounds to all") as seen:
                generate(MODEL, TWO)
            assert len(seen) == 1
        with handle.using(keep=[gp.Ratio(0.99), 4]):  # something left
            generate(MODEL, TWO)
        with handle.using(keep=16):  # nothing was asked for
            generate(MODEL, TWO)
        with handle.using(keep=17), pytest.warns(gp.PruneWarning, match="keep=17 .* is more than all of them"):
            generate(MODEL, TWO)
        generate(MODEL, MADE.prompt(proofs.TEXT.rows))  # nothing could leave


def test_a_schedule_that_rounds_to_all_says_so() -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), gp.PerLayer({1: gp.Ratio(0.99), 2: gp.Ratio(0.98)})) as handle:
        with pytest.warns(gp.PruneWarning, match="rounds to all") as seen:
            generate(MODEL, TWO)
        assert len(seen) == 1
        with handle.using(keep=gp.PerLayer({1: 4, 2: gp.Ratio(0.98)})):
            generate(MODEL, TWO)


@pytest.mark.parametrize("family", ["internvl", "llava"])
@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
def test_videos_of_a_family_without_videos_are_refused(family, at) -> None:
    made = tiny(family)
    image = made.prompt(((0,),))
    before = generate(made.model, image)
    with gp.prune(made.model, gp.GreedyPrune(), 5, at=at):
        with pytest.raises(NotImplementedError, match=rf"videos of a '{family}' model are not supported: call rem"):
            forward(made.model, image, pixel_values_videos=image["pixel_values"])
        generate(made.model, image)
    assert same(generate(made.model, image), before)


CUTS = [(5, gp.Input()), (5, gp.Layer(2)), (5, EARLY), (gp.PerLayer({1: 9, 3: 2}), None)]


@pytest.mark.parametrize(("keep", "at"), CUTS, ids=str)
@pytest.mark.parametrize("inputs", [ONE, RAGGED], ids=["one", "ragged"])
@pytest.mark.parametrize("words", [WORDS, WORDS[:, :1]], ids=["words", "word"])
def test_a_short_cache_is_refused_once_the_model_is_whole(keep, at, inputs, words) -> None:
    with gp.prune(MODEL, gp.GreedyPrune(), keep, at=at):
        first = generate(MODEL, inputs)
        more = turn(MADE, inputs, first, words)
    plain = generate(MODEL, inputs)
    lengths = [layer.keys.shape[-2] for layer in first.cache.layers]
    if words is WORDS:
        with pytest.raises(RuntimeError, match="filled while the model was pruned"):
            generate(MODEL, more, past_key_values=first.cache)
    else:  # one token without a mask, as a loop by hand that forgot it
        step = {"input_ids": words.expand(len(first.tokens), 1), "past_key_values": first.cache}
        with pytest.raises(RuntimeError, match="filled while the model was pruned"):
            forward(MODEL, step)
    assert [layer.keys.shape[-2] for layer in first.cache.layers] == lengths
    assert same(generate(MODEL, inputs), plain)


# Quantised weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("keep", "at"), CUTS[:3], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_int8_weights_are_pruned_alike(attention, keep, at) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    made = fresh("llava", attention)
    plain = generate(made.model, RAGGED)
    quantization.quantize_(made.model.model, quantization.Int8WeightOnlyConfig())
    whole = generate(made.model, RAGGED)
    assert (whole.logits[:, 0] - plain.logits[:, 0]).abs().max() > 1e-3  # the weights are others now
    with gp.prune(made.model, gp.GreedyPrune(), keep, at=at) as handle:
        run = generate(made.model, RAGGED)
    assert same(generate(made.model, RAGGED), whole)
    made.model.set_attn_implementation("eager")
    eager = Tiny(made.model, made.images, made.extras)
    dropped = proofs.dropped_columns(RAGGED["input_ids"], handle.selections)
    near(run.logits, proofs.masked(eager, RAGGED, run.sequences, dropped, at))
