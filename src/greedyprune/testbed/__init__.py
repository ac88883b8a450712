"""Two small real LVLMs that ship with the library, and the scenes they answer questions about.

    from greedyprune.testbed import correct, load, prompt, sample

    model, processor = load("llava")
    image, question = sample(1)[0]
    inputs = processor(images=image, text=prompt(processor, question), return_tensors="pt")

Their model cards, `llava_scenes/README.md` and `qwen_scenes/README.md`, say what the models are, how well they answer,
and why their numbers say nothing about public LVLMs. The scenes need an extra, `pip install 'greedyprune[testbed]'`;
the models alone do not.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from greedyprune.testbed.generator import Item, Scene, sample, scenes
    from greedyprune.testbed.layout import SIZES, Object
    from greedyprune.testbed.questions import KINDS, TASKS, Question, answer_patches, correct

__all__ = [
    "FOLDERS",
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
    "load",
    "prompt",
    "sample",
    "scenes",
]

FOLDERS = {name: Path(__file__).parent / f"{name}_scenes" for name in ("llava", "qwen")}
MODELS = tuple(FOLDERS)

_HOMES = {
    "generator": ("Item", "Scene", "sample", "scenes"),
    "layout": ("SIZES", "Object"),
    "questions": ("KINDS", "TASKS", "Question", "answer_patches", "correct"),
}


def load(
    name: str = "llava",
    device: "str | torch.device" = "cpu",
    dtype: "str | torch.dtype" = "float32",
    attn_implementation: str = "sdpa",
) -> tuple[Any, Any]:
    """A bundled model, in eval mode, and its processor; nothing is downloaded.

    "llava" sees pictures of 168 by 168 pixels; "qwen", of Qwen2.5-VL's architecture, sees pictures of any size
    (`SIZES`), and its processor takes images alone where torchvision is absent. The files hold float16 to stay small;
    the models were trained in float32, which is also what CPUs are fast in.
    """
    from transformers import AutoModelForImageTextToText

    from greedyprune.preprocessing.processors import load_processor

    if name not in FOLDERS:
        raise ValueError(f"name={name!r} is no bundled model: choose one of {', '.join(MODELS)}.")
    model: Any = AutoModelForImageTextToText.from_pretrained(
        FOLDERS[name], local_files_only=True, dtype=dtype, attn_implementation=attn_implementation
    )
    return model.to(device).eval(), load_processor(str(FOLDERS[name]))


def prompt(processor: Any, question: "Question | str") -> str:
    """One image and one question in the model's chat template, ready for the answer."""
    text = question if isinstance(question, str) else question.text
    content = [{"type": "image"}, {"type": "text", "text": text}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    return processor.apply_chat_template(messages, add_generation_prompt=True)


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
