"""Files from others: nothing outside their folder is read, nothing in them is run, and none costs the machine."""

from __future__ import annotations

import ast
import json
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import EpsImagePlugin, Image, UnidentifiedImageError

import greedyprune as gp
from commands import complaint, greedy
from greedyprune.cli._load import open_image
from greedyprune.eval import Item
from greedyprune.eval.folder import LONGEST_LINE, Folder
from greedyprune.eval.items import digest
from greedyprune.preprocessing import pictures
from greedyprune.preprocessing.pictures import TooLarge, open_picture

GOOD = {"image": "x.png", "question": "what ?", "answer": "a"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an image, beside one that is nobody's business."""
    made = tmp_path / "mine"
    made.mkdir()
    for path in (made / "x.png", tmp_path / "secret.png"):
        Image.new("RGB", (20, 10)).save(path)
    return made


def ask(folder: Path, *lines: Any) -> list[Item]:
    """The items of these lines, behind a good one."""
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in (GOOD, *lines)]
    (folder / "questions.jsonl").write_bytes(b"\n".join(texts))
    return Folder(folder).items()


# Data folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../secret.png", "sub/../x.png", "link.png", "away/secret.png", "absolute", "x\0.png"]
)
def test_images_outside_the_folder_are_refused(folder: Path, name: str) -> None:
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "away").symlink_to(folder.parent)
    given = str(folder / "x.png") if name == "absolute" else name
    with pytest.raises(ValueError, match=r"^questions.jsonl:2 names .*: (write a path inside|put the file)"):
        ask(folder, {**GOOD, "image": given})


def test_the_questions_themselves_lie_in_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text(json.dumps(GOOD))
    (folder / "questions.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(ValueError, match="a link that leaves the folder"):
        Folder(folder).items()


def test_links_inside_the_folder_and_to_the_folder_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "link.png").symlink_to(folder / "x.png")
    ask(folder, {**GOOD, "image": "deep/link.png"}, {**GOOD, "image": "./x.png"})
    (tmp_path / "other").symlink_to(folder)
    items = Folder(tmp_path / "other").items()
    assert [item.picture for item in items] == ["x.png"] * 3  # one image, whatever its names
    assert all(item.open().size == (20, 10) for item in items)


BAD = {
    "boxes a number": {"boxes": 5},
    "boxes null": {"boxes": None},
    "box of truths": {"boxes": [[False, False, True, True]]},
    "box of texts": {"boxes": [["0", "0", "1", "1"]]},
    "box null": {"boxes": [None]},
    "guesses a number": {"guesses": 5},
    "guesses null": {"guesses": None},
    "guesses a text": {"guesses": "abc"},
    "guess null": {"guesses": [None]},
    "answer null": {"answer": None},
    "answer true": {"answer": True},
    "answers none": {"answer": []},
    "an answer null": {"answer": ["a", None]},
    "answer an object": {"answer": {"a": 1}},
    "answer of half a character": {"answer": "\ud800"},
    "question null": {"question": None},
    "question empty": {"question": " "},
    "question a list": {"question": ["what ?"]},
    "question too long": {"question": "x" * 20_001},
    "question of half a character": {"question": "\udfff"},
    "task null": {"task": None},
    "task too long": {"task": "x" * 201},
    "task that writes to the terminal": {"task": "\x1b[2J"},
    "image null": {"image": None},
    "image a list": {"image": ["x.png"]},
    "image empty": {"image": ""},
    "image a folder": {"image": "."},
    "image name too long": {"image": "x" * 5000},
    "image name of half a character": {"image": "\ud800.png"},
    "unknown field": {"x" * 5000: 1},
}
RAW = {
    "a number of 400 digits": json.dumps({**GOOD, "boxes": [[0, 0, 9, 9]]}).replace("9]", "1" + "0" * 400 + "]"),
    "a number of 5000 digits": json.dumps({**GOOD, "boxes": [[0, 0, 9, 9]]}).replace("9]", "1" * 5000 + "]"),
    "an infinite edge": json.dumps({**GOOD, "boxes": [[0, 0, 9, float("inf")]]}),
    "an edge beyond floats": json.dumps({**GOOD, "boxes": [[0, 0, 9, 9]]}).replace("9]", "1e999]"),
    "an edge that is no number": json.dumps({**GOOD, "boxes": [[float("nan"), 0, 9, 9]]}),
    "an answer that is no number": json.dumps({**GOOD, "answer": float("nan")}),
    "deep nesting": '{"image": ' + "[" * 100_000 + "]" * 100_000 + ', "question": "?", "answer": "a"}',
    "no object": "[1]",
    "no JSON": "{",
    "bytes of no text": b"\xff\xfe{}",
    "a line without end": b'{"image": "' + b"x" * LONGEST_LINE,
}


