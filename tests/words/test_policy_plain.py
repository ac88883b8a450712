"""A policy as one plain dict and one canonical byte form; methods of one's own by name; renamed names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import greedyprune as gp
from greedyprune import registry
from greedyprune.naming import as_method, method_class
from greedyprune.registry import METHODS

BUDGETS = [
    0, 64, gp.Ratio(1 / 9), gp.Ratio(1), gp.PerFrame(3), gp.PerFrame(gp.Ratio(0.5)), gp.LayerAverage(64),
    gp.LayerAverage(gp.Ratio(0.5)), gp.Total(64), gp.Total(64, floor=8), (3, gp.Ratio(0.5), gp.LayerAverage(9)),
]  # fmt: skip
STAGES = [gp.Input(), gp.Layer(2), gp.Layer(3, early=True), gp.Layers((2, 5)), gp.Depths((0.25, 1 / 2))]
CHANGED: dict[str, dict[str, Any]] = {
    "greedyprune": {"tau": gp.Exact(), "fallback": "relax", "preprocess": "center", "text": "question_max"},
    "prunesid": {"tau": gp.Quantile(0.5), "per_group": 2},
    "adaptprune": {"centre": float("inf"), "radius": 2.0},
    "agileprune": {"erank_avg": 7.5},
    "cdpruner": {"theta": 0.4, "text_theta": None},
    "facility": {"weights": "saliency"},
    "hiprune": {"layer": -2},
    "mmr": {"trade": 1, "text": "question_mean"},
    "score": {"alpha": 1, "saliency": "change"},
    "idselection": {"gamma": 5.0, "saliency": "cosine", "text": "question_mean"},
    "soft_greedyprune": {"weight": 3, "saliency": "key_norm"},
}
OWN = '''"""Methods of somebody else."""

from dataclasses import dataclass

import torch
import greedyprune as gp


@dataclass(frozen=True, kw_only=True)
class LastOnes(gp.Method):
    """The last k tokens, or every so many."""

    steps: tuple[int, ...] = (1, 2)
    limit: float = float("inf")

    def select(self, cues, k):
        order = torch.arange(cues.n - 1, cues.n - 1 - k, -1)
        return gp.Keep.from_order(order, torch.zeros(k), cues.n)


class Outer:
    @dataclass(frozen=True, kw_only=True)
    class Inner(LastOnes):
        """Inside another class."""


NUMBER = 3
'''


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


def runs_at(method: gp.Method, stage: gp.Stage) -> bool:
    """False if a method, or the one inside it, cannot be cut at this stage."""
    with suppress(ValueError):
        method.check_stage(stage)
        return True
    return False


def policies() -> Iterator[gp.Policy]:
    for name in sorted(METHODS):
        method = as_method(name)
        for each in (method, replace(method, **changed(name))):
            yield gp.Policy(each, 64)
            for stage in STAGES:
                if runs_at(each, stage):
                    yield gp.Policy(each, gp.Ratio(0.25), stage, "compact")
    for budget in BUDGETS:
        yield gp.Policy("saliency", budget)  # type: ignore[arg-type]
    yield gp.Policy("saliency", gp.PerLayer({8: gp.Ratio(0.5), 2: 100}))  # type: ignore[arg-type]


def changed(name: str) -> dict[str, Any]:
    """Another value for every knob of a method that has a number or a truth in it, beside those named above."""
    found: dict[str, Any] = {}
    for field in fields(method_class(name)):
        value = getattr(as_method(name), field.name)
        if isinstance(value, bool):
            found[field.name] = not value
        elif isinstance(value, float) and field.name != "tau":
            found[field.name] = value / 2
        elif isinstance(value, int):
            found[field.name] = value + 1
    return found | CHANGED.get(name, {})


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of somebody else, which adds methods by entry points."""
    (tmp_path / "somebody.py").write_text(OWN)
    (tmp_path / "broken_here.py").write_text("raise RuntimeError('no licence')")
    info = tmp_path / "somebody-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[greedyprune.methods]\nlast_ones = somebody:LastOnes\nbroken = broken_here:Method\n"
        "gone = nowhere_at_all:Method\nnumeral = somebody:NUMBER\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.added_methods.cache_clear()
    yield tmp_path
    registry.added_methods.cache_clear()
    for name in ("somebody", "broken_here"):
        sys.modules.pop(name, None)


