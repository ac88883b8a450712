"""The house itself: imports point downwards, importing is light, every file says what it is."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

import greedyprune as gp

ROOT = Path(gp.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FACES = (ROOT / "__init__.py", ROOT / "__main__.py")
"""What users see of the package: it leads to every floor."""
FLOORS = {
    "": 0, "ops": 1, "methods": 2, "models": 2, "probes": 2, "preprocessing": 2, "testbed": 2, "attach": 3,
    "eval": 4, "bench": 4, "plots": 4, "verify": 4, "server": 4, "batch": 4, "cli": 5, "app": 5, "engines": 5,
}  # fmt: skip
NEIGHBOURS = {
    ("preprocessing", "models"), ("testbed", "preprocessing"), ("bench", "batch"), ("cli", "engines"), ("cli", "app"),
}  # fmt: skip
"""Rooms of one floor, of which the first may import the second; no way leads back."""
APART = {"ops/kernels/triton": ("triton", "ops.kernels.chosen")}
"""Folders of the core that may import one more package, and the one file that imports them, if the package is there."""


def room(parts: tuple[str, ...]) -> str:
    """The room of a module path inside the package: its top folder, "" for the words on the ground floor."""
    return parts[0] if parts and parts[0] in FLOORS else ""


def imports(path: Path) -> list[tuple[str, ...]]:
    """Every import of a file, as module paths; those in functions and under TYPE_CHECKING too."""
    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = tuple((node.module or "").split("."))
            found += [(*base, alias.name) if base == ("greedyprune",) else base for alias in node.names]
    return found


def test_imports_point_downwards() -> None:
    faults = [fault for path in FILES if path not in FACES for fault in climbing(path)]
    assert faults == []


def climbing(path: Path) -> list[str]:
    """The imports of a file that do not point downwards."""
    found: list[str] = []
    mine = room(path.relative_to(ROOT).parts)
    for module in imports(path):
        if module[0] != "greedyprune":
            bare = FLOORS[mine] <= 2 and mine in ("", "ops", "methods")
            apart, _ = APART.get(path.relative_to(ROOT).parent.as_posix(), ("", ""))
            if bare and module[0] not in {"torch", "__future__", apart, *sys.stdlib_module_names}:
                found.append(f"{path.name} imports {module[0]}")
            continue
        theirs = room(module[1:])
        # The top of the package (`import greedyprune as gp`) is for the floors above the core.
        if len(module) == 1 or (module[1] in gp.__all__ and theirs == "" and not (ROOT / f"{module[1]}.py").exists()):
            if FLOORS[mine] < 4:
                found.append(f"{path.name} imports the public face from floor {FLOORS[mine]}")
        elif theirs != mine and FLOORS[theirs] >= FLOORS[mine] and (mine, theirs) not in NEIGHBOURS:
            found.append(f"{path.name} imports {'.'.join(module)}")
    return found


def dotted(path: Path) -> str:
    """A file's name as a module inside the package: `eval.loop`; a folder's `__init__.py` has the folder's name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Every file and the files that it imports, at the top, in functions and under TYPE_CHECKING.

    The public face, `__init__.py` at the root, is left out: it names everything, and nothing runs through it.
    """
    names = {dotted(path): path for path in FILES if path != ROOT / "__init__.py"}
    found: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        for node in ast.walk(ast.parse(path.read_text())):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    modules.append(whole if whole.removeprefix("greedyprune.") in names else str(node.module))
            inside = {module.removeprefix("greedyprune.") for module in modules if module.startswith("greedyprune.")}
            found[name] |= (inside & set(names)) - {name}
    return found


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The largest sets of files that all reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = graph[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    by_file = {name: reached(name) for name in graph}
    found = [{other for other in by_file[name] if name in by_file[other]} for name in graph if name in by_file[name]]
    return [circle for place, circle in enumerate(found) if circle not in found[:place]]


def test_files_import_each_other_in_no_circle() -> None:
    assert circles(arrows()) == []


@pytest.mark.parametrize("folder", APART)
def test_what_needs_more_than_the_core_has_one_way_in(folder: str) -> None:
    inside = folder.replace("/", ".")
    names = {name for name, found in arrows().items() if any(f"{each}.".startswith(f"{inside}.") for each in found)}
    assert names == {APART[folder][1]}


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [{"a", "b", "c"}]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    graph = arrows()
    assert "cli._plan" in graph["cli._report"]  # under TYPE_CHECKING
    assert "eval.scenes" in graph["cli._suite"]  # in a function
    assert "preprocessing.processors" in graph["testbed"]


def test_a_file_opens_with_what_it_is_and_stays_readable() -> None:
    texts = {path.relative_to(ROOT): path.read_text() for path in FILES}
    assert [path for path, text in texts.items() if not ast.get_docstring(ast.parse(text))] == []
    assert [path for path, text in texts.items() if len(text.splitlines()) > 350] == []


def test_a_method_is_short_stands_alone_and_leaves_loops_to_the_engines() -> None:
    paths = sorted((ROOT / "methods").glob("*.py"))
    assert [path.name for path in paths if len(path.read_text().splitlines()) > 100] == []  # a word lacks in ops/
    assert [path.name for path in paths for module in imports(path) if module[:2] == ("greedyprune", "methods")] == []
    assert [path.name for path in paths if picks_by_itself(path)] == []


def picks_by_itself(path: Path) -> bool:
    """Whether a file has a loop of its own that counts or waits: that is an engine's business."""
    return any(
        isinstance(node, ast.While)
        or (
            isinstance(node, ast.For)
            and isinstance(node.iter, ast.Call)
            and getattr(node.iter.func, "id", "") == "range"
        )
        for node in ast.walk(ast.parse(path.read_text()))
    )


def test_importing_is_light() -> None:
    heavy = ("transformers", "PIL", "matplotlib", "numpy.testing", "sklearn", "skimage", "typer", "rich")
    code = f"import sys, greedyprune; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    for name in gp.__all__:
        assert getattr(gp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'pruen'"):
        gp.pruen  # type: ignore[attr-defined]  # noqa: B018


def test_no_test_is_timed_and_examples_repeat_where_nobody_watches(pytestconfig: pytest.Config) -> None:
    assert settings().max_examples == (25 if "not wide" in pytestconfig.option.markexpr else 100)
    assert settings.get_current_profile_name() == "greedyprune"
    assert settings().deadline is None
    assert settings().derandomize == bool(os.environ.get("CI"))
