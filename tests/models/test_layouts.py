"""Layouts on placeholders alone, written as processors write them: which runs are one image, where newlines stand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from greedyprune.models._family import ImageTokens, Visuals
from greedyprune.models.layouts import (
    by_runs,
    lines,
    newlines,
    overview_first,
    positioned_grids,
    runs_near,
    runs_of_tiles,
    runs_until_global,
    runs_until_last,
)
from tinies.words import AUDIO, IMAGE

TEXT, BEGIN, END, NEXT = 7, 8, 9, 10
"""A word, the borders of an image, and a line break."""
WHOLE, TILE, GRID, COLUMN, ROW, SLICE, SLICED = range(20, 27)
RUN = [IMAGE] * 4
TILED = SimpleNamespace(
    vision_config=SimpleNamespace(image_size=[8, 8], patch_size=[2, 2]), downsample_ratio=0.5, scale_factor=2
)
"""A tile has 2 x 2 tokens."""
SQUARE = SimpleNamespace(vision_config=SimpleNamespace(image_size=8, patch_size=2), scale_factor=2)


def visuals(*rows: list[int], lengths: list[int] | None = None, **more: object) -> Visuals:
    """Prompts as they are tokenised, padded on the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    return Visuals(ids, (ids == IMAGE) | (ids == AUDIO), lengths, **more)  # type: ignore[arg-type]


# Each writes an image of so many tiles, 0 for one that is not cut, as the processor of its family does.


def aya(tiles: int) -> list[int]:
    """Begin, a marker with its number in front of each tile, the marker of the whole, end."""
    return [BEGIN, *[token for tile in range(tiles) for token in (TILE + 100 + tile, *RUN)], WHOLE, *RUN, END]


def command(tiles: int) -> list[int]:
    """Begin, a break behind each tile, end (Command A Vision)."""
    return [BEGIN, *[*RUN, NEXT] * (tiles + 1), END]


def ovis(tiles: int) -> list[int]:
    """Begin, the whole, a marker, the tiles with a marker between two of a row or two rows, end: two in a row."""
    pieces = [token for tile in range(tiles) for token in (*([(COLUMN, ROW)[tile % 2 == 0]] if tile else []), *RUN)]
    return [BEGIN, *RUN, GRID, *pieces, END]


def lfm(tiles: int) -> list[int]:
    """Begin, a marker with row and column in front of each tile, the marker of the whole, end."""
    pieces = [token for tile in range(tiles) for token in (TILE + 100 + tile, *RUN)]
    return [BEGIN, *([*pieces, WHOLE] if tiles else []), *RUN, END]


