"""English prompts and answers in the tokens of a pretrained decoder."""

from functools import lru_cache
from typing import Any

from greedyprune.testbed.layout import COLOURS, SHAPES
from greedyprune.testbed.questions import COLUMNS, ROWS, spelled
from greedyprune.testbed.train.labels import CHARACTERS

IMAGE = "[multimodal]"
"""A token of Gemma's vocabulary that is reserved; each visual token has it as its id."""

_EACH = "{% for c in m['content'] %}{% if c['type'] == 'KIND' %}{{ SHOWN }}{% endif %}{% endfor %}"
_PICTURES = _EACH.replace("KIND", "image").replace("SHOWN", f"'{IMAGE}'")
_WORDS = _EACH.replace("KIND", "text").replace("SHOWN", "c['text'] | replace(' ?', '?')")
TEMPLATE = (
    "{{ '<bos>' }}{% for m in messages %}{% if m['role'] == 'user' %}"
    + _PICTURES
    + "{{ '\\nQuestion: ' }}"
    + _WORDS
    + "{{ '\\nAnswer:' }}{% else %}{{ ' ' }}"
    + _WORDS
    + "{{ '<eos>' }}{% endif %}{% endfor %}"
)
"""The chat template: `Question: what color is the circle?`, a new line, `Answer:`."""


class English:
    """Questions and answers of the scenes as English text; numbers are spelled, since " seven" is one token."""

    again: tuple[int, ...] = ()
    """Nothing: a prompt opens with a new line."""

    def __init__(self, tokenizer: Any) -> None:
        self._end = tokenizer.eos_token_id
        self._encode = lru_cache(None)(lambda text: tuple(tokenizer.encode(text, add_special_tokens=False)))

    def prompt(self, question: str) -> list[int]:
        """The question, and what stands between it and the answer."""
        return list(self._encode(f"\nQuestion: {question.replace(' ?', '?')}\nAnswer:"))

    def answer(self, answer: str) -> list[int]:
        """The answer, and the token that ends it."""
        return [*self._encode(f" {spelled(answer).replace(' ,', ',')}"), self._end]

    def vocabulary(self) -> list[int]:
        """The ids of all tokens of answers, ascending."""
        words = (*COLOURS, *SHAPES, *ROWS, *COLUMNS, *CHARACTERS, "0", "yes", "no", "white", "tile", "sign")
        return sorted({token for word in words for token in self.answer(f"{word} , {word}")})

    def word(self, text: str) -> list[int]:
        """Words in the middle of a sentence."""
        return list(self._encode(f" {spelled(text)}"))
