"""Family: what has to be known about a model type to prune it, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from greedyprune.cues import Attention, Grid, Keys
from greedyprune.stages import Input, Layer, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.cues import Need


@dataclass(frozen=True)
class ImageTokens:
    """One image, video or sound of a call: how many visual tokens it has, and their grid where one fits."""

    n: int
    """The tokens that a method may choose from."""
    grid: tuple[int, int, int] | None
    """(t, h, w) of these."""
    breaks: tuple[tuple[int, int, int], ...] = ()
    """Structure tokens among the placeholders, such as newlines: (own place, first and end place of what it closes).

    They are no candidates and count towards no budget; one stays while a token that it closes stays."""
    kind: str = "image"
    """What it is: image, video or audio."""

    @property
    def length(self) -> int:
        """How many placeholders stand for it."""
        return self.n + len(self.breaks)


@dataclass(frozen=True, eq=False)
class Visuals:
    """What a call brought along about its images, or its videos, or its sounds. Index tensors on the CPU."""

    ids: Tensor
    """(b, q) the token ids of this forward."""
    visual: Tensor
    """(b, q) bool: their placeholders."""
    lengths: list[int] | None = None
    """Rows of features that the model computed for each; None where it computes them all in one."""
    positions: Tensor | None = None
    """(3 or 4, b, q) multimodal position ids, for models that have them."""
    breaks: Tensor | None = None
    """(placeholders,) bool: which of them carry the model's newline, for families that have one."""
    kind: str = "image"

    def runs(self) -> list[tuple[int, int, int]]:
        """The unbroken runs of placeholders. -> [(row, first column, end column)]"""
        found: list[tuple[int, int, int]] = []
        for row, flags in enumerate(self.visual.int()):
            padded = flags.new_zeros(flags.shape[0] + 2)
            padded[1:-1] = flags
            edges = padded.diff().nonzero()[:, 0]
            found += [(row, int(first), int(end)) for first, end in edges.view(-1, 2)]
        return found

    def counted(self) -> list[int]:
        """How many placeholders each has by its features, or an error that says what does not fit."""
        total = int(self.visual.sum())
        if self.lengths is not None and sum(self.lengths) == total:
            return self.lengths
        computed = "no" if self.lengths is None else str(sum(self.lengths))
        raise ValueError(
            f"the prompt holds {total} {self.kind} placeholders, its {self.kind} features have {computed} rows: "
            "build text and images with the model's own processor, and do not prefill in chunks."
        )


Layout: TypeAlias = Callable[[Any, Visuals], list[ImageTokens]]
"""(config, visuals) -> the images of a call in the order of their placeholders."""


@dataclass(frozen=True)
class Medium:
    """One kind of input whose tokens stand in the sequence: where it comes in, and how it lies there."""

    kind: str
    layout: Layout
    token: str
    """The config attribute with the placeholder's token id."""
    inputs: tuple[str, ...]
    """The arguments of the model that carry it."""
    features: str
    """The method of the model that computes its rows; empty where the model does so inside its forward."""


def image(layout: Layout, token: str = "image_token_id") -> Medium:
    """Images."""
    return Medium("image", layout, token, ("pixel_values",), "get_image_features")


def video(layout: Layout, token: str = "video_token_id") -> Medium:
    """Videos."""
    return Medium("video", layout, token, ("pixel_values_videos",), "get_video_features")


def audio(layout: Layout, token: str = "audio_token_id", features: str = "get_audio_features") -> Medium:
    """Sounds."""
    return Medium("audio", layout, token, ("input_features",), features)


Fold: TypeAlias = Callable[[Any, "Tensor", "Tensor | None"], "Tensor"]
"""(config, a value of each of the tower's rows, the images' patch grids) -> the values by visual token, in the order
of the placeholders. (images, rows, ...) or (rows, ...) -> (n of all images, patches per token, ...)"""


@dataclass(frozen=True)
class Tower:
    """A family's vision tower: where it is, and which of its rows become which visual token."""

    place: str
    """Where the outer model has it."""
    fold: Fold
    """Which rows become which token; held by tests that change one row and see which token changes."""
    class_token: str | None = None
    """The name of its class token, which stands in front of the patches, where it has one."""
    normed: bool = True
    """Whether a projector that reads the last layer reads it through the tower's final norm."""


