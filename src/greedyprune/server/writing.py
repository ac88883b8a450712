"""Answers while they are written: each row of a batch has its own length, its own end, and its own reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria

from greedyprune.server.errors import Refused
from greedyprune.server.jobs import Answer, Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from torch import Tensor

    from greedyprune.attach.request import Request
    from greedyprune.selection import Selection
    from greedyprune.server.jobs import Job

UNFINISHED = "\ufffd"
"""The sign that a tokenizer writes for the first bytes of a character."""


class Text:
    """The text of an answer, token by token, and what of it can be told already.

    The end of the text is held back as long as later tokens may change it: unfinished characters, spaces, and what may
    be the beginning of a text in `stops`, at which the answer ends. All tokens are decoded anew for every piece, so a
    long streamed answer costs time in proportion to the square of its length.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str], streams: bool) -> None:
        self._decode, self._stops, self._eager = decode, stops, streams or bool(stops)
        self.ids: list[int] = []
        self._sent = ""
        self._cut: str | None = None

    def add(self, token: int) -> str:
        """Add a token. -> the text that can be told now"""
        self.ids.append(token)
        if not self._eager:
            return ""
        text = self._decode(self.ids)
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self._cut = text[: min(found)]
            return ""
        ready = text.rstrip(UNFINISHED).rstrip()
        held = max((n for stop in self._stops for n in range(1, len(stop)) if ready.endswith(stop[:n])), default=0)
        ready = ready[: len(ready) - held]
        if not ready.startswith(self._sent):
            return ""
        piece = ready[len(self._sent) :]
        self._sent = ready if piece else self._sent
        return piece

    @property
    def is_stopped(self) -> bool:
        """True if the text holds one of `stops`."""
        return self._cut is not None

    def end(self) -> tuple[str, str]:
        """The whole text, and the end of it that `add` did not return."""
        text = self._decode(self.ids) if self._cut is None else self._cut
        return text, text[len(self._sent) :]


class Row:
    """One job's row of a batch."""

    def __init__(self, job: Job, ends: Collection[int], decode: Callable[[list[int]], str]) -> None:
        self.job, self._ends, self._tokens = job, ends, 0
        self.text = Text(decode, job.chat.stops, bool(job.chat.stream))
        self.reason: str | None = None

    def take(self, token: int) -> str:
        """Take the next token of this row. -> the text that can be told now"""
        self._tokens += 1
        if token in self._ends:
            self.reason = "stop"
            return ""
        piece = self.text.add(token)
        if self.text.is_stopped:
            self.reason = "stop"
        elif self._tokens >= self.job.prepared.longest:
            self.reason = "length"
        return piece

    def answer(self, selections: list[Selection], batch: int) -> Answer:
        """The finished answer. `selections`: the images of this row."""
        text, rest = self.text.end()
        return Answer(text, rest, self._tokens, self.reason or "length", selections, batch)


class Rows(StoppingCriteria):
    """Reads every new token of a batch, tells the clients, and ends each row by itself.

    A row ends at the model's end token, at one of the request's `stop` texts, at its largest number of tokens, or if
    its client is gone. `request`: the pruned request that runs the batch.
    """

    def __init__(self, jobs: Sequence[Job], request: Request, ends: Collection[int], tokenizer: Any) -> None:
        def decode(ids: list[int]) -> str:
            return tokenizer.decode(ids, skip_special_tokens=True)

        self.rows = [Row(job, ends, decode) for job in jobs]
        self._request = request
        self.first: Callable[[Job], None] | None = None
        """Called with every job whose first token arrives."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Read the newest token of every row. (b, q) -> (b,) bool, True for rows that have ended"""
        newest: list[int] = input_ids[:, -1].tolist()
        for number, (row, token) in enumerate(zip(self.rows, newest, strict=True)):
            if row.job.done or row.job.cancelled:
                continue
            if self.first is not None and not row.text.ids:
                self.first(row.job)
            piece = row.take(token)
            if piece:
                row.job.tell(Piece(piece))
            if row.reason is not None:
                self._end(number, row)
        ended = [row.job.done or row.job.cancelled for row in self.rows]
        return torch.tensor(ended, device=input_ids.device)

    def _end(self, number: int, row: Row) -> None:
        """Tell the client that its answer is complete, and what was kept. Pruning is never silently a no-op."""
        mine = [each for each in self._request.selections if each.row == number]
        wanted = row.job.prepared.spans
        if [each.n for each in mine] != [span.n for span in wanted]:
            row.job.tell(
                Refused(
                    500,
                    "not_pruned",
                    f"the request has images of {[span.n for span in wanted]} visual tokens, and pruning saw "
                    f"{[each.n for each in mine]}: please report it.",
                )
            )
            return
        row.job.tell(row.answer(mine, len(self.rows)))
