"""Cues: the tensors of one image that a method may read. Needs: the cues that a method declares it requires."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from greedyprune.checks import as_grid, check_floats, check_protect, check_question, check_tensor
from greedyprune.tiles import Tiles

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Need:
    """A cue that a method requires beyond the features. A method lists its needs:

        needs: ClassVar[tuple[Need, ...]] = (Text(), Attention("cls"))

    Use a subclass: `Text`, `Grid`, `Attention`, `Keys`, `Values`, `Change` or `Encoded`.
    """

    def met(self, cues: Cues) -> bool:
        """True if these cues hold it."""
        raise NotImplementedError

    @property
    def in_tower(self) -> bool:
        """True if it is read from the vision tower."""
        return False

    @property
    def word(self) -> str:
        """Its name in `Method.reads` and in messages."""
        return type(self).__name__.lower()

    remedy = ""


@dataclass(frozen=True)
class Text(Need):
    """The prompt's text rows, `cues.text`.

    needs = (Text(),)
    """

    remedy = "pass text=, the (m, d) rows of the prompt at the same stage, the last prompt token last"

    def met(self, cues: Cues) -> bool:
        return cues.text is not None and cues.text.shape[0] > 0


@dataclass(frozen=True)
class Grid(Need):
    """The grid that the tokens came from, `cues.grid`.

    needs = (Grid(),)
    """

    remedy = "pass grid=(t, h, w) with t*h*w equal to the number of tokens"

    def met(self, cues: Cues) -> bool:
        return cues.grid is not None


@dataclass(frozen=True)
class Attention(Need):
    """The softmax attention that each visual token receives in one layer, (n,).

        Attention("cls")                    # from the class token of the vision tower
        Attention("last_text", layer=2)     # from the last prompt token, in decoder layer 2

    If a vision tower merges patches into tokens, a token's attention is the sum over its patches.
    """

    kind: Literal["tower", "cls", "received", "last_text", "question", "raters", "image"]
    """The query that attends. In the vision tower: its class token ("cls"), the mean over all its tokens ("received"),
    or "tower": the class token if there is one, else the mean over all. In the decoder: the last prompt token
    ("last_text"); or the mean over those tokens of the image's question (`Cues.question`) that are after the image
    ("question"), or over SparseVLM's raters, the text tokens it selects after the image ("raters"). If there are none,
    it is the last prompt token. "image" needs no text: the mean query of the image's own tokens, which attends to those
    tokens alone, with queries and keys before their rotation (PACT)."""
    layer: int | float | None = None
    """The layer, 0 the first. None: in the tower the layer whose output the projector reads (the deepest if it reads
    several), in the decoder the last layer with attention before the cut. In the tower, a negative number counts from
    the end, and a share such as 1/3 is a share of its depth: layer 8 of 24."""
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

        Keys("tower")                   # of the visual tokens, in the vision tower
        Keys("decoder", of="text")      # of the text, in the decoder

    If a vision tower merges patches into tokens, a token's key is the mean over its patches.
    """

    where: Literal["tower", "decoder"]
    """In the vision tower, before any rotation, or in the decoder, as its attention uses them (rotated)."""
    layer: int | float | None = None
    """The layer, as in `Attention`."""
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
class Values(Need):
    """The attention values of the visual tokens in one decoder layer, for all value heads: (n, h, c).

    needs = (Values(),)
    """

    layer: int | None = None
    """The layer, 0 the first. None: the last layer before the cut."""

    remedy = "pass them in more=, such as more={Values(): values}, the visual tokens' (n, h, c) values"

    def met(self, cues: Cues) -> bool:
        return self in cues.more


@dataclass(frozen=True)
class Change(Need):
    """What one decoder layer adds to the state of each visual token: (n, d).

    needs = (Change(),)

    It is h' - h, h the states that enter the layer and h' those that enter the next one, in float32 or better.
    """

    layer: int | None = None
    """The layer, as in `Values`."""

    remedy = "pass it in more=, such as more={Change(): rows}, the (n, d) rows that a decoder layer added"

    def met(self, cues: Cues) -> bool:
        return self in cues.more


@dataclass(frozen=True)
class Encoded(Need):
    """The vision tower's row of each visual token, before the projector: (n, c).

        Encoded()           # as the projector reads it
        Encoded(layer=-1)   # after the tower's last layer

    If the tower merges patches into tokens, a row is the mean over the token's patches.
    """

    layer: int | float | None = None
    """The layer whose output is taken, 0 the first, negative from the end. None: the rows that the projector
    reads, of the deepest layer if it reads several."""

    remedy = "pass encoded=, the vision tower's (n, c) rows of the visual tokens"

    @property
    def in_tower(self) -> bool:
        return True

    def met(self, cues: Cues) -> bool:
        return self in cues.more or cues.encoded is not None


