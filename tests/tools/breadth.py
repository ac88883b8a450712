"""Breadth: which values of a parameter show what there is to show, and which ones repeat it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def some(values: Iterable[Any], *quick: Any, spread: bool = False) -> list[Any]:
    """These values for `pytest.mark.parametrize`; all but the `quick` ones have the mark `wide`.

    A value is quick if it prints as one of them, or its first item does where it is a tuple for several parameters
    (`spread`). Of parameters that are stacked all have to be quick.

    >>> family = pytest.mark.parametrize("family", some(CORE, "llava", "smolvlm"))
    """
    listed, names = list(values), {str(value) for value in quick}
    called = [({str(value), str(value[0])} if spread else {str(value)}) for value in listed]
    found = [bool(names & words) for words in called]
    assert all(found) or any(found), f"none of these values is one of {names}"
    return [
        pytest.param(*(value if spread else (value,)), marks=() if is_quick else pytest.mark.wide)
        for value, is_quick in zip(listed, found, strict=True)
    ]
