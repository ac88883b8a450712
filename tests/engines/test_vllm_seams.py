"""The names in vLLM that pruning stands on: the record, and what a release that differs is told."""

from __future__ import annotations

import ast
import zipfile
from pathlib import Path

import pytest

from greedyprune.engines.vllm import HOMES, seams

ENGINE = Path(seams.__file__).parent


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source tree with the recorded signatures, and nothing in its definitions."""
    root = tmp_path_factory.mktemp("release") / "vllm"
    for file, names in seams.SEAMS.items():
        place = root / file
        place.parent.mkdir(parents=True, exist_ok=True)
        lines, classes = list[str](), dict[str, list[str]]()
        for name in names:
            signature, (*outer, last) = seams.recorded()[f"{file}:{name}"].signature, name.split(".")
            if signature.startswith("class of "):
                bases, fields = signature.removeprefix("class of ").split("; ")
                head = [f"class {name}({bases}):", *(f"    {field}: int" for field in fields.split(", ") if field)]
                classes[name] = [*head, *classes.get(name, [f"class {name}:", "    ..."])[1:]]
            elif outer:
                classes.setdefault(outer[0], [f"class {outer[0]}:"]).append(f"    def {last}({signature}): ...")
            else:
                lines.append(f"def {last}({signature}): ...")
        lines += [line for each in classes.values() for line in each]
        place.write_text("\n".join(lines))
    (root / "__init__.py").touch()
    return root


def test_the_record_is_about_the_seams() -> None:
    assert list(seams.recorded()) == [f"{file}:{name}" for file, names in seams.SEAMS.items() for name in names]


def test_what_is_imported_from_vllm_is_a_seam() -> None:
    """A class that pruning derives from, and a name that it calls, are in the record."""
    known = {name.split(".")[0] for names in seams.SEAMS.values() for name in names}
    taken = set[str]()
    for path in ENGINE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                taken |= {alias.name for alias in node.names}
    assert taken - known == {"ModelRegistry", "MULTIMODAL_REGISTRY", "current_platform"}  # public, and stable


def test_what_is_overridden_has_the_recorded_arguments() -> None:
    """A method that vLLM calls takes what vLLM's own takes: all by name, or with a catch-all."""
    taken: dict[str, list[set[str]]] = {}
    for name, seam in seams.recorded().items():
        taken.setdefault(name.rpartition(".")[2], []).append(set(seam.signature.split(", ")))
    checked = set[str]()
    trees = [ast.parse(path.read_text()) for path in ENGINE.glob("*.py")]
    mixins = [node for tree in trees for node in tree.body if getattr(node, "name", "").startswith("Prunes")]
    for mixin in mixins:
        for node in ast.walk(mixin):
            if not isinstance(node, ast.FunctionDef) or node.name not in taken:
                continue
            mine = {each.arg for each in (*node.args.args, *node.args.kwonlyargs)}
            if node.args.kwarg is None:
                rest = {"*", "**kwargs"}
                assert any(theirs - rest <= mine for theirs in taken[node.name]), (mixin, node.name)
                checked.add(node.name)
    assert checked >= {"apply", "_get_mm_hashes", "_get_prompt_updates", "recompute_mrope_positions"}


def test_a_release_with_the_same_signatures_is_known(tree: Path) -> None:
    verdict = seams.compare(seams.opened(tree.parent))
    assert verdict.known
    assert verdict.rewritten  # the definitions are empty


def test_a_wheel_is_read_as_it_is_and_what_moved_is_named(tree: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "vllm-9.9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        for path in tree.rglob("*.py"):
            text = path.read_text().replace(
                "def _get_mm_hashes(self, inputs)", "def _get_mm_hashes(self, inputs, salt)"
            )
            if path.name != "mm_pruning.py":
                file.writestr(str(path.relative_to(tree.parent)), text)
    verdict = seams.compare(seams.opened(wheel))
    assert not verdict.known
    said = ", ".join(verdict.moved)
    assert "_get_mm_hashes: (self, inputs, salt), known as (self, inputs)" in said
    assert "mm_pruning.py:MultiModalPruner.recompute is missing" in said


def test_every_home_exists() -> None:
    for home in HOMES.values():
        module, _, name = home.partition(":")
        tree = ast.parse((ENGINE / f"{module}.py").read_text())
        assert name in [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
