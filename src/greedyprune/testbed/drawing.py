"""Drawing a scene: a muted crop of a photo or a texture, the objects on top, a little noise over everything."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from greedyprune.testbed.assets import SPLITS, Pixels, coverage, digits, letter, photos
from greedyprune.testbed.layout import Object, Rng

_OVERSAMPLING = 4
_CROPS = 192  # how many crops of photos a split's scenes are cut from
_CROP = 224  # their side: larger than a scene, which takes any window of one
TEXTURES = 0.25  # the share of backgrounds that are no photo


def background(rng: Rng, split: str, size: tuple[int, int]) -> Pixels:
    """Part of a photo or a texture, clipped so that black, white and colours stay visible. -> (h, w, 3)"""
    width, height = size
    if rng.random() < TEXTURES:
        pixels = _texture(rng, size)
    else:
        crop = _crops(split)[rng.integers(_CROPS)]
        left, top = rng.integers(0, _CROP - width + 1), rng.integers(0, _CROP - height + 1)
        pixels = crop[top : top + height, left : left + width]
        pixels = pixels[:: rng.choice((1, -1)), :: rng.choice((1, -1))]
    contrast, brightness = rng.uniform(0.35, 0.7), rng.uniform(98, 173)
    mixed = (pixels.astype(np.float32) - np.float32(pixels.mean())) * np.float32(contrast) + np.float32(brightness)
    return np.clip(mixed, 50, 235)


@cache
def _crops(split: str) -> NDArray[np.uint8]:
    """Square crops of a split's photos, all scales, with most of the colour taken out. -> (192, 224, 224, 3)"""
    rng = np.random.default_rng((77, SPLITS.index(split)))
    found = np.empty((_CROPS, _CROP, _CROP, 3), np.uint8)
    for i in range(_CROPS):
        photo = photos(split)[i % len(photos(split))]
        side = int(rng.integers(min(150, min(photo.size)), min(photo.size) + 1))
        left, top = (int(rng.integers(0, edge - side + 1)) for edge in photo.size)
        crop = photo.crop((left, top, left + side, top + side)).resize((_CROP, _CROP), Image.Resampling.BILINEAR)
        pixels = np.asarray(crop, np.float32)
        grey = pixels.mean(-1, keepdims=True)
        found[i] = np.clip(grey + 0.45 * (pixels - grey), 0, 255)
    return found


def _texture(rng: Rng, size: tuple[int, int]) -> Pixels:
    """Three plane waves of random direction, wavelength, phase and tint. -> (h, w, 3)"""
    width, height = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = np.zeros((height, width, 3), np.float32)
    for _ in range(3):
        angle, wavelength, phase = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(6), np.log(120))), rng.uniform(0, 7)
        step = 2 * np.pi / wavelength
        wave = np.sin(np.float32(step * np.cos(angle)) * x + np.float32(step * np.sin(angle)) * y + np.float32(phase))
        waves += wave[..., None] * rng.uniform(30, 60, 3).astype(np.float32)
    return waves + 128


def draw(canvas: Pixels, objects: Iterable[Object], rng: Rng) -> Image.Image:
    """The objects on a copy of the canvas, with noise. (h, w, 3) -> image"""
    canvas = canvas.copy()
    for thing in objects:
        left, top, right, bottom = thing.box
        _DRAW.get(thing.kind, _draw_shape)(canvas[top:bottom, left:right], thing)
    canvas += 4 * rng.standard_normal((*canvas.shape[:2], 1), np.float32)
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def _draw_sign(area: Pixels, sign: Object) -> None:
    area[:] = sign.paint
    ink = (20, 20, 20) if sign.colour == "white" else (245, 245, 245)
    for i, char in enumerate(sign.text):
        _blend(area[1:23, 14 * i : 14 * (i + 1)], ink, letter(char, sign.font, sign.glyph))


def _draw_tile(area: Pixels, tile: Object) -> None:
    area[:] = tile.paint
    ink = (255, 255, 255) if tile.colour in ("red", "green", "blue", "purple", "black") else (0, 0, 0)
    _blend(area[2:-2, 2:-2], ink, _digit_mask(tile.glyph, len(area) - 4))


def _draw_shape(area: Pixels, shape: Object) -> None:
    _blend(area, shape.paint, _shape_mask(shape.kind, len(area)))


_DRAW: dict[str, Callable[[Pixels, Object], None]] = {"sign": _draw_sign, "tile": _draw_tile}


def _blend(area: Pixels, paint: Sequence[float], mask: Pixels) -> None:
    """Paint with the mask as opacity: 1 covers, 0 leaves what was there. (h, w, 3), (3,), (h, w)"""
    area += mask[..., None] * (np.asarray(paint, np.float32) - area)


@cache
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
