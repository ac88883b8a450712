"""A model type that is not in the table: it works where it proves itself on its first prompt, and is refused elsewhere.

The types used here are in the table; the tests take them out of it.
"""

import re

import pytest
import torch

import greedyprune as gp
import proofs
from greedyprune.attach.forward.prefill import Prefill
from greedyprune.attach.hooks import selftest
from greedyprune.models import table
from proofs import CASES, generate, hooked
from tiny import fresh, tiny

pytestmark = pytest.mark.usefixtures("untouched")

RAGGED = CASES[2]
KNOWN_AS_IT_IS = ["llava", "vipllava", "glm4v", "qwen2_5_vl", "llava_next", "gemma3", "qwen3_5", "ovis2", "voxtral"]
"""Types of which the table says nothing that a cut depends on: one pass of their first prompt proves them."""


@pytest.fixture
def forgotten():
    """Take a model type out of the table, whose order is that of the pages: it comes back to its place."""
    before = dict(table.FAMILIES)
    yield lambda name: table.FAMILIES.pop(name)
    table.FAMILIES.clear()
    table.FAMILIES.update(before)


@pytest.mark.parametrize("name", KNOWN_AS_IT_IS)
@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
def test_a_type_that_passes_is_pruned_right(forgotten, name, at) -> None:
    made = tiny(name)
    forgotten(name)
    with gp.prune(made.model, gp.Random(), gp.Ratio(0.4), at=at) as handle:
        with pytest.warns(gp.PruneWarning, match=f"'{name}' model is not in the table of families. It passed"):
            run = generate(made.model, made.prompt(RAGGED.rows), max_new_tokens=proofs.FEW)
        selections = handle.selections
        generate(made.model, made.prompt(RAGGED.rows), max_new_tokens=2)  # it is tested once, and warns once
    assert [s.k for s in selections] == [gp.Ratio(0.4).of(s.n) for s in selections]
    dropped = proofs.dropped_columns(made.prompt(RAGGED.rows)["input_ids"], selections)
    torch.testing.assert_close(run.logits, proofs.truth_of(name, RAGGED, run, dropped, at), **proofs.NEAR)


def test_what_a_text_model_gets_beside_its_states_is_not_cut_blindly(forgotten) -> None:
    made = tiny("qwen3_vl")
    forgotten("qwen3_vl")
    with gp.prune(made.model, gp.Random(), 4), pytest.raises(NotImplementedError, match="gets 'visual_pos_masks' with"):
        generate(made.model, made.prompt(((0,),)))


def test_a_type_that_counts_positions_by_itself_is_refused(forgotten) -> None:
    """Its layers number what they get from 0, so that whoever comes after a dropped token moves up."""
    made = fresh("llava")
    forgotten("llava")
    text = made.model.get_decoder()

    def count_anew(layer, args, kwargs):
        states = kwargs.get("hidden_states", args[0] if args else None)
        own = torch.arange(states.shape[1])[None]
        return args, {**kwargs, "position_embeddings": text.rotary_emb(states, own)}

    inputs = made.prompt(((0,),))
    with gp.prune(made.model, gp.Random(), 4, at=gp.Input()) as handle:
        late = [layer.register_forward_pre_hook(count_anew, with_kwargs=True) for layer in text.layers]
        with hooked(*late), pytest.raises(NotImplementedError, match="did not pass the self-test"):
            generate(made.model, inputs)
        assert handle.selections == []
        with pytest.warns(gp.PruneWarning, match="passed the self-test"):
            generate(made.model, inputs)


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
@pytest.mark.parametrize("dropping", [True, False], ids=["half is dropped", "all is kept"])
@pytest.mark.filterwarnings("ignore:a 'llava' model is not in the table of families")
def test_a_type_whose_states_are_off_by_a_hundredth_is_refused(forgotten, monkeypatch, at, dropping) -> None:
    """What a cut gives is wrong by ten times what rounding may do, either where tokens go or where all stay."""
    made, own = fresh("llava"), Prefill.cut
    forgotten("llava")

    def scaled(call, hidden, start):
        short = own(call, hidden, start)
        dropped = short.shape[1] < hidden.shape[1]
        return short * 1.02 if dropped == dropping else short

    inputs, states = made.prompt(((0,),)), []
    monkeypatch.setattr(Prefill, "cut", scaled)
    noted = made.model.get_decoder().register_forward_hook(lambda module, args, out: states.append(out[0]))
    with gp.prune(made.model, gp.Random(), 4, at=at) as handle, hooked(noted):
        with pytest.raises(NotImplementedError, match="did not pass the self-test") as refused:
            generate(made.model, inputs)
        assert handle.selections == []
    off, largest = float(re.search(r"changed by ([\d.e-]+)", str(refused.value))[1]), float(states[0].abs().max())
    assert 2e-3 < off / largest < 8e-2, off / largest  # so near that a bound a hundred times larger would let it pass


def test_an_input_that_fails_says_nothing_of_a_layer(forgotten, monkeypatch) -> None:
    made = tiny("llava")
    forgotten("llava")
    inputs, own = made.prompt(((0,),)), selftest.prove
    asked = []

    def noted(parts, policy, *rest) -> None:
        asked.append(str(policy.at))
        own(parts, policy, *rest)

    monkeypatch.setattr("greedyprune.attach.hooks.outer.prove", noted)
    with gp.prune(made.model, gp.Random(), 4, at=gp.Input()) as handle:
        with pytest.warns(gp.PruneWarning, match="at input"):
            generate(made.model, inputs)
        with handle.using(at=gp.Layer(2)), pytest.warns(gp.PruneWarning, match="at layer:2"):
            generate(made.model, inputs)
        generate(made.model, inputs)
    assert asked == ["input", "layer:2"]


def test_a_type_without_placeholders_is_refused_by_name(forgotten) -> None:
    made = fresh("llava")
    forgotten("llava")
    made.model.config.image_token_id = None
    with pytest.raises(ValueError, match="there is no model family 'llava'"):
        gp.prune(made.model, gp.Random(), 4)
