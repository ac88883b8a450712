"""The bodies of answers, as OpenAI's clients read them, with what pruning did beside them."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

from greedyprune.plain import to_plain

if TYPE_CHECKING:
    from greedyprune.selection import Selection
    from greedyprune.server.jobs import Answer, Job
    from greedyprune.server.prompting import Prepared


class Reply:
    """The bodies of one answer: whole, or as the chunks of a stream."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The answer as one body."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text},
            "finish_reason": answer.reason,
            "logprobs": None,
        }
        more = {"usage": self.usage(answer), "greedyprune": self.kept(answer)}
        return {**self._head("chat.completion"), "choices": [choice], **more}

    def piece(self, text: str, *, first: bool = False) -> dict[str, Any]:
        """A chunk with a piece of the text."""
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        return self._chunk({"index": 0, "delta": delta, "finish_reason": None})

    def last(self, answer: Answer) -> dict[str, Any]:
        """The chunk that ends the text and says what was kept."""
        chunk = self._chunk({"index": 0, "delta": {}, "finish_reason": answer.reason})
        return {**chunk, "greedyprune": self.kept(answer)}

    def counts(self, answer: Answer) -> dict[str, Any]:
        """The chunk with the usage, if the request asks for it."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage(answer)}

    def usage(self, answer: Answer) -> dict[str, Any]:
        """The tokens of prompt and answer. `prompt_tokens` is before pruning."""
        length = self._job.prepared.length
        return {
            "prompt_tokens": length,
            "completion_tokens": answer.tokens,
            "total_tokens": length + answer.tokens,
            "visual_tokens": sum(each.n for each in answer.selections),
            "visual_tokens_kept": sum(each.k for each in answer.selections),
        }

    def kept(self, answer: Answer) -> dict[str, Any]:
        """What pruning did: the policy, and for each image what was kept."""
        pruning, policy = self._job.chat.greedyprune, self._job.prepared.wish.policy
        rows = pruning is not None and pruning.rows
        return {
            "method": to_plain(policy.method)["type"],
            "at": policy.place,
            "positions": policy.positions,
            "batch": answer.batch,
            "images": [_image(number, each, rows) for number, each in enumerate(answer.selections)],
            "warnings": self._warnings(),
        }

    def _warnings(self) -> list[str]:
        unknown = self._job.prepared.unknown
        if not unknown:
            return []
        return [f"{unknown} words of the prompt are unknown to the model's tokenizer, so it did not read them."]

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._job.chat.model}

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk"), "choices": [{**choice, "logprobs": None}]}


def event(body: dict[str, Any]) -> str:
    """A body as one server-sent event."""
    return f"data: {json.dumps(body)}\n\n"


def count_of(prepared: Prepared, model: str) -> dict[str, Any]:
    """The body of a preview."""
    policy, kept = prepared.wish.policy, prepared.wish.kept
    budgets = policy.keep if isinstance(policy.keep, tuple) else (policy.keep,) * len(kept)
    return {
        "model": model,
        "prompt_tokens": prepared.length,
        "prompt_tokens_kept": prepared.length - prepared.tokens + sum(kept),
        "visual_tokens": prepared.tokens,
        "visual_tokens_kept": sum(kept),
        "exact": prepared.wish.exact,
        "max_tokens": prepared.longest,
        "context": prepared.context,
        "fits": prepared.fits,
        "method": to_plain(policy.method)["type"],
        "at": policy.place,
        "images": [
            {"image": number, "tokens": span.n, "kept": k, "grid": _listed(span.grid), "budget": str(budget)}
            for number, (span, k, budget) in enumerate(zip(prepared.spans, kept, budgets, strict=True))
        ],
    }


def _image(number: int, selection: Selection, rows: bool) -> dict[str, Any]:
    layers = selection.per_layer
    found: dict[str, Any] = {
        "image": number,
        "tokens": selection.n,
        "kept": selection.k,
        "grid": _listed(selection.grid),
        "budget": str(selection.budget),
        "layer_averaged": round(sum(layers) / len(layers), 2) if layers else None,
    }
    return {**found, "rows": selection.rows.tolist()} if rows else found


def _listed(grid: tuple[int, int, int] | None) -> list[int] | None:
    return None if grid is None else list(grid)
