"""Layouts: how the images of a call lie in its sequence, and on which grids; one function per way of laying them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from greedyprune.models._family import ImageTokens, Visuals, tower_takes_one_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor


def by_features(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """As many tokens as the model computed features for each image or video; nothing is known of a grid."""
    return [ImageTokens(n, None) for n in visuals.counted()]


def squares(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """The same, on a square grid where the number is a square (Gemma 3, PaliGemma)."""
    sides = [(n, math.isqrt(n)) for n in visuals.counted()]
    return [ImageTokens(n, (1, side, side) if side * side == n else None) for n, side in sides]


def lines(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Every row of patches is a run, with a break behind it that is text (Pixtral type)."""
    columns, images = visuals.visual.nonzero()[:, 1], list[ImageTokens]()
    start = 0
    for n in visuals.counted():
        w = _first_run(columns[start : start + n])
        images.append(ImageTokens(n, (1, n // w, w) if n % w == 0 else None))
        start += n
    return images


def newlines(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Tiles and newlines: a newline ends each row of patches of the whole image, which stands behind an overview.

    In a video one newline ends all its frames (LLaVA-NeXT and LLaVA-OneVision).
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
    """Placeholders of each; old releases append a video's newline behind the features that they compute."""
    lengths, total = visuals.lengths or [], int(visuals.visual.sum())
    if visuals.kind == "video" and sum(lengths) + len(lengths) == total:
        return [n + 1 for n in lengths]
    return visuals.counted()


def _closed(places: list[int], overview: int) -> Iterator[tuple[int, int, int]]:
    """Each newline and what it closes: its row, as long as the next ones; a single one all behind the overview."""
    for number, place in enumerate(places):
        if number:
            first = places[number - 1] + 1
        elif len(places) > 1:
            first = place - (places[1] - places[0] - 1)
        else:
            first = overview if overview < place else 0
        yield place, first, place


def _pooled(n: int, side: int, stride: int) -> tuple[int, int, int] | None:
    """The grid of a video whose frames are pooled, their odd last row and column with the rest or left out."""
    sides = [pooled for pooled in (-(-side // stride), side // stride) if pooled and n % pooled**2 == 0]
    return (n // sides[0] ** 2, sides[0], sides[0]) if sides else None


def by_tower(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """What the vision tower decides, which LLaVA takes of any kind: one size of image (CLIP, SigLIP), or any size.

    Pixtral's rows stand apart; of other towers without one size only the number of features is known.
    """
    if config.vision_config.model_type == "pixtral":
        return lines(config, visuals)
    return (_square_patches if tower_takes_one_size(config) else by_features)(config, visuals)


def _square_patches(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Every image has the same number of tokens: a square of patches, seldom a class token too (CLIP, SigLIP)."""
    lengths = visuals.counted()
    side = config.vision_config.image_size // config.vision_config.patch_size
    # "full" keeps the class token, where the tower has one (CLIP has, SigLIP has not).
    expected = {side * side, side * side + (config.vision_feature_select_strategy == "full")}
    for length in lengths:
        if length not in expected:
            raise ValueError(
                f"an image of this call has {length} visual tokens where the model's config says {max(expected)}, "
                f"by the size of the images that its {config.vision_config.model_type!r} tower takes: use the model's "
                "own processor, and leave out prefill_chunk_size if you gave one: a chunk holds only part of an image."
            )
    return [ImageTokens(n, (1, side, side) if n == side * side else None) for n in lengths]


def positioned_grids(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Images of any size whose multimodal positions (M-RoPE) say the grid of their merged patches (Qwen-VL type)."""
    lengths = visuals.counted()
    rows, columns = visuals.visual.nonzero(as_tuple=True)
    images: list[ImageTokens] = []
    start = 0
    for n in lengths:
        grid = None
        if n and start < rows.numel() and (columns[start] == 0 or columns[start:][:n][-1] == visuals.ids.shape[1] - 1):
            raise ValueError(
                "an image of this call touches an end of its sequence, without the marker that stands there: if the "
                "prompt is prefilled in chunks, leave out prefill_chunk_size: a chunk holds only part of an image."
            )
        # Old releases number the images of later turns as text, in one row, which says nothing of grids.
        if visuals.positions is not None and len(visuals.positions) > 1 and 0 < n <= rows.numel() - start:
            mine = columns[start : start + n]
            grid = _positioned(visuals.positions[-2:, rows[start : start + n], mine], _first_run(mine))
        images.append(ImageTokens(n, grid))
        start += n
    return images


def _positioned(positions: Tensor, run: int) -> tuple[int, int, int] | None:
    """The grid that multimodal positions say, of which `run` tokens stand together. (2, n) -> (t, h, w)

    Frames of a video may stand apart, each counted from where it stands; and fast frames may share a time.
    """
    n = positions.shape[1]
    h, w = (_different(axis[:run]) for axis in positions)
    return (n // (h * w), h, w) if n % (h * w) == 0 else None


def _first_run(columns: Tensor) -> int:
    """How many of these columns follow each other without a gap, from the first on. (n,) -> int"""
    gaps = (columns.diff() > 1).nonzero()
    return int(gaps[0, 0]) + 1 if gaps.numel() else columns.shape[0]


def _different(values: Tensor) -> int:
    """How many different values there are. (n,) -> int"""
    return len(set(cast("list[int]", values.tolist())))  # pyright: ignore[reportUnknownMemberType]


def runs_of_tiles(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """One unbroken run per image, all its tiles in it, since markers stand around every image (InternVL type)."""
    vision = config.vision_config
    tokens = [round(vision.image_size[i] // vision.patch_size[i] * config.downsample_ratio) for i in (0, 1)]
    tile = tokens[0] * tokens[1]
    images: list[ImageTokens] = []
    for row, first, end in visuals.runs():
        if (end - first) % tile:
            raise ValueError(
                f"prompt {row} has {end - first} image placeholders in a row, no multiple of a tile's {tile}: "
                "build text and images with the model's own processor, and do not prefill in chunks."
            )
        images.append(ImageTokens(end - first, (1, *tokens) if end - first == tile else None))
    return images


def by_runs(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """One unbroken run per image or sound, all its tiles or windows in it (GOT-OCR 2, Perception LM, Voxtral)."""
    return [ImageTokens(end - first, None) for _, first, end in visuals.runs()]


def by_features_or_runs(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """What is to be assumed of a model nobody described: its features say what an image is, else unbroken runs do."""
    told = visuals.lengths is not None and sum(visuals.lengths) == int(visuals.visual.sum())
    return (by_features if told else by_runs)(config, visuals)


def runs_near(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """A run per tile, one marker between two tiles of an image and more between two images (Cohere Vision)."""
    return _joined(visuals, lambda row, before, first: first - before > 1)


def runs_until_last(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """A run per tile, the last one for the whole image, behind the marker of a prompt's last run (Aya Vision)."""
    last = {row: int(visuals.ids[row, first - 1]) for row, first, _ in visuals.runs()}
    ends = {(row, end) for row, first, end in visuals.runs() if int(visuals.ids[row, first - 1]) == last[row]}
    return _joined(visuals, lambda row, before, first: (row, before) in ends)


def overview_first(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """A run per view, the first one for the whole image, behind the marker of a prompt's first run (MiniCPM-V)."""
    head = {row: int(visuals.ids[row, first - 1]) for row, first, _ in reversed(visuals.runs())}
    return _joined(visuals, lambda row, before, first: int(visuals.ids[row, first - 1]) == head[row])


def _joined(visuals: Visuals, new: Callable[[int, int, int], bool]) -> list[ImageTokens]:
    """Join runs to images. `new` says whether an image begins: (row, end of the run before, first column) -> bool"""
    images: list[int] = []
    previous: tuple[int, int] | None = None
    for row, first, end in visuals.runs():
        if previous is None or previous[0] != row or new(row, previous[1], first):
            images.append(0)
        images[-1] += end - first
        previous = row, end
    return [ImageTokens(n, None) for n in images]


def runs_until_global(config: Any, visuals: Visuals) -> list[ImageTokens]:
    """Many runs per image, one per tile, the last one for the whole image (SmolVLM and Idefics3).

    The token in front of a run says what the run is: a row and column, or the marker of the whole image. A prompt's
    last run always is a whole image, so its marker is known, and every run behind that marker ends an image.
    """
    images: list[ImageTokens] = []
    rows: dict[int, list[tuple[int, int]]] = {}
    for row, first, end in visuals.runs():
        rows.setdefault(row, []).append((first, end))
    side = config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor
    for row, runs in rows.items():
        if any(end - first != side * side for first, end in runs):
            raise ValueError(
                f"a run of image placeholders in prompt {row} has not the {side * side} tokens of a tile: "
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
