"""Breadth: which of many values of a parameter show what there is to show, and which repeat it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def some(values: Iterable[Any], *quick: Any) -> list[Any]:
    """These values for `pytest.mark.parametrize`; all but the `quick` ones have the mark `wide`, as `make test-all` runs.

    A value is quick if it, its name or what it prints as is. Of several stacked parameters all have to be quick.
    """
    listed = list(values)
    names = {str(value) for value in quick}
    known = {str(getattr(value, "name", value)) for value in listed} | {str(value) for value in listed}
    assert names <= known, f"none of the values: {names - known}"
    return [pytest.param(value, marks=() if _quick(value, names) else pytest.mark.wide) for value in listed]


def _quick(value: Any, names: set[str]) -> bool:
    return str(value) in names or str(getattr(value, "name", value)) in names