def test_every_policy_survives_the_way_through_json() -> None:
    for policy in policies():
        plain = through_json(policy.to_dict())
        assert plain["type"] == "policy"
        assert plain["version"] == 1
        assert gp.Policy.from_dict(plain) == policy
        assert gp.from_plain(through_json(gp.to_plain(policy))) == policy
        assert gp.Policy.from_dict(json.loads(policy.to_bytes())) == policy


def test_different_policies_have_different_bytes() -> None:
    every = list(policies())
    assert len({policy.to_bytes() for policy in every}) == len(set(every)) > 300


@given(st.sampled_from([0, 1, 0.0, 1.0, False, True]), st.sampled_from([1, 1.0]), st.sampled_from([False, 0, True, 1]))
def test_equal_policies_have_equal_bytes(trade: Any, share: Any, early: Any) -> None:
    """However their numbers are written."""

    def made(trade: Any, share: Any, early: Any) -> gp.Policy:
        return gp.Policy(gp.MMR(trade=trade), gp.Ratio(share), gp.Layer(2, early=early))

    one, other = made(trade, share, early), made(float(trade), float(share), bool(early))
    assert one == other
    assert one.to_bytes() == other.to_bytes()


def test_the_bytes_are_those_of_any_other_process() -> None:
    policy = gp.Policy(gp.GreedyPrune(tau=gp.Quantile(0.7)), gp.Ratio(1 / 9), gp.Layer(2))
    code = (
        "import greedyprune as gp, sys; sys.stdout.buffer.write("
        "gp.Policy(gp.GreedyPrune(tau=gp.Quantile(0.7)), gp.Ratio(1 / 9), gp.Layer(2)).to_bytes())"
    )
    for seed in ("0", "1", "77"):
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        assert out.stdout == policy.to_bytes()
    assert policy.to_bytes().startswith(b'{"at":{"early":false,"index":2,"type":"layer"},"keep":{"share":0.1111')
    assert b" " not in policy.to_bytes()


def test_a_person_may_write_a_policy_in_words() -> None:
    written = {"method": "divprune", "keep": "25%", "at": "layer:2"}
    assert gp.Policy.from_dict(written) == gp.Policy(gp.DivPrune(), gp.Ratio(0.25), gp.Layer(2))
    schedule = gp.Policy.from_dict({"method": "saliency", "keep": "layer:8 50%, layer:16 25%"})
    assert schedule.at == gp.Layers((8, 16))
    assert gp.Policy.from_dict({"method": {"type": "mmr", "trade": 1}, "keep": ["25%", 3]}).keep == (gp.Ratio(0.25), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"has version 2, and this release of greedyprune reads versions up to 1: install"),
        ({"version": "1"}, r"has version='1': write 1, or leave it out"),
        ({"version": 0}, r"has version=0: write 1"),
        ({"version": True}, r"has version=True: write 1"),
        ({"kep": 3}, r"no field of a policy 'kep': did you mean 'keep'\?"),
        ({"type": "ratio"}, r"a plain dict of type 'ratio' is no policy: read it with from_plain\(\)"),
        ({"method": {"type": "divprune", "tua": 1}}, r"no option of 'divprune' 'tua'"),
        ({"method": "divpurne"}, r"no method 'divpurne': did you mean 'divprune'"),
        ({"positions": "new"}, r"positions='new' is unknown: choose one of original, compact"),
        ({"keep": "some"}, r"'some' is no budget: write 64"),
        ({"at": "layr:2"}, r"'layr:2' names no stage"),
        ({"keep": {"type": "per_layer"}}, r"'per_layer'} has no 'schedule': write what a 'per_layer' needs"),
        ({"keep": {"type": "ratio"}}, r"'ratio'} has no 'share': write what a 'ratio' needs"),
    ],
)
def test_what_is_wrong_in_a_policy_is_told_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gp.Policy.from_dict({"method": "divprune", "keep": 64, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": {"type": "visionzip", "contextual": "x"}}, r"contextual='x' of 'visionzip': write a number"),
        ({"method": {"type": "prumerge", "adaptive": 2}}, r"adaptive=2 of 'prumerge': write true or false"),
        ({"keep": {"type": "per_layer", "schedule": 5}}, r"schedule=5 of 'per_layer': write a list of pairs"),
        ({"at": {"type": "layer", "index": 2, "early": "no"}}, r"early='no' of 'layer': write true or false"),
        ({"at": {"type": "layers", "indices": 5}}, r"indices=5 of 'layers': write a list"),
        ({"at": {"type": "depths", "shares": ["a"]}}, r"Depths\(\('a',\)\): 'a' is no share of the decoder's depth"),
    ],
)
def test_a_field_of_another_kind_is_told_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        gp.Policy.from_dict({"method": "divprune", "keep": 64, **change})