Features = Encoded
"""The name of an earlier release for `Encoded`."""

Seen: TypeAlias = Attention | Keys | Values | Change | Encoded
"""The needs that are read inside a model. `Cues.more` may hold each of them."""


@dataclass(frozen=True, eq=False)
class Cues:
    """The tensors of one image that a method may read: n visual tokens of width d, m text tokens.

        keep = select("greedyprune", Cues(features, text=text, grid=(1, 24, 24)), 64)

    Types, shapes and devices are checked here, and each error names the cue. `select` checks the values (NaN,
    infinity, negative attention), so building cues costs nothing.
    """

    features: Tensor
    """(n, d) the image's rows at the stage: the projector's output, or the states that enter decoder layer l."""
    text: Tensor | None = None
    """(m, d) all non-visual, non-padding prompt rows at the same stage, in order; the last is the last prompt token."""
    question: slice | None = None
    """The text rows of the question about this image, as `question_rows` says. None: all rows."""
    grid: tuple[int, int, int] | None = None
    """(t, h, w) with t*h*w = n, in raster order; None if no grid fits."""
    tiles: Tiles | None = None
    """The tokens that show the whole image and those that show a crop. None: there is a single view."""
    attention: Tensor | None = None
    """(n,) the attention that the tokens receive, for a method that needs one kind of it."""
    keys: Tensor | None = None
    """(n, h, c) the attention keys of the tokens, for a method that needs one kind of them."""
    encoded: Tensor | None = None
    """(n, c) the vision tower's rows of the tokens, before the projector."""
    relevance: Tensor | None = None
    """(n,) the relevance of each token to the question, from a model of the user's own, such as a CLIP text tower."""
    more: Mapping[Need, Tensor] = field(default_factory=dict[Need, "Tensor"])
    """(n, ...) each further cue under the need that declares it; `cues[need]` reads it."""

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
        """The number of visual tokens."""
        return self.features.shape[0]

    def __getitem__(self, need: Need) -> Tensor:
        """The cue that a method declared; from the field of its kind if `more` lacks it. -> (n, ...)"""
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
        """Cues beyond rows and text: name, value, kind of tokens ("visual" or "text"), and axes ("" if any fit)."""
        main = [(name, getattr(self, name), "visual", axes) for name, axes in _AXES.items()]
        found = [each for each in main if each[1] is not None]
        for need, value in self.more.items():
            if not isinstance(need, Need):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"more has the key {need!r}: write a need, such as Keys('tower') or Attention('cls').")
            axes = next((axes for kind, axes in _SEEN.items() if isinstance(need, kind)), "")
            found.append((repr(need), value, getattr(need, "of", "visual"), axes))
        return found

    def floating(self) -> list[tuple[str, Tensor]]:
        """The name and the values of every cue that may hold NaN or infinity."""
        own = [(each.name, getattr(self, each.name)) for each in fields(self) if each.name not in _AXES]
        every = own + [(name, value) for name, value, _, _ in self._extra()]
        return [(name, each) for name, each in every if isinstance(each, torch.Tensor) and each.is_floating_point()]

    def require_finite(self) -> None:
        """Raise ValueError if any cue holds NaN or infinity. The error names the cue and the first bad row."""
        for name, value in self.floating():
            bad = (~torch.isfinite(value))[:, None].flatten(1).any(1).nonzero()
            if bad.numel():
                raise ValueError(
                    f"{name} holds NaN or infinity, first in row {int(bad[0])} of {value.shape[0]}: "
                    "check the model's inputs and its precision (float16 overflows where bfloat16 does not)."
                )

    def require_weights(self, needs: Iterable[Need]) -> None:
        """Raise ValueError if a needed attention is below 0, with the first such row: softmax attention never is."""
        for need in needs:
            if isinstance(need, Attention) and self.n and float(self[need].min()) < 0:
                row = int((self[need] < 0).nonzero()[0, 0])
                raise ValueError(
                    f"attention holds {float(self[need][row]):.6g}, first in row {row} of {self.n}: "
                    "pass attention weights, 0 or more, not scores before the softmax."
                )


_AXES = {"attention": "n", "keys": "n, h, c", "encoded": "n, c", "relevance": "n"}
"""The fields of `Cues` that hold a value for each visual token besides its row, and the axes of each."""
_SEEN: dict[type[Need], str] = {
    Attention: _AXES["attention"],
    Keys: _AXES["keys"],
    Values: _AXES["keys"],
    Change: "n, d",
    Encoded: _AXES["encoded"],
}
"""The axes of each need that is read inside a model."""
