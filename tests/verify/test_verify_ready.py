"""What is wrong before anything is pruned is named once, and pruning is not blamed for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import greedyprune as gp
import tiny
from greedyprune import testbed
from greedyprune.verify import Subject, Unready, cases, open_subject, prove
from greedyprune.verify.runs import Lab
from planted import shaken

ONE, SEVERAL, BATCH, TEXT = cases().values()
IMAGES = "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% endif %}"
TEXTS = "{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"


@pytest.fixture
def llava() -> Subject:
    made = tiny.fresh("llava")
    return Subject(made.model, made.prompt, tuple(tiny.SPECIAL), extend=made.continued, source="a test")


def why(subject: Subject, attention: str = "sdpa") -> str:
    """Why nothing can be proven of it; no verdict comes before that."""
    with pytest.raises(Unready) as caught:
        next(prove(subject, [gp.Input()], [attention], steps=2))
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    return shutil.copytree(testbed.FOLDERS["llava"], tmp_path / "llava", ignore=ignored)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ nothing.there }}", "chat template of this checkpoint fails on a prompt with 1 image (UndefinedError"),
        ("{% for x in %}", "chat template of this checkpoint fails on a prompt with 1 image (TemplateSyntaxError"),
        (
            "{{ raise_exception('no!') }}",
            "(TemplateError: no!): mend its chat_template.jinja",
        ),
        ("only words", "chat template"),
        ("one <image> alone", "chat template"),
        (IMAGES + TEXTS + "<image>", "chat template"),
    ],
)
def test_a_broken_chat_template_is_named(folder: Path, template: str, reason: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    model, _ = testbed.load("llava")
    assert reason in why(open_subject(model, str(folder)))
    (folder / "chat_template.jinja").write_text(IMAGES + TEXTS)
    first = next(prove(open_subject(model, str(folder)), [gp.Input()], steps=2))
    assert first.passed is True, first


def test_prompts_that_lack_their_images_or_have_too_many_are_named(llava: Subject) -> None:
    def without(rows: Any) -> dict[str, torch.Tensor]:
        return {**llava.write(rows), "input_ids": torch.full_like(llava.write(rows)["input_ids"], 7)}

    bare = Subject(llava.model, without, source="a test")
    assert "a prompt with 1 image holds no placeholder of them. It was made by a test" in why(bare)
    full = Subject(llava.model, lambda rows: llava.write(rows if any(rows) else ((0,),)), source="a test")
    assert "a prompt with 0 images holds 16 placeholders" in why(full)
    broken = Subject(llava.model, lambda rows: 1 // 0, source="a test")  # type: ignore[arg-type,return-value]
    assert "'one image' cannot be made (ZeroDivisionError" in why(broken)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_unpruned_model_that_says_no_numbers_is_named(llava: Subject, value: float) -> None:
    llava.model.lm_head.weight.data[5] = value
    assert "logits that are NaN or infinite while it is not pruned: check its weights" in why(llava)


def test_an_unpruned_model_that_breaks_is_named(llava: Subject) -> None:
    def short(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["inputs_embeds"].shape[1] > 40:
            raise IndexError("index out of range")

    llava.model.get_decoder().register_forward_pre_hook(short, with_kwargs=True)
    said = why(llava)
    assert said.startswith("the model cannot answer the prompt '2 images' while it is not pruned (IndexError: index")
    assert "its config takes" not in said
    llava.model.get_decoder().config.max_position_embeddings = 40
    assert said in why(llava)
    assert why(llava).endswith("tokens, and its config takes 40. Use fewer or smaller images.")


def test_a_model_whose_reference_breaks_is_not_blamed_on_pruning(llava: Subject) -> None:
    """Only a call without a cache breaks, which is how the references read: those properties cannot be told."""

    def needs_a_cache(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("use_cache") is False:
            raise RuntimeError("give me a cache")

    llava.model.register_forward_pre_hook(needs_a_cache, with_kwargs=True)
    verdicts = list(prove(llava, [gp.Input()], steps=2))
    assert [v for v in verdicts if v.passed is False] == []
    untold = [v for v in verdicts if v.outcome == "not told"]
    assert len(untold) == 4
    assert all("the plain model cannot read its own answer" in v.detail for v in untold)


def test_attention_that_is_refused_needs_no_model_that_answers(llava: Subject) -> None:
    verdicts = list(prove(llava, [gp.Input()], ["flash_attention_2"]))
    assert {verdict.outcome for verdict in verdicts} == {"does not apply"}


# What hides ---------------------------------------------------------------------------------------------------------


def test_what_a_foreign_hook_hides_is_not_told(llava: Subject) -> None:
    llava.model.lm_head.register_forward_hook(shaken)
    outcomes = {v.name: v.outcome for v in prove(llava, [gp.Layer(1)], steps=2)}
    hidden = ["a dropped token is a masked token", "a cache changes nothing", "a row alone is the row in its batch"]
    assert [outcomes[name] for name in hidden] == ["not told"] * 3
    assert "failed" not in outcomes.values()


def test_a_head_of_zeros_hides_what_was_dropped(llava: Subject) -> None:
    llava.model.lm_head.weight.data.zero_()
    outcomes = {v.name: v.outcome for v in prove(llava, [gp.Layer(1)], steps=2)}
    assert [name for name, outcome in outcomes.items() if outcome != "passed"] == ["a dropped token is a masked token"]
    assert outcomes["a dropped token is a masked token"] == "not told"


def test_a_model_that_contradicts_itself_a_little_is_not_told_either(llava: Subject) -> None:
    """By a thousandth, which is more than any order of summation."""
    llava.model.lm_head.register_forward_hook(lambda module, args, out: out * (1 + 1e-3 * (out.shape[1] == 1)))
    outcomes = {v.name: v.outcome for v in prove(llava, [gp.Layer(1)], steps=2)}
    assert outcomes["a dropped token is a masked token"] == "not told"


# A loop by hand -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_5"])
def test_a_loop_by_hand_says_what_generate_says(name: str) -> None:
    made = tiny.tiny(name)
    lab = Lab(Subject(made.model, made.prompt, tuple(tiny.SPECIAL), extend=made.continued), 3)
    for case in (ONE, SEVERAL):
        assert lab.why_not_by_hand(case) == ""
        run = lab.plain(case)
        assert lab.apart(lab.by_hand(case, run.tokens), run.logits) <= lab.bound(case)
    assert bool(lab.why_not_by_hand(BATCH)) == (name != "llava")  # these count from the mask alone if they get one


def test_a_model_that_counts_otherwise_by_hand_is_not_blamed_on_pruning(llava: Subject) -> None:
    def moved(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if kwargs.get("position_ids") is None and kwargs["inputs_embeds"].shape[1] == 1:
            kwargs["position_ids"] = torch.tensor([[3]])
        return args, kwargs

    llava.model.get_decoder().register_forward_pre_hook(moved, with_kwargs=True)
    found = {v.name: v for v in prove(llava, [gp.Input()], steps=3)}["a cache changes nothing"]
    assert found.passed is True
    assert "the plain model decoded by hand differs from its own generate" in found.detail


# References that number padding, or whose late layers read in part ---------------------------------------------------


@pytest.mark.parametrize("name", ["mistral3 ministral3", "gemma4 shared keys"])
def test_the_reference_of_an_unpruned_model_is_what_it_answered(name: str) -> None:
    if name not in tiny.NAMES:
        pytest.skip("this release lacks the family")
    made = tiny.tiny(name)
    lab = Lab(Subject(made.model, made.prompt, tuple(tiny.SPECIAL), extend=made.continued), 2)
    for case in (ONE, BATCH):
        assert 0 < lab.bound(case) < 1e-3  # raises where they differ