def test_a_policy_nested_too_deeply_is_an_error() -> None:
    deep: Any = 3
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(ValueError, match="keep is nested too deeply"):
        gp.Policy.from_dict({"method": "divprune", "keep": deep})


def test_a_policy_names_a_method_and_a_budget() -> None:
    for name in ("method", "keep"):
        whole = {"method": "divprune", "keep": 64}
        del whole[name]
        with pytest.raises(ValueError, match=rf"this policy has no '{name}': write \"{name}\""):
            gp.Policy.from_dict(whole)
    with pytest.raises(TypeError, match="'divprune' is no policy: write a dict such as"):
        gp.Policy.from_dict("divprune")  # type: ignore[arg-type]


def test_a_method_of_ones_own_is_named_by_its_class(own: Path) -> None:
    import somebody  # pyright: ignore[reportMissingImports]

    cues = gp.Cues(torch.ones(6, 2))
    for name in ("somebody:LastOnes", {"type": "somebody:LastOnes", "steps": [4]}, "last_ones", {"type": "last_ones"}):
        assert gp.select(name, cues, 2).order.tolist() == [5, 4]
    for method in (somebody.LastOnes(), somebody.LastOnes(steps=(3,), limit=2.0), somebody.Outer.Inner()):
        assert gp.from_plain(through_json(gp.to_plain(method))) == method
        policy = gp.Policy(method, 3)
        assert gp.Policy.from_dict(through_json(policy.to_dict())) == policy
        assert gp.Policy.from_dict(json.loads(policy.to_bytes())) == policy
    assert gp.to_plain(somebody.LastOnes())["type"] == "somebody:LastOnes"
    assert as_method("last_ones") == somebody.LastOnes()
    assert {"last_ones", "broken", "gone", *METHODS} <= set(registry.method_homes())
    with pytest.raises(ValueError, match=r"no option of 'somebody:LastOnes' 'step': did you mean 'steps'"):
        gp.from_plain({"type": "somebody:LastOnes", "step": 1})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"'broken_here:Method' cannot be loaded \(RuntimeError: no licence\): write package\.module:Class"),
        ("gone", r"'nowhere_at_all:Method' cannot be loaded \(ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("numeral", r"'somebody:NUMBER' is no method: name a class that derives from greedyprune\.Method"),
        ("somebody:NUMBER", r"'somebody:NUMBER' is no method"),
        ("somebody:Nothing", r"'somebody:Nothing' cannot be loaded \(AttributeError"),
        ("somebody:", r"'somebody:' cannot be loaded"),
        (":Method", r"':Method' cannot be loaded"),
        ("nobody.here:Method", r"'nobody\.here:Method' cannot be loaded \(ModuleNotFoundError"),
        ("last_one", r"no method 'last_one': did you mean 'last_ones'"),
    ],
)
def test_a_method_that_cannot_be_had_is_told_by_name_when_it_is_used(own: Path, name: str, message: str) -> None:
    for use in (lambda: as_method(name), lambda: gp.Policy.from_dict({"method": name, "keep": 3})):
        with pytest.raises(ValueError, match=message):
            use()
    with pytest.raises(ValueError, match=message.replace("no method '", "no type '")):
        gp.from_plain({"type": name})


def test_an_entry_point_takes_no_name_from_greedyprune(own: Path) -> None:
    (own / "somebody-1.0.dist-info" / "entry_points.txt").write_text(
        "[greedyprune.methods]\ndivprune = somebody:LastOnes\n"
    )
    with pytest.warns(UserWarning, match=r"divprune = 'somebody:LastOnes' .* is left out, since 'divprune' is"):
        assert registry.method_homes()["divprune"] == METHODS["divprune"]


def test_looking_up_a_registered_method_reads_no_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.added_methods.cache_clear()
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: pytest.fail("it read entry points"))
    assert as_method({"type": "divprune"}) == as_method("divprune") == gp.DivPrune()


def test_a_class_that_no_module_has_under_its_name_has_no_plain_form() -> None:
    class Local(gp.DivPrune):
        """Only here."""

    with pytest.raises(TypeError, match=r"<locals>\.Local' is not what another process finds.*define it at the top"):
        gp.to_plain(Local())


