"""The messages of a request as turns of a chat template, and as a prompt of the model's own processor."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from greedyprune.server.errors import Refused, invalid
from greedyprune.server.wire import ImagePart, TextPart
from greedyprune.shown import short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image
    from torch import Tensor

    from greedyprune.server.wire import ImageUrl, Message

MARKS = ("image_token", "video_token", "audio_token", "boi_token", "boa_token", "fake_image_token")
"""The attributes of processors that name a text which stands for a picture, a video or a sound."""


@dataclass(frozen=True)
class Turns:
    """The messages of a request, for a chat template, and what they say of each image."""

    turns: list[dict[str, Any]]
    images: list[ImageUrl]
    ages: list[int]
    """Per image the number of the user's turns that follow the one that holds it."""
    texts: list[str]


def turns_of(messages: Sequence[Message]) -> Turns:
    """Read messages. Raises Refused if nobody asks anything, or if an image is not in a turn of the user."""
    turns: list[dict[str, Any]] = []
    images: list[ImageUrl] = []
    ages: list[int] = []
    texts: list[str] = []
    asked = [number for number, message in enumerate(messages) if message.role == "user"]
    if not asked or messages[-1].role != "user":
        raise invalid("the last message is not the user's: end the messages with a question.", "messages")
    for number, message in enumerate(messages):
        parts = [TextPart(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        content: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, ImagePart):
                if message.role != "user":
                    raise invalid(
                        f"message {number} is the {message.role}'s and holds an image: put images into messages of "
                        "the user.",
                        f"messages.{number}",
                        "unsupported_content",
                    )
                images.append(part.image_url)
                ages.append(sum(later > number for later in asked))
                content.append({"type": "image"})
            else:
                if _is_broken(part.text):
                    raise invalid(f"message {number} holds half of a surrogate pair: send whole signs.", "messages")
                texts.append(part.text)
                content.append({"type": "text", "text": part.text})
        turns.append({"role": "system" if message.role == "developer" else message.role, "content": content})
    return Turns(turns, images, ages, texts)


def _is_broken(text: str) -> bool:
    """True for a text that has no UTF-8 form."""
    return any("\ud800" <= sign <= "\udfff" for sign in text)


class Writer:
    """Writes prompts with the chat template and the processor of a model. Threads take turns.

    Raises ValueError if the processor has no chat template.
    """

    def __init__(self, processor: Any) -> None:
        self._processor, self._lock = processor, Lock()
        if not getattr(processor, "chat_template", None):
            raise ValueError(
                "the processor has no chat template, so messages cannot be written as a prompt: give one with "
                "--chat-template FILE."
            )
        found = [getattr(processor, name, None) for name in MARKS]
        self._marks = tuple({str(mark) for mark in found if mark})
        self._takes_system = self._tells_system_apart()

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the processor."""
        return getattr(self._processor, "tokenizer", self._processor)

    def write(self, asked: Turns, pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
        """The model's inputs for one request, a batch of one. Raises Refused if the processor cannot write them."""
        for text in asked.texts:
            for mark in self._marks:
                if mark in text:
                    raise invalid(
                        f"a message holds {mark!r}, which stands for a picture or a sound: leave it out.",
                        "messages",
                        "reserved_text",
                    )
        if not self._takes_system and any(turn["role"] == "system" for turn in asked.turns):
            raise invalid(
                "the chat template of this model has no system turn: write the instruction into the user's message.",
                "messages",
                "unsupported_role",
            )
        with self._lock:
            try:
                text = self._rendered(asked.turns)
                given = {"images": list(pictures)} if pictures else {}
                return dict(self._processor(text=[text], return_tensors="pt", **given))
            except Refused:
                raise
            except Exception as error:  # whatever a template or a processor makes of a stranger's messages
                told = short(f"{type(error).__name__}: {error}")
                raise invalid(f"the processor cannot write these messages: {told}", "messages") from error

    def _rendered(self, turns: list[dict[str, Any]]) -> str:
        return self._processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)

    def _tells_system_apart(self) -> bool:
        """True if the template writes a system turn, and not as if the assistant had said it."""

        def written(role: str) -> str | None:
            turns = [(role, "one"), ("user", "two")]
            try:
                return self._rendered(
                    [{"role": who, "content": [{"type": "text", "text": text}]} for who, text in turns]
                )
            except Exception:  # a template may refuse a role in its own way
                return None

        mine = written("system")
        return mine is not None and "one" in mine and mine != written("assistant")