Sizes: TypeAlias = Literal["own", "one", "by tower", "tiles", "unknown"]
"""What a family's image processor does with the size of an image.

- "own": it keeps the size and tells how many tokens that makes, so a smaller image has fewer tokens.
- "one": it resizes every image to one size, so all images have equally many tokens.
- "by tower": the vision tower decides; most take one size (LLaVA).
- "tiles": it cuts every image into tiles of one size.
- "unknown": nobody has looked; images of two sizes may have different numbers of tokens.
"""

_ONE_SIZE = "so a smaller image has just as many tokens; use AveragePool() instead"
CANNOT_DOWNSCALE: dict[Sizes, str] = {
    "own": "",
    "one": f"its processor resizes every image to one size, {_ONE_SIZE}",
    "by tower": f"its processors, but for Pixtral's, resize every image to one size, {_ONE_SIZE}",
    "tiles": "its processor makes tiles of one size of every image; use AveragePool() instead, with one tile per image "
    "(crop_to_patches=False or do_image_splitting=False)",
    "unknown": "its processor is not known to keep an image's own size",
}
"""Why smaller images do not have fewer tokens, and what to do; empty if they do."""


def tower_takes_one_size(config: Any) -> bool:
    """True if the vision tower takes images of one size: its config names one. For Pixtral it names the largest."""
    vision = config.vision_config
    named = all(isinstance(getattr(vision, name, None), int) for name in ("image_size", "patch_size"))
    return named and vision.model_type != "pixtral"


@dataclass(frozen=True)
class Family:
    """One model type: how its images lie in the sequence. Everything else is found on the model itself."""

    model_type: str
    """`config.model_type`, the name users know."""
    layout: Layout | None = None
    """How long each image is and on which grid; None for families without images."""
    image_token: str = "image_token_id"
    """The config attribute with the placeholder's token id."""
    also: tuple[Medium, ...] = ()
    """What else it reads: `video(layout)`, `audio(layout)`."""
    stages: tuple[type[Stage], ...] = (Input, Layer)
    """Where tokens may be cut; every pair of family and stage listed here is held by the family proofs."""
    deepstack: tuple[str, str] | None = None
    """The text model's arguments with the mask and the features that are added to visual rows after early layers."""
    along: tuple[str, ...] = ()
    """Further arguments of the text model that have the sequence as their second axis, (b, q, ...)."""
    newline: str | None = None
    """Where the outer model has the row that ends each row of an image's patches."""
    norm: str = "norm"
    """Where the text model's final norm is."""
    tower: Tower | None = None
    """Its vision tower, where methods may ask what is seen in there."""
    grid: Literal["yes", "one tile", "no"] = "yes"
    """Whether an image's tokens lie on a grid: always, unless it is several tiles, or never as far as is known."""
    readable: bool = True
    """Whether methods can look at attention and keys of its decoder."""
    sizes: Sizes = "unknown"
    """What its image processor does with the size of an image, see `Sizes`."""
    without: tuple[tuple[str, str], ...] = ()
    """Kinds of input that it reads and that are refused, each with the reason."""
    note: str = ""
    """What a user should know, shown beside the family."""
    crops: bool = False
    """Whether its processor may make several pictures of one (pan and scan) that nothing but text marks as such."""
    proven: bool = True
    """False for a model type that is not in the table: it has to prove itself on the first prompt."""

    @property
    def media(self) -> tuple[Medium, ...]:
        """Everything it reads beside text."""
        first = () if self.layout is None else (image(self.layout, self.image_token),)
        return (*first, *self.also)

    @property
    def cannot_downscale(self) -> str:
        """The reason why smaller images do not have fewer tokens, and a remedy; empty if they do."""
        return CANNOT_DOWNSCALE[self.sizes]

    def takes_one_size(self, config: Any) -> bool:
        """True if every image has equally many tokens in a model with this config, whatever the image's size."""
        return self.sizes == "one" or (self.sizes == "by tower" and tower_takes_one_size(config))

    def gives(self, need: Need) -> bool:
        """Whether methods can have this of the family's models, built with the towers and decoders they come with."""
        if isinstance(need, Grid):
            return self.grid != "no"
        if not need.in_tower:
            return self.readable or not isinstance(need, (Attention, Keys))
        by_class = isinstance(need, Attention) and need.kind == "cls"
        return self.tower is not None and (not by_class or self.tower.class_token is not None)
