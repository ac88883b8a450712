"""Models that read text off pages: `prune()` warns once if less is kept than they can give."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import greedyprune as gp
import proofs
from greedyprune.models import needs
from greedyprune.models.readable import PAGE_READERS
from tiny import BUILDERS, tiny

HERE = [name for name in PAGE_READERS if name in BUILDERS]


@pytest.fixture(autouse=True)
def unwarned() -> Iterator[None]:
    """Nobody was warned yet, and nothing is left out."""
    needs._warn_of_pages.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    needs._warn_of_pages.cache_clear()


@pytest.mark.parametrize("family", HERE)
def test_it_warns_once_and_names_the_remedy(family: str) -> None:
    with pytest.warns(
        gp.PruneWarning, match=rf"{family!r} model reads text .* Keep 80% or more, keep=Ratio\(0.8\)"
    ) as told:
        gp.prune(tiny(family).model, keep=4).remove()
    assert told[0].filename == __file__
    gp.prune(tiny(family).model, keep=4).remove()


@pytest.mark.parametrize(
    "keep", [gp.Ratio(0.8), "100%", [gp.Ratio(0.9)], gp.PerLayer({1: gp.Ratio(0.9), 2: gp.Ratio(0.8)})]
)
def test_who_keeps_that_much_is_not_warned(keep: Any) -> None:
    gp.prune(tiny("lighton_ocr").model, keep=keep).remove()


@pytest.mark.parametrize("keep", [gp.Ratio(0.79), [gp.Ratio(0.9), 64], gp.Total(64), gp.LayerAverage(4)])
def test_who_keeps_less_or_an_unknown_share_is_warned_and_nothing_is_attached_if_that_is_an_error(keep: Any) -> None:
    made = tiny("lighton_ocr")
    with pytest.raises(gp.PruneWarning, match="reads text off pages"):
        gp.prune(made.model, keep=keep)
    assert proofs.hooks_on(made.model) == 0


def test_other_models_are_not_warned_about() -> None:
    gp.prune(tiny("llava").model, keep=4).remove()