@pytest.mark.parametrize("case", [*BAD, *RAW])
def test_a_malformed_line_is_named_shortly(folder: Path, case: str) -> None:
    raw = RAW.get(case, "")
    line = {**GOOD, **BAD[case]} if case in BAD else raw if isinstance(raw, bytes) else raw.encode()
    with pytest.raises(ValueError, match=r"^questions.jsonl:2 ") as caught:
        ask(folder, line)
    assert len(str(caught.value)) < 500
    assert type(caught.value) is ValueError


def test_a_malformed_line_is_told_before_a_model_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greedyprune.cli._models.engine", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match="questions"):
        ask(folder, {**GOOD, "boxes": None})
    said = complaint(greedy("eval", "--data", folder, "--model", "llava"), 1)
    assert '--data: questions.jsonl:2 has the "boxes" None: write a list' in said
    ask(folder, {**GOOD, "answer": "?"})
    said = complaint(greedy("eval", "--data", folder, "--model", "llava"), 1)
    assert "'questions.jsonl:2' has no answer that could be right" in said


def test_lines_end_where_lines_end_and_numbers_are_texts(folder: Path) -> None:
    odd = json.dumps({**GOOD, "question": "a\u2028b\x85c", "answer": [3, 2.5]}, ensure_ascii=False).encode()
    _, found, last = ask(folder, odd + b"\r", GOOD)
    assert (found.text, found.answers, last.name) == ("a\u2028b\x85c", ("3", "2.5"), "questions.jsonl:3")
    (folder / "questions.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())  # as Notepad saves it
    assert [item.answers for item in Folder(folder).items()] == [("a",)]


def test_a_name_that_a_terminal_would_obey_is_shown_without_its_orders(folder: Path) -> None:
    (folder / "\x1b[2J\x9b.jsonl").write_text("{")
    said = complaint(greedy("eval", "--data", folder, "--model", "llava"), 1)
    assert "?[2J?.jsonl:1 is no JSON" in said
    assert said.isprintable()


def test_images_are_told_apart_without_being_held_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("the whole file was read"))
    before = digest(ask(folder))
    Image.new("RGB", (20, 10), "red").save(folder / "x.png")
    assert digest(ask(folder)) != before


