"""A policy of a stranger imports nothing that it names."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import greedyprune as gp
from greedyprune import registry
from greedyprune.naming import as_method, method_class, parse_keep

NAME = "planted_here:Planted"
PLACES: dict[str, dict[str, Any]] = {
    "method": {"method": NAME},
    "method in a dict": {"method": {"type": NAME}},
    "option": {"method": {"type": "greedyprune", "tau": {"type": NAME}}},
    "list in an option": {"method": {"type": "greedyprune", "tau": [{"type": NAME}]}},
    "policy in a policy": {"method": {"type": "policy", "method": NAME, "keep": 3}},
    "keep": {"keep": {"type": NAME}},
    "keep in a list": {"keep": ["25%", {"type": NAME}]},
    "share": {"keep": {"type": "ratio", "share": {"type": NAME}}},
    "at": {"at": {"type": NAME}},
    "indices": {"at": {"type": "layers", "indices": [{"type": NAME}]}},
}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file behind when it is imported."""
    mark = tmp_path / "imported"
    (tmp_path / "planted_here.py").write_text(
        f'open({str(mark)!r}, "w").close()\nimport greedyprune as gp\nclass Planted(gp.Random): """Its own."""\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "planted_here", raising=False)
    return mark


@pytest.mark.parametrize("place", PLACES)
def test_a_class_is_refused_wherever_a_strangers_policy_names_it(planted: Path, place: str) -> None:
    whole = {"method": "divprune", "keep": 3} | PLACES[place]
    for refused in (
        lambda: gp.Policy.from_dict(whole, own=False),
        lambda: gp.from_plain({"type": "policy", **whole}, own=False),
    ):
        with pytest.raises(
            (ValueError, TypeError), match=f"'{NAME}' would import a module, and own=False reads registered names"
        ):
            refused()
    assert not planted.exists()
    assert "planted_here" not in sys.modules
    with suppress(ValueError, TypeError):
        gp.Policy.from_dict(whole)
    assert planted.exists(), "the test would notice an import"


def test_words_refuse_it_too(planted: Path) -> None:
    for refused in (
        lambda: as_method(NAME, own=False),
        lambda: as_method({"type": NAME}, own=False),
        lambda: method_class(NAME, own=False),
        lambda: parse_keep([{"type": NAME}], own=False),
    ):
        with pytest.raises(ValueError, match="own=False"):
            refused()
    assert not planted.exists()


def test_registered_names_are_read_from_strangers(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = gp.Policy("greedyprune", gp.Total(64, floor=8), "layer:2:early").to_dict()
    assert gp.Policy.from_dict(plain, own=False) == gp.Policy.from_dict(plain)
    written = {"method": "divprune", "keep": "total:64:8", "at": "input"}
    assert gp.Policy.from_dict(written, own=False).keep == gp.Total(64, floor=8)
    monkeypatch.setattr(registry, "added_methods", lambda: {"planted": NAME})  # an installed package's
    for method in ("planted", {"type": "planted"}):
        assert type(gp.Policy.from_dict({"method": method, "keep": 3}, own=False).method).__name__ == "Planted"
