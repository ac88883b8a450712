"""Perturbed cues: how a method chooses if what it looks at fails. The model itself always sees the real tokens.

    configs = with_perturbations(configurations(["mmr", "random", "grid"], {"1/9": Ratio(1 / 9)}))

`greedyprune eval --suite robustness` is this from the command line.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from greedyprune.around import Around
from greedyprune.cues import Attention, Change, Cues, Need, Values
from greedyprune.eval.configs import BLIND, DENSE, Config
from greedyprune.method import Method
from greedyprune.methods.saliency import Saliency
from greedyprune.shown import shown
from greedyprune.stages import Layer, Stage

if TYPE_CHECKING:
    from greedyprune.budget import PerFrame
    from greedyprune.keep import Keep

How = Literal["text", "constant", "noise", "duplicates"]

PERTURBATIONS: dict[str, tuple[How, float]] = {
    "random text": ("text", 0.0),
    "constant saliency": ("constant", 0.0),
    "noise 1/4": ("noise", 1 / 4),
    "noise 1/2": ("noise", 1 / 2),
    "noise 1": ("noise", 1.0),
    "duplicates 1/3": ("duplicates", 1 / 3),
}
"""The perturbations of the suite by their name in the results: what `Perturbed` does, and how strongly."""

READ: dict[How, frozenset[str]] = {
    "text": frozenset({"text", "question", "chat", "last_text", "text_keys"}),
    "constant": frozenset({"text", "question", "chat", "last_text", "text_keys", "attention", "values", "change"}),
    "noise": frozenset({"tokens"}),
    "duplicates": frozenset({"tokens", "attention", "keys", "values", "change", "encoded"}),
}
"""The cues that each perturbation changes, as words of `Method.reads`."""
_STRENGTHS: dict[How, tuple[Callable[[float], bool], str]] = {
    "text": (lambda s: s == 0, "0, since text has no strength"),
    "constant": (lambda s: s == 0, "0, since constant has no strength"),
    "noise": (lambda s: 0 < s < math.inf, "a finite number above 0"),
    "duplicates": (lambda s: 0 < s < 1, "a share between 0 and 1"),
}
NUMBERS = 2**24
"""Pictures have one of so many numbers, each of which float32 holds exactly."""


@dataclass(frozen=True, kw_only=True)
class Perturbed(Around):
    """Another method, whose cues are perturbed before it chooses. What it keeps are the real tokens.

        gp.prune(model, Perturbed(inner=gp.MMR(), how="noise", strength=0.5), keep=64)

    - "text": every text row, and every key of the text, becomes a random direction of the same length.
    - "constant": all tokens are worth the same: text rows and keys of the text are zero, so their cosines are 0;
      attention, values and what a layer adds are their mean over the tokens.
    - "noise": x_i + s |x_i| g_i / sqrt(d), g_i of d normal numbers, so the noise is about s times as long as the row.
    - "duplicates": all cues of a random share s of the tokens are those of other tokens, drawn from the rest.

    Draws depend on `seed`, and on the picture: in place of a relevance, which no method gets here, the first value of
    `relevance=` is the number of the picture (`picture_number`). Without it all pictures get one draw.
    Differs: it has no source. Cost: that of the method, and O(n d).
    """

    equivariant: ClassVar[bool] = False

    at: Stage = Layer(2)
    """That of `inner`."""
    inner: Method = Saliency()
    how: How = "text"
    strength: float = 0.0
    """s, the length of noise in lengths of a row, or the share of duplicates; 0 for the others."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.how not in get_args(How):
            raise ValueError(f"how={shown(self.how)} is unknown: choose one of {', '.join(get_args(How))}.")
        right, remedy = _STRENGTHS[self.how]
        if not right(self.strength):
            raise ValueError(f"strength={self.strength!r} of how={self.how!r}: write {remedy}.")
        if self.at != self.inner.at:
            raise ValueError(f"at={self.at!r}, and {self.inner!r} is cut at {self.inner.at!r}: write the same twice.")
        if not touches(self.how, self.inner):
            raise ValueError(
                f"how={self.how!r} changes no cue that {type(self.inner).__name__} reads: leave the method as it is."
            )

    @property
    def compares_frames(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the inner method does."""
        return self.inner.compares_frames

    @property
    def weighs_relevance(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True: its first value is the number of the picture."""
        return True

    @property
    def reads(self) -> frozenset[str]:
        """What the inner method reads, and the number of the picture."""
        return super().reads | {"relevance"}

    def kept(self, k: int, n: int, grid: tuple[int, int, int] | None) -> int | None:
        """As the inner method says."""
        return self.inner.kept(k, n, grid)

    def counts(self, k: int, n: int, cuts: int) -> list[int]:
        """As the inner method says."""
        return self.inner.counts(k, n, cuts)

    def check_frames(self, keep: PerFrame) -> None:
        """As the inner method does."""
        self.inner.check_frames(keep)

    def select(self, cues: Cues, k: int) -> Keep:
        """The rows that the method chooses by perturbed cues. (n, d) -> Keep"""
        return self.inner.select(self.seen(cues), k)

    def seen(self, cues: Cues) -> Cues:
        """The cues that the method gets."""
        number = 0.0 if cues.relevance is None or not cues.n else float(cues.relevance[0])
        drawn = random.Random(f"{self.seed} {self.how} {number}").getrandbits(63)
        g = torch.Generator("cpu").manual_seed(drawn)
        cues = replace(cues, relevance=None)
        if self.how == "noise":
            return replace(cues, features=_noisy(cues.features, self.strength, g))
        if self.how == "duplicates":
            return _duplicated(cues, self.strength, g)
        return _constant(cues) if self.how == "constant" else _other_text(cues, g)


def touches(how: How, method: Method) -> bool:
    """True if this perturbation changes a cue that the method reads."""
    return bool(READ[how] & method.reads)


def perturbed(name: str, method: Method) -> Perturbed:
    """The method under a perturbation of the suite."""
    how, strength = PERTURBATIONS[name]
    return Perturbed(at=method.at, inner=method, how=how, strength=strength)


def picture_number(picture: str, n: int) -> Tensor:
    """The number of a picture with n visual tokens, as `Perturbed` reads it. -> (n,)"""
    return torch.full((n,), float(zlib.crc32(picture.encode()) % NUMBERS), device="cpu")


def with_perturbations(configs: Sequence[Config]) -> list[Config]:
    """These configurations, then each under every perturbation that changes what it reads; and the dense model blind.

    A configuration that a perturbation leaves alone is not repeated: its answers would be the same.
    """
    found = list(configs)
    for name, (how, _) in PERTURBATIONS.items():
        found += [replace(one, perturbation=name) for one in configs if one.method and touches(how, one.method)]
    return found + [replace(one, perturbation=BLIND) for one in configs if one.name == DENSE]


def greyed(picture: Any) -> Any:
    """A grey picture of the same size."""
    from PIL import Image

    return Image.new("RGB", picture.size, (128, 128, 128))


def _other_text(cues: Cues, g: torch.Generator) -> Cues:
    """Random directions in place of the text."""
    text = None if cues.text is None else _directions(cues.text, g)
    return replace(cues, text=text, more={n: _directions(v, g) if _of_text(n) else v for n, v in cues.more.items()})


def _of_text(need: Need) -> bool:
    return getattr(need, "of", "") == "text"


def _directions(rows: Tensor, g: torch.Generator) -> Tensor:
    """Random directions, each as long as the row in its place. (m, ...) -> (m, ...)"""
    drawn = _normal(rows, g)
    lengths = rows.float().flatten(1).norm(dim=1) / drawn.flatten(1).norm(dim=1)
    return (drawn * lengths.view(-1, *[1] * (rows.ndim - 1))).to(rows.dtype)


def _normal(rows: Tensor, g: torch.Generator) -> Tensor:
    """Normal numbers in the shape of these rows, the same on every device."""
    return torch.randn(rows.shape, generator=g, device="cpu").to(rows.device)


def _constant(cues: Cues) -> Cues:
    """Nothing tells what one token is worth from what another is."""
    more: dict[Need, Tensor] = {}
    for need, value in cues.more.items():
        if _of_text(need):
            more[need] = torch.zeros_like(value)
        else:
            more[need] = _mean(value) if isinstance(need, (Attention, Values, Change)) else value
    text = None if cues.text is None else torch.zeros_like(cues.text)
    attention = None if cues.attention is None else _mean(cues.attention)
    return replace(cues, text=text, attention=attention, more=more)


def _mean(values: Tensor) -> Tensor:
    """The mean over the tokens, for every token. (n, ...) -> (n, ...)"""
    return values.mean(0, keepdim=True).expand_as(values).contiguous()


def _noisy(rows: Tensor, strength: float, g: torch.Generator) -> Tensor:
    """Rows with noise of about `strength` times their length. (n, d) -> (n, d)"""
    lengths = rows.float().norm(dim=1, keepdim=True)
    return (rows + strength * rows.shape[1] ** -0.5 * lengths * _normal(rows, g)).to(rows.dtype)


def _duplicated(cues: Cues, share: float, g: torch.Generator) -> Cues:
    """A share of the tokens look like others."""
    rows = torch.randperm(cues.n, generator=g, device="cpu")
    count = min(round(share * cues.n), cues.n - 1)
    source, others = torch.arange(cues.n, device="cpu"), rows[count:]
    source[rows[:count]] = others[torch.randint(others.shape[0], (count,), generator=g, device="cpu")]
    source = source.to(cues.features.device)
    own = {
        name: value[source]
        for name in ("features", "attention", "keys", "encoded")
        if (value := getattr(cues, name)) is not None
    }
    return replace(cues, **own, more={n: v if _of_text(n) else v[source] for n, v in cues.more.items()})
