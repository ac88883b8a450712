"""Verifying a checkpoint: the proofs hold on good models, fail on broken ones, and their references are right."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

import greedyprune as gp
import proofs
from breadth import some
from greedyprune import testbed
from greedyprune.ops.cut import Cut
from greedyprune.verify import PROPERTIES, Case, Subject, Verdict, cases, open_subject, prove, stages_of
from greedyprune.verify.cases import held, worst
from greedyprune.verify.prompts import joined
from greedyprune.verify.properties import a_dropped_token_is_a_masked_token, every_image_gets_its_budget
from greedyprune.verify.raw import from_config
from greedyprune.verify.reference import gathered, masked
from greedyprune.verify.runs import Lab
from greedyprune.verify.subject import attending, exactly
from greedyprune.verify.traces import changed, fingerprint
from planted import failures, lag
from tinies.words import decoder
from tiny import fresh

NAMES = [each.name for each in PROPERTIES]
ONE, SEVERAL, BATCH, TEXT = cases().values()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random checkpoints without processors."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("llava", "qwen2_5_vl")}
    for name, folder in folders.items():
        fresh(name).model.save_pretrained(folder)
    return folders


def opened(folder: Path, **options: Any) -> Subject:
    """A checkpoint as the command line opens it."""
    model = AutoModelForImageTextToText.from_pretrained(folder, **{"dtype": "float32", **options})
    return open_subject(model.eval(), str(folder))


@pytest.fixture
def llava(saved: dict[str, Path]) -> Subject:
    return opened(saved["llava"])


# What holds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "attention"), [("llava", "eager"), ("qwen2_5_vl", "sdpa")])
def test_everything_is_proven_on_a_checkpoint_without_a_processor(saved, family: str, attention: str) -> None:
    subject = opened(saved[family])
    assert subject.source == "its config alone"
    before = subject.model.config._attn_implementation
    verdicts = list(prove(subject, [gp.Layer(1)], [attention], steps=3))
    assert [(v.name, v.at, v.attention) for v in verdicts] == [(name, "layer:1", attention) for name in NAMES]
    assert [v for v in verdicts if v.passed is not True] == []
    assert subject.model.config._attn_implementation == before


@pytest.mark.parametrize("name", some(testbed.MODELS, "llava"))
def test_everything_is_proven_on_the_bundled_models(name: str) -> None:
    model, _ = testbed.load(name)
    subject = open_subject(model, str(testbed.FOLDERS[name]))
    assert subject.source == "the checkpoint's own processor"
    assert [v for v in prove(subject, [gp.Layer(2)], steps=2) if v.passed is not True] == []


def test_sixteen_bits_are_held_to_the_plain_models_rounding_and_given_back_as_they_were(saved) -> None:
    subject = opened(saved["llava"], dtype="bfloat16")
    weights = {name: weight.clone() for name, weight in subject.model.named_parameters()}
    verdicts = {v.name: v for v in prove(subject, [gp.Input()], steps=3)}
    assert [v for v in verdicts.values() if v.passed is not True] == []
    near = verdicts["a dropped token is a masked token"]
    assert 0 < near.error <= near.bound
    for name, weight in subject.model.named_parameters():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, weights[name])


def test_float32_in_between_is_exact_and_leaves_other_types_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4).half(), torch.nn.Linear(4, 2))
    with exactly(model):
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        assert model(torch.ones(1, 3)).dtype == torch.float32
    assert [weight.dtype for weight in model.parameters()] == [torch.float16] * 2 + [torch.float32] * 2


def test_the_usual_stages_are_those_that_fit_and_others_are_checked(llava: Subject) -> None:
    usual = [gp.Input(), gp.Layer(1), gp.Layer(2)]
    assert stages_of(llava.model) == usual
    assert stages_of(llava.model, [gp.Layer(3), gp.Layer(1)]) == [*usual, gp.Layer(3)]
    with pytest.raises(ValueError, match="this model has 4 decoder layers"):
        stages_of(llava.model, [gp.Layer(4)])
    del llava.model.get_decoder().layers[2:]
    assert stages_of(llava.model) == usual[:2]


def test_an_early_cut_is_proven_but_for_what_it_gives_up(llava: Subject) -> None:
    verdicts = {v.name: v for v in prove(llava, [gp.Layer(2, early=True)], steps=4)}
    told = {name for name, v in verdicts.items() if v.passed}
    assert set(NAMES) - told == {"a cache changes nothing"}
    assert "an early cut" in verdicts["a cache changes nothing"].detail


# What fails -----------------------------------------------------------------------------------------------------------


def test_positions_that_lag_are_found_by_the_proofs_about_logits(
    llava: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    lag(monkeypatch)
    assert failures(prove(llava, [gp.Input()], steps=3)) == {
        "keeping all changes nothing",
        "a dropped token is a masked token",
        "a cache changes nothing",
    }


def test_one_token_too_many_is_found(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from greedyprune.attach.forward import decide

    own = decide.select_with_rows

    def one_more(method: gp.Method, cues: list[gp.Cues], keep: list[int]) -> list[tuple[gp.Keep, Tensor]]:
        return own(method, cues, [min(each.n, k + 1) for each, k in zip(cues, keep, strict=True)])

    monkeypatch.setattr(decide, "select_with_rows", one_more)
    verdict = every_image_gets_its_budget(Lab(llava), gp.Input(), SEVERAL)
    assert (verdict.passed, verdict.error) == (False, 2)


def test_hooks_that_stay_are_found(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    from greedyprune.attach.hooks.outer import OuterHooks

    monkeypatch.setattr(OuterHooks, "remove", lambda self: None)
    left = next(each for each in PROPERTIES if each.name == "nothing is left behind")
    verdict = left.check(Lab(llava), gp.Input(), BATCH)
    assert verdict.passed is False
    assert "is not as it was" in verdict.detail


def test_keys_that_stay_are_found(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Cut.keeping
    # Everything stays, and the selections say otherwise.
    monkeypatch.setattr(Cut, "keeping", lambda flags: keep(torch.ones_like(flags)))
    assert failures(prove(llava, [gp.Layer(1)], steps=2)) >= {
        "a dropped token is a masked token",
        "the cache is physically short",
    }


def test_a_model_that_breaks_is_a_failure_with_its_reason(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cut, "take", lambda *_: 1 / 0)
    verdicts = list(prove(llava, [gp.Input()], steps=2))
    assert failures(verdicts) == set(NAMES) - {"text is left alone"}
    assert "ZeroDivisionError: division by zero" in str(verdicts[0])


def test_a_drop_that_does_not_matter_proves_nothing(llava: Subject) -> None:
    for weight in llava.model.model.multi_modal_projector.parameters():
        weight.data.zero_()
    for layer in llava.model.get_decoder().layers:
        layer.self_attn.v_proj.weight.data.mul_(1e-9)
    verdict = a_dropped_token_is_a_masked_token(Lab(llava, 2), gp.Input(), ONE)
    assert verdict.passed is None
    assert "nothing can be told" in verdict.detail


def test_a_model_that_needs_its_cache_is_not_blamed_on_pruning(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = llava.model.generate

    def needy(use_cache: bool = True, **options: Any) -> Any:
        return generate(**options) if use_cache else [][0]

    monkeypatch.setattr(llava.model, "generate", needy)
    verdicts = {v.name: v for v in prove(llava, [gp.Input()], steps=2)}
    assert verdicts["a cache changes nothing"].passed is None
    assert "cannot generate without a cache either" in verdicts["a cache changes nothing"].detail
    assert sum(v.passed is True for v in verdicts.values()) == len(NAMES) - 1


def test_a_model_that_contradicts_itself_is_not_blamed_on_pruning(llava: Subject) -> None:
    llava.model.lm_head.register_forward_hook(lambda module, args, out: out + (out.shape[1] == 1) * out.roll(1, -1))
    verdicts = {v.name: v for v in prove(llava, [gp.Input()], steps=3)}
    assert failures(verdicts.values()) == set()
    assert "the plain model's own answer" in verdicts["a dropped token is a masked token"].detail


def test_attention_that_a_model_lacks_proves_nothing(llava: Subject) -> None:
    verdicts = list(prove(llava, [gp.Input()], ["flash_attention_2"]))
    assert {verdict.passed for verdict in verdicts} == {None}
    assert llava.model.config._attn_implementation == "sdpa"


def test_traces_are_seen(llava: Subject) -> None:
    model, before = llava.model, fingerprint(llava.model)
    assert changed(before, fingerprint(model)) == set()
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.extra = 1
    assert changed(before, fingerprint(model)) == {("lm_head.weight", "weight"), ("", "extra")}


def test_errors_that_are_no_numbers_fail_and_failures_come_first() -> None:
    assert held(float("nan"), 1.0, "x").passed is False
    good, bad, none = Verdict("a", True, 0.5, 1.0), Verdict("a", False, 2.0, 1.0, "bad"), Verdict("a", None)
    beside = Verdict("a", None, detail="no grid", applies=False)
    assert [v.outcome for v in (good, bad, none, beside)] == ["passed", "failed", "not told", "does not apply"]
    assert worst([(ONE, good), (SEVERAL, bad), (BATCH, none)]).detail == "2 images: bad"
    assert worst([(ONE, good), (BATCH, none)]).outcome == "not told"  # one case that hides something hides it for all
    assert worst([(ONE, beside), (BATCH, good)]).outcome == "passed"
    assert str(worst([(ONE, beside), (BATCH, beside)])).endswith("does not apply: one image: no grid")
    assert (none.to_dict()["outcome"], beside.to_dict()["applies"]) == ("not told", False)
    assert bad.to_dict()["error"] == 2.0
    assert held(float("inf"), 1.0, "x").to_dict()["error"] is None
    with pytest.raises(ValueError, match="needs 2 or more"):
        cases(1)


# References -----------------------------------------------------------------------------------------------------------


def _halved(subject: Subject, case: Case) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Inputs of a case, its prompts with an answer, and every second visual token dropped."""
    inputs = subject.prompt(case.rows)
    words = torch.arange(10, 15).expand(len(case.rows), -1)
    visual = subject.visual(inputs["input_ids"])
    return inputs, torch.cat([inputs["input_ids"], words], 1), visual & (visual.cumsum(1) % 2 == 0)


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
@pytest.mark.parametrize("case", [SEVERAL, BATCH], ids=str)
def test_masked_tokens_are_tokens_that_were_never_gathered(llava: Subject, at: gp.Stage, case: Case) -> None:
    inputs, sequences, dropped = _halved(llava, case)
    with attending(llava.model, "eager"):
        hidden = masked(llava, inputs, sequences, dropped, at)
        torch.testing.assert_close(gathered(llava, case.rows, sequences, dropped, at), hidden, **proofs.NEAR)
        whole = masked(llava, inputs, sequences, torch.zeros_like(dropped), at)
    assert (hidden - whole).abs().max() > 0.1


