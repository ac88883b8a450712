"""Prepare a request before it is queued: its prompt, its images, its wish, and whether it fits the model."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from greedyprune.models.locate import images
from greedyprune.preprocessing.inputs import to_model
from greedyprune.server.errors import Refused, invalid
from greedyprune.server.pictures import pictures_of
from greedyprune.server.turns import Writer, turns_of
from greedyprune.server.wishes import Wish, wish_of

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.attach.handle import Pruned
    from greedyprune.models.prompt import Span
    from greedyprune.server.settings import Settings
    from greedyprune.server.wire import Prompt


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request that the model can read."""

    inputs: dict[str, Tensor]
    """The processor's output, a batch of one."""
    spans: list[Span]
    """The place of each image."""
    wish: Wish
    longest: int
    """The largest number of tokens of its answer."""
    context: int | None
    """The number of positions that the model has; None if its config does not say."""
    fits: bool
    """True if prompt and answer fit the model and the limits of the server."""
    unknown: int
    """The number of tokens of the prompt that stand for words which the tokenizer does not know."""

    @property
    def length(self) -> int:
        """The number of tokens of the prompt before pruning."""
        return int(self.inputs["input_ids"].shape[1])

    @property
    def tokens(self) -> int:
        """The number of visual tokens of the prompt."""
        return sum(span.n for span in self.spans)

    def check_fit(self) -> None:
        """Raise Refused if prompt and answer do not fit."""
        if not self.fits:
            raise invalid(
                f"the prompt has {self.length} tokens, {self.tokens} of them visual, and its answer up to "
                f"{self.longest}: {f'the model has {self.context} positions' if self.context else 'the limit is less'}."
                " Kept tokens keep their positions, so pruning does not change this. Send fewer or smaller images, "
                "less text, or a smaller max_tokens.",
                "messages",
                "context_length_exceeded",
            )


class Preparer:
    """Prepares requests for one model. It may be called from several threads."""

    def __init__(self, model: Any, processor: Any, pruned: Pruned, settings: Settings) -> None:
        text = model.config.get_text_config()
        self._model, self._pruned, self._settings = model, pruned, settings
        self._depth, self._lock = int(text.num_hidden_layers), Lock()
        self.writer = Writer(processor)
        self._unknown = _unknown(self.writer.tokenizer)
        reach = getattr(text, "max_position_embeddings", None)
        self._context = reach if isinstance(reach, int) and reach > 0 else None

    def prepare(self, body: Prompt, deadline: float) -> Prepared:
        """Prepare a request. `deadline`: in seconds of `time.monotonic`. Raises Refused if it cannot be answered."""
        settings = self._settings
        if body.model != settings.name:
            raise Refused(
                404,
                "model_not_found",
                f"there is no model {body.model[:100]!r} here: this server has {settings.name!r}.",
                param="model",
            )
        asked = turns_of(body.messages)
        pictures = pictures_of([image.url for image in asked.images], settings, deadline)
        inputs = self.writer.write(asked, pictures)
        spans = self._spans(inputs, len(pictures))
        details = [image.detail for image in asked.images]
        wish = wish_of(self._pruned, self._depth, body.greedyprune, details, asked.ages, spans, settings)
        length = int(inputs["input_ids"].shape[1])
        room = None if self._context is None else self._context - length
        longest = self._longest(body, room)
        fits = (room is None or longest <= room) and (
            settings.prompt_tokens is None or length <= settings.prompt_tokens
        )
        unknown = int((inputs["input_ids"] == self._unknown).sum()) if self._unknown is not None else 0
        return Prepared(inputs, spans, wish, longest, self._context, fits, unknown)

    def _longest(self, body: Prompt, room: int | None) -> int:
        """The largest number of tokens of the answer: what the request says, else what fits."""
        most, wanted = self._settings.new_tokens, body.wanted_tokens
        if wanted is not None and wanted > most:
            raise invalid(
                f"max_tokens={wanted} is more than this server writes, {most}: ask for {most} or less.", "max_tokens"
            )
        return wanted or max(1, min(most, room if room is not None else most))

    def _spans(self, inputs: dict[str, Tensor], pictures: int) -> list[Span]:
        """Find the images in the prompt. Raises Refused if they are not those of the request."""
        with self._lock:
            try:
                found = images(self._model, to_model(inputs, self._model)) if pictures else []
            except (ValueError, TypeError, NotImplementedError) as error:
                raise invalid(error, "messages", "cannot_prune") from error
        if len(found) != pictures:
            raise invalid(
                f"the prompt holds {len(found)} images, and the request {pictures}: this model's processor splits or "
                "joins pictures, which the server does not support.",
                "messages",
                "cannot_prune",
            )
        return found


def _unknown(tokenizer: Any) -> int | None:
    """The token of unknown words; None if there is none, or if it has another meaning, too."""
    token, *others = (getattr(tokenizer, f"{name}_token_id", None) for name in ("unk", "bos", "eos", "pad"))
    return None if token in others else token
