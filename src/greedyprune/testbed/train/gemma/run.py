"""The whole training: each stage that is not finished, then the model in a folder."""

import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import LlavaForConditionalGeneration

from greedyprune.outputs import write_text
from greedyprune.preprocessing.processors import load_processor
from greedyprune.testbed import LEARNT, SHEET, TASKS, correct, prompt, sample
from greedyprune.testbed.train.gemma.arithmetic import number_type
from greedyprune.testbed.train.gemma.decoder import Gemma
from greedyprune.testbed.train.gemma.packages import NotReady, check_packages, check_room, pretrained
from greedyprune.testbed.train.gemma.stages import ARMS, Stage, finished, run_stage
from greedyprune.testbed.train.gemma.start import Arm, prepare
from greedyprune.testbed.train.loop import Run

CHECKED = 20
"""Questions of each task that the finished model answers, of the dev split."""

CARD = """# A testbed model with a pretrained decoder

LLaVA's architecture: the vision tower of greedyprune's bundled model, a projector, and Gemma 3 270M as the decoder,
trained by `python -m greedyprune.testbed.train gemma` (arm: {arm}, seed: {seed}) on synthetic scenes.

Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms. This model is
derived from it: do not pass it on without those terms. greedyprune's own licence does not cover it.

Right answers of {checked} questions of each task (dev split, all visual tokens, greedy decoding):

{table}
"""


def train_gemma(folder: Path, arm: Arm, seed: int, scale: float = 1.0, stop: int | None = None) -> None:
    """Make the model in `folder/model`. Goes on where an earlier call in this folder left off.

    `scale` multiplies the steps of every stage. `stop` ends the first unfinished stage after so many steps. Raises
    NotReady if this machine cannot train it, or if the folder holds another run.
    """
    assert arm in get_args(Arm)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"arm": arm, "seed": seed, "scale": scale}
    _check_settings(folder / "settings.json", settings)
    if not (folder / "base").is_dir():
        check_packages()
        check_room(folder)
        _base(folder, arm, seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype, reason = number_type(device)
    _say(reason)
    loaded: Any = LlavaForConditionalGeneration.from_pretrained(folder / "base", dtype=dtype)
    model = loaded.to(device)
    processor: Any = load_processor(str(folder / "base"))
    if not _learn(folder, model, Gemma.of(processor), settings, stop, device):
        return
    _export(folder, model, processor, settings)


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Raise NotReady if the folder holds a run with other settings; else write them."""
    if not path.exists():
        write_text(path, json.dumps(settings) + "\n")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if found != settings:
        raise NotReady(f"{path.parent} holds a run with {found}, not {settings}: choose another folder with --out.")


def _base(folder: Path, arm: Arm, seed: int) -> None:
    """The model that training starts from, in `folder/base`: written whole or not at all."""
    _say("Reading the pretrained decoder from its packages; this takes a minute.")
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory(dir=folder) as passing:
        error = prepare(Path(passing) / "base", arm, *pretrained(folder))
        os.replace(Path(passing) / "base", folder / "base")
    _say("The projector starts at random." if error is None else f"The projector starts {error:.2f} away from words.")


def _learn(
    folder: Path, model: Any, architecture: Gemma, settings: dict[str, Any], stop: int | None, device: str
) -> bool:
    """Train all stages. -> False if `stop` ended one early"""
    stages: tuple[Stage, ...] = ARMS[settings["arm"]]
    last = max((i for i, stage in enumerate(stages) if finished(folder, stage)), default=-1)
    weights = finished(folder, stages[last]) if last >= 0 else None
    for i, stage in enumerate(stages[last + 1 :], start=last + 1):
        steps = max(1, round(stage.steps * settings["scale"]))
        run = Run(stage.name, folder, settings["seed"], steps, stop, device=device, save_every=20)
        run_stage(run, stage, architecture, model, weights)
        if run.step < steps:
            return False
        weights = _keep_weights(run)
        if i:
            (folder / f"{stages[i - 1].name}.pt").unlink(missing_ok=True)
    if weights is not None and last == len(stages) - 1:
        _take(architecture, model, weights)
    return True


def _keep_weights(run: Run) -> dict[str, torch.Tensor]:
    """Leave the optimizer out of a finished stage's checkpoint, which is most of it. -> the weights"""
    saved = torch.load(run.path, map_location="cpu", weights_only=True)
    saved.pop("optimizer")
    with tempfile.TemporaryDirectory(dir=run.folder) as passing:
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
    shares = shares_right(model.eval(), processor)
    learnt = [task for task, share in shares.items() if share >= LEARNT]
    with tempfile.TemporaryDirectory(dir=folder) as passing:
        made = Path(passing) / "model"
        model.to(torch.bfloat16).save_pretrained(made)
        processor.save_pretrained(made)
        rows = "".join(f"| {task} | {100 * share:.0f} % |\n" for task, share in shares.items())
        table = f"| task | right |\n|---|---|\n{rows}"
        write_text(made / "README.md", CARD.format(checked=CHECKED, table=table, **settings))
        write_text(made / SHEET, json.dumps({**settings, "right": shares, "tasks": learnt}, indent=2) + "\n")
        with suppress(FileNotFoundError):
            shutil.rmtree(folder / "model")
        os.replace(made, folder / "model")
    _say(f"{folder / 'model'} answers {', '.join(learnt) or 'no task'}: at least {100 * LEARNT:.0f} % right.")


def shares_right(model: Any, processor: Any, each: int = CHECKED, batch: int = 20) -> dict[str, float]:
    """The share of right answers of each task, with all visual tokens and greedy decoding, on the dev split."""
    items = sample(each * len(TASKS), "dev")
    right: dict[str, list[bool]] = {task: [] for task in TASKS}
    for first in range(0, len(items), batch):
        some = items[first : first + batch]
        text = [prompt(processor, item.question) for item in some]
        inputs = processor(images=[item.image for item in some], text=text, return_tensors="pt", padding=True)
        pixels = inputs.pop("pixel_values").to(model.device, model.dtype)
        with torch.inference_mode():
            told = model.generate(**inputs.to(model.device), pixel_values=pixels, do_sample=False)
        texts = processor.batch_decode(told[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for item, answer in zip(some, texts, strict=True):
            right[item.question.task].append(correct(item.question, answer))
    return {task: sum(found) / len(found) for task, found in right.items()}


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
