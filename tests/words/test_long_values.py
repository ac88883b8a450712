"""An error names a value of a user, but a value of a megabyte shows its beginning alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import greedyprune as gp
from greedyprune.shown import LONGEST, shown

LONG = "a" * 1_000_000
DIGITS = "9" * 1_000_000


def policy(**plain: Any) -> Callable[[], object]:
    return lambda: gp.Policy.from_dict({"method": "divprune", "keep": 5} | plain)


CALLS: dict[str, Callable[[], object]] = {
    "keep": lambda: gp.parse_keep(LONG),
    "digits": lambda: gp.parse_keep(f"total:{DIGITS}"),
    "digits of a layer": lambda: gp.parse_keep(f"layer:{DIGITS} 50%"),
    "digits of a ratio": lambda: gp.parse_keep(f"{DIGITS}%"),
    "keep in a list": lambda: gp.parse_keep([LONG]),
    "keep per layer": lambda: gp.parse_keep(f"layer:2 {LONG}"),
    "keep per frame": lambda: gp.parse_keep(f"{LONG}/frame"),
    "keep in bytes": lambda: gp.parse_keep(LONG.encode()),
    "plain keep": lambda: gp.parse_keep({"type": LONG}),
    "plain keep without a type": lambda: gp.parse_keep({"share": LONG}),
    "share": lambda: gp.parse_keep({"type": "ratio", "share": LONG}),
    "schedule": lambda: gp.parse_keep({"type": "per_layer", "schedule": LONG}),
    "method": lambda: gp.Policy(LONG, 5),  # type: ignore[arg-type]
    "own method": lambda: gp.Policy(f"{LONG}:{LONG}", 5),  # type: ignore[arg-type]
    "no method": lambda: gp.Policy(LONG.encode(), 5),  # type: ignore[arg-type]
    "option": lambda: gp.GreedyPrune(fallback=LONG),  # type: ignore[arg-type]
    "stage": lambda: gp.Policy("divprune", 5, LONG),  # type: ignore[arg-type]
    "digits of a stage": lambda: gp.Policy("divprune", 5, f"layer:{DIGITS}"),  # type: ignore[arg-type]
    "layers": lambda: gp.Policy("divprune", 5, f"layers:2,{DIGITS}"),  # type: ignore[arg-type]
    "no stage": lambda: gp.Policy("divprune", 5, LONG.encode()),  # type: ignore[arg-type]
    "positions": policy(positions=LONG),
    "field": policy(**{LONG: 1}),
    "kind": policy(type=LONG),
    "version": policy(version=LONG),
    "no policy": lambda: gp.Policy.from_dict(LONG),  # type: ignore[arg-type]
    "method of a policy": policy(method=LONG),
    "option of a policy": policy(method={"type": "greedyprune", LONG: 1}),
    "value of a policy": policy(method={"type": "random", "seed": LONG}),
    "text of a policy": policy(method={"type": "mmr", "text": LONG}),
    "keep of a policy": policy(keep=LONG),
    "stage of a policy": policy(at=LONG),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_error_is_short_whatever_the_value(name: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        CALLS[name]()
    assert len(str(caught.value)) < 2000
    assert any(remedy in str(caught.value) for remedy in ("write", "choose", "pass", "read it", "Known"))


def test_a_value_is_shown_whole_or_with_the_number_of_characters_left_out() -> None:
    assert shown("layer:2") == "'layer:2'"
    assert shown("a" * (LONGEST - 2)) == repr("a" * (LONGEST - 2))
    assert shown("a" * LONGEST) == f"'{'a' * (LONGEST - 1)}... (2 more characters)"