@torch.no_grad()
def test_a_window_counts_the_tokens_that_are_left() -> None:
    """The decoder alone, on the kept embeddings in their own positions: it makes its own short mask."""
    made = fresh("llava")
    text = decoder(model_type="qwen2", use_sliding_window=True, sliding_window=9, layer_types=["sliding_attention"] * 4)
    config = type(made.model.config)(**{**made.model.config.to_dict(), "text_config": text})
    model = type(made.model)(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * 0.25
    model.set_attn_implementation("eager")
    subject = Subject(model, made.prompt, extend=made.continued)
    inputs, sequences, dropped = _halved(subject, ONE)
    full = subject.continued(inputs, sequences[:, :-1])
    embeds = proofs.entering(model.get_decoder(), model, full)["inputs_embeds"]
    kept = (~torch.nn.functional.pad(dropped, (0, 4))).nonzero()[:, 1]
    short = {"inputs_embeds": embeds[:, kept], "attention_mask": torch.ones(1, len(kept))}
    states = model.get_decoder()(**short, position_ids=kept[None], use_cache=False).last_hidden_state
    truth = model.lm_head(states)[:, -5:]
    torch.testing.assert_close(masked(subject, inputs, sequences, dropped, gp.Input()), truth, **proofs.NEAR)
    torch.testing.assert_close(gathered(subject, ONE.rows, sequences, dropped, gp.Input()), truth, **proofs.NEAR)
    model.config.text_config.sliding_window = 7
    assert (masked(subject, inputs, sequences, dropped, gp.Input()) - truth).abs().max() > 0.01


# Prompts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_a_row_has_the_same_tokens_in_every_batch(name: str) -> None:
    model, _ = testbed.load(name)
    subject = open_subject(model, str(testbed.FOLDERS[name]))
    batch = subject.prompt(BATCH.rows)
    for index, row in enumerate(BATCH.rows):
        alone = subject.prompt((row,))["input_ids"][0]
        assert batch["input_ids"][index, -len(alone) :].tolist() == alone.tolist()
        assert int(batch["attention_mask"][index].sum()) == len(alone)
    assert len({tuple(row) for row in batch["input_ids"].tolist()}) == 2
    assert not subject.visual(subject.prompt(TEXT.rows)["input_ids"]).any()


def test_placeholders_and_ends_are_banned_from_answers(saved, llava: Subject) -> None:
    config = llava.model.config
    assert {config.image_token_id, config.text_config.eos_token_id} <= set(llava.banned)
    assert {100, 101, 102, 103} <= set(opened(saved["qwen2_5_vl"]).banned)


def test_a_processor_without_a_chat_template_and_one_that_does_not_load(tmp_path: Path) -> None:
    left_out = shutil.ignore_patterns("chat_template.jinja", "__pycache__")
    folder = shutil.copytree(testbed.FOLDERS["llava"], tmp_path / "speechless", ignore=left_out)
    subject = opened(folder)
    assert subject.source == "the checkpoint's own processor"
    assert int(subject.visual(subject.prompt(SEVERAL.rows)["input_ids"]).sum()) == 2 * 144
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert opened(folder).source.startswith("its config alone, since its processor does not load: ")


def test_prompts_of_unequal_sizes_are_joined_with_zeros_where_nothing_is() -> None:
    few = {"input_ids": torch.tensor([[7, 8]]), "types": torch.tensor([[1, 1]]), "pixels": torch.ones(1, 1, 3, 2, 2)}
    many = {"input_ids": torch.tensor([[7, 8, 9]]), "types": torch.ones(1, 3), "pixels": torch.ones(1, 2, 3, 4, 2)}
    both = joined([few, many], pad=5)
    assert both["input_ids"].tolist() == [[5, 7, 8], [7, 8, 9]]
    assert both["types"].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert both["pixels"].shape == (2, 2, 3, 4, 2)
    assert torch.equal(both["pixels"][0, :1, :, :2], few["pixels"][0])
    assert (both["pixels"][0].sum(), both["pixels"][1].min()) == (12, 1)


def test_sizes_of_pictures_reach_models_that_take_any(saved) -> None:
    model = opened(saved["qwen2_5_vl"]).model
    subject = from_config(model, ((32, 16), (16, 16)))
    counts = [int(subject.visual(subject.prompt(((number,),))["input_ids"]).sum()) for number in (0, 1)]
    assert counts == [4 * 2, 2 * 2]


def test_a_family_whose_config_does_not_say_enough_is_told_to_save_its_processor(llava: Subject) -> None:
    outer = llava.model.model
    outer.get_image_features = lambda pixel_values, image_sizes: None
    with pytest.raises(ValueError, match=r"of a 'llava' model cannot.*asks for image_sizes.*save its processor"):
        from_config(llava.model)
