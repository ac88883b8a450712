"""Family: the facts about one model type that pruning needs, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from greedyprune.cues import Attention, Change, Grid, Seen
from greedyprune.stages import Input, Layer, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.cues import Need


@dataclass(frozen=True)
class ImageTokens:
    """One image, video or sound of a call: the number of its visual tokens, and their grid if they lie on one."""

    n: int
    """The tokens that a method may choose from."""
    grid: tuple[int, int, int] | None
    """(t, h, w) of these tokens; None if they lie on no grid."""
    breaks: tuple[tuple[int, int, int], ...] = ()
    """Structure tokens among the placeholders, such as newlines, as (own place, first place, end place).

    The token closes the placeholders from the first place up to the end place. A method cannot choose it, and it counts
    towards no budget. It stays if a token that it closes stays."""
    kind: str = "image"
    """The kind of input: image, video or audio."""

    @property
    def length(self) -> int:
        """The number of its placeholders, structure tokens included."""
        return self.n + len(self.breaks)


@dataclass(frozen=True, eq=False)
class Visuals:
    """The facts that a call brings about its inputs of one kind. Index tensors are on the CPU."""

    ids: Tensor
    """(b, q) the token ids of this forward."""
    visual: Tensor
    """(b, q) bool: True for their placeholders."""
    lengths: list[int] | None = None
    """The number of feature rows of each input; None if the model computes all rows in one tensor."""
    positions: Tensor | None = None
    """(3 or 4, b, q) multimodal position ids; None if the model has none."""
    breaks: Tensor | None = None
    """(placeholders,) bool: True for those that hold the model's newline; None if the family has no newline."""
    kind: str = "image"

    def runs(self) -> list[tuple[int, int, int]]:
        """Find the unbroken runs of placeholders. -> [(row, first column, end column)]"""
        found: list[tuple[int, int, int]] = []
        for row, flags in enumerate(self.visual.int()):
            padded = flags.new_zeros(flags.shape[0] + 2)
            padded[1:-1] = flags
            edges = padded.diff().nonzero()[:, 0]
            found += [(row, int(first), int(end)) for first, end in edges.view(-1, 2)]
        return found

    def counted(self) -> list[int]:
        """Return the number of placeholders of each input, which is the number of its feature rows.

        Raises ValueError if the prompt holds another number of placeholders than there are feature rows.
        """
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
    """One kind of input whose tokens are in the sequence: its arguments, its placeholder and its layout."""

    kind: str
    layout: Layout
    token: str
    """The config attribute with the placeholder's token id."""
    inputs: tuple[str, ...]
    """The model's arguments that hold this input."""
    features: str
    """The model's method that computes its features; empty if the model computes them inside its forward."""


def image(layout: Layout, token: str = "image_token_id") -> Medium:
    """Describe images. The defaults are the names that most models use."""
    return Medium("image", layout, token, ("pixel_values",), "get_image_features")


def video(layout: Layout, token: str = "video_token_id") -> Medium:
    """Describe videos. The default is the name that most models use."""
    return Medium("video", layout, token, ("pixel_values_videos",), "get_video_features")


def audio(layout: Layout, token: str = "audio_token_id", features: str = "get_audio_features") -> Medium:
    """Describe sounds. The defaults are the names that most models use."""
    return Medium("audio", layout, token, ("input_features",), features)


Fold: TypeAlias = Callable[[Any, "Tensor", "Tensor | None"], "Tensor"]
"""A function that groups the tower's rows by visual token, in the order of the placeholders.

It takes (config, one value per tower row, what the tower is told of the images' sizes: `Tower.sizes`).
(images, rows, ...) or (rows, ...) -> (n of all images, patches per token, ...)"""


@dataclass(frozen=True)
class Tower:
    """A family's vision tower: its place in the model, and the rows that become each visual token."""

    place: str
    """The attribute of the outer model that holds it."""
    fold: Fold
    """The rows that become each token. Tests change one row and check that only its token changes."""
    class_token: str | None = None
    """The name of its class token, which comes before the patches; None if it has none."""
    normed: bool = True
    """True if the tower's output has its rows after the final norm, as a projector that reads the last layer gets them.

    Otherwise the rows without a layer are what that layer returned."""
    sizes: str = "grid_thw"
    """The tower's argument with the sizes of the images."""
    packs: bool = False
    """True if the model's `pack_image_features` leaves out tokens of padding and adds newlines behind the projector.

    The rows then go the same way, and `fold` is not asked."""

    def by_token(self, config: Any, need: Seen, rows: Tensor, sizes: Tensor | None) -> Tensor:
        """Combine the patches of each visual token: the sum for attention, the mean for keys and rows. -> (n, ...)

        `config` is the model's, `sizes` what the tower is told of the images' sizes.
        """
        patches = self.fold(config, rows, sizes)
        return patches.sum(1) if isinstance(need, Attention) else patches.mean(1)


