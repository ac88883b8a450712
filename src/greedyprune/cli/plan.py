"""`greedyprune plan`: what a pruned prompt will cost, before anything runs and without reading weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greedyprune.cli import run as asked
from greedyprune.cli._errors import Failure, misuse, note
from greedyprune.cli._options import PresetFile, cut_of, preset_of
from greedyprune.cli._show import console, flops, print_json, size, table

if TYPE_CHECKING:
    import torch

    from greedyprune.bench.planned import Planned
    from greedyprune.policy import Policy

EXAMPLES = """Examples:

  greedyprune plan llava scene.png --keep 16

  greedyprune plan ./my-qwen photo.jpg --keep 25% --at layer:2 --dtype bfloat16 --batch 8

  greedyprune plan ./my-llava photo.jpg --preset fast.json --json"""

QUESTION = "how many circles ?"
"""The question that is counted if the user asks none."""
DTYPES = ("float32", "bfloat16", "float16")

Model = Annotated[str, typer.Argument(metavar="MODEL", help="llava, qwen, a folder or an id of the hub.")]
Pictures = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The pictures of one prompt.")]
Ask = Annotated[str, typer.Option("--ask", metavar="QUESTION", help="The question about them.")]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", metavar="|".join(DTYPES), help="Of weights and cache.", show_default="the checkpoint's"),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Such prompts at a time.")]
Answer = Annotated[int, typer.Option("--max-new-tokens", min=0, help="Tokens of the answer, for the cache.")]


def plan(
    model: Model,
    image: Pictures,
    ask: Ask = QUESTION,
    method: asked.Named = None,
    keep: asked.Keep = None,
    at: asked.At = None,
    preset: PresetFile = None,
    batch: Batch = 1,
    max_new_tokens: Answer = 128,
    dtype: Dtype = None,
    as_json: asked.Json = False,
) -> None:
    """Say what a pruned prompt will cost before it runs: tokens, FLOPs, bytes of the KV cache, and memory."""
    policy = _policy(method, keep, at, preset)
    found, kind = _planned(model, image, ask, policy, dtype)
    counts = _document(found, str(kind).removeprefix("torch."), batch, max_new_tokens)
    if as_json:
        print_json({"model": model, "images": [str(path) for path in image], **counts})
    else:
        _print(found, counts)


def _policy(method: str | None, keep: str | None, at: str | None, preset: Path | None) -> Policy:
    """The policy that the options name."""
    from greedyprune.naming import parse_keep
    from greedyprune.policy import Policy

    base = preset_of(preset)
    try:
        policy = Policy(*cut_of(method, keep, at, parse_keep, base))  # pyright: ignore[reportArgumentType]
        policy.check_stages()
        return policy
    except (ValueError, TypeError) as error:
        raise misuse(f"--at: {error}") from error


def _planned(name: str, paths: list[Path], ask: str, policy: Policy, dtype: str | None) -> tuple[Planned, torch.dtype]:
    """Count on a model without weights; with them only if its encoder has to run to number the tokens."""
    import torch

    from greedyprune.bench.planned import planned
    from greedyprune.cli._answer import processed, prompt
    from greedyprune.cli._load import load, open_image, without_weights

    if dtype not in (None, *DTYPES):
        raise misuse(f"--dtype {dtype!r} is unknown: choose one of {', '.join(DTYPES)}.")
    pictures = [open_image(path) for path in paths]
    loaded = without_weights(name)
    usual = getattr(loaded.model.config, "dtype", None) or torch.float32
    kind: torch.dtype = getattr(torch, dtype) if dtype else usual
    inputs = processed(loaded, pictures, ask)
    try:
        try:
            return planned(loaded.model, inputs, policy, kind), kind
        except (NotImplementedError, RuntimeError):
            note(f"{name}: only its encoder knows how many tokens a picture has, so its weights are loaded.")
            whole = load(name, "cpu")
            return planned(whole.model, prompt(whole, pictures, ask), policy, kind), kind
    except (ValueError, TypeError) as error:
        raise Failure(f"{name!r}: {error}") from error


def _document(found: Planned, kind: str, batch: int, answer: int) -> dict[str, Any]:
    """The counts of a batch of equal prompts, as plain values."""
    from greedyprune.bench.shapes import free_memory

    def caches(after: int | None) -> tuple[int | None, int | None]:
        if after is None or found.answer_bytes is None:
            return None, None
        return batch * after, batch * (after + answer * found.answer_bytes)

    pruned, dense = caches(found.cache_bytes), caches(found.cache_bytes_full)
    one = found.to_dict()
    for name in ("cache_bytes", "cache_bytes_full", "answer_bytes"):
        del one[name]
    for name in ("prefill_flops", "prefill_flops_full", "decode_flops", "decode_flops_full"):
        one[name] *= batch
    import torch

    return {
        **one,
        "dtype": kind,
        "batch": batch,
        "answer_tokens": answer,
        "cache_bytes": pruned[0],
        "cache_bytes_full": dense[0],
        "cache_bytes_end": pruned[1],
        "cache_bytes_end_full": dense[1],
        "free_bytes": free_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
    }


def _print(found: Planned, counts: dict[str, Any]) -> None:
    """A table, dense beside pruned, and the memory."""
    most = "" if found.known else "at most "
    shown = table("", "all tokens", f"{found.method} at {found.at}")
    for column in shown.columns[1:]:
        column.justify = "right"
    shown.add_row("visual tokens", str(found.tokens), f"{most}{found.kept}")
    shown.add_row("in sequence", str(found.sequence), f"{most}{found.sequence_kept}")
    for label, name, words in (
        ("prompt", "prefill_flops", flops),
        ("each step", "decode_flops", flops),
        ("KV cache after the prompt", "cache_bytes", size),
        (f"KV cache after {counts['answer_tokens']} tokens more", "cache_bytes_end", size),
    ):
        full, short = counts[f"{name}_full"], counts[name]
        cells = ("not known", "not known") if full is None else (words(full), f"{most}{words(short)}")
        shown.add_row(label, *cells)
    out = console()
    out.print(shown)
    weights, end = found.weight_bytes, counts["cache_bytes_end"] or 0
    free = f", and {size(counts['free_bytes'])} are free here now" if counts["free_bytes"] is not None else ""
    out.print(
        f"Memory in {counts['dtype']}: {size(weights)} for {found.parameters / 1e6:.0f} million weights, with the "
        f"cache {size(weights + end)}{free}. What a forward holds in between comes on top. FLOPs are the decoder's; "
        "nothing has run.",
        soft_wrap=True,
    )
