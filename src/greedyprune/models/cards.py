"""Cards: what there is to know of one method, read off its class. The page of methods and the command line print them.

card = card_of("greedyprune")

print(card.idea, card.families)
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import dataclass, fields
from itertools import pairwise

from greedyprune.cues import Attention, Text
from greedyprune.method import Method
from greedyprune.models.support import able, families_of
from greedyprune.naming import method_class

CONTROLS = ("saliency", "random", "grid", "pool")
"""Methods that others are compared with."""
KINDS = ("reads the question", "reads the vision tower", "reads the tokens alone", "compares frames", "control")
"""The kinds of methods, by what they look at."""


@dataclass(frozen=True)
class Option:
    """A field of a method that a user may set."""

    name: str
    value: object
    """Its default."""
    note: str
    """What its docstring says; empty if it has none."""


@dataclass(frozen=True)
class Card:
    """One method."""

    name: str
    title: str
    """The name of its class."""
    kind: str
    """One of `KINDS`."""
    summary: str
    """The first paragraph of its docstring."""
    idea: str
    """The docstring up to what differs from the source, with its indented example."""
    differs: str
    cost: str
    method: Method
    """The method with its defaults."""
    options: tuple[Option, ...]
    keeps: str
    families: str

    @property
    def stages(self) -> list[str]:
        """The names of the stages that it can be cut at."""
        return [stage.__name__ for stage in self.method.stages]

    @property
    def needs(self) -> list[str]:
        """The cues that it needs, as they are written in code."""
        return [repr(need) for need in self.method.needs]


def card_of(name: str) -> Card:
    """The card of a method by its name, as `method_class` reads it.

    >>> card_of("random").keeps
    'exactly k tokens'
    """
    cls = method_class(name)
    method, (idea, differs, cost) = cls(), _parts(inspect.getdoc(cls) or "")
    notes = _notes(cls)
    named = [field.name for field in fields(method) if field.name != "at"]
    return Card(
        name=name,
        title=cls.__name__,
        kind=_kind(name, method),
        summary=idea.partition("\n\n")[0],
        idea=idea,
        differs=differs,
        cost=cost,
        method=method,
        options=tuple(Option(each, getattr(method, each), notes.get(each, "")) for each in named),
        keeps=f"{'exactly' if method.exact else 'at most'} k tokens"
        + (", some of them means of several" if method.merges else ""),
        families=families_of(able(method)),
    )


def _kind(name: str, method: Method) -> str:
    """The kind of a method, by its needs."""
    question, tower, alone, frames, control = KINDS
    if name in CONTROLS:
        return control
    if method.compares_frames:
        return frames
    asking = [need for need in method.needs if isinstance(need, Attention) and need.kind != "image"]
    if any(isinstance(need, Text) for need in method.needs) or not all(need.in_tower for need in asking):
        return question
    return tower if any(need.in_tower for need in method.needs) else alone


def _parts(doc: str) -> tuple[str, str, str]:
    """A docstring's idea with its indented example, what differs from the source, and the cost."""
    idea, _, rest = doc.partition("Differs:")
    differs, _, cost = rest.partition("Cost:")
    blocks = (each.rstrip() for each in re.split(r"\n\s*\n", idea))
    paragraphs = (each if each.startswith("    ") else " ".join(each.split()) for each in blocks)
    return "\n\n".join(filter(None, paragraphs)), " ".join(differs.split()), " ".join(cost.split())


def _notes(cls: type[Method]) -> dict[str, str]:
    """The docstrings below the fields of a method and of the classes that it derives from, by the field's name."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # a built-in class, or one whose source is nowhere
            continue
        body = getattr(tree.body[0], "body", [])
        for field, note in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant):
                found[ast.unparse(field.target)] = " ".join(str(note.value.value).split())
    return found
