"""The site of the documentation and the package's own page: what they name is there, and all of it is listed."""

from __future__ import annotations

import inspect
import json
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import greedyprune as gp

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ABOUT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SITE: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the site's hooks."""
    monkeypatch.syspath_prepend(str(DOCS))
    import hooks

    return hooks


def test_the_reference_lists_every_public_name_once(hooks: Any) -> None:
    listed = re.findall(r"^::: greedyprune\.(\w+)$", hooks.reference(), re.MULTILINE)
    assert sorted([*listed, "__version__"]) == sorted(gp.__all__)
    page = (DOCS / hooks.REFERENCE).read_text(encoding="utf-8")
    assert hooks.PLACE in page
    assert "`gp.__version__`" in page


def test_an_example_is_set_as_code_and_prose_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes the indentation away from an example that is all that follows a docstring's first line."""
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.setitem(sys.modules, "griffe", SimpleNamespace(Extension=object))  # the site's environment alone has it
    from docstring_examples import fenced

    code = "keep = gp.select(method, cues, 64)\nprint(keep.k)"
    prose = "It takes the shape (n, d), and a = 8; see `select`."
    assert fenced(f"First line.\n\n{code}\n\n{prose}\n\n    indented(1)") == (
        f"First line.\n\n```python\n{code}\n```\n\n{prose}\n\n    indented(1)"
    )
    assert "```" in fenced(inspect.getdoc(gp.PruneWarning) or "")


def pages(nav: Any) -> list[str]:
    """The pages of the navigation, in their order."""
    if isinstance(nav, str):
        return [nav]
    return [page for each in (nav.values() if isinstance(nav, dict) else nav) for page in pages(each)]


def test_every_page_is_in_the_navigation_once() -> None:
    listed, there = pages(SITE["nav"]), [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted(there), "list the page under `nav` in mkdocs.yml, once"


def test_the_address_of_the_repository_is_one() -> None:
    urls = ABOUT["project"]["urls"]
    assert urls["Source"] == SITE["repo_url"]
    assert urls["Documentation"] == SITE["site_url"]
    assert all(url.startswith((SITE["repo_url"], SITE["site_url"])) for url in urls.values())


def test_the_package_page_has_no_relative_link() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for each in ABOUT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    own = [link for link in links if "githubusercontent" in link or "/blob/" in link]
    assert len(own) > 15
    starts = (f"{SITE['repo_url']}/blob/main/", SITE["repo_url"].replace("github.com", "raw.githubusercontent.com"))
    assert [link for link in own if not link.startswith(starts)] == []
    assert "<img" not in text  # an HTML picture would not be rewritten


def cells(text: str) -> list[str]:
    """The code cells of a notebook that is written as Python."""
    _, *parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)
    return [body.strip() for kind, body in zip(parts[::2], parts[1::2], strict=True) if "markdown" not in kind]


@pytest.mark.parametrize("name", ["compare_methods", "first_steps", "own_method", "serve", "video"])
def test_a_notebook_shows_what_its_cells_gave(name: str) -> None:
    book = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    source = (ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
    assert ["".join(cell["source"]) for cell in code] == cells(source), f"run make notebooks TESTS={name}"
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"] == []
    assert not re.search(r"/(tmp|home|root|work)/", json.dumps(outputs))


def test_every_notebook_is_on_the_page() -> None:
    page = (DOCS / "notebooks.md").read_text(encoding="utf-8")
    there = {path.stem for path in (ROOT / "notebooks").glob("*.py")} - {"run"}
    assert set(re.findall(r"notebooks/(\w+)\.ipynb", page)) == there


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.stem)
def test_workflows_call_targets_that_there_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert isinstance(yaml.safe_load(text), dict)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    called = re.findall(r"\bmake ([a-z-]+)", text)
    matrix = re.findall(r"target: \[(.*)\]", text)
    assert set(called) | {each.strip() for some in matrix for each in some.split(",")} <= set(targets)


def test_the_citation_is_that_of_the_readme() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (paper,) = cited["references"]
    assert paper["title"] in readme
    assert " and ".join(f"{one['family-names']}, {one['given-names']}" for one in paper["authors"]) in readme
    assert cited["repository-code"] == SITE["repo_url"]


def test_the_version_stands_in_one_place() -> None:
    assert "version" in ABOUT["project"]["dynamic"]
    assert ABOUT["tool"]["hatch"]["version"]["path"] == "src/greedyprune/__init__.py"
