"""Clips: frames of even parts, of a film by PyAV and of a picture that moves by Pillow, and files that are neither."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from films import film
from greedyprune.preprocessing.clips import read_clip, spread

SHADES = [20 * number for number in range(12)]


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (32, 32), (shade, shade, shade)) for shade in SHADES]


def shades(found: Any) -> list[int]:
    return [frame.convert("L").getpixel((16, 16)) for frame in found.frames]


def test_frames_are_the_middles_of_even_parts() -> None:
    assert spread(12, 4) == [1, 4, 7, 10]
    assert spread(3, 8) == [0, 1, 2]
    assert spread(1, 1) == [0]


def test_a_picture_that_moves_is_a_clip(tmp_path: Path) -> None:
    first, *rest = pictures()
    first.save(tmp_path / "film.gif", save_all=True, append_images=rest, duration=200)
    clip = read_clip(tmp_path / "film.gif", 4)
    assert clip.indices == [1, 4, 7, 10]
    assert shades(clip) == pytest.approx([SHADES[at] for at in clip.indices], abs=6)
    found = clip.metadata()
    assert (found["fps"], found["duration"], found["total_num_frames"]) == (5.0, 2.4, 12)


def test_a_film_is_a_clip(tmp_path: Path) -> None:
    film(tmp_path / "film.mp4", pictures())
    clip = read_clip(tmp_path / "film.mp4", 3)
    assert (clip.indices, clip.total, clip.fps) == ([2, 6, 10], 12, 4.0)
    assert shades(clip) == pytest.approx([SHADES[at] for at in clip.indices], abs=12)
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(OSError, match="it is no clip that can be read"):
        read_clip(tmp_path / "text.mp4", 3)


def test_without_the_reader_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'greedyprune\[video\]'"):
        read_clip(tmp_path / "film.mp4", 3)
