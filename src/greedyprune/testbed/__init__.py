"""Two small real LVLMs that ship with the library, and the scenes they answer questions about.

    from greedyprune.testbed import correct, load, prompt, sample

    model, processor = load("llava")
    image, question = sample(1)[0]
    inputs = processor(images=image, text=prompt(processor, question), return_tensors="pt")

Their model cards, `llava_scenes/README.md` and `qwen_scenes/README.md`, say what the models are, how well they answer,
and why their numbers say nothing about public LVLMs. Both need an extra, `pip install 'greedyprune[testbed]'`; for the
models alone Pillow is enough.
"""

import json
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greedyprune.preprocessing.inputs import chat

if TYPE_CHECKING:
    import torch

    from greedyprune.testbed.generator import Item, Scene, sample, scenes
    from greedyprune.testbed.layout import SIZES, Object
    from greedyprune.testbed.questions import FURTHER, KINDS, TASKS, Question, answer_patches, correct, spelled

__all__ = [
    "FOLDERS",
    "FURTHER",
    "KINDS",
    "MODELS",
    "SIZES",
    "TASKS",
    "Item",
    "Object",
    "Question",
    "Scene",
    "answer_patches",
    "correct",
    "learnt",
    "load",
    "prompt",
    "sample",
    "scenes",
    "spelled",
    "spelling",
]

FOLDERS = {name: Path(__file__).parent / f"{name}_scenes" for name in ("llava", "qwen")}
MODELS = tuple(FOLDERS)
SHEET = "scenes.json"
"""A file beside a trained model that says which tasks it learnt."""
LEARNT = 0.9
"""The share of right answers, with all visual tokens, from which a task counts as learnt."""

_HOMES = {
    "generator": ("Item", "Scene", "sample", "scenes"),
    "layout": ("SIZES", "Object"),
    "questions": ("FURTHER", "KINDS", "TASKS", "Question", "answer_patches", "correct", "spelled"),
}


def load(
    name: str | os.PathLike[str] = "llava",
    device: "str | torch.device" = "cpu",
    dtype: "str | torch.dtype" = "float32",
    attn_implementation: str = "sdpa",
) -> tuple[Any, Any]:
    """A bundled model, or one that `greedyprune.testbed.train` made in a folder, in eval mode, and its processor.

        model, processor = load("llava")
        model, processor = load("gemma/model")

    Nothing is downloaded.

    "llava" sees pictures of 168 by 168 pixels; "qwen", of Qwen2.5-VL's architecture, sees pictures of any size
    (`SIZES`), and clips. The files hold float16 to stay small; the models were trained in float32, which is also what
    CPUs are fast in.
    """
    if find_spec("PIL") is None:
        raise ImportError(
            "the models of the testbed read pictures by Pillow, which is not installed: pip install "
            "'greedyprune[testbed]'"
        )
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    from greedyprune.preprocessing.processors import load_processor

    folder = _folder(name)
    if not (folder / "config.json").is_file():
        known = ", ".join(MODELS)
        raise ValueError(f"{str(name)!r} is neither a bundled model ({known}) nor a folder with a config.json.")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # for three million weights
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, dtype=dtype, attn_implementation=attn_implementation
        )
    finally:
        if shown:
            logging.enable_progress_bar()
    return model.to(device).eval(), load_processor(str(folder))


def learnt(name: str | os.PathLike[str]) -> "tuple[str, ...]":
    """The tasks that a model can be asked about: what its folder says it learnt, or all `TASKS`.

    Raises ValueError if it learnt none.
    """
    sheet = _folder(name) / SHEET
    if not sheet.is_file():
        from greedyprune.testbed.questions import TASKS

        return TASKS
    tasks = tuple(json.loads(sheet.read_text(encoding="utf-8"))["tasks"])
    if not tasks:
        raise ValueError(f"{str(name)!r} learnt no task: {SHEET} in its folder says so.")
    return tasks


def _folder(name: str | os.PathLike[str]) -> Path:
    """The folder of a bundled model, or the one that is named."""
    return FOLDERS.get(str(name), Path(name))


def prompt(processor: Any, question: "Question | str") -> str:
    """One image and one question, behind the turns before it, in the model's chat template, ready for the answer."""
    turns = chat(question) if isinstance(question, str) else chat(question.text, question.before)
    return processor.apply_chat_template(turns, add_generation_prompt=True)


FORMS: "tuple[str, ...]" = (
    "is there a ", "how many ", "what color is the ", "what shape is the ", "what shape is missing ?", "where is the ",
    "is the ", "what digit is on the ", "what does the ", "which objects are there ?",
)  # fmt: skip
"""How the questions begin that the bundled models have learnt."""


def spelling(processor: Any, text: str) -> "tuple[str, str]":
    """A question as the bundled models read it: lower case, spaces before punctuation. -> it, and what is strange in it

    spelling(processor, "What colour is it?")    # ("what colour is it ?", "it has never seen the word 'colour'")
    """
    words = text.lower().replace("?", " ? ").replace(",", " , ").replace(".", " . ").split()
    known, found = processor.tokenizer.get_vocab(), " ".join(words)
    strange = next((word for word in words if word not in known), None)
    if strange is not None:
        return found, f"it has never seen the word {strange!r}"
    return found, "" if found.startswith(FORMS) else f"it was never asked {' '.join(words[:3])!r} ..."


def __getattr__(name: str) -> Any:
    # Late, because scikit-learn, matplotlib and Pillow take a second and are not needed to load the model.
    for home, names in _HOMES.items():
        if name in names:
            try:
                return getattr(import_module(f"{__name__}.{home}"), name)
            except ModuleNotFoundError as missing:
                raise ImportError(
                    f"greedyprune.testbed.{name} needs {missing.name}, which is not installed: "
                    "pip install 'greedyprune[testbed]'"
                ) from missing
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
