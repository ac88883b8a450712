"""Cues: what a method may look at, for one image; and needs, how a method says which of them it cannot do without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

import torch

from greedyprune.checks import as_grid, check_floats, check_protect, check_question, check_tensor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Need:
    """Something in the cues that a method requires beyond the features."""

    def met(self, cues: Cues) -> bool:
        """Whether these cues hold it."""
        raise NotImplementedError

    @property
    def in_tower(self) -> bool:
        """Whether something in the vision tower has to be looked at for it."""
        return False

    @property
    def word(self) -> str:
        """What it is called in `Method.reads` and in messages."""
        return type(self).__name__.lower()

    remedy = ""


@dataclass(frozen=True)
class Text(Need):
    """The prompt's text rows."""

    remedy = "pass text=, the (m, d) rows of the prompt at the same stage, the last prompt token last"

    def met(self, cues: Cues) -> bool:
        return cues.text is not None and cues.text.shape[0] > 0


@dataclass(frozen=True)
class Grid(Need):
    """The grid the tokens came from."""

    remedy = "pass grid=(t, h, w) with t*h*w equal to the number of tokens"

    def met(self, cues: Cues) -> bool:
        return cues.grid is not None


@dataclass(frozen=True)
class Attention(Need):
    """How much each visual token is looked at: softmax attention in one layer, (n,).

    Where a vision tower's patches are merged into tokens, a token's attention is the sum over its patches.
    """

    kind: Literal["tower", "cls", "received", "last_text", "raters"]
    """Who looks. In the vision tower: its class token ("cls"), all its tokens on average ("received"), or the class
    token where it has one and else all ("tower"), as most methods that rank by it do on towers without one.
    In the decoder: the last prompt token, or on average those text tokens that SparseVLM calls raters, as far as they
    stand behind the image (if none does, the last prompt token)."""
    layer: int | float | None = None
    """In which layer, 0 the first. None: in the tower the layer whose output the projector reads, in the decoder the
    last layer before the cut. In the tower negative numbers count from the end, and a share such as 1/3 is that of its
    depth: layer 8 of 24."""
    heads: Literal["mean", "one"] = "mean"
    """The mean over the layer's heads, or one head over the full width, as PruMerge computes it."""

    remedy = "pass attention=, the (n,) attention weights of the visual tokens, mean over heads"

    @property
    def in_tower(self) -> bool:
        return self.kind in ("tower", "cls", "received")

    def met(self, cues: Cues) -> bool:
        return self in cues.more or cues.attention is not None


@dataclass(frozen=True)
class Keys(Need):
    """The attention keys of the tokens in one layer, for all key heads: (n, h, c), or (m, h, c) of the text.

    Where a vision tower's patches are merged into tokens, a token's key is the mean over its patches.
    """

    where: Literal["tower", "decoder"]
    """In the vision tower, before any rotation, or in the decoder, as its attention uses them (rotated)."""
    layer: int | float | None = None
    """As for `Attention`."""
    of: Literal["visual", "text"] = "visual"

    remedy = "pass them in more=, such as more={Keys('tower'): keys}, or keys=, the visual tokens' (n, h, c) keys"

    @property
    def in_tower(self) -> bool:
        return self.where == "tower"

    @property
    def word(self) -> str:
        return "keys" if self.of == "visual" else "text_keys"

    def met(self, cues: Cues) -> bool:
        return self in cues.more or (self.of == "visual" and cues.keys is not None)


@dataclass(frozen=True)
class Encoded(Need):
    """What the vision tower made of each visual token, in front of the projector: (n, c).

    Where patches are merged into tokens, the mean over a token's patches.
    """

    layer: int | float | None = None
    """After which of its layers, 0 the first, negative from the end. None: what the projector reads."""

    remedy = "pass encoded=, the vision tower's (n, c) rows of the visual tokens"

    @property
    def in_tower(self) -> bool:
        return True

    def met(self, cues: Cues) -> bool:
        return self in cues.more or cues.encoded is not None


