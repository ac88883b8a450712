"""What transformers answers, pruned by `gp.prune`: the reference for vLLM, in the same environment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from checkpoints import as_vllm_reads, written
from transformers import AutoModelForImageTextToText

import greedyprune as gp
from greedyprune.preprocessing.processors import load_processor
from greedyprune.testbed import FOLDERS, SIZES, load, sample

TOKENS = 6
METHODS: dict[str, gp.Method | None] = {
    "all": None,
    "text-free": gp.DivPrune(),
    "question": gp.SoftGreedyPrune(at=gp.Input()),
    "tower": gp.HiPrune(),
    "tower and question": gp.MMTok(),
}
POSITIONS: dict[str, Any] = {
    "llava": "compact",
    "qwen": "original",
    "qwen2_vl": "original",
    "qwen3_vl": "original",
    "gemma3": "compact",
    "idefics3": "compact",
    "internvl": "compact",
    "mistral3": "compact",
    "smolvlm": "compact",
}


class Answer(NamedTuple):
    """A greedy answer, the log-probability of each of its tokens, and the rows kept of each pruned image."""

    tokens: list[int]
    logprobs: list[float]
    rows: list[list[int]]


class Pair(NamedTuple):
    """A question about a picture."""

    image: Any
    question: str


class Reference:
    """A model in transformers: a bundled one, or that of the folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        if name in FOLDERS:
            self.model, self.processor = load(name)
        else:
            self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
            self.processor = load_processor(str(folder))

    def text(self, question: str, images: int = 1, turns: list[tuple[str, str]] | None = None) -> str:
        """A prompt in the checkpoint's chat template. `turns`: answers and further questions behind the first one."""
        content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        chat: list[Any] = [{"role": "user", "content": content}]
        for answer, asked in turns or []:
            chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
            chat.append({"role": "user", "content": [{"type": "text", "text": asked}]})
        return self.processor.apply_chat_template(chat, add_generation_prompt=True)

    def answer(
        self, images: list[Any], text: str, method: gp.Method | None, keep: Any, positions: Any = None
    ) -> Answer:
        """What is answered greedily to a prompt, pruned or, without a method, whole."""
        inputs = self.processor(images=images, text=text, return_tensors="pt")
        inputs.pop("token_type_ids", None)  # vLLM's attention for CPUs lets no image's tokens see those behind them
        if method is None:
            return self._generate(inputs)
        with gp.prune(self.model, method, keep, at=gp.Input(), positions=positions or POSITIONS[self.name]) as pruned:
            found = self._generate(inputs)
            return found._replace(rows=[each.keep.rows.tolist() for each in pruned.selections])

    def _generate(self, inputs: Any) -> Answer:
        settings = {"max_new_tokens": TOKENS, "do_sample": False, "return_dict_in_generate": True}
        with torch.no_grad():
            out = self.model.generate(**inputs, **settings, output_logits=True)
        tokens = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        both = zip(tokens, out.logits, strict=True)
        return Answer(tokens, [float(each[0].float().log_softmax(-1)[token]) for token, each in both], [])


def pairs(name: str, n: int, seed: int = 7) -> list[Pair]:
    """Questions about n different pictures, of five sizes if the model takes them."""
    sizes = SIZES[:1] if name == "llava" else SIZES
    found: dict[int, Any] = {}
    for place, item in enumerate(sample(40 * n, seed=seed, sizes=sizes)):  # its tasks come in turn, pictures repeat
        if id(item.image) not in found and place % 10 == len(found) % 10:
            found[id(item.image)] = item
    assert len(found) >= n
    return [Pair(item.image, item.question.text) for item in list(found.values())[:n]]


def export(name: str, folder: Path) -> Path:
    """Write a checkpoint as vLLM 0.32 reads it: its kernels for CPUs run in the type that the config names."""
    if name not in FOLDERS:
        return written(name, folder)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(FOLDERS[name], folder)
    as_vllm_reads(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2))
    return folder
