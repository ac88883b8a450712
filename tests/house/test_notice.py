"""Whose photographs, digits and fonts the bundled weights were trained with is said wherever the weights go."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import greedyprune as gp
from greedyprune import testbed

ROOT = Path(gp.__file__).parent.parent.parent
NOTICE = (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_the_notice_names_all_that_scenes_are_made_of() -> None:
    for extra in ("sklearn", "skimage", "matplotlib"):
        pytest.importorskip(extra)
    from greedyprune.testbed.assets import FONTS, PHOTOS

    named = set(re.findall(r"[\w.]+", NOTICE))
    assert {photo for some in PHOTOS.values() for photo in some} <= named
    assert {font.partition("-")[0] for some in FONTS.values() for font in some} <= named
    assert set(re.findall(r"\w+\.(?:png|jpg)", NOTICE)) <= {photo for some in PHOTOS.values() for photo in some}
    assert "Optical recognition of handwritten digits" in NOTICE


def test_the_notice_repeats_what_scikit_learn_says_of_its_photographs() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    said = (Path(datasets.__file__).parent / "images" / "README.txt").read_text(encoding="utf-8")
    for link in re.findall(r"https://\S+", said):
        assert link in NOTICE
    for author in re.findall(r"(Some rights reserved by \w+)", said):
        assert f'"{author}"' in NOTICE


@pytest.mark.parametrize("name", testbed.MODELS)
def test_a_model_card_attributes(name: str) -> None:
    card = (testbed.FOLDERS[name] / "README.md").read_text(encoding="utf-8")
    part = card.partition("## Attribution")[2].partition("\n## ")[0]
    for word in ("china.jpg", "flower.jpg", "danielbuechele", "vultilion", "licenses/by/2.0", "`NOTICE`"):
        assert word in part


def test_wheel_and_source_distribution_hold_the_notice() -> None:
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"LICENSE", "NOTICE"} <= set(about["project"]["license-files"])
    kept_out = about["tool"]["hatch"]["build"]["targets"].get("sdist", {})
    assert not kept_out, "the source distribution holds all that git holds, so that it passes its own tests"
