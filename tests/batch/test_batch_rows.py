"""Rows of a batch: every part of a source is what the whole holds there, and what a row may name is bounded."""

from __future__ import annotations

import base64
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from greedyprune.batch import open_source, row_of, sources
from greedyprune.batch.rows import open_image
from greedyprune.budget import Ratio


def png(color: str = "red") -> bytes:
    """The bytes of a small picture."""
    held = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(held, "PNG")
    return held.getvalue()


def folder(made: Path) -> Path:
    """Seven pictures in two folders, a hidden one, and a text."""
    for number in range(7):
        place = made / ("a" if number % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(png())
    (made / ".hidden.png").write_bytes(png())
    (made / "notes.txt").write_text("no picture")
    return made


def lines(made: Path) -> Path:
    """Nine rows, with empty lines between them, one broken and one no object."""
    made.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"id": f"r{number}", "question": "what ?", "gold": 1}) for number in range(7)]
    path = made / "rows.jsonl"
    path.write_text("\n\n".join([*rows[:3], "{broken", "[1]", *rows[3:]]), encoding="utf-8")
    return path


def table(made: Path) -> Path:
    """Eleven rows in groups of three."""
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    made.mkdir(parents=True, exist_ok=True)
    rows = [{"id": number, "image": {"bytes": png(), "path": None}, "gold": 1} for number in range(11)]
    path = made / "rows.parquet"
    arrow.parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=3)
    return path


@pytest.mark.parametrize(("make", "count"), [(folder, 7), (lines, 9), (table, 11)])
def test_any_part_of_a_source_is_what_the_whole_holds_there(
    make: Callable[[Path], Path], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_STEP", 2)
    source = pickle.loads(pickle.dumps(open_source(make(tmp_path / "given"))))
    whole = source.read(0, count + 5)
    assert len(source) == len(whole) == count
    for start in range(count + 1):
        for stop in range(start, count + 2):
            assert source.read(start, stop) == whole[start:stop], (start, stop)
    assert source.unread in [("gold",), ("notes.txt",)]
    assert source.digest() == open_source(make(tmp_path / "given")).digest()


def test_a_line_that_is_no_row_is_a_reason_with_its_line(tmp_path: Path) -> None:
    told = [row for row in open_source(lines(tmp_path)).read(0, 9) if isinstance(row, str)]
    assert told[0].startswith("rows.jsonl:7 is no JSON")
    assert told[1].startswith("rows.jsonl:9 is no row")


def test_what_is_no_source_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    (tmp_path / "rows.jsonl").write_text("\n")
    for name, told in (("none", "no such file"), ("rows.csv", "is no input"), ("rows.jsonl", "has no rows")):
        with pytest.raises(ValueError, match=told):
            open_source(tmp_path / name)


def test_a_picture_is_the_same_however_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    broken = url[:40] + "\n " + url[40:]
    held = [{"bytes": png(), "path": "a.png"}, {"bytes": None, "path": "a.png"}]
    for given in ("a.png", url, url.replace("data", "DATA"), broken, png(), *held):
        row = row_of({"id": 0, "image": given}, tmp_path, "what ?")
        assert open_image(row.images[0]).tobytes() == Image.new("RGB", (8, 6), "red").tobytes()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"question": " "}, '"question" is'),
        ({"question": 3}, '"question" is 3'),
        ({"image": "../out.png"}, "is not below"),
        ({"image": "/etc/hostname"}, "is not below"),
        ({"image": "link.png"}, "is not below"),
        ({"image": "a\0.png"}, "no name of a file"),
        ({"image": 7}, '"image" is 7'),
        ({"image": "data:image/png,abc"}, "is not in base64"),
        ({"image": "data:image/png;base64,a*"}, "holds no valid base64"),
        ({"images": "a.png"}, "write a list"),
        ({"images": ["a.png"], "image": "a.png"}, "write one of them"),
        ({"id": 1.5}, '"id" is 1.5'),
        ({"greedyprune": 64}, '"greedyprune" is 64'),
        ({"greedyprune": {"kep": 64}}, "kep"),
        ({"greedyprune": {"method": "os:system"}}, "would import a module"),
        ({"greedyprune": {"keep": "many"}}, "many"),
    ],
)
def test_a_wrong_row_is_refused_by_name(more: dict[str, Any], told: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "out.png").write_bytes(png())
    (root / "link.png").symlink_to(tmp_path / "out.png")
    with pytest.raises((ValueError, TypeError), match=told):
        row_of({"id": 0, "question": "what ?", **more}, root)


def test_a_row_without_a_question_says_how_to_ask_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--ask"):
        row_of({"id": 0}, tmp_path)
    assert row_of({"id": 0}, tmp_path, "what ?").question == "what ?"
    assert row_of({"id": 0, "greedyprune": {"keep": "25%"}}, tmp_path, "what ?").wish == {"keep": Ratio(0.25)}


def test_a_picture_of_several_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    Image.new("L", (4, 4)).save(path, save_all=True, append_images=[Image.new("L", (4, 4), 9)])
    with pytest.raises(ValueError, match="2 frames"):
        open_image(path)
    with pytest.raises(ValueError, match="the picture of 10 bytes is no image that is read"):
        open_image(b"no picture")
    with pytest.raises(ValueError, match=r"none.png': there is no such file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="the picture of 50 bytes cannot be read, it may be damaged: "):
        open_image(png()[:50])
