"""Models, pictures and places to write to: opened and checked, with errors that help."""

from __future__ import annotations

import logging as logs
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greedyprune.cli._errors import Failure, misuse, note, one_line
from greedyprune.cli._outputs import check_path

if TYPE_CHECKING:
    from PIL import Image

    from greedyprune.preprocessing.clips import Clip

DTYPES = ("auto", "float32", "bfloat16", "float16")
NOISY = ("torchao", "torch.utils._pytree")
"""Loggers that warn while transformers imports torchao, of nothing that concerns pruning."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model with its processor."""

    model: Any
    processor: Any
    name: str
    bundled: bool


def load(name: str | None, device: str = "cpu", dtype: str | None = None) -> Loaded:
    """A model in eval mode: a folder, an id on the Hugging Face hub, or the bundled one if there is no name.

    `dtype` is the checkpoint's own by default, but float32 on a CPU.
    """
    if dtype not in (None, *DTYPES):
        raise misuse(f"--dtype {dtype!r} is unknown: choose one of {', '.join(DTYPES)}.")
    where, bundled = _place(name)
    quieten()
    check_device(device)
    _check_family(where, name or "the bundled model")
    from transformers import AutoModelForImageTextToText

    from greedyprune.preprocessing.processors import load_processor

    dtype = dtype or ("float32" if device.startswith("cpu") else "auto")
    local = os.path.isdir(where)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            where, dtype=dtype, local_files_only=local, output_loading_info=True
        )
        model, info = loaded
        processor = load_processor(where)
    except Exception as error:  # whatever a broken checkpoint makes the libraries below raise
        raise Failure(f"cannot load the model {where!r}: {_first_line(error)}") from error
    if info.get("missing_keys"):
        lacking = sorted(info["missing_keys"])
        note(
            f"warning: {len(lacking)} weights are missing in {where!r} and were drawn at random, such as {lacking[0]}."
        )
    return Loaded(model.to(device).eval(), processor, name or "bundled", bundled)


def without_weights(name: str | None) -> Loaded:
    """A model of these classes on the meta device, with its processor. No weights are read."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from greedyprune.preprocessing.processors import load_processor

    where, bundled = _place(name)
    quieten()
    _check_family(where, name or "the bundled model")
    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(where, local_files_only=os.path.isdir(where))
            model = AutoModelForImageTextToText.from_config(config)
        return Loaded(model, load_processor(where), name or "bundled", bundled)
    except Exception as error:  # whatever a broken checkpoint makes the libraries below raise
        raise Failure(f"cannot read the model {where!r}: {_first_line(error)}") from error


def checked_place(name: str) -> str:
    """The place of a model that can be pruned, checked by its config alone. Raises Failure for any other."""
    where, _ = _place(name)
    _check_family(where, name)
    return where


def _place(name: str | None) -> tuple[str, bool]:
    """The place of a model, a folder or an id of the hub. -> place, True if it is bundled"""
    from greedyprune import testbed

    if name is None:
        return str(testbed.FOLDERS["llava"]), True
    if not name.strip():
        raise misuse("--model is empty: write a folder or an id of the hub, or leave it out for the bundled model.")
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise Failure(f"--model {name!r} is no model: the folder holds no config.json.")
        return str(path), path.resolve() in [folder.resolve() for folder in testbed.FOLDERS.values()]
    if name in testbed.FOLDERS:
        return str(testbed.FOLDERS[name]), True
    if path.exists():
        raise Failure(f"--model {name!r} is a file: give the folder that save_pretrained wrote.")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise Failure(f"--model {name!r}: there is no such folder.")
    return name, False


def _check_family(where: str, name: str) -> None:
    """Refuse what cannot be pruned before its weights are read."""
    from transformers import AutoConfig

    from greedyprune.models.table import family_of

    try:
        config = AutoConfig.from_pretrained(where, local_files_only=os.path.isdir(where))
    except Exception as error:
        if os.path.isdir(where):
            raise Failure(f"cannot read the model {where!r}: {_first_line(error)}") from error
        raise Failure(
            f"--model {name!r} is no folder here, and the Hugging Face hub did not deliver it: {_first_line(error)}"
        ) from error
    try:
        family_of(config.model_type, config)
    except ValueError as error:
        raise Failure(f"{name!r} cannot be pruned: {error}") from error


def check_device(device: str) -> None:
    """Raise unless tensors can be put there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise misuse(f"--device {device!r} cannot be used: {_first_line(error)}") from error


