"""Draws docs/demo.png, the picture at the top of the README: `python docs/make_demo_picture.py [SEED]`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image

import greedyprune as gp

KEEP, SIDE = 16, 272
TASKS = ("color", "where", "digit", "ocr")
PLACE = Path(__file__).parent / "demo.png"


def questions(seed: int) -> list[gp.testbed.Item]:
    """The first question of every task about a picture that no other one is about."""
    found: dict[str, gp.testbed.Item] = {}
    for item in gp.testbed.sample(100, seed=seed, tasks=TASKS):
        seen = [other.image for other in found.values()]
        if item.question.task not in found and not any(item.image is image for image in seen):
            found[item.question.task] = item
    return [found[task] for task in TASKS]


def main(seed: int) -> None:
    """Four questions about fresh scenes, the whole picture above and what was kept below, whatever the answers are."""
    model, processor = gp.testbed.load()
    whole: list[Image.Image] = []
    kept: list[Image.Image] = []
    asked: list[str] = []
    answered: list[str] = []
    for image, question in questions(seed):
        inputs = processor(images=image, text=gp.testbed.prompt(processor, question), return_tensors="pt")
        with torch.inference_mode(), gp.prune(model, keep=KEEP) as pruned:
            out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        text = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        (selection,) = pruned.selections
        mark = "✓" if gp.testbed.correct(question, text) else "✗"
        whole.append(image)
        kept.append(gp.plots.overlay(image, selection, size=2 * SIDE, dim=0.6))
        asked.append(question.text.replace(" ?", "?"))
        answered.append(f"{selection.k} of {selection.n} tokens kept\n{mark} {text}")
    sheet = gp.plots.side_by_side([*whole, *kept], [*asked, *answered], columns=len(TASKS), width=SIDE)
    sheet.quantize(256, kmeans=3).save(PLACE, optimize=True)  # few colours make a small file


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
