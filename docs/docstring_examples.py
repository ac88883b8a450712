"""What mkdocstrings does with docstrings beside its own: an example is set as code, whether it is indented or not.

Where an example is all that follows the first line of a docstring, Python itself takes its indentation away.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Puts fences around examples."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Rewrite the docstring of a class, a function or a module."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text of a docstring, with a fence around each paragraph that is Python code and stands at its left edge.

    fenced("Cut it.\\n\\ncut(3)")  # "Cut it.\\n\\n```python\\ncut(3)\\n```"
    """
    return "\n\n".join(f"```python\n{each}\n```" if is_code(each) else each for each in re.split(r"\n\s*\n", text))


def is_code(paragraph: str) -> bool:
    """Whether a paragraph is Python with a call or an assignment in it."""
    if not re.search(r"^\w.*(\w\(|=)", paragraph, re.DOTALL):
        return False
    try:
        return bool(ast.parse(paragraph).body)
    except SyntaxError:
        return False