def minicpm(tiles: int) -> list[int]:
    """The whole between its markers, then slices between theirs, a line break behind a row of them."""
    rows = [[SLICE, *RUN, SLICED] * 2 for _ in range(tiles // 2)]
    return [BEGIN, *RUN, END, *[token for row in rows for token in (*row, NEXT)][: -1 if rows else None]]


def smol(tiles: int) -> list[int]:
    """A border and a marker with row and column in front of each tile, a break behind a row; then the whole."""
    rows = [
        [token for tile in (row, row + 1) for token in (BEGIN, TILE + 100 + tile, *RUN)] for row in range(0, tiles, 2)
    ]
    broken = [token for row in rows for token in (*row, NEXT)]
    return [*broken, *([NEXT] if tiles else []), BEGIN, WHOLE, *RUN, BEGIN]


def internvl(tiles: int) -> list[int]:
    """All tiles in one run between borders (InternVL, GOT-OCR 2)."""
    return [BEGIN, *RUN * (tiles + 1), END]


WRITTEN = [
    (runs_until_last, aya),
    (runs_near, command),
    (runs_near, ovis),
    (runs_near, lfm),
    (overview_first, minicpm),
    (runs_until_global, smol),
    (runs_of_tiles, internvl),
    (by_runs, internvl),
]
written = pytest.mark.parametrize(("layout", "write"), WRITTEN, ids=lambda each: each.__name__)


@written
@pytest.mark.parametrize("between", [[], [TEXT], [TEXT, NEXT, TEXT]], ids=["adjacent", "a word apart", "apart"])
@pytest.mark.parametrize("tiles", [(0,), (4,), (0, 0), (4, 0), (0, 4), (2, 4), (4, 4, 0, 2)], ids=str)
@pytest.mark.parametrize("front", [[], [TEXT]], ids=["first", "behind text"])
def test_an_image_is_all_its_tiles_and_no_other_images(layout, write, between, tiles, front) -> None:
    row = [*front, *[token for count in tiles for token in (*write(count), *between)], TEXT, TEXT]
    other = [TEXT, *write(2), *write(0), TEXT]
    config = SQUARE if layout is runs_until_global else TILED
    found = layout(config, visuals(row, other, [TEXT]))
    assert [image.n for image in found] == [4 * (count + 1) for count in (*tiles, 2, 0)]
    assert not any(image.breaks for image in found)


def test_rows_of_patches_say_their_width() -> None:
    def rows(height: int, width: int) -> list[int]:
        return [token for row in range(height) for token in (*[IMAGE] * width, NEXT if row < height - 1 else END)]

    sizes = [(2, 3), (1, 1), (1, 5), (4, 1), (3, 2)]
    prompts = visuals(
        [TEXT, *rows(2, 3), *rows(1, 1)],
        [*rows(1, 5), *rows(4, 1), TEXT, *rows(3, 2), TEXT],
        lengths=[h * w for h, w in sizes],
    )
    assert lines(None, prompts) == [ImageTokens(h * w, (1, h, w)) for h, w in sizes]


def test_one_token_is_a_grid_of_one_by_one() -> None:
    positions = torch.arange(7).expand(3, 1, 7)
    prompt = visuals([TEXT, BEGIN, IMAGE, END, TEXT, TEXT, TEXT], lengths=[1], positions=positions)
    assert positioned_grids(None, prompt) == [ImageTokens(1, (1, 1, 1))]
    # Positions of text, in one row, say nothing of grids.
    assert positioned_grids(None, visuals([BEGIN, *RUN, END], lengths=[4], positions=torch.arange(6)[None, None])) == [
        ImageTokens(4, None)
    ]


# Newlines: a placeholder that carries the model's newline is N below, any other P -------------------------------------

OVERVIEW = SimpleNamespace(vision_config=SimpleNamespace(image_size=4, patch_size=2))
"""An overview has 2 x 2 tokens."""


def laid(*images: str, kind: str = "image") -> list[ImageTokens]:
    """The images that these letters mean, all in one prompt and side by side."""
    letters = "".join(images)
    prompt = visuals([TEXT, *[IMAGE] * len(letters), TEXT], lengths=list(map(len, images)))
    marked = torch.tensor([letter == "N" for letter in letters])
    return newlines(OVERVIEW, Visuals(prompt.ids, prompt.visual, prompt.lengths, None, marked, kind))


def test_a_newline_closes_its_row_and_not_the_overview() -> None:
    assert laid("PPPP" + "PPPN" * 2) == [ImageTokens(10, None, ((7, 4, 7), (11, 8, 11)))]
    assert laid("PPPP" + "PN" * 3) == [ImageTokens(7, None, ((5, 4, 5), (7, 6, 7), (9, 8, 9)))]


def test_a_single_row_is_what_stands_behind_the_overview() -> None:
    assert laid("PPPP" + "PPPPPN") == [ImageTokens(9, None, ((9, 4, 9),))]


def test_a_newline_behind_the_overview_alone_closes_it() -> None:
    assert laid("PPPP" + "N") == [ImageTokens(4, None, ((4, 0, 4),))]


def test_an_image_without_newlines_has_none() -> None:
    assert laid("PPPP") == [ImageTokens(4, None)]


def test_images_side_by_side_have_their_own_newlines() -> None:
    assert laid("PPPP" + "PPN" * 2, "PPPPN", "PPPP" + "PPPPN") == [
        ImageTokens(8, None, ((6, 4, 6), (9, 7, 9))),
        ImageTokens(4, None, ((4, 0, 4),)),
        ImageTokens(8, None, ((8, 4, 8),)),
    ]


def test_a_video_is_closed_by_one_newline_or_none() -> None:
    assert laid("PPP" + "N", kind="video") == [ImageTokens(3, (3, 1, 1), ((3, 0, 3),))]
    assert laid("PPP", kind="video") == [ImageTokens(3, (3, 1, 1))]
    # Old releases append it behind the features they count.
    prompt = visuals([TEXT, *[IMAGE] * 4, TEXT], lengths=[3])
    marked = torch.tensor([False, False, False, True])
    old = Visuals(prompt.ids, prompt.visual, [3], None, marked, "video")
    assert newlines(OVERVIEW, old) == [ImageTokens(3, (3, 1, 1), ((3, 0, 3),))]


@pytest.mark.parametrize("layout", [newlines, lines])
def test_placeholders_that_are_not_the_features_are_refused(layout) -> None:
    prompt = visuals([TEXT, *RUN, TEXT], lengths=[5])
    marked = Visuals(prompt.ids, prompt.visual, [5], None, torch.zeros(4).bool())
    with pytest.raises(ValueError, match="4 image placeholders, its image features have 5 rows"):
        layout(OVERVIEW, marked)
