"""The whole training: each stage that is not finished, then the model in a folder."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import LlavaForConditionalGeneration

from greedyprune.outputs import write_text
from greedyprune.preprocessing.processors import load_processor
from greedyprune.testbed import LEARNT, TASKS
from greedyprune.testbed.train.gemma.arithmetic import number_type
from greedyprune.testbed.train.gemma.decoder import Gemma
from greedyprune.testbed.train.gemma.packages import (
    STAGE_ROOM,
    NotReady,
    check_packages,
    check_room,
    pretrained,
)
from greedyprune.testbed.train.gemma.stages import ARMS, Stage, finished, run_stage
from greedyprune.testbed.train.gemma.start import Arm, prepare
from greedyprune.testbed.train.loop import Run
from greedyprune.testbed.train.sheet import CHECKED, shares_right, write_sheet

SETTINGS = "settings.json"

CARD = """# A testbed model with a pretrained decoder

LLaVA's architecture: the vision tower of greedyprune's bundled model, a projector, and Gemma 3 270M as the decoder,
trained by `python -m greedyprune.testbed.train gemma` (arm: {arm}, seed: {seed}) on synthetic scenes.

Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms. This model is
derived from it: do not pass it on without those terms. greedyprune's own licence does not cover it.

Right answers of {checked} questions of each task (dev split, all visual tokens, greedy decoding):

{table}
"""


def train_gemma(
    folder: Path, arm: Arm, seed: int, scale: float = 1.0, stop: int | None = None, also: Sequence[str] = ()
) -> None:
    """Make the model in `folder/model`. Goes on where an earlier call in this folder left off.

    `scale` multiplies the steps of every stage. `stop` ends the first unfinished stage after so many steps, on the
    schedule of the whole, and the call. `also` names further tasks that the model is asked. Raises NotReady if this
    machine cannot train it, or if the folder holds a run with other settings.
    """
    assert arm in get_args(Arm)
    folder.mkdir(parents=True, exist_ok=True)
    stages = ARMS[arm]
    settings = {"arm": arm, "seed": seed, "scale": scale, "stages": [asdict(stage) for stage in stages]}
    settings |= {"also": list(also)} if also else {}
    found = _settings(folder)
    if found is not None and {**found, "type": None} != {**settings, "type": None}:
        told = {name: found.get(name) for name in ("arm", "seed", "scale", "also")}
        raise NotReady(f"{folder} holds a run with {told}, or of another version: choose another folder with --out.")
    _remove_leftovers(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if found is None:
        check_packages()
        check_room(folder)
        _base(folder, arm, seed)
        dtype, reason = number_type(device)
        _say(reason)
        found = {**settings, "type": str(dtype).removeprefix("torch.")}
        write_text(folder / SETTINGS, json.dumps(found) + "\n")
    loaded: Any = LlavaForConditionalGeneration.from_pretrained(folder / "base", dtype="float32")
    loaded.model.language_model.to(getattr(torch, found["type"]))  # the tower stays as it is bundled
    model, processor = loaded.to(device), load_processor(str(folder / "base"))
    if _learn(folder, model, Gemma.of(processor), stages, found, stop, device):
        _export(folder, model, processor, found)


def _settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the run that this folder holds; None if it holds none."""
    path = folder / SETTINGS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _remove_leftovers(folder: Path) -> None:
    """Remove what a call that was killed left half written."""
    for path in folder.glob("passing-*"):
        shutil.rmtree(path)
    for path in folder.glob(".*.pt"):
        path.unlink()


def _base(folder: Path, arm: Arm, seed: int) -> None:
    """The model that training starts from, in `folder/base`: written whole or not at all."""
    _say("Reading the pretrained decoder from its packages; this takes a minute.")
    torch.manual_seed(seed)
    shutil.rmtree(folder / "base", ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="passing-", dir=folder) as passing:
        error = prepare(Path(passing) / "base", arm, *pretrained(folder))
        os.replace(Path(passing) / "base", folder / "base")
    fitted = "" if error is None else f" fitted to words, with a relative error of {error:.2f}"
    _say(f"The projector starts{fitted or ' at random'}.")


def _learn(
    folder: Path,
    model: Any,
    architecture: Gemma,
    stages: Sequence[Stage],
    settings: dict[str, Any],
    stop: int | None,
    device: str,
) -> bool:
    """Train all stages. -> False if `stop` ended the training early"""
    weights: dict[str, torch.Tensor] | None = None
    left = list(stages)
    for stage in reversed(stages):
        if (weights := finished(folder, stage)) is not None:
            left = left[stages.index(stage) + 1 :]
            break
    if weights is not None and not left:  # a stage takes over the weights before it by itself
        _take(architecture, model, weights)
    for stage in left:
        steps = max(1, round(stage.steps * settings["scale"]))
        run = Run(stage.name, folder, settings["seed"], steps, stop, device=device, save_every=20)
        check_room(folder, STAGE_ROOM - (run.path.stat().st_size if run.path.exists() else 0))
        run_stage(run, stage, architecture, model, weights, settings.get("also", ()))
        if run.step < steps:
            return False
        weights = _keep_weights(run)
        for other in stages:
            if other != stage:
                (folder / f"{other.name}.pt").unlink(missing_ok=True)
        if stop is not None and stage != stages[-1]:
            return False
    return True


def _keep_weights(run: Run) -> dict[str, torch.Tensor]:
    """Leave the optimizer out of a finished stage's checkpoint, which is most of it. -> the weights"""
    saved = torch.load(run.path, map_location="cpu", weights_only=True)
    saved.pop("optimizer")
    with tempfile.TemporaryDirectory(prefix="passing-", dir=run.folder) as passing:
        torch.save(saved, Path(passing) / "weights.pt")
        os.replace(Path(passing) / "weights.pt", run.path)
    return saved["weights"]


def _take(architecture: Gemma, model: Any, weights: dict[str, torch.Tensor]) -> None:
    """The model takes over the weights of a finished stage."""
    held = [*architecture.decoder_weights(model), *architecture.projector(model).parameters()]
    with torch.no_grad():
        for weight, found in zip(held, weights.values(), strict=True):
            weight.copy_(found)


def _export(folder: Path, model: Any, processor: Any, settings: dict[str, Any]) -> None:
    """The trained model, with its processor, its card, and what it learnt, in `folder/model`."""
    text = model.model.language_model
    with torch.no_grad():
        for weight in text.parameters():  # so that what is scored is what is written
            weight.copy_(weight.to(torch.bfloat16))
    shares = shares_right(model.eval(), processor, CHECKED, (*TASKS, *settings.get("also", ())))
    about = {name: settings[name] for name in ("arm", "seed", "scale")}
    with tempfile.TemporaryDirectory(prefix="passing-", dir=folder) as passing:
        made = Path(passing) / "model"
        text.to(torch.bfloat16)
        model.save_pretrained(made)
        processor.save_pretrained(made)
        rows = "".join(f"| {task} | {100 * share:.0f} % |\n" for task, share in shares.items())
        table = f"| task | right |\n|---|---|\n{rows}"
        write_text(made / "README.md", CARD.format(checked=CHECKED, table=table, **about))
        learnt = write_sheet(made, about, shares)
        shutil.rmtree(folder / "model", ignore_errors=True)
        os.replace(made, folder / "model")
    _say(f"{folder / 'model'} learnt {', '.join(learnt) or 'no task'}: at least {100 * LEARNT:.0f} % right.")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