def test_renamed_names_work_and_warn_with_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.RENAMED, "OldPrune", "DivPrune")
    monkeypatch.setitem(registry.RENAMED, "old_prune", "divprune")
    monkeypatch.setitem(registry.RENAMED, "old_share", "ratio")
    monkeypatch.setitem(registry.RENAMED, "OldNothing", "Nothing")
    with pytest.warns(DeprecationWarning, match="'OldPrune' is now called 'DivPrune': write the new name") as caught:
        assert gp.OldPrune is gp.DivPrune  # type: ignore[attr-defined]
    assert caught[0].filename == __file__
    for old in ("old_prune", {"type": "old_prune"}):
        with pytest.warns(DeprecationWarning, match="'old_prune' is now called 'divprune'"):
            assert as_method(old) == gp.DivPrune()
    with pytest.warns(DeprecationWarning, match="'old_share' is now called 'ratio'"):
        assert gp.from_plain({"type": "old_share", "share": 0.5}) == gp.Ratio(0.5)
    with pytest.raises(AttributeError, match="no attribute 'OldNothing'"):
        gp.OldNothing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ValueError, match="no method 'OldPrune'"):
        as_method("OldPrune")  # the name of a class is none of a method
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gp.DivPrune is type(as_method("divprune"))


def test_every_renamed_name_leads_to_one_that_is_there() -> None:
    for old, new in registry.RENAMED.items():
        assert new in {*gp.__all__, *METHODS, *registry.VALUES}, old
        assert old not in {*gp.__all__, *METHODS, *registry.VALUES}
    with pytest.warns(DeprecationWarning, match="'Features' is now called 'Encoded'"):
        assert gp.Features is gp.Encoded  # type: ignore[attr-defined]


@pytest.mark.parametrize("keep", [*BUDGETS[:2], gp.Ratio(0.25), *BUDGETS[4:10], gp.PerLayer({8: gp.Ratio(0.5), 2: 9})])
def test_a_budget_is_read_as_it_is_printed_and_as_it_is_written(keep: Any) -> None:
    assert gp.parse_keep(keep) == keep
    assert gp.parse_keep(str(keep)) == keep
    assert gp.parse_keep(through_json(gp.to_plain(keep))) == keep


def test_a_policy_takes_the_texts_of_the_command_line() -> None:
    assert gp.Policy("greedyprune", "1/4", "layers:2,4") == gp.Policy("greedyprune", gp.Ratio(0.25), gp.Layers((2, 4)))  # type: ignore[arg-type]
    assert gp.Policy("greedyprune", "36 per layer").keep == gp.LayerAverage(36)  # type: ignore[arg-type]


def test_what_is_no_budget_is_told_as_such() -> None:
    assert gp.parse_keep(["25%", 3, {"type": "ratio", "share": 0.5}]) == (gp.Ratio(0.25), 3, gp.Ratio(0.5))
    for bad in ("", "many", "total:x", "layer:8", "layer:8 50%, 25%", "layer:8 1, layer:8 2", "x per layer"):
        with pytest.raises(ValueError, match="is no budget"):
            gp.parse_keep(bad)
    with pytest.raises(TypeError, match=r"keep=0\.25 is ambiguous"):
        gp.parse_keep(0.25)
    for bad in (None, b"64", {"type": "input"}):
        with pytest.raises(TypeError, match="is no budget"):
            gp.parse_keep(bad)
    with pytest.raises(TypeError, match="is shared between the images"):
        gp.parse_keep("total:64 per layer")


def test_numbers_that_json_lacks_have_a_plain_form() -> None:
    for value in (float("inf"), -float("inf")):
        assert gp.from_plain(through_json(gp.to_plain([value, 1.5]))) == [value, 1.5]
    for bad in ({}, {"value": "1e400"}, {"value": 3}, {"value": "inf", "of": 1}):
        with pytest.raises(ValueError, match="write a number as it is, or one of inf, -inf, nan"):
            gp.from_plain({"type": "number", **bad})


def test_scope_needs_its_field_by_the_name_of_the_need() -> None:
    cues = gp.Cues(torch.ones(4, 2), attention=torch.ones(4))
    with pytest.raises(ValueError, match=r"SCOPE needs encoded, and the cues hold none: pass encoded=, the vision"):
        gp.select("scope", cues, 2)
    assert gp.select("scope", replace(cues, encoded=torch.ones(4, 3)), 2).k == 2
