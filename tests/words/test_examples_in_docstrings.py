"""Every public class and function shows an example in its docstring."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import greedyprune as gp

ROOT = Path(gp.__file__).parent
Public = ast.ClassDef | ast.FunctionDef


def homes() -> dict[str, Path]:
    """The file of each class, function and constant of `gp.__all__`, read from the imports of the public face."""
    found: dict[str, Path] = {}
    for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("greedyprune."):
            path = ROOT.joinpath(*node.module.split(".")[1:]).with_suffix(".py")  # type: ignore[union-attr]
            found |= {alias.name: path for alias in node.names if alias.name in gp.__all__}
    return found


def defined(path: Path, name: str) -> Public | None:
    """The class or function with this name at the top of a file; None if the name is a constant."""
    top = ast.parse(path.read_text(encoding="utf-8")).body
    return next((node for node in top if isinstance(node, Public) and node.name == name), None)


def examples(docstring: str) -> Iterator[ast.Module]:
    """The paragraphs of a docstring that are Python: indented, after `>>>`, or plain. A sentence does not parse."""
    for paragraph in re.split(r"\n\s*\n", docstring):
        code = "\n".join(re.sub(r"^\s*(>>>|\.\.\.) ", "", line) for line in paragraph.splitlines())
        try:
            yield ast.parse(textwrap.dedent(code))
        except SyntaxError:
            continue


def shown_by(docstring: str) -> set[str]:
    """The names that the examples of a docstring use: `f` in `f(x)`, in `gp.f(x)`, and in an annotation."""
    nodes = [node for example in examples(docstring) for node in ast.walk(example)]
    return {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    }


PUBLIC = {name: node for name, path in homes().items() if (node := defined(path, name)) is not None}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_it_shows_an_example_that_names_it(name: str) -> None:
    assert name in shown_by(ast.get_docstring(PUBLIC[name]) or "")


def test_every_public_name_is_looked_at() -> None:
    assert set(gp.__all__) - set(PUBLIC) == {"DETAIL", "__version__", "plots", "testbed", "testing"}


def test_what_counts_as_an_example() -> None:
    shown = "Do f and `g(x)`.\n\n    y = gp.f(x)  # a comment\n\n>>> h(y)\n\nIt raises k()."
    assert shown_by(shown) == {"y", "gp", "f", "x", "h"}
