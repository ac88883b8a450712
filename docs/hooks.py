"""What `make docs` does beside what mkdocs does: the reference lists every public name, links that leave docs/ work,
and formulas are set as MathML, which browsers draw without a script."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FACE = ROOT / "src" / "greedyprune" / "__init__.py"
REFERENCE = "reference.md"
PLACE = "<!-- every public name -->"
"""Where they stand on the page."""
GROUPS = {
    "Prune a model": ("attach.handle", "attach.request", "policy", "hints", "preset"),
    "Budgets": ("budget", "naming"),
    "Where tokens leave": ("stages",),
    "What was done": ("selection", "keep"),
    "Choose on plain tensors": ("choosing", "cues", "tiles", "ops.grid", "questions", "models.locate"),
    "Plain dicts": ("plain",),
    "In front of the model": ("preprocessing.transforms",),
    "Write a method": ("method", "registry"),
    "Methods": ("methods", "ops.threshold"),
}
"""The homes of names, by the heading under which the reference lists them. Any other home comes under "More"."""
FORMULA = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
LEAVING = re.compile(r"\]\(\.\./([^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Fill the reference, set formulas, and turn links such as ../results/README.md into links to the repository."""
    if page.file.src_uri == REFERENCE:
        markdown = markdown.replace(PLACE, reference())

    def outside(match: re.Match[str]) -> str:
        place = match[1].partition("#")[0]
        if not (ROOT / place).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to ../{place}, which is not there")
        return f"]({config['repo_url']}/blob/main/{match[1]})"

    return LEAVING.sub(outside, FORMULA.sub(formula, markdown))


def formula(match: re.Match[str]) -> str:
    """A formula, written in LaTeX, as MathML."""
    from latex2mathml.converter import convert

    return f'<div class="formula">{convert(match[1], display="block")}</div>'


def reference() -> str:
    """A heading for each group, and below it the names that live there, in their order."""
    homes, modules = face()
    known = {home for group in GROUPS.values() for home in group}
    parts: list[str] = []
    for title, group in [*GROUPS.items(), ("More", tuple(sorted(set(homes.values()) - known)))]:
        names = [name for home in group for name, own in homes.items() if own == home]
        parts += [f"## {title}", *(f"::: greedyprune.{name}" for name in names)] if names else []
    parts += ["## Modules", *(f"::: greedyprune.{name}" for name in modules)]
    return "\n\n".join(parts)


def face() -> tuple[dict[str, str], list[str]]:
    """Every public name with its home (`methods` for all methods), and the public modules. Nothing is imported."""
    values: dict[str, Any] = {}
    for node in ast.parse(FACE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in {"_HOMES", "_MODULES"}:
                values[name] = ast.literal_eval(node.value)
    homes = {name: re.sub(r"^methods\..*", "methods", home) for name, home in values["_HOMES"].items()}
    return homes, list(values["_MODULES"])
