"""`greedyprune doctor`: versions, devices, engines, the names in transformers that pruning needs, what is refused."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zipfile import BadZipFile

import typer

import greedyprune
from greedyprune.cli._errors import Failure
from greedyprune.cli._show import console, print_json, size, table, tick

if TYPE_CHECKING:
    from greedyprune.models.parts import Parts

EXAMPLES = "Examples: greedyprune doctor · greedyprune doctor my-checkpoint --json"
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "pillow",
    "typer",
    "rich",
    "matplotlib",
    "scikit-learn",
    "torchvision",
    "av",
    "gradio",
)
ENGINES = ("vllm", "sglang", "ray", "triton", "flash-attn", "torchao", "bitsandbytes")
"""Packages that run models, or parts of them, in another way; they are named if they are installed."""


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="A folder or an id of the hub; no weights are read. Default: the bundled ones.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
    vllm: Annotated[
        Path | None,
        typer.Option(
            "--vllm", metavar="WHEEL|DIR", help="Check this vLLM. Default: the installed one, if there is one."
        ),
    ] = None,
) -> None:
    """Print versions, devices and engines, and check what pruning relies on in this release of transformers.

    Exit status 1 if something is missing: `prune()` would refuse the model with the same words. vLLM is read, never
    imported.
    """
    from greedyprune.models.release import is_tested, missing_attributes

    engine = _engine(vllm)
    names = [model] if model is not None else ["llava", "qwen"]
    found = [_examined(name) for name in names]
    release = version("transformers")
    lacking = [*missing_attributes(), *(line for each in found for line in each["missing"])]
    report = {
        "greedyprune": greedyprune.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "engines": {name: number for name in ENGINES if (number := _version(name)) is not None},
        "devices": _devices(),
        "release_tested": is_tested(release),
        "models": found,
        "missing": lacking,
        "vllm": engine,
    }
    if as_json:
        print_json(report)
    else:
        _print(report)
    if lacking:
        raise Failure(f"transformers {release} lacks what pruning relies on: {', '.join(dict.fromkeys(lacking))}.")
    if vllm is not None and engine is not None and engine["moved"]:
        raise Failure(f"{str(vllm)!r} is a vLLM that is not known here: {', '.join(engine['moved'])}.")


def _version(name: str) -> str | None:
    """The installed version of a package, None if there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _engine(place: Path | None) -> dict[str, Any] | None:
    """What pruning inside vLLM relies on, in a wheel, a folder or the installed vLLM; None if there is none."""
    from greedyprune.engines.vllm.seams import compare, installed, opened

    where = place if place is not None else installed()
    if where is None:
        return None
    try:
        verdict = compare(opened(where))
    except (OSError, SyntaxError, BadZipFile, UnicodeDecodeError) as error:
        raise Failure(f"--vllm {str(where)!r} cannot be read: {error}.") from error
    return {"place": str(where), "known": verdict.known, "moved": verdict.moved, "rewritten": verdict.rewritten}


def _devices() -> list[str]:
    """The devices that tensors can be put on, by name."""
    import torch

    found = [f"cpu, {torch.get_num_threads()} threads"]
    for index in range(torch.cuda.device_count()):
        half = "bfloat16" if torch.cuda.get_device_capability(index) >= (8, 0) else "no fast bfloat16: --dtype float16"
        memory = size(torch.cuda.get_device_properties(index).total_memory)
        found.append(f"cuda:{index}, {torch.cuda.get_device_name(index)}, {memory}, {half}")
    xpu: Any = getattr(torch, "xpu", None)
    if xpu is not None and xpu.is_available():
        found += [f"xpu:{index}, {xpu.get_device_name(index)}" for index in range(xpu.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def _examined(name: str) -> dict[str, Any]:
    """The names that pruning relies on, present and missing in a model's classes, as plain values."""
    from greedyprune.models.release import missing, seams

    parts = _parts(name)
    return {
        "model": name,
        "family": parts.family.model_type,
        "proven": parts.family.proven,
        "relied_on": [str(seam) for seam in dict.fromkeys(seams(parts))],
        "missing": [str(seam) for seam in missing(parts)],
        "refused": _refused(parts),
    }


def _refused(parts: Parts) -> dict[str, str]:
    """The methods that `prune` would refuse on this model at their own place, each with the reason."""
    from greedyprune.models.needs import check_needs
    from greedyprune.policy import Policy
    from greedyprune.registry import method_homes

    found: dict[str, str] = {}
    for name in method_homes():
        try:
            check_needs(parts, Policy(name, 1).on(len(parts.layers)))  # pyright: ignore[reportArgumentType]
        except (ValueError, TypeError, NotImplementedError) as error:
            found[name] = str(error).partition(" Methods that can:")[0]
    return found


def _parts(name: str) -> Parts:
    """The parts of a model of these classes, built without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from greedyprune.cli._load import checked_place, quieten
    from greedyprune.models.parts import find_parts

    quieten()
    where = checked_place(name)
    try:
        with torch.device("meta"):
            made = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(where))
        return find_parts(made)
    except (OSError, ValueError, TypeError, NotImplementedError, AttributeError) as error:
        raise Failure(f"{name!r} cannot be pruned: {error}") from error


def _print(report: dict[str, Any]) -> None:
    """Two tables, and what would be refused."""
    from greedyprune.models.release import TESTED

    out, installed = console(), table("installed", "version")
    installed.add_row("greedyprune", report["greedyprune"])
    installed.add_row("python", report["python"])
    for name, number in report["packages"].items():
        note = "" if name != "transformers" or report["release_tested"] else f" (tested: {TESTED[0]} to {TESTED[1]})"
        installed.add_row(name, f"{number or 'not installed'}{note}")
    for name, number in report["engines"].items():
        installed.add_row(name, f"{number} (engine)")
    for device in report["devices"]:
        installed.add_row("device", device)
    out.print(installed)
    relied = table("model", "family", "names it relies on", "missing")
    for model in report["models"]:
        count, lacking = str(len(model["relied_on"])), ", ".join(model["missing"])
        relied.add_row(model["model"], model["family"], count, lacking or tick(True))
    out.print(relied)
    for model in report["models"]:
        for name, reason in model["refused"].items():
            out.print(f"{model['model']} refuses {name}: {reason}", soft_wrap=True)
    if (engine := report["vllm"]) is not None:
        found = table("vLLM", "names it relies on", "rewritten", "moved")
        rewritten, moved = ", ".join(engine["rewritten"]), ", ".join(engine["moved"])
        found.add_row(engine["place"], tick(engine["known"]), rewritten or "none", moved or "none")
        out.print(found)
