"""Answering one prompt, pruned or not, and measuring its time and cache. `run` and `demo` answer through here."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import greedyprune as gp
from greedyprune.cli._errors import Failure, misuse, note
from greedyprune.models.flops import prefill_flops
from greedyprune.preprocessing.clips import Clip
from greedyprune.preprocessing.inputs import chat, check_question, to_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from greedyprune.budget import Budgets
    from greedyprune.cli._load import Loaded
    from greedyprune.method import Method
    from greedyprune.policy import Positions, Restore
    from greedyprune.selection import Selection
    from greedyprune.stages import Stage

PATIENCE = 2.0
"""Seconds. A prefill that takes longer is timed only once."""
TIMED = 5
"""Timed prefills after the warm-up."""


@dataclass(frozen=True)
class Pruning:
    """The method, the budget and the place of the cut."""

    method: Method | str
    keep: Budgets
    at: Stage | None = None
    positions: Positions = "original"
    restore: Restore = "none"


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer and its price."""

    text: str
    tokens: int
    """Visual tokens of the prompt."""
    kept: int
    """Visual tokens that were kept."""
    sequence: int
    """Tokens behind the cut, text included."""
    first_ms: float
    """Time to first token: images and prompt in, first token out; median."""
    cache_bytes: int
    """Bytes of keys and values after the prompt."""
    select_ms: float = 0.0
    at: str | None = None
    """The stage of the cut; None for the dense model."""
    selections: Sequence[Selection] = ()
    flops: int = 0
    """FLOPs of the decoder for the prompt."""

    def to_dict(self, selections: bool = True) -> dict[str, Any]:
        """Plain numbers and lists."""
        found: dict[str, Any] = {
            "answer": self.text,
            "visual_tokens": self.tokens,
            "kept": self.kept,
            "sequence": self.sequence,
            "first_token_ms": round(self.first_ms, 3),
            "cache_bytes": self.cache_bytes,
            "prompt_flops": self.flops,
            "at": self.at,
        }
        if self.at is not None:
            found["select_ms"] = round(self.select_ms, 3)
            if selections:
                found["selections"] = [selection.to_dict() for selection in self.selections]
        return found


def prompt(loaded: Loaded, images: Sequence[Image.Image | Clip], question: str) -> dict[str, Any]:
    """The model's inputs for some images and a question about them, on its device."""
    return to_model(processed(loaded, images, question), loaded.model)


def processed(loaded: Loaded, images: Sequence[Image.Image | Clip], question: str) -> Any:
    """What the processor makes of some images and clips and a question about them, in the model's chat template."""
    try:
        check_question(question, loaded.processor)
    except ValueError as error:
        raise misuse(error) from error
    clips = [each for each in images if isinstance(each, Clip)]
    kinds = ("video" if isinstance(each, Clip) else "image" for each in images)
    turns = chat(_spelled(loaded, question), images=0)
    turns[0]["content"] = [*({"type": kind} for kind in kinds), *turns[0]["content"]]
    given: dict[str, Any] = {"images": [each for each in images if not isinstance(each, Clip)] or None}
    if clips:
        given["videos"] = [clip.frames for clip in clips]
        given |= {"video_metadata": [clip.metadata() for clip in clips], "do_sample_frames": False}
    try:
        text = loaded.processor.apply_chat_template(turns, add_generation_prompt=True)
        return loaded.processor(text=text, return_tensors="pt", **given)
    except ImportError as error:
        raise Failure(str(error).splitlines()[0]) from error
    except ValueError as error:
        raise Failure(f"the processor of {loaded.name!r} cannot build the prompt: {error}") from error


@dataclass(frozen=True)
class Sampling:
    """Drawing the tokens of an answer at random instead of taking the likeliest."""

    temperature: float
    top_p: float
    top_k: int
    """The number of the likeliest tokens that are drawn from; 0 for all."""
    seed: int

    def options(self) -> dict[str, Any]:
        """The arguments of `generate`."""
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}


def answer(
    loaded: Loaded,
    inputs: dict[str, Any],
    pruning: Pruning | None = None,
    max_new_tokens: int = 64,
    sampling: Sampling | None = None,
) -> Answer:
    """Answer a prompt and time its prefill. The model is not changed, nor is the state of torch's random numbers."""
    import torch

    model, length = loaded.model, inputs["input_ids"].shape[1]
    drawn = {"do_sample": False} if sampling is None else sampling.options()
    with torch.inference_mode(), torch.random.fork_rng(enabled=sampling is not None):
        if sampling is not None:
            torch.manual_seed(sampling.seed)
        try:
            with _pruned(model, pruning) if pruning else nullcontext() as pruned:
                first_ms, cache_bytes = _prefill(model, inputs)
                out = model.generate(**inputs, max_new_tokens=max_new_tokens, **drawn)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise Failure(str(error)) from error
    text = loaded.processor.batch_decode(out[:, length:], skip_special_tokens=True)[0].strip()
    if pruned is None:
        tokens = _visual_tokens(model, inputs)
        flops = prefill_flops(model.config, [length] * model.config.get_text_config().num_hidden_layers)
        return Answer(text, tokens, tokens, length, first_ms, cache_bytes, flops=flops)
    report = pruned.report()
    return Answer(
        text,
        report.tokens,
        report.kept,
        report.sequence_kept,
        first_ms,
        cache_bytes,
        report.select_ms,
        report.at,
        pruned.selections,
        report.prefill_flops,
    )


def _pruned(model: Any, how: Pruning) -> gp.Pruned:
    return gp.prune(model, how.method, how.keep, at=how.at, positions=how.positions, restore=how.restore)


def _prefill(model: Any, inputs: dict[str, Any]) -> tuple[float, int]:
    """The median time from inputs to first token in milliseconds, and the bytes of the cache."""
    from greedyprune.attach.forward.cache import bytes_of
    from greedyprune.models.release import cache_of

    seconds: list[float] = []
    held = 0
    while len(seconds) < 1 + TIMED and not (seconds and seconds[0] > PATIENCE):
        begun = time.perf_counter()
        out = model(**inputs, use_cache=True, logits_to_keep=1)
        int(out.logits[0, -1].argmax())  # waits for the device
        seconds.append(time.perf_counter() - begun)
        held = bytes_of(cache_of(out))[0]
    return 1e3 * median(seconds[1:] or seconds), held


def _visual_tokens(model: Any, inputs: dict[str, Any]) -> int:
    from greedyprune.models.table import family_of

    tokens = {
        getattr(model.config, medium.token, None) for medium in family_of(model.config.model_type, model.config).media
    }
    return sum(int((inputs["input_ids"] == token).sum()) for token in tokens if token is not None)


def _spelled(loaded: Loaded, question: str) -> str:
    """The question. For the bundled model in its spelling: lower case, and a space before the question mark."""
    if not loaded.bundled:
        return question
    from greedyprune.testbed import spelling

    text, strange = spelling(loaded.processor, question)
    if strange:
        note(
            f"warning: do not trust the bundled model here: {strange}; it knows 87 words, and questions such as "
            "'how many circles ?', 'what color is the square ?' or 'what digit is on the red tile ?'."
        )
    return text
