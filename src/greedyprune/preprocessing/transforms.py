"""Down-scaling makes images smaller before the processor, so they have fewer visual tokens. It is the control to beat.

It works for models that take images in their own size (Qwen-VL type), since a token is a patch of fixed size there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from greedyprune.budget import Budget, LayerAverage, PerLayer, as_budget, count
from greedyprune.models.table import FAMILIES
from greedyprune.naming import parse_keep
from greedyprune.preprocessing.pictures import rgb

if TYPE_CHECKING:
    from PIL.Image import Image

Resample = Literal["bicubic", "lanczos"]


class Downscaled(NamedTuple):
    """Smaller images, and the number of visual tokens of each."""

    images: list[Image]
    tokens: list[int]
    """The number of visual tokens that the processor makes of each image."""
    dense: list[int]
    """The number of visual tokens of each image before scaling."""


def downscale(
    images: Image | Sequence[Image],
    keep: Budget | str | Sequence[Budget | str],
    processor: Any,
    *,
    resample: Resample = "bicubic",
) -> Downscaled:
    """Scale images down so that the processor makes at most `keep` visual tokens of each.

    `keep`: an int, a `Ratio` of the image's tokens before scaling, or a list with one of these per image. `processor`:
    the model's own, or its image processor.

    Each side of the exact shape is rounded up or down to whole tokens. The rounding takes the most tokens within the
    budget, then the least distortion: a square image with keep=17 gets 4 x 4, not 1 x 17. Near the processor's least
    size, the distortion is larger. Images within the budget stay as they are. Every other image is resampled once,
    since the processor does not resize the result. This is a control of VTC-Bench, arXiv 2510.07143.

        small = gp.downscale(images, 64, processor)
        inputs = processor(images=small.images, text=text, return_tensors="pt")

    Raises ValueError if the processor resizes every image to one size, or if it cannot make so few tokens; TypeError if
    an image is no PIL image.
    """
    sizer = _sizer(processor)
    pictures = _checked(images)
    made: list[tuple[Image, int, int]] = []
    for picture, budget in zip(pictures, _each(keep, len(pictures)), strict=True):
        dense = sizer.dense(picture)
        k = count(budget, dense)
        if k < dense:
            rows, columns = sizer.grid(picture, k, dense)
            picture, k = _resized(picture, columns * sizer.side, rows * sizer.side, resample), rows * columns
        made.append((picture, k, dense))
    return Downscaled([image for image, _, _ in made], [k for _, k, _ in made], [dense for _, _, dense in made])


@dataclass(frozen=True)
class _Sizer:
    """The image sizes that an image processor makes. Its own methods compute them."""

    worker: Any
    side: int
    """The side of a token in pixels."""

    def tokens(self, height: int, width: int) -> int:
        """Count the visual tokens of an image of this size."""
        return int(self.worker.get_number_of_image_patches(height, width, {})) // self.worker.merge_size**2

    def dense(self, picture: Image) -> int:
        """Count the visual tokens of this image before scaling."""
        try:
            return self.tokens(picture.height, picture.width)
        except ValueError as error:
            raise ValueError(f"an image of {picture.width} x {picture.height} pixels: {error}.") from error

    def takes(self, rows: int, columns: int) -> bool:
        """True if the processor does not resize an image of exactly that many tokens. It limits pixels and shapes."""
        try:
            return self.tokens(rows * self.side, columns * self.side) == rows * columns
        except ValueError:
            return False

    def grid(self, picture: Image, k: int, dense: int) -> tuple[int, int]:
        """Return the rows and columns of the smaller image, in tokens. Raises ValueError if k is too small."""
        ratio = picture.height / picture.width
        if (found := self.within(ratio, k)) is not None:
            return found
        fewest = int(self.worker.size["shortest_edge"]) / self.side**2
        least = next((b for b in range(max(k + 1, math.ceil(fewest)), dense) if self.within(ratio, b)), dense)
        raise ValueError(
            f"an image of {picture.width} x {picture.height} pixels has {dense} visual tokens, and this processor "
            f"cannot make {k} or fewer of it: the least is {least}. Keep {least} or more, or lower its "
            f"size['shortest_edge'], which is {self.worker.size['shortest_edge']} pixels."
        )

    def within(self, ratio: float, k: int) -> tuple[int, int] | None:
        """Return the best grid of at most k tokens for an image with height / width = ratio, None if there is none."""
        if k < 1:
            return None

        def quality(grid: tuple[int, int]) -> tuple[int, float]:
            return grid[0] * grid[1], -abs(math.log(grid[0] / grid[1] / ratio))

        high = min(max(math.sqrt(k * ratio), 1.0), float(k))
        wide = k / high
        near = {(h, w) for h in _around(high) for w in _around(wide) if h * w <= k and self.takes(h, w)}
        if near:
            return max(near, key=quality)
        # Close to its least size, a processor may refuse these grids: take the least distorted of the fullest.
        full = {(h, k // h) for h in range(1, k + 1) if self.takes(h, k // h)}
        return max(full, key=lambda grid: quality(grid)[::-1], default=None)


def _around(x: float) -> set[int]:
    """Return the whole numbers next to x."""
    nearest = round(x)
    return {nearest} if math.isclose(x, nearest, rel_tol=1e-9) else {math.floor(x), math.ceil(x)}


def _sizer(processor: Any) -> _Sizer:
    """Return the sizes of an image processor. Raises ValueError if it does not keep an image's own size."""
    worker = getattr(processor, "image_processor", processor)
    name = type(processor).__name__
    word = name.removesuffix("Processor").replace("_", "").lower()
    family = next((family for kind, family in FAMILIES.items() if kind.replace("_", "") == word), None)
    if family is not None and (reason := family.cannot_downscale):
        raise ValueError(f"images of a {family.model_type!r} model cannot be scaled down to fewer tokens: {reason}.")
    size: Any = getattr(worker, "size", None) or {}
    if not (
        callable(getattr(worker, "get_number_of_image_patches", None))
        and all(hasattr(worker, knob) for knob in ("patch_size", "merge_size"))
        and all(edge in size for edge in ("shortest_edge", "longest_edge"))
    ):
        raise ValueError(
            f"{name} does not keep an image's own size as the processors of {_native_names()} do: pass such a model's "
            "processor, or use AveragePool() for models with images of one size."
        )
    if not getattr(worker, "do_resize", True):
        raise ValueError("this processor has do_resize=False, so it does not resize images: set it to True.")
    return _Sizer(worker, int(worker.patch_size) * int(worker.merge_size))


