"""Presets: a policy in a file, with the model that it was chosen for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from greedyprune.outputs import write_text
from greedyprune.policy import Policy
from greedyprune.shown import shown

MOST_BYTES = 1_000_000
"""The largest file that is read as a preset."""


@dataclass(frozen=True)
class Preset:
    """A policy (method, budget, place, positions), the model that it is meant for, and a note.

        Preset(Policy("divprune", "25%"), model="./my-llava").save("fast.json")
        preset = gp.load_preset("fast.json")
        pruned = gp.prune(model, preset.policy)

    `gp.Preset(pruned.policy, model="./my-llava")` holds what a pruned model does. The commands take a file of it:
    `greedyprune run photo.jpg --ask "What is this?" --preset fast.json`. `greedyprune tune` writes one.
    """

    policy: Policy
    model: str | None = None
    """A folder, an id of the hub, or the name of a bundled model; None if it is meant for any."""
    note: str = ""
    """What is known of it, such as the accuracy that was measured."""

    def __post_init__(self) -> None:
        given = cast("object", self.policy), cast("object", self.model), cast("object", self.note)
        if not isinstance(given[0], Policy):
            raise TypeError(f"policy={shown(given[0])} is no policy: write Policy(method, keep), or pruned.policy.")
        if not isinstance(given[1], (str, type(None))) or not isinstance(given[2], str):
            raise TypeError(f"model={shown(given[1])}, note={shown(given[2])}: both are texts, and model may be None.")

    def to_dict(self) -> dict[str, Any]:
        """The preset as a plain dict that JSON can hold: that of the policy, and its own fields."""
        return {**self.policy.to_dict(), "type": "preset", "model": self.model, "note": self.note}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], *, own: bool = True) -> Preset:
        """Read what `to_dict` wrote, or what a person wrote: `{"method": "divprune", "keep": "25%"}`.

        Everything but `method` and `keep` may be missing. `own`: as in `Policy.from_dict`. Raises TypeError or
        ValueError, with the name, if a field is unknown, missing or wrong.
        """
        if not isinstance(plain, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f'{shown(plain)} is no preset: write an object, {{"method": "divprune", "keep": "25%"}}.')
        given = dict(plain)
        if (kind := given.pop("type", "preset")) != "preset":
            raise ValueError(f"this is of type {shown(kind)} and no preset: read it with from_plain().")
        model, note = given.pop("model", None), given.pop("note", "")
        return cls(Policy.from_dict(given, own=own), model, note)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a JSON file, whole or not at all. Raises OSError if that fails."""
        write_text(Path(path), json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")


def load_preset(path: str | os.PathLike[str], *, own: bool = True) -> Preset:
    """Read the file of a preset.

        preset = gp.load_preset("fast.json")
        with gp.prune(model, preset.policy):
            model.generate(**inputs)

    `own`: True imports the module of a method "package.module:Class"; use False for a stranger's file. Raises
    ValueError, with the path and the reason, if the file cannot be read or holds no preset.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes, which no preset has")
        return Preset.from_dict(json.loads(data.decode("utf-8-sig")), own=own)
    except json.JSONDecodeError as error:
        reason = f"it is no JSON: {error.msg} at line {error.lineno}"
    except UnicodeDecodeError:
        reason = "it is no UTF-8 text"
    except RecursionError:
        reason = "it is nested too deeply"
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, TypeError) as error:
        reason = str(error)
    raise ValueError(f"the preset {os.fspath(path)!r} cannot be read: {reason.rstrip('.')}.")
