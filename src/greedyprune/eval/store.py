"""The run folder: the answers of every configuration to every batch, so that a run can continue after an interruption.

`run.json` holds the settings that the answers depend on; `outcomes.jsonl` one line per configuration and batch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch

from greedyprune.eval.engine import Engine, Outcome
from greedyprune.eval.items import Item, digest
from greedyprune.outputs import write_text

FORMAT = 1


class Store:
    """A run folder. Only one process writes into it (see `locked`).

    Raises ValueError if it holds a run with other settings, or if a file in it cannot be read, and names the place.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self.folder, self._file = folder, folder / "outcomes.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        about = folder / "run.json"
        if about.exists():
            before = _settings_in(about)
            other = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
            if other:
                told = ", ".join(f"{name} was {before.get(name)} and is {settings.get(name)}" for name in other)
                raise ValueError(
                    f"{folder} holds a run with other settings ({told}): name another folder, or delete it."
                )
        else:
            write_text(about, json.dumps(dict(settings), indent=2) + "\n")
        self.outcomes = {(outcome.config, outcome.batch): outcome for outcome in self._read()}

    def _read(self) -> Iterator[Outcome]:
        if not self._file.exists():
            return
        data = self._file.read_bytes()
        end = data.rfind(b"\n") + 1
        if end < len(data):  # a line that was being written when the run ended
            os.truncate(self._file, end)
        for number, line in enumerate(data[:end].split(b"\n")[:-1], start=1):
            try:
                yield Outcome.from_dict(json.loads(line))
            except (ValueError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{self._file}:{number} is no outcome ({error}): delete that line, and its questions are answered "
                    "again, or name another folder."
                ) from error

    def add(self, outcome: Outcome) -> None:
        """Append one outcome to the file at once. Raises OSError that names the file."""
        try:
            with self._file.open("a", encoding="utf-8", newline="") as file:
                file.write(json.dumps(outcome.to_dict()) + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._file)) from error
        self.outcomes[outcome.config, outcome.batch] = outcome


def _settings_in(about: Path) -> dict[str, Any]:
    """The settings that a run folder holds."""
    try:
        found: Any = json.loads(about.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{about} cannot be read ({error}): delete the folder {about.parent} to start again, or name another one."
        ) from error
    return cast("dict[str, Any]", found)


def settings(
    engine: Engine, items: list[Item], batch: int, about: Mapping[str, str] | None = None
) -> dict[str, object]:
    """The settings that answers depend on, besides the configuration. `about` adds further ones."""
    return {
        "format": FORMAT,
        **(about or {}),
        "torch": torch.__version__,
        "weights": weights_digest(engine.model),
        "dtype": str(engine.model.dtype).removeprefix("torch."),
        "device": engine.model.device.type,
        "attention": engine.parts.attention,
        "questions": digest(items),
        "batch": batch,
        "max_new_tokens": engine.longest,
    }


def weights_digest(model: Any) -> str:
    """A digest of the weights: names, shapes, and 64 values of every tensor."""
    sha = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // 64)][:64]
        sha.update(f"{name} {tuple(weight.shape)} {some.double().tolist()}".encode())
    return sha.hexdigest()[:16]
