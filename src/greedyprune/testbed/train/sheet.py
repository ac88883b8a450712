"""What a finished model answers: the share right of each task, and the sheet that says which tasks it learnt."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from greedyprune.outputs import write_text
from greedyprune.testbed import LEARNT, SHEET, SIZES, TASKS, correct, prompt, sample

CHECKED = 60
"""Questions of each task that the finished model answers, of the dev split."""
LONGEST = 8
"""The most new tokens of an answer, as in `greedyprune eval`."""


def shares_right(
    model: Any,
    processor: Any,
    each: int,
    tasks: Sequence[str] = TASKS,
    sizes: Sequence[tuple[int, int]] = SIZES[:1],
    batch: int = 60,
) -> dict[str, float]:
    """The share of right answers of each task, with all visual tokens and greedy decoding, on the dev split."""
    items = sample(each * len(tasks), "dev", tasks=tasks, sizes=sizes)
    right: dict[str, list[bool]] = {task: [] for task in tasks}
    for first in range(0, len(items), batch):
        some = items[first : first + batch]
        text = [prompt(processor, item.question) for item in some]
        inputs = processor(images=[item.image for item in some], text=text, return_tensors="pt", padding=True)
        pixels = inputs.pop("pixel_values").to(model.device, model.dtype)
        with torch.inference_mode():
            told = model.generate(
                **inputs.to(model.device), pixel_values=pixels, do_sample=False, max_new_tokens=LONGEST
            )
        texts = processor.batch_decode(told[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for item, answer in zip(some, texts, strict=True):
            right[item.question.task].append(correct(item.question, answer))
    return {task: sum(found) / len(found) for task, found in right.items()}


def write_sheet(folder: Path, about: Mapping[str, Any], shares: Mapping[str, float]) -> list[str]:
    """Write which tasks the model in this folder learnt. -> these tasks"""
    learnt = [task for task, share in shares.items() if share >= LEARNT]
    write_text(folder / SHEET, json.dumps({**about, "right": shares, "tasks": learnt}, indent=2) + "\n")
    return learnt