def quieten() -> None:
    """Turn off progress bars and messages of transformers, since standard output is for results."""
    for name in NOISY:
        logs.getLogger(name).setLevel(logs.ERROR)
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    hub.set_verbosity_error()  # its retries without a network end in an error that says so


def _first_line(error: BaseException) -> str:
    """The first line of an error; two lines if the first ends in a colon."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return one_line(" ".join(lines[: 2 if lines[0].rstrip().endswith(":") else 1]))


def open_image(path: Path) -> Image.Image:
    """A picture in RGB, the right way up."""
    if find_spec("PIL") is None:
        raise Failure("reading images needs Pillow, which is not installed: pip install 'greedyprune[cli]'")

    from greedyprune.preprocessing.clips import ANIMATED, is_film
    from greedyprune.preprocessing.pictures import PictureError, frames_of, header_of, named, upright

    what = f"image {str(path)!r}"
    if path.is_dir():
        raise Failure(f"{what} is a folder: name the files in it.")
    if is_film(path):
        raise Failure(f"{what} is a video: save a frame of it as a picture, or ask about it by run.")
    try:
        with named(what):
            size = path.stat().st_size
        if not size:
            raise Failure(f"{what} is empty (0 bytes).")
        with named(what), header_of(path) as image:
            if image.format in ANIMATED and (frames := frames_of(image)) > 1:
                raise Failure(f"{what} has {frames} frames: save one frame as a picture, or ask about it by run.")
            return upright(image, path)
    except PictureError as error:
        raise Failure(one_line(error)) from error


def open_clip(path: Path, frames: int) -> Clip:
    """So many evenly spaced frames of a clip."""
    from greedyprune.preprocessing.clips import read_clip

    try:
        return read_clip(path, frames)
    except ImportError as error:
        raise Failure(str(error)) from error
    except (OSError, ValueError) as error:
        raise Failure(f"clip {str(path)!r} cannot be read: {_first_line(error).rstrip('.')}.") from error


def is_clip(path: Path) -> bool:
    """True for a video, and for a picture that moves. What cannot be read at all is none; `open_image` says why."""
    try:
        from greedyprune.preprocessing.clips import ANIMATED, is_film
        from greedyprune.preprocessing.pictures import frames_of, header_of

        if not path.is_file() or not path.stat().st_size:
            return False
        if is_film(path):
            return True
        with header_of(path) as image:
            return image.format in ANIMATED and frames_of(image) > 1
    except (ImportError, OSError, SyntaxError, ValueError):
        return False


def check_reads_videos(name: str | None, path: Path) -> None:
    """Raise Failure if models of this type read no videos."""
    from transformers import AutoConfig

    from greedyprune.models.table import family_of

    where, _ = _place(name)
    _check_family(where, name or "the bundled model")
    config = AutoConfig.from_pretrained(where, local_files_only=os.path.isdir(where))
    if "video" not in [medium.kind for medium in family_of(config.model_type, config).media]:
        raise Failure(
            f"clip {str(path)!r}: a {config.model_type!r} model reads no videos: save a frame of it as a picture, or "
            "name another --model."
        )


def check_picture_path(path: Path) -> None:
    """Raise unless a picture can be written there; leaves nothing behind."""
    from PIL import Image

    known = Image.registered_extensions()
    if known.get(path.suffix.lower()) not in Image.SAVE:
        raise misuse(f"--save {str(path)!r}: write a name that ends in .png, .jpg, .webp, .pdf or the like.")
    check_path("--save", path)
