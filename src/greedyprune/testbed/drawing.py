"""How a scene is drawn: a muted crop of a photo, the objects on top, a little noise over everything."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from greedyprune.testbed.assets import Pixels, coverage, digits, letter
from greedyprune.testbed.layout import SIDE, Object

_OVERSAMPLING = 4


def background(rng: np.random.Generator, photos: Sequence[Image.Image]) -> Pixels:
    """A crop of one of the photos, muted and clipped, so that pure black, white and colours stay visible on it."""
    photo = photos[int(rng.integers(len(photos)))]
    shorter = min(photo.size)
    side = int(rng.integers(150, shorter)) if shorter > 160 else shorter
    left = int(rng.integers(0, photo.size[0] - side + 1))
    top = int(rng.integers(0, photo.size[1] - side + 1))
    crop = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(crop, np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    grey = pixels.mean(-1, keepdims=True)
    muted = grey + 0.45 * (pixels - grey)
    contrast, brightness = rng.uniform(0.35, 0.7), rng.uniform(-30, 45)
    return np.clip(128 + (muted - muted.mean()) * contrast + brightness, 50, 235).astype(np.uint8).astype(np.float32)


def draw(canvas: Pixels, objects: Iterable[Object], rng: np.random.Generator) -> Image.Image:
    """The objects on a copy of the canvas, with noise. (168, 168, 3) -> image"""
    canvas = canvas.copy()
    for thing in objects:
        left, top, right, bottom = thing.box
        _DRAW.get(thing.kind, _draw_shape)(canvas[top:bottom, left:right], thing)
    noisy = canvas + rng.normal(0, 4, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _draw_sign(area: Pixels, sign: Object) -> None:
    area[:] = sign.paint
    ink = (20, 20, 20) if sign.colour == "white" else (245, 245, 245)
    for i, char in enumerate(sign.text):
        _blend(area[1:23, 14 * i : 14 * (i + 1)], ink, letter(char, sign.glyph))


def _draw_tile(area: Pixels, tile: Object) -> None:
    area[:] = tile.paint
    ink = (255, 255, 255) if tile.colour in ("red", "green", "blue", "purple", "black") else (0, 0, 0)
    _blend(area[2:-2, 2:-2], ink, _digit_mask(tile.glyph, len(area) - 4))


def _draw_shape(area: Pixels, shape: Object) -> None:
    _blend(area, shape.paint, _shape_mask(shape.kind, len(area)))


_DRAW: dict[str, Callable[[Pixels, Object], None]] = {"sign": _draw_sign, "tile": _draw_tile}


def _blend(area: Pixels, paint: Sequence[float], mask: Pixels) -> None:
    """Paint where the mask is 1, what was there where it is 0. (h, w, 3), (3,), (h, w)"""
    alpha = mask[..., None]
    area[:] = area * (1 - alpha) + np.asarray(paint) * alpha


def _digit_mask(glyph: int, side: int) -> Pixels:
    ink = Image.fromarray((digits()[0][glyph] * 255).astype(np.uint8))
    return coverage(ink.resize((side, side), Image.Resampling.BICUBIC))


@cache
def _shape_mask(shape: str, side: int) -> Pixels:
    """One of the six shapes, filling a square, with smooth edges. -> (side, side)"""
    n = side * _OVERSAMPLING
    image = Image.new("L", (n, n), 0)
    pen = ImageDraw.Draw(image)
    if shape in ("circle", "ring"):
        pen.ellipse([0, 0, n - 1, n - 1], fill=255)
    if shape == "ring":
        pen.ellipse([n * 0.27, n * 0.27, n * 0.73, n * 0.73], fill=0)
    elif shape == "square":
        pen.rectangle([n * 0.06, n * 0.06, n * 0.94, n * 0.94], fill=255)
    elif shape == "triangle":
        pen.polygon([(n / 2, 0), (n - 1, n - 1), (0, n - 1)], fill=255)
    elif shape == "cross":
        pen.rectangle([n * 0.34, 0, n * 0.66, n - 1], fill=255)
        pen.rectangle([0, n * 0.34, n - 1, n * 0.66], fill=255)
    elif shape == "star":
        pen.polygon(_star(n), fill=255)
    return coverage(image.resize((side, side), Image.Resampling.LANCZOS))


def _star(n: int) -> list[tuple[float, float]]:
    """Ten corners, in turn far from and near the middle, the first at the top."""
    angles = -np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, n / 2, n * 0.2)
    return [(float(n / 2 + r * np.cos(a)), float(n / 2 + r * np.sin(a))) for r, a in zip(radii, angles, strict=True)]
