"""A saliency is one word: what it is read from, what the methods make of it, and where it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import greedyprune as gp
from greedyprune.cues import Attention, Change, Keys, Need, Values
from greedyprune.naming import as_method
from greedyprune.ops.barrier import log_barrier
from greedyprune.ops.marginal import marginal_relevance
from greedyprune.saliencies import NEEDS
from greedyprune.testing import check_method
from proofs import CASES, forward, generate
from tiny import tiny

METHODS = ("greedyprune", "soft_greedyprune", "mmr", "saliency", "score", "idselection")
OTHERS = [word for word in NEEDS if word != "cosine"]
every = pytest.mark.parametrize("name", METHODS)
word = pytest.mark.parametrize("word", OTHERS)


def made(name: str, **options: Any) -> gp.Method:
    return as_method({"type": name, **options})


def cues_of(word: str) -> tuple[gp.Cues, torch.Tensor]:
    """Tokens without any text, and what each is worth."""
    g = torch.Generator().manual_seed(3)
    x, rows = torch.randn(20, 6, generator=g), torch.randn(20, 2, 3, generator=g)
    given = {"key_norm": rows, "value_norm": rows, "change": rows.flatten(1)}.get(word, rows[:, 0, 0].softmax(0))
    worth = rows.double().flatten(1).norm(dim=1) if given.ndim > 1 else given.double()
    need: dict[Need, torch.Tensor] = {NEEDS[word]: given}  # type: ignore[index]
    return gp.Cues(x, more=need), worth


@every
@word
def test_the_contract_holds_with_every_saliency(name: str, word: str) -> None:
    method = made(name, saliency=word)
    need = {
        "tower": Attention("tower"),
        "attention": Attention("last_text"),
        "question_attention": Attention("question"),
        "key_norm": Keys("decoder"),
        "value_norm": Values(),
        "change": Change(),
    }
    assert method.needs == (need[word],)
    assert not method.reads & {"text", "last_text", "question"}
    check_method(method)


@word
def test_each_method_weighs_what_it_is_given(word: str) -> None:
    cues, worth = cues_of(word)
    best = worth.argsort(descending=True)
    scaled = (worth - worth.min()) / (worth.max() - worth.min())

    def order(name: str, **options: Any) -> list[int]:
        return gp.select(made(name, saliency=word, **options), cues, 7).order.tolist()

    assert order("saliency") == order("greedyprune", tau=1.0) == order("mmr", trade=1) == best[:7].tolist()
    assert order("soft_greedyprune", preprocess="none") == log_barrier(cues.features, scaled, 7, 8.0).order.tolist()
    assert order("mmr") == marginal_relevance(cues.features, scaled, 7).order.tolist()
    assert order("greedyprune", tau=0.3)[0] == int(best[0])
    assert order("greedyprune", tau=0.3) != best[:7].tolist()


@every
def test_a_word_that_is_none_or_a_text_that_nobody_reads_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="saliency='eyes' is unknown: choose one of cosine, tower, attention, quest"):
        made(name, saliency="eyes")
    with pytest.raises(
        ValueError, match="text='first' is unknown: choose one of last, question_mean, question_max, chat_max"
    ):
        made(name, text="first")
    with pytest.raises(
        ValueError, match="text='question_mean' is read by saliency=\"cosine\" alone: leave it out with"
    ):
        made(name, saliency="attention", text="question_mean")


@every
@word
def test_a_model_gives_it_before_the_cut_or_refuses_by_name(name: str, word: str) -> None:
    family = "internvl" if word == "tower" else "llava gemma3"
    model, inputs = tiny(family).model, tiny(family).prompt(CASES[2].rows)
    method = made(name, saliency=word)
    with gp.prune(model, method, 5, at=gp.Layer(2)) as handle:
        generate(model, inputs, max_new_tokens=2)
        found = [selection.order[0] for selection in handle.selections]
    same = {"attention": "fastv", "tower": "cls"}.get(word)
    if same is not None:  # the first pick is the token that gets most attention
        with gp.prune(model, same, 5) as handle:
            forward(model, inputs)
            assert found == [selection.order[0] for selection in handle.selections]
    if word == "tower":
        gp.prune(model, method, 5, at=gp.Input()).remove()
        with pytest.raises(ValueError, match="the vision tower of this 'got_ocr2' model cannot be read"):
            gp.prune(tiny("got_ocr2").model, method, 5, at=gp.Layer(2))
        return
    with pytest.raises(ValueError, match=r"cannot run at 'input' here: .* comes from a decoder layer before the cut"):
        gp.prune(model, method, 5, at=gp.Input())
    if word == "change":  # every decoder shows its states
        gp.prune(tiny("qwen3_5").model, method, 5, at=gp.Layer(2)).remove()
        return
    with pytest.raises(ValueError, match="no decoder layer before 1 has attention, since layers of type"):
        gp.prune(tiny("qwen3_5").model, method, 5, at=gp.Layer(1))


@every
def test_what_a_saliency_is_read_from_is_named_where_it_is_missing(name: str) -> None:
    for word, message in {"value_norm": r"values.*Values\(\): values", "change": r"change.*Change\(\): rows"}.items():
        with pytest.raises(ValueError, match=f"needs {message}"):
            gp.select(made(name, saliency=word), gp.Cues(torch.ones(9, 4)), 3)


def test_keys_as_long_as_their_type_holds_are_weighed_like_shorter_ones() -> None:
    cues, worth = cues_of("key_norm")
    keys = cues.more[Keys("decoder")].double()
    for scale in (1.0, 1e300, 0.99 * torch.finfo(torch.float64).max / float(keys.abs().max())):
        long = gp.Cues(cues.features, more={Keys("decoder"): keys * scale})
        found = gp.select(gp.Saliency(saliency="key_norm"), long, 9)
        assert found.order.tolist() == worth.argsort(descending=True)[:9].tolist()
