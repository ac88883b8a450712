"""Overlays show what was kept and nothing else, whatever the grid and the image; sheets are as large as their parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from greedyprune.keep import Keep
from greedyprune.plots import overlay, seen, side_by_side
from greedyprune.selection import Selection


def keep(n: int, *order: int) -> Keep:
    return Keep.from_order(torch.tensor(order, dtype=torch.long), torch.zeros(len(order)), n)


def selected(grid: tuple[int, int, int] | None, n: int, *order: int) -> Selection:
    return Selection(0, 0, grid, len(order), keep(n, *order))


def colours(width: int, height: int) -> Image.Image:
    """A picture in which neighbouring pixels are alike and no pixel is black."""
    image = Image.new("RGB", (width, height))
    image.putdata([(120 + 100 * x // width, 120 + 100 * y // height, 200) for y in range(height) for x in range(width)])
    return image


def pixels(image: Image.Image) -> list[tuple[int, ...]]:
    """All pixels, row by row."""
    found = image.tobytes()
    return [tuple(found[i : i + 3]) for i in range(0, len(found), 3)]


@pytest.mark.parametrize(
    ("size", "grid"), [((168, 168), (12, 12)), ((300, 120), (3, 7)), ((33, 80), (5, 2)), ((1, 1), (2, 2))]
)
def test_kept_patches_keep_their_pixels_and_the_others_are_dimmer(size: tuple[int, int], grid: tuple[int, int]) -> None:
    image, (rows, columns) = colours(*size), grid
    order = [rows * columns - 1, 0, columns]
    drawn = overlay(image, selected((1, rows, columns), rows * columns, *order), size=504)
    whole = image.resize(drawn.size, Image.Resampling.LANCZOS)
    assert max(drawn.size) == 504
    for patch in range(rows * columns):
        x = round((patch % columns + 0.5) * drawn.width / columns)
        y = round((patch // columns + 0.5) * drawn.height / rows)
        now, before = drawn.getpixel((x, y)), whole.getpixel((x, y))
        if patch in order:
            assert now == before
        else:
            assert all(a < 0.7 * b for a, b in zip(now, before, strict=True))


def test_an_outline_is_crisp_and_stays_inside_its_patch() -> None:
    drawn = overlay(colours(168, 168), selected((1, 12, 12), 144, 13), outline=(255, 0, 0))
    red = [(i % 504, i // 504) for i, pixel in enumerate(pixels(drawn)) if pixel == (255, 0, 0)]
    assert {x for x, _ in red} == set(range(42, 84))
    assert {y for _, y in red} == set(range(42, 84))
    assert len(red) == 42**2 - 38**2  # two pixels wide


def test_a_bare_decision_needs_its_grid_and_numbers_change_only_kept_patches() -> None:
    image, decision = colours(60, 60), keep(9, 4, 0)
    plain = overlay(image, decision, grid=(1, 3, 3))
    numbered = overlay(image, decision, grid=(1, 3, 3), order=True)
    changed = [
        (i % 504 // 168, i // 504 // 168)
        for i, (a, b) in enumerate(zip(pixels(plain), pixels(numbered), strict=True))
        if a != b
    ]
    assert set(changed) == {(0, 0), (1, 1)}


def test_nothing_kept_and_everything_kept() -> None:
    image = colours(56, 56)
    dark = overlay(image, keep(16), grid=(1, 4, 4))
    bright = overlay(image, keep(16, *range(16)), grid=(1, 4, 4))
    assert max(high for _, high in dark.getextrema()) < min(low for low, _ in image.getextrema())
    assert bright.getpixel((20, 20)) == image.resize((504, 504), Image.Resampling.LANCZOS).getpixel((20, 20))


def test_a_fine_grid_makes_the_picture_larger() -> None:
    assert overlay(colours(50, 50), keep(10_000, 7), grid=(1, 100, 100)).size == (600, 600)


def test_a_line_of_a_picture_is_stretched_instead_of_made_huge() -> None:
    assert overlay(colours(2000, 3), keep(144, 7), grid=(1, 12, 12)).size == (4 * 504, 12 * 6)


def test_what_the_model_never_saw_is_darkest_and_is_found_on_the_processor() -> None:
    wide = colours(300, 100)
    size, crop = (
        SimpleNamespace(shortest_edge=50, width=None, height=None),
        SimpleNamespace(width=50, height=50),
    )
    worker = SimpleNamespace(do_center_crop=True, size=size, crop_size=crop)
    assert seen(wide, SimpleNamespace(image_processor=worker)) == (100, 0, 200, 100)
    assert seen(wide, SimpleNamespace(do_center_crop=False)) == (0, 0, 300, 100)
    squeezed = SimpleNamespace(
        do_center_crop=True, size=SimpleNamespace(shortest_edge=None, width=60, height=60), crop_size=crop
    )
    assert seen(colours(120, 60), squeezed) == (10, 5, 110, 55)
    drawn = overlay(wide, keep(4, 0), grid=(1, 2, 2), part=seen(wide, worker), size=300)
    assert drawn.getpixel((120, 20)) == wide.getpixel((120, 20))
    outside, dropped = drawn.getpixel((90, 20)), drawn.getpixel((190, 90))
    assert max(outside) < min(dropped)


@pytest.mark.parametrize(
    ("selection", "more", "message"),
    [
        (selected(None, 10, 1), {}, r"10 tokens has no grid.*pass grid=\(1, h, w\)"),
        (selected((2, 2, 2), 8, 1), {}, "covers 2 frames"),
        (keep(8, 1), {"grid": (1, 3, 3)}, r"grid=\(1, 3, 3\) has 9 patches, the selection is about 8"),
        (keep(4, 1), {"grid": (1, 2, 2), "part": (0, 0, 40, 10)}, "does not lie inside the image of 20 x 20"),
    ],
)
def test_what_cannot_be_drawn_is_said(selection: Selection | Keep, more: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlay(colours(20, 20), selection, **more)


def test_a_sheet_holds_every_picture_and_grows_with_its_captions() -> None:
    pictures = [Image.new("RGB", (50, 50), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    bare = side_by_side(pictures, columns=2, width=100)
    assert bare.size == (24 + 2 * 124, 24 + 2 * 124)
    for place, picture in zip(((30, 30), (154, 30), (30, 154)), pictures, strict=True):
        assert bare.getpixel(place) == picture.getpixel((0, 0))
    short = side_by_side(pictures, ["one line"] * 3, width=100)
    long = side_by_side(pictures, ["one line", "four words on a line, and more of them", "x" * 60], width=100)
    assert bare.width > 100
    assert short.size[0] == long.size[0] == 24 + 3 * 124
    assert long.height > short.height > 24 + 124
    titled = side_by_side(pictures, ["one line"] * 3, width=100, title="a title")
    assert titled.height > short.height


def test_ticks_and_crosses_are_drawn_in_their_colours() -> None:
    picture = Image.new("RGB", (50, 50))
    for mark, colour in (("✓", (0x1A, 0x7F, 0x37)), ("✗", (0xCF, 0x22, 0x2E))):
        sheet = side_by_side([picture], [f"question\n{mark} answer"], width=200)
        assert colour in set(pixels(sheet))


def test_sheets_refuse_what_does_not_match() -> None:
    picture = Image.new("RGB", (5, 5))
    with pytest.raises(ValueError, match="no pictures"):
        side_by_side([])
    with pytest.raises(ValueError, match="2 pictures have 1 captions"):
        side_by_side([picture, picture], ["one"])
    with pytest.raises(ValueError, match="width=0"):
        side_by_side([picture], width=0)


def test_without_pillow_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\nimport greedyprune as gp\n"
        "try: gp.plots\nexcept ImportError as e: print(e)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'greedyprune[plots]'" in out.stdout


def test_a_path_and_an_array_are_drawn_as_the_picture_they_hold(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    image = colours(56, 56)
    image.save(tmp_path / "x.png")
    expected = pixels(overlay(image, keep(16, 3), grid=(1, 4, 4)))
    for given in (tmp_path / "x.png", str(tmp_path / "x.png"), numpy.asarray(image)):
        assert pixels(overlay(given, keep(16, 3), grid=(1, 4, 4))) == expected
        assert side_by_side([given]).size == side_by_side([image]).size
    overlay(numpy.zeros((4, 4), numpy.uint8), keep(16, 3), grid=(1, 4, 4))


def test_what_is_no_picture_or_no_selection_is_told_with_what_to_write() -> None:
    numpy = pytest.importorskip("numpy")
    image, chosen = colours(56, 56), keep(16, 3)
    for given in (None, 3, torch.zeros(4, 4, 3), numpy.zeros((4, 4, 3)), numpy.zeros((3, 4, 5), numpy.uint8), [image]):
        with pytest.raises(TypeError, match=r"give a PIL image, the path of one, or an array \(h, w, 3\) of bytes"):
            overlay(given, chosen, grid=(1, 4, 4))  # type: ignore[arg-type]
    for several in ([chosen], (chosen, chosen), []):
        with pytest.raises(TypeError, match=r"write overlay\(image, selections\[0\]\)"):
            overlay(image, several, grid=(1, 4, 4))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"selection is a Tensor: give one of pruned.selections"):
        overlay(image, torch.arange(3), grid=(1, 4, 4))  # type: ignore[arg-type]
    for one in (image, "x.png"):
        with pytest.raises(TypeError, match=r"give a list of pictures, \[picture\] for one"):
            side_by_side(one)  # type: ignore[arg-type]