Sizes: TypeAlias = Literal["own", "one", "by tower", "tiles", "unknown"]
"""The way a family's image processor treats the size of an image.

- "own": it keeps the size and reports the number of tokens. A smaller image has fewer tokens.
- "one": it resizes every image to one size. All images have the same number of tokens.
- "by tower": the vision tower decides. Most towers take one size (LLaVA).
- "tiles": it cuts every image into tiles of one size.
- "unknown": it is not checked. Images of two sizes may have different numbers of tokens.
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
"""The reason why a smaller image does not have fewer tokens, and the remedy; empty if it has fewer."""


def tower_takes_one_size(config: Any) -> bool:
    """True if the vision tower takes images of one size, which its config names. Pixtral's config names the largest."""
    vision = config.vision_config
    named = all(isinstance(getattr(vision, name, None), int) for name in ("image_size", "patch_size"))
    return named and vision.model_type != "pixtral"


@dataclass(frozen=True)
class Family:
    """One model type: the layout of its images in the sequence. The model itself tells everything else."""

    model_type: str
    """`config.model_type`, the name that users know."""
    layout: Layout | None = None
    """The function that finds the length and the grid of each image; None if the family reads no images."""
    image_token: str = "image_token_id"
    """The config attribute with the placeholder's token id."""
    also: tuple[Medium, ...] = ()
    """The other kinds of input that it reads: `video(layout)`, `audio(layout)`."""
    stages: tuple[type[Stage], ...] = (Input, Layer)
    """The stages where tokens may be cut. The family proofs test every stage that is listed here."""
    deepstack: tuple[str, str] | None = None
    """The text model's arguments for DeepStack: the mask, and the features that early layers add to visual tokens."""
    along: tuple[str, ...] = ()
    """Further arguments of the text model that have the sequence as their second axis, (b, q, ...)."""
    newline: str | None = None
    """The outer model's attribute with the newline embedding, which ends each row of an image's patches."""
    norm: str = "norm"
    """The text model's attribute with its final norm."""
    tower: Tower | None = None
    """Its vision tower; None if methods cannot read attention and keys in it."""
    unread: str = ""
    """The reason why methods cannot read its vision tower, where `tower` is None; see `why_unread`."""
    grid: Literal["yes", "one tile", "no"] = "yes"
    """The grid of an image's tokens: always there, there for an image of one tile, or never, as far as is known."""
    late: bool = False
    """True if its first decoder layers keep a recurrent state and have no attention to read."""
    sizes: Sizes = "unknown"
    """The way its image processor treats the size of an image, see `Sizes`."""
    without: tuple[tuple[str, str], ...] = ()
    """The kinds of input that it reads and pruning refuses, each with the reason."""
    note: str = ""
    """A note for users, shown in the table of families."""
    crops: bool = False
    """True if its processor may cut one picture into crops (pan and scan) that only text in the prompt marks."""
    proven: bool = True
    """False for a model type that is not in the table. It must pass a self-test on its first prompt."""

    @property
    def media(self) -> tuple[Medium, ...]:
        """The kinds of input that it reads, apart from text."""
        first = () if self.layout is None else (image(self.layout, self.image_token),)
        return (*first, *self.also)

    @property
    def cannot_downscale(self) -> str:
        """The reason why a smaller image does not have fewer tokens, and the remedy; empty if it has fewer."""
        return CANNOT_DOWNSCALE[self.sizes]

    @property
    def why_unread(self) -> str:
        """The reason why methods cannot read its vision tower, where `tower` is None."""
        usual = "its entry in the table names no tower" if self.layout else "it reads sounds, and has no vision tower"
        return self.unread or usual

    def takes_one_size(self, config: Any) -> bool:
        """True if a model with this config makes the same number of tokens of every image, large or small."""
        return self.sizes == "one" or (self.sizes == "by tower" and tower_takes_one_size(config))

    def lacks(self, need: Need) -> str:
        """The reason why methods cannot get this need from models with the usual towers; empty if they can."""
        if isinstance(need, Grid):
            return "its tokens lie on no grid that is known" if self.grid == "no" else ""
        if not need.in_tower:
            return ""
        if self.tower is None:
            return self.why_unread
        by_class = isinstance(need, Attention) and need.kind == "cls"
        return "its vision tower has no class token" if by_class and self.tower.class_token is None else ""

    def gives_later(self, need: Need) -> bool:
        """True if only a cut behind the first decoder layers gets this need."""
        return self.late and isinstance(need, Seen) and not need.in_tower and not isinstance(need, Change)
