"""A mistake of the package: one change of one function, and the test that must notice it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import greedyprune

PACKAGE = Path(greedyprune.__file__).parent


class OutOfDate(AssertionError):
    """The mutation no longer fits the package: write what stands there now, and see that the check still notices."""


@dataclass(frozen=True)
class Mutation:
    """One mistake.

    >>> Mutation("the first row is lost", "keep.py:Keep.of", "order", "order[1:]", "test_words.py::test_keeps")
    """

    name: str
    """What is wrong, as words."""
    where: str
    """The file of the package and the function or class in it: `ops/cut.py:Cut.take`; without one, the whole file."""
    old: str
    """What stands there, exactly once within that function or class."""
    new: str
    """What stands there instead."""
    check: str
    """The test that fails with it and passes without, as pytest names it, without its folder."""

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    @property
    def path(self) -> Path:
        """The file that it is made in."""
        return PACKAGE / self.where.partition(":")[0]

    @property
    def module(self) -> str:
        """The same as Python imports it."""
        parts = self.path.relative_to(PACKAGE).with_suffix("").parts
        return ".".join(("greedyprune", *(parts[:-1] if parts[-1] == "__init__" else parts)))

    def source(self) -> str:
        """The text of the file with the mistake in it."""
        if not self.path.is_file():
            raise self._out_of_date("the package has no such file")
        text = self.path.read_text(encoding="utf-8")
        start, end = self._span(text)
        found = text[start:end].count(self.old)
        if found != 1:
            elsewhere = text.count(self.old) - found
            raise self._out_of_date(
                f"{self.old!r} stands there {found} times, not once"
                + (f", and {elsewhere} times elsewhere in the file" if elsewhere else "")
            )
        changed = text[:start] + text[start:end].replace(self.old, self.new) + text[end:]
        try:
            ast.parse(changed)
        except SyntaxError as error:
            raise self._out_of_date(f"with {self.new!r} there it is no Python ({error})") from error
        return changed

    def _span(self, text: str) -> tuple[int, int]:
        """Where the function or class begins and ends in the text of its file."""
        path = self.where.partition(":")[2]
        if not path:
            return 0, len(text)
        node: ast.AST = ast.parse(text)
        for name in path.split("."):
            inside: dict[str, ast.AST] = {}
            for each in ast.walk(node):
                if each is not node and isinstance(each, NAMED):
                    inside.setdefault(each.name, each)  # the outermost of that name
            if name not in inside:
                near = ", ".join(inside) or "nothing"
                raise self._out_of_date(f"there is no {name!r}; what there is: {near}")
            node = inside[name]
        assert isinstance(node, NAMED)
        lines = text.splitlines(keepends=True)
        first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        return len("".join(lines[: first - 1])), len("".join(lines[: node.end_lineno]))

    def _out_of_date(self, why: str) -> OutOfDate:
        return OutOfDate(
            f"the mutation {self.name!r} of {self.where} is out of date: {why}. "
            "Write what stands there now, and see that the check still notices."
        )


NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
