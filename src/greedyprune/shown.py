"""Values of users in messages: whole if they are short, otherwise their beginning and their length."""

from __future__ import annotations

LONGEST = 200
"""The largest number of characters of one value in a message."""


def shown(value: object) -> str:
    """The `repr` of a value, shortened.

    shown("layer:2")      # "'layer:2'"
    """
    return short(repr(value))


def short(text: str) -> str:
    """A text, shortened to `LONGEST` characters. What is left out is counted."""
    rest = len(text) - LONGEST
    return text if rest <= 0 else f"{text[:LONGEST]}... ({rest} more characters)"
