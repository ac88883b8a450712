"""Perturbed cues: they fail as they are said to, the model sees the real tokens, rows stand beside the right ones."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import greedyprune as gp
from commands import complaint, greedy
from greedyprune import testbed
from greedyprune.budget import Ratio
from greedyprune.cli import _evaluate, _plan
from greedyprune.eval import Config, Engine, Item, Job, configurations, evaluate, rows
from greedyprune.eval.answers import Answers
from greedyprune.eval.configs import BLIND, PERTURBED
from greedyprune.eval.perturbed import (
    PERTURBATIONS,
    Perturbed,
    greyed,
    perturbed,
    picture_number,
    touches,
    with_perturbations,
)
from greedyprune.eval.scenes import Scenes
from greedyprune.naming import as_method
from greedyprune.ops.cosine import unit64
from greedyprune.plain import to_plain
from greedyprune.testing import check_method, example_cues

for extra in ("sklearn", "skimage", "matplotlib"):
    pytest.importorskip(extra)

NINTH = {"1/9": Ratio(1 / 9)}
STRONG = {"text": 0.0, "constant": 0.0, "noise": 0.5, "duplicates": 0.5}


def under(how: str, method: gp.Method, strength: float | None = None, seed: int = 0) -> Perturbed:
    strong = STRONG[how] if strength is None else strength
    return Perturbed(at=method.at, inner=method, how=how, strength=strong, seed=seed)  # type: ignore[arg-type]


def cues_of(method: gp.Method, seed: int = 0, picture: str = "a") -> gp.Cues:
    made = example_cues(method, seed)
    return replace(made, relevance=picture_number(picture, made.n))


# What a method sees ---------------------------------------------------------------------------------------------------


def test_random_text_has_other_directions_and_the_same_lengths() -> None:
    method = gp.DART()  # which reads rows and keys of the text
    cues = cues_of(method)
    seen = under("text", method).seen(cues)
    words = gp.Keys("decoder", of="text")
    for real, drawn in ((cues.text, seen.text), (cues.more[words], seen.more[words])):
        real, drawn = real.flatten(1), drawn.flatten(1)
        torch.testing.assert_close(drawn.norm(dim=1), real.norm(dim=1))
        assert (torch.cosine_similarity(real, drawn).abs() < 0.99).all()
    assert seen.features is cues.features
    assert seen.more[gp.Keys("decoder")] is cues.more[gp.Keys("decoder")]
    wide = gp.Cues(torch.randn(3, 4000), text=torch.randn(200, 4000))
    drawn = unit64(under("text", gp.MMR()).seen(wide).text)
    cosines = (drawn @ drawn.T)[~torch.eye(200, dtype=torch.bool)]
    assert abs(float(cosines.mean())) < 1e-3
    assert float(cosines.std()) == pytest.approx(4000**-0.5, rel=0.05)  # of independent directions


@pytest.mark.parametrize("how", ["text", "noise", "duplicates"])
def test_draws_depend_on_the_picture_and_the_seed_alone(how: str) -> None:
    def shown(picture: str, seed: int = 0) -> list[float]:
        seen = under(how, gp.MMR(), seed=seed).seen(cues_of(gp.MMR(), 2, picture))
        assert seen.relevance is None
        return [*seen.features.flatten().tolist(), *seen.text.flatten().tolist()]

    torch.manual_seed(1)
    first = shown("a")
    torch.manual_seed(2)
    assert shown("a") == first
    assert shown("b") != first
    assert shown("a", seed=1) != first


def test_constant_saliency_leaves_diversity_alone() -> None:
    for method in (
        gp.SoftGreedyPrune(),
        gp.MMR(),
        gp.GreedyPrune(),
        gp.MMR(preprocess="center", text="question_max"),
        gp.SoftGreedyPrune(text="chat_max"),
    ):
        keeps = [
            gp.select(under("constant", method), replace(cues_of(method), text=text), 9)
            for text in (torch.randn(6, 8), torch.randn(6, 8))
        ]
        assert keeps[0].order.tolist() == keeps[1].order.tolist()
    soft, free = gp.SoftGreedyPrune(), gp.SoftGreedyPrune(weight=0.0)
    cues = cues_of(soft)
    assert gp.select(under("constant", soft), cues, 9).order.tolist() == [
        *gp.select(free, replace(cues, text=torch.zeros(1, 8), question=None), 9).order.tolist()
    ]
    for saliency in ("attention", "value_norm", "change"):
        method = gp.Saliency(saliency=saliency)
        assert gp.select(under("constant", method), cues_of(method), 9).order.tolist() == [*range(9)]
    assert gp.select(under("constant", gp.FastV()), cues_of(gp.FastV()), 5).order.tolist() == [*range(5)]


@pytest.mark.parametrize("strength", [0.25, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_is_so_many_times_as_long_as_a_row(strength: float, dtype: torch.dtype) -> None:
    x = (torch.randn(200, 500) * torch.rand(200, 1).mul(100)).to(dtype)
    seen = under("noise", gp.DivPrune(), strength).seen(gp.Cues(x))
    assert seen.features.dtype == dtype
    noise = seen.features.double() - x.double()
    lengths = noise.norm(dim=1) / x.double().norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, strength), rtol=0.15, atol=0.01)
    assert abs(float((unit64(noise) * unit64(x)).sum(1).mean())) < 0.02


def test_duplicates_are_whole_copies_of_tokens_that_stay_as_they_are() -> None:
    n = 60
    mark = torch.arange(float(n))
    more = {gp.Keys("decoder"): mark.view(n, 1, 1), gp.Values(): mark.view(n, 1, 1), gp.Attention("cls"): mark}
    cues = gp.Cues(
        mark[:, None].expand(n, 3), attention=mark, keys=mark.view(n, 1, 1), encoded=mark[:, None], more=more
    )
    seen = under("duplicates", gp.DivPrune(), 1 / 3).seen(cues)
    source = seen.features[:, 0].long()
    copies = source != torch.arange(n)
    assert int(copies.sum()) == n // 3
    assert not copies[source].any()  # what is copied is no copy
    for other in (seen.attention, seen.keys, seen.encoded, *seen.more.values()):
        assert other.flatten().long().equal(source)
    few = under("duplicates", gp.DivPrune(), 0.99).seen(gp.Cues(torch.randn(2, 3)))
    assert few.features[0].equal(few.features[1])


@pytest.mark.parametrize("how", STRONG)
@pytest.mark.parametrize("n", [0, 1])
def test_no_token_and_one_token_can_be_perturbed(how: str, n: int) -> None:
    cues = gp.Cues(torch.randn(n, 4), text=torch.randn(2, 4), relevance=torch.ones(n))
    assert gp.select(under(how, gp.MMR()), cues, 1).k == n


# A perturbed method is a method ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "name"), [("noise", "mmr"), ("duplicates", "mmr"), ("duplicates", "tome")])
def test_it_keeps_the_contract_of_methods(how: str, name: str) -> None:
    check_method(under(how, as_method(name)))


def test_it_has_a_plain_form_and_takes_the_place_of_its_method() -> None:
    method = under("duplicates", gp.VisionZip())
    assert as_method(json.loads(json.dumps(to_plain(method)))) == method
    assert as_method("greedyprune.eval.perturbed:Perturbed") == under("text", gp.Saliency())
    assert (method.needs, method.merges, method.exact) == (gp.VisionZip().needs, True, gp.VisionZip().exact)
    assert under("noise", as_method("evs")).compares_frames
    assert under("duplicates", as_method("pyramiddrop")).counts(16, 144, 3) == as_method("pyramiddrop").counts(
        16, 144, 3
    )
    with pytest.raises(ValueError, match="FastV cannot run at Input"):
        under("constant", gp.FastV()).check_stage(gp.Input())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"how": "grey"}, "how='grey' is unknown: choose one of text, constant, noise, duplicates"),
        ({"how": "noise"}, "strength=0.0 of how='noise': write a finite number above 0"),
        ({"how": "noise", "strength": float("inf")}, "write a finite number above 0"),
        ({"how": "duplicates", "strength": 1.0}, "write a share between 0 and 1"),
        ({"strength": 0.5}, "strength=0.5 of how='text': write 0"),
        ({"inner": gp.DivPrune()}, "at=Layer.*DivPrune.* is cut at Input.*: write the same twice"),
        ({"inner": gp.Random()}, "how='text' changes no cue that Random reads: leave the method as it is"),
    ],
)
def test_what_is_no_perturbation_is_told(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Perturbed(**given)


# The suite ------------------------------------------------------------------------------------------------------------


def test_a_configuration_is_perturbed_where_it_reads_what_fails() -> None:
    plain = configurations([*PERTURBED, "random", "grid", "pool", "oracle", "downscale"], NINTH, seeds=(0, 1))
    found = with_perturbations(plain)
    assert found[: len(plain)] == plain
    assert len({config.key for config in found}) == len(found)
    by_name = {(config.name, config.perturbation) for config in found}
    assert {p for name, p in by_name if name in ("random", "grid", "pool", "oracle", "downscale")} == {""}
    assert {p for name, p in by_name if name == "dense"} == {"", BLIND}
    assert {p for name, p in by_name if name == "mmr"} == {"", *PERTURBATIONS}
    assert {p for name, p in by_name if name == "fastv"} == {"", "constant saliency", "duplicates 1/3"}
    assert {p for name, p in by_name if name == "divprune"} == {
        p for p in ("", *PERTURBATIONS) if "sal" not in p and "text" not in p
    }
    assert not touches("constant", gp.Saliency(saliency="key_norm"))
    for name in PERTURBATIONS:
        assert perturbed(name, gp.MMR()).at == gp.MMR().at


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(*testbed.load("llava"))


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return Scenes(2, "dev", 5, tasks=("color", "where", "ocr")).items()


def test_the_model_sees_the_real_tokens(engine: Engine, items: list[Item]) -> None:
    """With everything kept, answers are those of the dense model, whatever the method sees."""
    batch = engine.prepare(0, items)
    dense, *others = with_perturbations(configurations(["mmr"], {"all": 144}))
    told = engine.generate(batch, dense)[0]
    for config in others[:-1]:
        assert engine.generate(batch, config)[0] == told, config


def test_a_method_chooses_by_what_it_is_shown(engine: Engine, items: list[Item]) -> None:
    """One draw for all questions about a picture, and the rows of a selection on the perturbed cues themselves."""
    seen: list[gp.Cues] = []

    class Spy(gp.MMR):
        def select(self, cues: gp.Cues, k: int) -> gp.Keep:
            seen.append(cues)
            return super().select(cues, k)

    some = [items[0], replace(items[0], name="again"), items[-1]]
    assert items[0].picture != items[-1].picture
    batch = engine.prepare(0, some)
    plain, config = (Config("mmr", Spy(), 16, "16", gp.Layer(2), perturbation=name) for name in ("", "noise 1"))
    real = engine.generate(batch, plain)[2], [*seen]
    seen.clear()
    _, _, selections = engine.generate(batch, config)
    assert [cues.relevance for cues in seen] == [None] * 3
    noise = [cues.features - was.features for cues, was in zip(seen, real[1], strict=True)]
    assert float(torch.cosine_similarity(noise[0], noise[1]).min()) > 0.999
    assert float(torch.cosine_similarity(noise[0], noise[2]).mean().abs()) < 0.1
    assert [s.rows.tolist() for s in selections] == [gp.select(gp.MMR(), cues, 16).rows.tolist() for cues in seen]
    assert [s.rows.tolist() for s in selections] != [s.rows.tolist() for s in real[0]]


def test_a_blind_model_sees_a_grey_picture(engine: Engine, items: list[Item]) -> None:
    blind = Config("dense", perturbation=BLIND)
    grey = [replace(item, image=greyed(item.open())) for item in items]
    assert {item.image.getextrema() for item in grey} == {((128, 128),) * 3}
    assert [item.image.size for item in grey] == [item.image.size for item in items]
    told = engine.generate(engine.prepare(0, grey), Config("dense"))[0]
    outcome = engine.answer(engine.prepare(0, items), blind)
    assert outcome.told == told
    assert outcome.told != engine.answer(engine.prepare(0, items), Config("dense")).told
    assert outcome.found == [-1] * len(items)


def test_rows_name_their_perturbation_and_the_loss_that_it_brings(
    engine: Engine, items: list[Item], tmp_path: Path
) -> None:
    configs = with_perturbations(configurations(["mmr", "fastv", "divprune", "random"], NINTH, [gp.Layer(2)], (0, 1)))
    answers = evaluate(engine, Job(items, configs), tmp_path)
    found = [row for row in rows(answers, resamples=200) if row["task"] == "mean"]
    place = {(row["method"], row["perturbation"]): row for row in found if row["seed"] in (None, 0)}
    for (name, perturbation), row in place.items():
        if perturbation == "none":
            assert row["plain_difference"] is row["plain_low"] is None
            continue
        assert row["plain_difference"] == pytest.approx(row["accuracy"] - place[name, "none"]["accuracy"], abs=2e-6)
        assert row["plain_low"] <= row["plain_difference"] <= row["plain_high"]
        if name != "dense":
            draws = [row["accuracy"] for row in found if row["method"] == "random"]
            assert row["random_difference"] == pytest.approx(row["accuracy"] - sum(draws) / 2, abs=2e-6)
    again = evaluate(engine, Job(items, configs), tmp_path)
    assert again.given == 0
    usual = Answers(answers.items, [c for c in configs if not c.perturbation], answers.columns)
    assert not {"perturbation", "plain_difference"} & set(rows(usual, resamples=5)[0])


def test_rivals_stand_under_the_same_perturbation_or_are_left_alone_by_it() -> None:
    configs = with_perturbations(configurations(["mmr", "fastv", "divprune", "random"], NINTH, [gp.Layer(2)]))
    answers = Answers([], configs, {})
    for config in configs:
        for name, rivals in answers.rivals(config).items():
            assert len(rivals) == 1, (config, name)
            rival = rivals[0]
            other = name.split()[0]
            known = Config(**{**vars(rival), "perturbation": config.perturbation}) in configs
            assert rival.perturbation == (config.perturbation if known else ""), (config, other)
        if config.name != "dense":
            assert len(answers.rivals(config)) == 3
        (plain,) = answers.plain(config) or [config]
        assert plain == replace(config, perturbation="")
    assert answers.dense.perturbation == ""


# The command line -----------------------------------------------------------------------------------------------------

FEW = ("eval", "--suite", "robustness", "--model", "llava", "--questions", "1", "--keep", "1/9", "--seeds", "0",
       "--workers", "1")  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_suite_writes_one_file_of_all_perturbations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed, "learnt", lambda name: ("color", "ocr"))
    out = tmp_path / "rows.csv"
    result = greedy(*FEW, "--methods", '["saliency", {"type": "random"}]', "--at", "layer:2", "--out", out)
    assert result.exit_code == 0, result.output
    found = read(out)
    assert {row["suite"] for row in found} == {"robustness"}
    assert {(row["method"], row["perturbation"]) for row in found} == {
        ("dense", "none"), ("dense", "blind"), ("random", "none"), ("grid", "none"), ("saliency", "none"),
        *(("saliency", name) for name in PERTURBATIONS),
    }  # fmt: skip
    assert "% on grey pictures" in result.stdout
    assert "saliency under random text" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_the_usual_methods_of_the_suite_and_questions_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans: list[Any] = []
    monkeypatch.setattr(_evaluate, "evaluate_models", lambda plan, *_: plans.append(plan))
    assert greedy(*FEW).exit_code == 0
    assert greedy(*FEW, "--data", tmp_path).exit_code == 0
    assert [plan.questions.suite for plan in plans] == ["robustness"] * 2
    assert plans[1].questions.folder == tmp_path
    monkeypatch.setattr("greedyprune.eval.loop.refused", lambda *_: {})
    configs = _evaluate._configs(plans[0].compared, Engine(*testbed.load("llava")), Scenes(1).items()[0])
    assert {config.name for config in configs} == {"dense", *PERTURBED, "random", "grid"}
    assert not _plan.compared(None, "1/9", None, "0").perturbed


def test_what_the_suite_cannot_do_is_told() -> None:
    assert "--report shows nothing of perturbed cues" in complaint(greedy(*FEW, "--report", "x.html"), 2)
    assert "--auc shows nothing of perturbed cues" in complaint(greedy(*FEW, "--auc", "x.csv"), 2)
    words = "--suite 'robustness' is unknown: choose one of testbed, digits"
    assert words in complaint(greedy("cues", "--suite", "robustness"), 2)
    assert words in complaint(greedy("cues", "--suite", "robustness", "--data", "."), 2)
