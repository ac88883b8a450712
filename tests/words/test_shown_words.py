"""A word that an error or a docstring shows can be imported from `gp`."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import greedyprune as gp
import greedyprune.eval
import greedyprune.preprocessing.inputs

ROOT = Path(gp.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NOT_FOR_USERS = {"app", "attach", "batch", "bench", "cli", "engines", "models", "server", "verify"}
"""Rooms whose docstrings speak to who works on them; their errors are read by users all the same."""
KNOWN_INSIDE = {
    "counts": "an argument of LayerAverage.solve, and not the function of that name",
    "asked": "how the command line puts options into questions",
    "floor": "the mathematical function",
    "read_clip": "how the command line reads clips: no part of pruning",
    "score": "a method of an item",
    "shown": "how the package's own messages show a value",
    "prove_writable": "how the package writes its own files: no part of pruning",
    "write_text": "how the package writes its own files: no part of pruning",
}
"""Words that are shown and stay where they are, each with the reason."""


def strings(tree: ast.AST, errors_alone: bool) -> Iterator[str]:
    """Every text in what is raised or warned of, and every docstring of something public."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield from texts(node.exc)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "warn":
            yield from texts(node)
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.Module)) and not errors_alone:
            yield "" if getattr(node, "name", "").startswith("_") else ast.get_docstring(node) or ""


def texts(node: ast.AST) -> Iterator[str]:
    """The texts in an expression, without what is put into them."""
    return (each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str))


def shown(text: str) -> set[str]:
    """Names that a text shows: called, or CamelCase in backticks. Methods, as in `keep.merge(x)`, are none."""
    return set(re.findall(r"(?<![\w.'])(?:gp\.)?([A-Za-z_]\w*)\(", text)) | set(
        re.findall(r"`([A-Z]\w*[a-z]\w*)", text)
    )


def public(tree: ast.Module) -> set[str]:
    """What a file defines at its top for others."""
    names = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    return {name for name in names if not name.startswith("_")}


@functools.cache
def words() -> dict[str, str]:
    """Names that are shown to users and defined somewhere in the package, each with a file that shows it."""
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
    defined = {name for tree in trees.values() for name in public(tree)}
    found: dict[str, str] = {}
    for file, tree in trees.items():
        room = file.relative_to(ROOT).parts[0]
        for text in strings(tree, errors_alone=room in NOT_FOR_USERS):
            found |= {word: str(file.relative_to(ROOT)) for word in shown(text) & defined}
    return found


def reachable(word: str) -> bool:
    """Can a user write gp.word, or gp.room.word of a public room?"""
    rooms = (gp.testing, gp.testbed, gp.plots, greedyprune.eval, greedyprune.preprocessing.inputs)
    return word in gp.__all__ or any(hasattr(room, word) for room in rooms)


def test_shown_words_can_be_imported() -> None:
    found = words()
    assert {"Ratio", "Layer", "Keys", "Policy", "select", "count", "check_method", "from_plain"} <= set(found)
    assert {word: file for word, file in found.items() if not reachable(word) and word not in KNOWN_INSIDE} == {}


def test_no_exception_is_kept_for_nothing() -> None:
    assert {word for word in KNOWN_INSIDE if word not in words() or reachable(word)} == set()


def test_what_a_text_shows() -> None:
    text = "write Ratio(0.25), gp.Total(64), `Keep` or `count(keep, n)`; keep.merge(x) and 'f(x)'; PruneWarning"
    assert shown(text) == {"Ratio", "Total", "Keep", "count"}
