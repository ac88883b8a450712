"""A wish out of plain values is read in one place, for policies, servers, rows of a batch and engines."""

from __future__ import annotations

from typing import Any

import pytest

import greedyprune as gp
from greedyprune.naming import WISHES, WishError, read_wish

FORMS: dict[str, tuple[list[Any], object]] = {
    "method": (["divprune", {"type": "divprune"}, gp.DivPrune, gp.DivPrune()], gp.DivPrune()),
    "keep": (["25%", "1/4", {"type": "ratio", "share": 0.25}, gp.Ratio(0.25)], gp.Ratio(0.25)),
    "at": (["layer:2", {"type": "layer", "index": 2}, gp.Layer(2)], gp.Layer(2)),
    "positions": (["compact"], "compact"),
    "restore": (["both"], "both"),
}


@pytest.mark.parametrize("field", WISHES)
def test_each_field_is_read_in_every_form_and_none_is_left_out(field: str) -> None:
    forms, value = FORMS[field]
    for form in forms:
        assert read_wish({**dict.fromkeys(WISHES), field: form}) == {field: value}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("method", "none"), ("method", 7), ("method", "os:system"), ("keep", "many"), ("keep", 0.25), ("keep", [[[]]]),
     ("at", "layer"), ("at", 2), ("at", {"type": "ratio", "share": 0.5}), ("at", {"type": "os:system"})],
)  # fmt: skip
def test_a_value_that_cannot_be_read_is_an_error_that_knows_its_field(field: str, wrong: object) -> None:
    with pytest.raises(WishError) as error:
        read_wish({"positions": "compact", field: wrong}, own=False)
    assert error.value.field == field
    for kind in (ValueError, TypeError):
        with pytest.raises(kind):
            read_wish({field: wrong}, own=False)


def test_what_is_nested_too_deeply_is_such_an_error_too() -> None:
    deep: Any = 0.5
    for _ in range(3000):
        deep = {"type": "ratio", "share": deep}
    with pytest.raises(WishError, match="keep is nested too deeply"):
        read_wish({"keep": deep})


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ValueError, match="no field of a wish 'kep': did you mean 'keep'"):
        read_wish({"kep": 64})
