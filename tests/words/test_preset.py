"""A preset is a policy in a file: what is saved is read again, and a bad file is named with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import greedyprune as gp

POLICIES = [
    gp.Policy(gp.GreedyPrune(tau=gp.Quantile(0.9)), gp.Ratio(1 / 9), gp.Layer(2, early=True)),
    gp.Policy("divprune", 64, positions="compact"),
    gp.Policy("fastv", gp.PerLayer({2: gp.Ratio(0.5), 3: 16})),
    gp.Policy("mmr", [64, gp.Ratio(0.5)]),
    gp.Policy("saliency", gp.LayerAverage(36), gp.Depths((0.25, 0.5))),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy.method).__name__)
def test_what_is_saved_is_read_again(policy: gp.Policy, tmp_path: Path) -> None:
    preset = gp.Preset(policy, "./my-llava", "97.2 % right, ± 1")
    preset.save(tmp_path / "fast.json")
    assert gp.load_preset(tmp_path / "fast.json", own=False) == preset


def test_a_person_writes_two_fields(tmp_path: Path) -> None:
    (tmp_path / "fast.json").write_text('{"method": "divprune", "keep": "25%"}')
    assert gp.load_preset(str(tmp_path / "fast.json")) == gp.Preset(gp.Policy("divprune", gp.Ratio(0.25)))


BAD: dict[str, tuple[str | bytes, str]] = {
    "no JSON": ('{"method": "divprune",', "it is no JSON: .* at line 1"),
    "no text": (b"\xff\xfe{", "it is no UTF-8 text"),
    "a list": ("[1]", r"\[1\] is no preset: write an object"),
    "no method": ('{"keep": 64}', "has no 'method'"),
    "no such method": ('{"method": "divprun", "keep": 64}', "did you mean 'divprune'"),
    "no budget": ('{"method": "divprune", "keep": "lots"}', "'lots' is no budget"),
    "a place of another method": ('{"method": "fastv", "keep": 64, "at": "nowhere"}', "names no stage"),
    "another field": ('{"method": "divprune", "keep": 64, "modl": "x"}', "did you mean 'model'|no field of a policy"),
    "a model that is no text": ('{"method": "divprune", "keep": 64, "model": 3}', "model=3"),
    "a policy of tomorrow": ('{"method": "divprune", "keep": 64, "version": 99}', "version 99"),
    "another type": ('{"type": "policy", "method": "divprune", "keep": 64}', "of type 'policy' and no preset"),
    "too long": (" " * 1_000_001, "more than 1000000 bytes"),
    "too deep": ("[" * 100_000, "nested too deeply"),
    "a stranger's class": ('{"method": "os:system", "keep": 64}', "own=False"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_named_with_the_reason(what: str, tmp_path: Path) -> None:
    text, reason = BAD[what]
    path = tmp_path / "bad.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=reason) as caught:
        gp.load_preset(path, own=False)
    assert f"the preset {str(path)!r} cannot be read: " in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(ValueError, match="cannot be read: "):
            gp.load_preset(path)


@pytest.mark.parametrize("fields", [{"policy": "divprune"}, {"model": 3}, {"note": None}])
def test_a_preset_is_made_of_a_policy_and_texts(fields: Any) -> None:
    with pytest.raises(TypeError, match=r"write Policy\(method, keep\)|both are texts"):
        gp.Preset(**{"policy": POLICIES[0], **fields})


def test_the_file_is_plain_json_of_the_policy(tmp_path: Path) -> None:
    gp.Preset(POLICIES[1]).save(tmp_path / "fast.json")
    found = json.loads((tmp_path / "fast.json").read_text())
    assert found == {**POLICIES[1].to_dict(), "type": "preset", "model": None, "note": ""}