Features = Encoded
"""The name of an earlier release for `Encoded`."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """Which of an image's tokens show all of it and which show a crop, where a model looks at the image in both ways.

    Tokens stand in any order, since some models keep a crop's tokens together and others lay all crops out as one map;
    only those of the whole view are in raster order among themselves.
    """

    crop: Tensor
    """(n,) the crop that each token shows, crops counted from 0 in raster order; -1: it is one of the whole view."""
    layout: tuple[int, int]
    """(rows, columns) of the crops, which divide the image evenly; a crop may have lost its tokens (padding)."""
    whole: tuple[int, int]
    """(h, w) of the whole view, whose h*w tokens are all there."""

    def __post_init__(self) -> None:
        check_tensor("tiles: crop", self.crop, what="an (n,) int64")
        if self.crop.ndim != 1 or self.crop.dtype != torch.int64:
            raise ValueError(
                f"tiles: crop has shape {tuple(self.crop.shape)} and type {self.crop.dtype}: pass (n,) crop numbers, "
                "int64, -1 for tokens of the whole view."
            )
        count, listed = self.layout[0] * self.layout[1], self.crop.cpu()
        if min(self.layout) < 1 or not bool(((listed >= -1) & (listed < count)).all()):
            raise ValueError(f"tiles: layout={self.layout} has crops 0 to {count - 1}, and crop holds others.")
        if min(self.whole) < 1 or int((listed < 0).sum()) != self.whole[0] * self.whole[1]:
            raise ValueError(
                f"tiles: whole={self.whole} does not hold the {int((listed < 0).sum())} tokens of the whole view: "
                "(h, w) needs h*w tokens whose crop is -1."
            )


@dataclass(frozen=True, eq=False)
class Cues:
    """What a method may look at for one image. n visual tokens of width d, m text tokens.

    Types, shapes and devices are checked here, and each error names the cue; values (NaN, infinity, negative attention)
    where a selection is made, so that building cues costs nothing.
    """

    features: Tensor
    """(n, d) the image's rows at the stage: the projector's output, or the states entering decoder layer l."""
    text: Tensor | None = None
    """(m, d) all non-visual, non-padding prompt rows at the same stage, in order; the last is the last prompt token."""
    question: slice | None = None
    """Which text rows are the question: those after the last visual token, else all; None: all."""
    grid: tuple[int, int, int] | None = None
    """(t, h, w) where t*h*w = n, in raster order; None where no grid fits."""
    tiles: Tiles | None = None
    """Which tokens show the whole image and which a crop of it; None: there is a single view."""
    attention: Tensor | None = None
    """(n,) the attention that the tokens receive, where the method needs one kind of it."""
    keys: Tensor | None = None
    """(n, h, c) the attention keys of the tokens, where the method needs one kind of them."""
    encoded: Tensor | None = None
    """(n, c) the vision tower's rows of the tokens, in front of the projector."""
    relevance: Tensor | None = None
    """(n,) how relevant each token is to the question by a model of the user's own, such as a CLIP text tower."""
    more: Mapping[Need, Tensor] = field(default_factory=dict[Need, "Tensor"])
    """(n, ...) cues by the need that declares them; read them as `cues[need]`."""

    protect: Tensor | None = None
    """(p,) tokens that must be kept, ascending."""
    norm: Tensor | None = None
    """(d,) the weight of the decoder's final RMS norm."""

    def __post_init__(self) -> None:
        check_tensor("features", self.features, what="an (n, d)")
        if self.features.ndim != 2 or not self.features.is_floating_point():
            raise ValueError(
                f"features has shape {tuple(self.features.shape)} and type {self.features.dtype}: "
                "pass one image's rows, a floating-point tensor of shape (n, d)."
            )
        device, d = self.features.device, self.features.shape[1]
        if d == 0:
            raise ValueError(f"features has shape {tuple(self.features.shape)}: rows have a width of 1 or more.")
        if self.text is not None:
            check_tensor("text", self.text, device, what="an (m, d)")
            check_floats("text", self.text)
            if self.text.ndim != 2 or self.text.shape[1] != d:
                raise ValueError(
                    f"text has shape {tuple(self.text.shape)}, but the visual rows have width {d}: "
                    "pass (m, d) rows of the same stage."
                )
        if self.question is not None:
            check_question(self.question, 0 if self.text is None else self.text.shape[0])
        if self.grid is not None:
            object.__setattr__(self, "grid", as_grid(self.grid, self.n))
        if self.tiles is not None:
            if not isinstance(self.tiles, Tiles):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"tiles is a {type(self.tiles).__name__}: pass Tiles(crop, layout, whole).")
            if self.tiles.crop.shape[0] != self.n:
                raise ValueError(f"tiles is about {self.tiles.crop.shape[0]} tokens: pass the crop of all {self.n}.")
        if not isinstance(self.more, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"more is a {type(self.more).__name__}: pass a dict such as {{Keys('tower'): keys}}.")
        for name, value, of, axes in self._extra():
            check_tensor(name, value, device)
            if of == "text" and self.text is None:
                raise ValueError(f"{name} is about text rows, and there are none: pass text=, their (m, d) rows.")
            rows = self.n if of == "visual" or self.text is None else self.text.shape[0]
            if value.shape[:1] != (rows,) or not value.is_floating_point():
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)} and type {value.dtype}: "
                    f"pass one floating-point value for each of the {rows} tokens."
                )
            if axes and (value.ndim != len(axes.split()) or 0 in value.shape[1:]):
                hint = ", the mean over heads" if axes == "n" else ", each 1 or more" if value.numel() == 0 else ""
                raise ValueError(f"{name} has shape {tuple(value.shape)}: pass ({axes}), n = {rows}{hint}.")
        if self.norm is not None:
            check_tensor("norm", self.norm, device, what="a (d,)")
            check_floats("norm", self.norm)
            if self.norm.shape != (d,):
                raise ValueError(f"norm has shape {tuple(self.norm.shape)}: the rows have width {d}.")
        if self.protect is not None:
            check_tensor("protect", self.protect, device, what="a (p,) int64")
            check_protect(self.protect, self.n)

    @property
    def n(self) -> int:
        """How many visual tokens there are."""
        return self.features.shape[0]

    def __getitem__(self, need: Need) -> Tensor:
        """A cue that the method declared; the field of its kind stands for one that `more` lacks. -> (n, ...)"""
        if need in self.more:
            return self.more[need]
        if isinstance(need, Attention) and self.attention is not None:
            return self.attention
        if isinstance(need, Keys) and need.of == "visual" and self.keys is not None:
            return self.keys
        if isinstance(need, Encoded) and self.encoded is not None:
            return self.encoded
        raise KeyError(f"{need!r} is not among these cues: declare it in the method's needs.")

    def _extra(self) -> list[tuple[str, Tensor, str, str]]:
        """Cues beyond rows and text: name, value, whose tokens they are about, and their axes, "" where none is due."""
        main = [(name, getattr(self, name), "visual", axes) for name, axes in _AXES.items()]
        found = [each for each in main if each[1] is not None]
        for need, value in self.more.items():
            if not isinstance(need, Need):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"more has the key {need!r}: write a need, such as Keys('tower') or Attention('cls').")
            axes = next((_AXES[name] for name, kind in _KINDS.items() if isinstance(need, kind)), "")
            found.append((repr(need), value, getattr(need, "of", "visual"), axes))
        return found

    def require_finite(self) -> None:
        """Raise if any cue holds NaN or infinity, naming the cue and the first bad row."""
        own = [(each.name, getattr(self, each.name)) for each in fields(self) if each.name not in _AXES]
        for name, value in own + [(name, value) for name, value, _, _ in self._extra()]:
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                continue
            # One number nearly always answers: a finite sum has only finite terms. An overflow goes on to the rows.
            if bool(torch.isfinite(value.sum(dtype=torch.promote_types(value.dtype, torch.float32)))):
                continue
            bad = (~torch.isfinite(value)).reshape(value.shape[0], -1).any(1).nonzero()
            if bad.numel():
                raise ValueError(
                    f"{name} holds NaN or infinity, first in row {int(bad[0])} of {value.shape[0]}: "
                    "check the model's inputs and its precision (float16 overflows where bfloat16 does not)."
                )

    def require_weights(self, needs: Iterable[Need]) -> None:
        """Raise if attention that is needed is below 0, naming the first such row: it is softmax attention."""
        for need in needs:
            if isinstance(need, Attention) and self.n and float(self[need].min()) < 0:
                row = int((self[need] < 0).nonzero()[0, 0])
                raise ValueError(
                    f"attention holds {float(self[need][row]):.6g}, first in row {row} of {self.n}: "
                    "pass attention weights, 0 or more, not scores before the softmax."
                )


_AXES = {"attention": "n", "keys": "n, h, c", "encoded": "n, c", "relevance": "n"}
"""The fields of `Cues` that hold a value for each visual token beside its row, and the axes of each."""
_KINDS: dict[str, type[Need]] = {"attention": Attention, "keys": Keys, "encoded": Encoded}
"""The needs that such a field can meet, which have its axes."""
