"""The part of an image that a model sees. Processors with a fixed image size may crop the centre."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


def seen(image: Image, processor: Any) -> tuple[float, float, float, float]:
    """Return the part of an image that a processor shows to the model: all of it, unless it crops the centre.

    For example, LLaVA-1.5 resizes the shorter side and crops a square, so it never sees the ends of a wide picture.
    -> left, top, right, bottom, in pixels of the image
    """
    worker = getattr(processor, "image_processor", processor)
    width, height = image.size
    crop, target = getattr(worker, "crop_size", None), getattr(worker, "size", None)
    if not getattr(worker, "do_center_crop", False) or crop is None or target is None:
        return 0, 0, width, height
    short = getattr(target, "shortest_edge", None)
    if short:
        across, down = width * short / min(width, height), height * short / min(width, height)
    else:
        across, down = target.width, target.height
    half_x, half_y = min(crop.width / across, 1) * width / 2, min(crop.height / down, 1) * height / 2
    return width / 2 - half_x, height / 2 - half_y, width / 2 + half_x, height / 2 + half_y