# Pictures -------------------------------------------------------------------------------------------------------------


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG that says it is so large, and holds no pixels: decoding it is an error."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))]
    data = b"IDAT" + zlib.compress(b"")
    chunks.append(struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize("size", [(7072, 7071), (10_000, 10_000), (13_000, 13_000), (50_000, 50_000)])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    path = bomb(tmp_path / "x.png", *size)
    item = Item("q", "t", path, "x.png", "?", ("a",))
    keep = gp.Keep.from_order(torch.arange(4), torch.zeros(4), 16)
    for opened in (
        lambda: open_picture(path),
        item.open,
        lambda: gp.plots.overlay(path, keep, grid=(1, 4, 4)),
        lambda: gp.plots.side_by_side([path]),
    ):
        with pytest.raises(TooLarge, match=r"at most 50 million .*: scale it down first"):
            opened()
    said = complaint(greedy("run", path, "--ask", "how many circles ?"), 1)
    assert "at most 50 million" in said
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(TooLarge):
            open_picture(path)
    assert not told


def test_what_is_not_too_large_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 7071 * 7071 <= pictures.MOST_PIXELS < 7072 * 7071
    monkeypatch.setattr(pictures, "MOST_PIXELS", 200)
    Image.new("L", (20, 10)).save(tmp_path / "x.png")
    picture = open_picture(tmp_path / "x.png")
    assert (picture.size, picture.mode) == ((20, 10), "RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    for name in ("x.jpg", "x.webp", "x.tif"):
        Image.new("RGB", (20, 10)).save(tmp_path / name, exif=turned)
        assert open_picture(tmp_path / name).size == (10, 20)


def deep(path: Path, top: int) -> Path:
    """A picture of 16 bits: a ramp from 0 to `top`."""
    ramp = torch.linspace(0, top, 64 * 64).round().int().tolist()
    Image.frombytes("I;16", (64, 64), struct.pack(f"<{len(ramp)}H", *ramp)).save(path)
    return path


@pytest.mark.parametrize(("name", "top"), [("x.png", 65535), ("x.tif", 65535), ("x.png", 255), ("x.png", 1)])
def test_grey_of_16_bits_is_scaled_and_not_clipped_to_white(tmp_path: Path, name: str, top: int) -> None:
    path = deep(tmp_path / name, top)
    wanted = torch.linspace(0, top, 64 * 64).round() / top * 255
    for picture in (open_picture(path), Item("q", "t", path, name, "?", ("a",)).open(), open_image(path)):
        assert picture.mode == "RGB"
        read = torch.tensor(list(picture.getchannel(0).tobytes()), dtype=torch.float64)
        assert (read - wanted).abs().max() <= 0.5 + 1e-6
    keep = gp.Keep.from_order(torch.arange(4), torch.zeros(4), 4)
    with Image.open(path) as image:
        drawn = gp.plots.overlay(image, keep, grid=(1, 2, 2))  # an image that the user opened
    assert drawn.tobytes() == gp.plots.overlay(path, keep, grid=(1, 2, 2)).tobytes()


def test_values_beyond_16_bits_are_scaled_from_the_smallest_to_the_largest() -> None:
    picture = Image.new("F", (3, 1))
    picture.putdata([-1.5, 0.0, 1.5])
    assert list(pictures.rgb(picture).getchannel(0).tobytes()) == [0, 128, 255]
    flat = Image.new("I", (2, 1), -7)
    assert len(set(pictures.rgb(flat).tobytes())) == 1


@pytest.mark.parametrize("name", ["x.tif", "x.gif", "x.png", "x.webp"])
def test_of_several_pages_the_first_is_read_and_this_is_said(tmp_path: Path, name: str) -> None:
    pages = [Image.new("RGB", (64, 64), color) for color in ("red", "blue", "green")]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], lossless=True)
    with pytest.warns(UserWarning, match=rf"{name}' has 3 pages or frames, and the first one is read"):
        picture = open_picture(tmp_path / name)
    assert picture.getpixel((3, 3)) == (255, 0, 0) or name == "x.gif"
    Image.new("RGB", (64, 64)).save(tmp_path / "one.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_picture(tmp_path / "one.tif")


def test_verify_draws_no_bombs_itself() -> None:
    said = complaint(greedy("verify", "llava", "--images", "336x336,8000x8000"), 2)
    assert "8000 x 8000 pixels, and at most 50 million" in said


def test_no_interpreter_is_started_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was run"))
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "load", lambda *_, **__: pytest.fail("PostScript was loaded"))
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(UnidentifiedImageError):
        open_picture(path)
    with Image.open(path) as image:
        assert image.format == "EPS"  # as Pillow alone would take it
    assert "known are PNG, JPEG" in complaint(greedy("run", path, "--ask", "?"), 1)


# Code -----------------------------------------------------------------------------------------------------------------


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def test_a_foreign_checkpoint_of_the_training_runs_nothing(tmp_path: Path) -> None:
    from greedyprune.testbed.train.command import _saved
    from greedyprune.testbed.train.loop import Run

    ran = tmp_path / "ran"
    torch.save({"model": Evil(ran), "step": 1}, tmp_path / "vision.pt")
    for load in (lambda: _saved(tmp_path / "vision.pt"), lambda: Run("vision", tmp_path, 0, 1).load({})):
        with pytest.raises(pickle.UnpicklingError):
            load()
    assert not ran.exists()


@pytest.mark.parametrize("path", sorted(Path(gp.__file__).parent.rglob("*.py")), ids=lambda path: path.name)
def test_the_source_runs_no_file_that_it_reads(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert "trust_remote_code" not in path.read_text(encoding="utf-8")
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    own = {"pickle"} if path.name == "testing.py" else set[str]()  # of a method that it pickled itself
    assert not (names - own) & {"pickle", "marshal", "shelve", "dill", "joblib", "runpy"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        words = {word.arg: word.value for word in node.keywords}
        said = ast.unparse(node.func)
        if said == "torch.load":
            assert isinstance(words.get("weights_only"), ast.Constant), f"{path}:{node.lineno}"
            assert words["weights_only"].value is True, f"{path}:{node.lineno}"
        assert said not in ("eval", "exec", "compile", "__import__", "os.system"), f"{path}:{node.lineno}"
        assert "shell" not in words, f"{path}:{node.lineno}"
        if said == "Image.open":
            assert path.name == "pictures.py" or path.name == "assets.py", f"{path}:{node.lineno}: no bound on pixels"
