"""Answering one prompt, pruned or not, and measuring its time and cache. `run` and `demo` answer through here."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import greedyprune as gp
from greedyprune.cli._errors import Failure, misuse, note
from greedyprune.preprocessing.inputs import chat, check_question, to_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from greedyprune.budget import Budgets
    from greedyprune.cli._load import Loaded
    from greedyprune.method import Method
    from greedyprune.policy import Positions
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

    def to_dict(self, selections: bool = True) -> dict[str, Any]:
        """Plain numbers and lists."""
        found: dict[str, Any] = {
            "answer": self.text,
            "visual_tokens": self.tokens,
            "kept": self.kept,
            "sequence": self.sequence,
            "first_token_ms": round(self.first_ms, 3),
            "cache_bytes": self.cache_bytes,
            "at": self.at,
        }
        if self.at is not None:
            found["select_ms"] = round(self.select_ms, 3)
            if selections:
                found["selections"] = [selection.to_dict() for selection in self.selections]
        return found


def prompt(loaded: Loaded, images: Sequence[Image.Image], question: str) -> dict[str, Any]:
    """The model's inputs for some images and a question about them, in its own chat template."""
    try:
        check_question(question, loaded.processor)
    except ValueError as error:
        raise misuse(error) from error
    turns = chat(_spelled(loaded, question), images=len(images))
    try:
        text = loaded.processor.apply_chat_template(turns, add_generation_prompt=True)
        inputs = loaded.processor(images=list(images), text=text, return_tensors="pt")
    except ValueError as error:
        raise Failure(f"the processor of {loaded.name!r} cannot build the prompt: {error}") from error
    return to_model(inputs, loaded.model)


def answer(loaded: Loaded, inputs: dict[str, Any], pruning: Pruning | None = None, max_new_tokens: int = 64) -> Answer:
    """Answer a prompt and time its prefill. The model is not changed."""
    import torch

    model, length = loaded.model, inputs["input_ids"].shape[1]
    with torch.inference_mode():
        try:
            with _pruned(model, pruning) if pruning else nullcontext() as pruned:
                first_ms, cache_bytes = _prefill(model, inputs)
                out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise Failure(str(error)) from error
    text = loaded.processor.batch_decode(out[:, length:], skip_special_tokens=True)[0].strip()
    if pruned is None:
        tokens = _visual_tokens(model, inputs)
        return Answer(text, tokens, tokens, length, first_ms, cache_bytes)
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
    )


def _pruned(model: Any, how: Pruning) -> gp.Pruned:
    return gp.prune(model, how.method, how.keep, at=how.at, positions=how.positions)


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
    words = question.lower().replace("?", " ? ").replace(",", " , ").replace(".", " . ").split()
    known = loaded.processor.tokenizer.get_vocab()
    strange = [word for word in words if word not in known]
    if strange:
        note(
            f"warning: the bundled model has never seen the word {strange[0]!r}; it knows 87 words, and questions "
            "such as 'how many circles ?' or 'what digit is on the red tile ?'."
        )
    return " ".join(words)
