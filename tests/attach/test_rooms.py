"""The rooms of `attach/`: few files know each other, none knows many, and no record is written from everywhere."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import greedyprune as gp

PACKAGE = Path(gp.__file__).parent
ATTACH = PACKAGE / "attach"
ARROWS, KNOWN, WRITERS = 25, 5, 2
"""At most so many imports between files of `attach/`, from one file, and files that write one record."""


def module_of(path: Path) -> str:
    return ".".join(("greedyprune", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


FILES = {module_of(path): path for path in sorted(ATTACH.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def arrows() -> set[tuple[str, str]]:
    """Each file with each other file of `attach/` that it imports, in functions and for types too."""
    found: set[tuple[str, str]] = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                each = (f"{node.module}.{alias.name}" for alias in node.names)
                found |= {(name, module if module in FILES else node.module) for module in each}
            elif isinstance(node, ast.Import):
                found |= {(name, alias.name) for alias in node.names}
    return {(one, other) for one, other in found if other in FILES and one != other}


def test_few_files_know_each_other() -> None:
    found = arrows()
    assert len(found) <= ARROWS, sorted(found)
    for name in FILES:
        known = sorted(other for one, other in found if one == name)
        assert len(known) <= KNOWN, f"{name} knows {known}"


def test_rooms_lie_above_each_other() -> None:
    """`forward/` knows no hooks, and nothing below the handle knows it."""
    for one, other in arrows():
        assert not (".forward." in one and ".hooks." in other), f"{one} imports {other}"
        assert not other.endswith((".handle", ".request")) or one.endswith(".handle"), f"{one} imports {other}"


def records() -> dict[str, tuple[str, set[str]]]:
    """Every class that is changed after it was made: its file, and the names of its attributes."""
    found: dict[str, tuple[str, set[str]]] = {}
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                own = {each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and is_name(each.target)}
                own |= {target.attr for target in written(node) if is_name(target.value, "self")}
                found[node.name] = name, own
    return found


def is_name(node: ast.expr, name: str | None = None) -> bool:
    return isinstance(node, ast.Name) and (name is None or node.id == name)


def written(tree: ast.AST) -> list[ast.Attribute]:
    """The attributes that are assigned to, also inside tuples."""
    found: list[ast.Attribute] = []
    for node in ast.walk(tree):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        )
        for target in targets:
            parts = target.elts if isinstance(target, ast.Tuple) else [target]
            found += [part for part in parts if isinstance(part, ast.Attribute)]
    return found


def test_no_record_is_written_by_more_than_two_files() -> None:
    writers: dict[str, set[str]] = defaultdict(set)
    every = records()
    for name, tree in TREES.items():
        for target in written(tree):
            for record, (home, attributes) in every.items():
                if target.attr in attributes and (home == name or not is_name(target.value, "self")):
                    writers[record].add(name)
    assert writers["Forward"], "the test sees who writes"
    for record, files in writers.items():
        assert len(files) <= WRITERS, f"{record} is written by {sorted(files)}"


def test_one_file_holds_all_context_variables() -> None:
    for name, tree in TREES.items():
        made = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and is_name(node.func, "ContextVar")]
        assert not made or name == "greedyprune.attach.context", f"{name} makes a context variable"
    for path in PACKAGE.rglob("*.py"):
        if not {"attach", "engines"} & set(path.parts):  # an engine has a forward of its own
            assert "ContextVar(" not in path.read_text(encoding="utf-8"), path
