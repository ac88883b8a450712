"""The run folder: what every configuration told for every batch, so that a run can be interrupted and continued.

`run.json` holds the settings that the answers depend on; `outcomes.jsonl` one line per configuration and batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from greedyprune.eval.engine import Engine, Outcome
from greedyprune.eval.items import Item, digest

FORMAT = 1


class Store:
    """A run folder. Raises ValueError if it holds a run with other settings."""

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        self.folder, self._file = folder, folder / "outcomes.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        about = folder / "run.json"
        if about.exists():
            before: dict[str, Any] = json.loads(about.read_text(encoding="utf-8"))
            other = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
            if other:
                told = ", ".join(f"{name} was {before.get(name)} and is {settings.get(name)}" for name in other)
                raise ValueError(
                    f"{folder} holds a run with other settings ({told}): name another folder, or delete it."
                )
        else:
            about.write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")
        self.outcomes = {(outcome.config, outcome.batch): outcome for outcome in self._read()}

    def _read(self) -> Iterator[Outcome]:
        if not self._file.exists():
            return
        text = self._file.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a line that was being written when the run ended
            self._file.write_text(whole, encoding="utf-8")
        for line in whole.splitlines():
            yield Outcome(**json.loads(line))

    def add(self, outcome: Outcome) -> None:
        """Write one outcome down, at once."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(outcome.to_dict()) + "\n")
        self.outcomes[outcome.config, outcome.batch] = outcome


def settings(
    engine: Engine, items: list[Item], batch: int, about: Mapping[str, str] | None = None
) -> dict[str, object]:
    """All that answers depend on, besides the configuration. `about` is what else must not change in a run."""
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
    """What distinguishes these weights from others: names, shapes, and 64 values of every tensor."""
    sha = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // 64)][:64]
        sha.update(f"{name} {tuple(weight.shape)} {some.double().tolist()}".encode())
    return sha.hexdigest()[:16]
