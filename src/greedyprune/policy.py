"""Policy: the pruning that a user wants for every prompt, as one value without a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast, get_args

from greedyprune.budget import Budgets, PerFrame, PerLayer
from greedyprune.method import Method
from greedyprune.naming import WISHES, as_method, parse_keep, read_wish
from greedyprune.plain import to_plain
from greedyprune.shown import shown
from greedyprune.stages import Depths, Layer, Layers, Stage, as_stage

VERSION = 1
"""The version of a policy's plain dict. It rises if an old reader would misread the new form."""

Positions = Literal["original", "compact"]
"""The position ids of the kept tokens: their original ones, or new ones without gaps."""

Restore = Literal["none", "size", "distance", "both"]
"""What is added to the attention scores of the kept tokens while a prompt is read, as RESTORE does: nothing, the
logarithm of the number of tokens that each stands for, that of how far the rotary embedding mutes it, or both."""


@dataclass(frozen=True)
class Policy:
    """A method, a budget, the place of the cut and the positions of the kept tokens.

        policy = Policy("greedyprune", 64, "layer:2")
        pruned = gp.prune(model, policy)

    Each field accepts every form that `prune` accepts, and holds a `Method`, a budget and a `Stage`. If `at` is None,
    the cut is at the method's own stage, or at the layers that a `PerLayer` names. Raises TypeError or ValueError for a
    wrong field, and for a budget that does not fit the stage or the method; `check_stages` for a stage.
    """

    method: Method
    keep: Budgets
    at: Stage = None  # pyright: ignore[reportAssignmentType] - read as the method's own
    positions: Positions = "original"
    restore: Restore = "none"

    def __post_init__(self) -> None:
        method, keep = as_method(self.method), parse_keep(self.keep)
        given = cast("object", self.at)
        at = method.at if given is None else as_stage(given)
        if self.positions not in get_args(Positions):
            raise ValueError(
                f"positions={shown(self.positions)} is unknown: choose one of {', '.join(get_args(Positions))}."
            )
        if self.restore not in get_args(Restore):
            raise ValueError(f"restore={shown(self.restore)} is unknown: choose one of {', '.join(get_args(Restore))}.")
        if self.restore in ("distance", "both") and self.positions != "original":
            raise ValueError(
                f"restore={self.restore!r} makes up for the distance of original positions, and positions="
                f'{self.positions!r} are others: leave out positions, or write restore="size".'
            )
        if isinstance(keep, PerLayer):
            at = Layers(tuple(keep.schedule))
            if given is not None and as_stage(given) != at:
                raise ValueError(f"keep={shown(keep)} says itself where to cut: leave out at={shown(given)}.")
        for name, value in (("method", method), ("keep", keep), ("at", at)):
            object.__setattr__(self, name, value)
        self._check_frames()

    def check_stages(self) -> None:
        """Raise ValueError if the method cannot run at this stage. `prune` checks the model first, then this."""
        for stage in _stages(self.at):
            self.method.check_stage(stage)

    def _check_frames(self) -> None:
        """Raise ValueError if a budget for every frame does not fit the stage or the method."""
        given = self.keep if isinstance(self.keep, tuple) else (self.keep,)
        mine = next((budget for budget in given if isinstance(budget, PerFrame)), None)
        if mine is None:
            return
        if isinstance(self.at, (Layers, Depths)) and len(_stages(self.at)) > 1:
            raise ValueError(
                f"keep={mine!r} is what one cut leaves of a frame, and {self.place!r} cuts several times: "
                "use at=Input() or one Layer(l), or give the budget of a whole clip, an int or Ratio(0.25)."
            )
        self.method.check_frames(mine)

    def to_dict(self) -> dict[str, Any]:
        """The policy as a plain dict that JSON can hold: a server's body, a Ray config, an option of an engine.

        Policy("divprune", 64).to_dict()
        # {"type": "policy", "version": 1, "method": {"type": "divprune", ...}, "keep": 64,
        #  "at": {"type": "input"}, "positions": "original"}
        """
        plain = {"type": "policy", "version": VERSION} | {f.name: to_plain(getattr(self, f.name)) for f in fields(self)}
        if self.restore == "none":  # as before there was this field, so that an older release reads it
            del plain["restore"]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], *, own: bool = True) -> Policy:
        """Read the policy that `to_dict` wrote, or one that a person wrote.

            Policy.from_dict({"method": "divprune", "keep": "25%"})
            Policy.from_dict(body, own=False)       # a stranger's: only registered names

        The method, the budget and the stage may be texts too; `at`, `positions`, `restore` and `version` may be
        missing. `own`: True imports the module of your own method, "package.module:Class"; False refuses such names
        anywhere in the dict. Raises ValueError, with the name, if a field is unknown or missing, if a name is refused,
        or if the version is newer than this release.
        """
        if not isinstance(plain, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f'{shown(plain)} is no policy: write a dict such as {{"method": "divprune", "keep": 64}}.')
        given = dict(plain)
        kind, version = given.pop("type", "policy"), cast("object", given.pop("version", VERSION))
        if kind != "policy":
            raise ValueError(f"a plain dict of type {shown(kind)} is no policy: read it with from_plain().")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ValueError(f"this policy has version={shown(version)}: write {VERSION}, or leave it out.")
        if version > VERSION:
            raise ValueError(
                f"this policy has version {version}, and this release of greedyprune reads versions up to {VERSION}: "
                "install the release that wrote it, or a newer one."
            )
        wish = read_wish(given, "field of a policy", own=own)
        for name in WISHES[:2]:
            if name not in wish:
                raise ValueError(f'this policy has no {name!r}: write "{name}", as in {{"method": ..., "keep": ...}}.')
        found = cls(**wish)
        found.check_stages()
        return found

    def to_bytes(self) -> bytes:
        """The plain dict as canonical JSON in UTF-8: equal policies have equal bytes in every process.

        Keys are sorted, there are no spaces, and whole numbers have no decimal point. Use these bytes in a cache key
        or a hash. `Policy.from_dict(json.loads(policy.to_bytes()))` returns an equal policy.
        """
        plain = _canonical(self.to_dict())
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()

    def on(self, depth: int) -> Policy:
        """The same policy for a decoder of `depth` layers: `Depths` become `Layers`."""
        return replace(self, at=self.at.of(depth)) if isinstance(self.at, Depths) else self

    @property
    def place(self) -> str:
        """The stage of the cut, as text."""
        return str(self.at)

    @property
    def starts(self) -> list[int]:
        """The decoder layers that a cut precedes; empty if the cut is before the decoder."""
        if isinstance(self.at, Depths):
            raise TypeError(f"at={self.at!r} is known once the decoder's depth is: call policy.on(depth) first.")
        if isinstance(self.at, Layers):
            return list(self.at.indices)
        return [self.at.index] if isinstance(self.at, Layer) else []

    @property
    def early(self) -> bool:
        """True if the caches of layers before the cut are cut too."""
        return isinstance(self.at, Layer) and self.at.early


def _canonical(plain: Any) -> Any:
    """The same plain value, with one form for equal numbers: 1.0 becomes 1."""
    if isinstance(plain, dict):
        return {name: _canonical(value) for name, value in cast("dict[str, Any]", plain).items()}
    if isinstance(plain, list):
        return [_canonical(value) for value in cast("list[Any]", plain)]
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain


def _stages(at: Stage) -> list[Stage]:
    """Split a stage into its single cuts. Shares of an unknown depth count as layers."""
    if isinstance(at, Layers):
        return [Layer(index) for index in at.indices]
    return [Layer(1) for _ in at.shares] if isinstance(at, Depths) else [at]