def _native_names() -> str:
    return " and ".join(name for name, family in FAMILIES.items() if not family.cannot_downscale)


def _each(keep: object, images: int) -> tuple[Budget, ...]:
    """Return one budget per image."""
    budgets = parse_keep(keep)
    if isinstance(budgets, (PerLayer, LayerAverage)):
        raise TypeError(f"keep={budgets!r} is for layers, and an image has one size: give an int or a Ratio.")
    if isinstance(budgets, tuple) and len(budgets) != images:
        raise ValueError(f"keep has {len(budgets)} budgets for {images} images: give one for each, or one.")
    return tuple(map(as_budget, budgets)) if isinstance(budgets, tuple) else (as_budget(budgets),) * images


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as missing:
        raise ImportError(
            "greedyprune.downscale needs Pillow, which is not installed: pip install 'greedyprune[plots]'"
        ) from missing
    return Image


def _checked(images: Any) -> list[Any]:
    """Return the images as a list. Raises if one is no PIL image, or has no pixels."""
    kind = _pillow().Image
    pictures: list[Any] = list(images) if isinstance(images, (list, tuple)) else [images]  # pyright: ignore[reportUnknownArgumentType]
    for place, picture in enumerate(pictures):
        if not isinstance(picture, kind):
            raise TypeError(
                f"images[{place}] is a {type(picture).__name__}: give PIL images, from Image.open(path) or "
                "Image.fromarray(array)."
            )
        if 0 in picture.size:
            raise ValueError(f"images[{place}] has no pixels: it is {picture.width} x {picture.height}.")
    return pictures


def _resized(picture: Any, width: int, height: int, resample: str) -> Any:
    """Resize the picture in RGB, since processors convert every image to RGB before they resize it."""
    filters = _pillow().Resampling
    known = {"bicubic": filters.BICUBIC, "lanczos": filters.LANCZOS}
    if resample not in known:
        raise ValueError(f"resample={resample!r} is unknown: choose one of {', '.join(known)}.")
    return rgb(picture).resize((width, height), known[resample])
