"""Layouts find the images of a call in its sequence, and their grids. There is one function per kind of layout."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from greedyprune.models._family import ImageTokens, Visuals, tower_takes_one_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor


def by_features(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Each image or video has one token per row of its features. No grid is known."""
    return [ImageTokens(n, None) for n in visuals.counted()]


def squares(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Like `by_features`, on a square grid if the number of tokens is a square (Gemma 3, PaliGemma)."""
    sides = [(n, math.isqrt(n)) for n in visuals.counted()]
    return [ImageTokens(n, (1, side, side) if side * side == n else None) for n, side in sides]


def lines(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Every row of patches is a run of placeholders, followed by a break token that is text (Pixtral type)."""
    columns, images = visuals.visual.nonzero()[:, 1], list[ImageTokens]()
    start = 0
    for n in visuals.counted():
        w = _first_run(columns[start : start + n])
        images.append(ImageTokens(n, (1, n // w, w) if n % w == 0 else None))
        start += n
    return images


def newlines(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """An overview comes first, then the whole image, in which a newline ends each row of patches.

    In a video, one newline ends all frames (LLaVA-NeXT and LLaVA-OneVision).
    """
    assert visuals.breaks is not None
    side = config.vision_config.image_size // config.vision_config.patch_size
    images: list[ImageTokens] = []
    start = 0
    for n in _with_newline(visuals):
        ends = visuals.breaks[start : start + n].nonzero()[:, 0]
        places = cast("list[int]", ends.tolist())  # pyright: ignore[reportUnknownMemberType]
        first = 0 if visuals.kind == "video" else side**2
        breaks = tuple(_closed(places, first))
        stride = getattr(config, "spatial_pool_stride", 2)
        grid = _pooled(n - len(breaks), side, stride) if visuals.kind == "video" else None
        images.append(ImageTokens(n - len(breaks), grid, breaks))
        start += n
    return images


def _with_newline(visuals: Visuals) -> list[int]:
    """Return the number of placeholders of each input. Old releases append a video's newline after its features."""
    lengths, total = visuals.lengths or [], int(visuals.visual.sum())
    if visuals.kind == "video" and sum(lengths) + len(lengths) == total:
        return [n + 1 for n in lengths]
    return visuals.counted()


def _closed(places: list[int], overview: int) -> Iterator[tuple[int, int, int]]:
    """Yield each newline with the places that it closes: (newline, first, end).

    A newline closes its row. The first row is as long as the next rows. A single newline closes everything after the
    overview.
    """
    for number, place in enumerate(places):
        if number:
            first = places[number - 1] + 1
        elif len(places) > 1:
            first = place - (places[1] - places[0] - 1)
        else:
            first = overview if overview < place else 0
        yield place, first, place


def _pooled(n: int, side: int, stride: int) -> tuple[int, int, int] | None:
    """Return the grid of a video with pooled frames. Pooling may keep or drop an odd last row and column."""
    sides = [pooled for pooled in (-(-side // stride), side // stride) if pooled and n % pooled**2 == 0]
    return (n // sides[0] ** 2, sides[0], sides[0]) if sides else None


def by_tower(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """The vision tower decides, since LLaVA takes any tower: one size of image (CLIP, SigLIP), or any size.

    Pixtral separates the rows of patches by break tokens. Other towers of any size tell only the number of features.
    """
    if config.vision_config.model_type == "pixtral":
        return lines(config, visuals)
    return (_square_patches if tower_takes_one_size(config) else by_features)(config, visuals)


def _square_patches(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Every image has the same number of tokens: a square of patches, sometimes with a class token (CLIP, SigLIP)."""
    lengths = visuals.counted()
    side = config.vision_config.image_size // config.vision_config.patch_size
    # "full" keeps the class token if the tower has one (CLIP has one, SigLIP has none).
    expected = {side * side, side * side + (config.vision_feature_select_strategy == "full")}
    for length in lengths:
        if length not in expected:
            raise ValueError(
                f"an image of this call has {length} visual tokens, and the model's config says {max(expected)}, "
                f"by the size of the images that its {config.vision_config.model_type!r} tower takes: use the model's "
                "own processor, and leave out prefill_chunk_size if you gave one: a chunk holds only part of an image."
            )
    return [ImageTokens(n, (1, side, side) if n == side * side else None) for n in lengths]


def positioned_grids(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Images have any size. Their multimodal position ids (M-RoPE) tell the grid of merged patches (Qwen-VL type)."""
    lengths = visuals.counted()
    rows, columns = visuals.visual.nonzero(as_tuple=True)
    images: list[ImageTokens] = []
    start = 0
    for n in lengths:
        grid = None
        if n and start < rows.numel() and (columns[start] == 0 or columns[start:][:n][-1] == visuals.ids.shape[1] - 1):
            raise ValueError(
                "an image of this call touches an end of its sequence, where a marker should be: if the prompt is "
                "prefilled in chunks, leave out prefill_chunk_size, since a chunk holds only part of an image."
            )
        # Old releases number the images of later turns like text, in one row, which tells no grid.
        if visuals.positions is not None and len(visuals.positions) > 1 and 0 < n <= rows.numel() - start:
            mine = columns[start : start + n]
            grid = _positioned(visuals.positions[-2:, rows[start : start + n], mine], _first_run(mine))
        images.append(ImageTokens(n, grid))
        start += n
    return images


def _positioned(positions: Tensor, run: int) -> tuple[int, int, int] | None:
    """Read the grid from multimodal position ids. The first `run` tokens follow each other. (2, n) -> (t, h, w)

    Text may separate the frames of a video. Each frame then counts positions from its own start. Several frames may
    have the same time.
    """
    n = positions.shape[1]
    h, w = (_different(axis[:run]) for axis in positions)
    return (n // (h * w), h, w) if n % (h * w) == 0 else None


def _first_run(columns: Tensor) -> int:
    """Count the columns up to the first gap. (n,) -> int"""
    gaps = (columns.diff() > 1).nonzero()
    return int(gaps[0, 0]) + 1 if gaps.numel() else columns.shape[0]


def _different(values: Tensor) -> int:
    """Count the different values. (n,) -> int"""
    return len(set(cast("list[int]", values.tolist())))  # pyright: ignore[reportUnknownMemberType]


def runs_of_tiles(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Each image is one unbroken run with all its tiles, since markers surround every image (InternVL type)."""
    vision = config.vision_config
    tokens = [round(vision.image_size[i] // vision.patch_size[i] * config.downsample_ratio) for i in (0, 1)]
    tile = tokens[0] * tokens[1]
    images: list[ImageTokens] = []
    for row, first, end in visuals.runs():
        if (end - first) % tile:
            raise ValueError(
                f"prompt {row} has {end - first} image placeholders in a row, which is no multiple of a tile's {tile}: "
                "build text and images with the model's own processor, and do not prefill in chunks."
            )
        images.append(ImageTokens(end - first, (1, *tokens) if end - first == tile else None))
    return images


def by_runs(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Each image or sound is one unbroken run, with all its tiles or windows (GOT-OCR 2, Perception LM, Voxtral)."""
    return [ImageTokens(end - first, None) for _, first, end in visuals.runs()]


def by_features_or_runs(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """The layout of a model type that is not in the table: by features if they fit, otherwise by unbroken runs."""
    told = visuals.lengths is not None and sum(visuals.lengths) == int(visuals.visual.sum())
    return (by_features if told else by_runs)(config, visuals)


def runs_near(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Each tile is a run. One marker separates two tiles of an image, several separate two images (Cohere Vision)."""
    return _joined(visuals, lambda row, before, first: first - before > 1)


def runs_until_last(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Each tile is a run, and the last run of an image is the whole image (Aya Vision).

    The token before a prompt's last run marks a whole image, so it also marks the last runs of the other images.
    """
    last = {row: int(visuals.ids[row, first - 1]) for row, first, _ in visuals.runs()}
    ends = {(row, end) for row, first, end in visuals.runs() if int(visuals.ids[row, first - 1]) == last[row]}
    return _joined(visuals, lambda row, before, first: (row, before) in ends)


def overview_first(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Each view is a run, and the first run of an image is the whole image (MiniCPM-V).

    The token before a prompt's first run marks a whole image, so it also marks the first runs of the other images.
    """
    head = {row: int(visuals.ids[row, first - 1]) for row, first, _ in reversed(visuals.runs())}
    return _joined(visuals, lambda row, before, first: int(visuals.ids[row, first - 1]) == head[row])


def _joined(visuals: Visuals, new: Callable[[int, int, int], bool]) -> list[ImageTokens]:
    """Join runs to images. `new` says if a run begins an image: (row, end of the run before, first column) -> bool"""
    images: list[int] = []
    previous: tuple[int, int] | None = None
    for row, first, end in visuals.runs():
        if previous is None or previous[0] != row or new(row, previous[1], first):
            images.append(0)
        images[-1] += end - first
        previous = row, end
    return [ImageTokens(n, None) for n in images]


def runs_until_global(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Each tile is a run, and the last run of an image is the whole image (SmolVLM and Idefics3).

    The token before a run is a row and column, or the marker of the whole image. A prompt's last run is always a whole
    image, so its marker is known. Every run after that marker ends an image.
    """
    images: list[ImageTokens] = []
    rows: dict[int, list[tuple[int, int]]] = {}
    for row, first, end in visuals.runs():
        rows.setdefault(row, []).append((first, end))
    side = config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor
    for row, runs in rows.items():
        if any(end - first != side * side for first, end in runs):
            raise ValueError(
                f"a run of image placeholders in prompt {row} does not have the {side * side} tokens of a tile: "
                "build text and images with the model's own processor, and do not prefill in chunks."
            )
        markers = [int(visuals.ids[row, first - 1]) if first else -1 for first, _ in runs]
        n = 0
        for marker in markers:
            n += side * side
            if marker == markers[-1]:
                images.append(ImageTokens(n, (1, side, side) if n == side * side else None))
                n = 0
    return images
