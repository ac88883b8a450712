"""The documents: what they list is what there is, what they show runs, what they link to exists."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

import greedyprune as gp
import proofs
from greedyprune.cli.app import app
from greedyprune.models import table
from greedyprune.models._family import Family
from greedyprune.models.cards import card_of
from greedyprune.models.support import ATTENTION, markdown
from greedyprune.outputs import read_csv
from greedyprune.registry import METHODS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FAMILIES_PAGE = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")


def matrix() -> str:
    """What stands between the markers of the page about families."""
    marks = r"<!-- support matrix: begin -->\n(.*?)\n<!-- support matrix: end -->"
    parts = re.findall(marks, FAMILIES_PAGE, re.DOTALL)
    assert len(parts) == 1
    return parts[0]


def test_the_support_matrix_is_that_of_the_table() -> None:
    assert matrix() == markdown(), (
        "put what `greedyprune models --markdown` prints between the markers of docs/families.md"
    )
    assert CliRunner().invoke(app, ["models", "--markdown"]).stdout == markdown() + "\n"


def test_another_family_would_change_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    llava = table.FAMILIES["llava"]
    more = Family("new", llava.layout, stages=llava.stages[:1], note="news")
    monkeypatch.setitem(table.FAMILIES, "new", more)
    tower = "no: its entry in the table names no tower"
    assert markdown() == f"{matrix()}\n| `new` | image | yes | no | sdpa, eager | yes | {tower} | no | news |"


def test_the_matrix_claims_the_attention_of_the_proofs() -> None:
    assert ATTENTION == proofs.ATTENTIONS


def test_the_accuracy_tables_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_accuracy
    import pages

    rows = read_csv(make_accuracy.ROWS)
    page = make_accuracy.PAGE.read_text(encoding="utf-8")
    assert pages.between(page, "accuracy") == make_accuracy.table(rows), "run python docs/make_accuracy.py"
    for marks, path in make_accuracy.EVERY.items():
        assert pages.between(page, marks) == make_accuracy.every(read_csv(path)), "run python docs/make_accuracy.py"
    for model in pages.models(rows):
        assert (ROOT / "docs" / f"accuracy-{model}.png").is_file()


def test_the_tables_of_cues_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_cues
    import pages

    page = make_cues.PAGE.read_text(encoding="utf-8")
    assert pages.between(page, "cues") == make_cues.tables(), "run python docs/make_cues.py"
    for model in pages.models(read_csv(make_cues.TEST)):
        assert (ROOT / "docs" / f"cues-{pages.short(model)}.png").is_file()


def test_the_tables_of_the_real_decoder_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_real_decoder
    import pages

    page = make_real_decoder.PAGE.read_text(encoding="utf-8")
    assert pages.between(page, "rules") == make_real_decoder.tables(), "run python docs/make_real_decoder.py"
    assert pages.between(README, "rules") == make_real_decoder.summary(), "run python docs/make_real_decoder.py"
    assert pages.between(README, "claim") == make_real_decoder.claim(), "run python docs/make_real_decoder.py"


def test_the_tables_of_choosing_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_choose
    import pages

    page = make_choose.PAGE.read_text(encoding="utf-8")
    for marks, made in make_choose.tables().items():
        assert pages.between(page, marks) == made, "run python docs/make_choose.py"


def test_the_gallery_shows_every_method(monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in ("sklearn", "skimage", "matplotlib"):
        pytest.importorskip(extra)
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_gallery

    assert make_gallery.PAGE.read_text(encoding="utf-8") == make_gallery.page(), "run python docs/make_gallery.py"
    assert {path.stem for path in make_gallery.PICTURES.iterdir()} == {*METHODS, "picture"}, (
        "run python docs/make_gallery.py"
    )


def test_the_tables_of_performance_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_performance
    import pages

    page = make_performance.PAGE.read_text(encoding="utf-8")
    assert pages.between(page, "performance") == make_performance.tables(), "run python docs/make_performance.py"
    assert pages.between(README, "speed") == make_performance.claim(), "run python docs/make_performance.py"
    assert all(path.is_file() for path in make_performance.PICTURES.values())


def test_the_loads_of_the_pages_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_load
    import pages

    for marks, made in make_load.tables().items():
        page = make_load.PAGES[marks].read_text(encoding="utf-8")
        assert pages.between(page, marks) == made, "run python docs/make_load.py"


def test_the_method_cards_are_those_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import make_methods

    shown = make_methods.PAGE.read_text(encoding="utf-8")
    assert shown == make_methods.page(), "run python docs/make_methods.py"
    for name in METHODS:
        assert f"(`{name}`)" in shown
        card = card_of(name)
        assert all((card.idea, card.differs, card.cost)), f"the docstring of {card.title} lacks a part"


def snippets() -> list[str]:
    """The Python snippets of the README: a public checkpoint, and a bundled model."""
    for extra in ("sklearn", "skimage", "matplotlib", "accelerate"):
        pytest.importorskip(extra)
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def printed(code: str) -> str:
    """What the code prints in a process of its own, where no warning is let pass."""
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return out.stdout


def test_the_first_snippets_run_on_a_picture_of_ones_own_and_print_what_they_say(tmp_path: Path) -> None:
    own, bundled = snippets()
    image = gp.testbed.sample(1, seed=3)[0].image
    image.save(tmp_path / "photo.png")
    mine = {
        '"llava-hf/llava-interleave-qwen-0.5b-hf"': repr(str(gp.testbed.FOLDERS["llava"])),
        '"photo.jpg"': repr(str(tmp_path / "photo.png")),
        "What is on the table?": "what color is the circle ?",
    }
    (site,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    parts = [own, site, bundled]
    for public, local in mine.items():
        assert [part.count(public) for part in parts] == [1, 1, 0]
        parts = [part.replace(public, local) for part in parts]
    *public, last = printed("print('next')\n".join(f"{part}\n" for part in parts)).split("next\n")
    assert ["144 -> 64 visual tokens" in each for each in public] == [True, True]
    said = re.search(r"```text\n(.*?), \.\.\.\n```", README, re.DOTALL)
    assert said is not None
    assert last.startswith(said[1])


def test_the_readme_is_read_in_a_minute() -> None:
    assert len(README.splitlines()) <= 120


def names_in(path: Path) -> set[str]:
    """The names of a file: what stands at its top, and the methods and attributes of its classes as Class.name."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        found |= {node.name} if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else set()
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
        for each in ast.walk(node) if isinstance(node, ast.ClassDef) else ():
            if isinstance(each, ast.FunctionDef):
                found.add(f"{node.name}.{each.name}")
            elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                found.add(f"{node.name}.{each.target.id}")
            elif isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
                found.add(f"{node.name}.{each.attr}")
    return found


def test_what_the_page_about_the_inside_names_is_there() -> None:
    page = (ROOT / "docs" / "inside.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "greedyprune"
    names = {path.relative_to(package).as_posix(): names_in(path) for path in package.rglob("*.py")}

    def there(file: str, name: str) -> bool:
        return any(f"/{path}".endswith(f"/{file}") and (not name or name in known) for path, known in names.items())

    places = re.findall(r"`((?!test_)[a-z_]\w*(?:/\w+)*\.py)(?::([\w.]+))?`", page)
    places = [(file, name) for file, name in places if not file.startswith("tests/")]
    assert len(places) > 40
    assert [place for place in places if not there(*place)] == []
    tests = re.findall(r"`(tests/[\w/]+(?:\.py)?|test_\w+\.py)`", page)
    assert [name for name in tests if not (ROOT / name).exists() and not list((ROOT / "tests").rglob(name))] == []
    classes = {name for known in names.values() for name in known if name[0].isupper()}
    methods = {(owner, name) for owner, name in re.findall(r"`([A-Z]\w+)\.(\w+)`", page) if owner in classes}
    assert len(methods) > 20
    assert [f"{owner}.{name}" for owner, name in methods if f"{owner}.{name}" not in classes] == []


def test_the_page_about_vllm_counts_the_checks_that_passed() -> None:
    page = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
    rows = [row for path in sorted((ROOT / "results" / "vllm").glob("*.csv")) for row in read_csv(path)]
    assert f"{len(rows)} checks of which none failed" in " ".join(page.split())
    assert [row["check"] for row in rows if row["passed"] != "True"] == []


def test_the_page_about_own_methods_runs_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in ("sklearn", "skimage"):
        pytest.importorskip(extra)
    page = (ROOT / "docs" / "own-method.md").read_text(encoding="utf-8")
    mine = types.ModuleType("my_methods")
    monkeypatch.setitem(sys.modules, "my_methods", mine)  # where a user would keep it, since methods are pickled
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), vars(mine))


def test_the_page_about_requests_runs_as_written() -> None:
    for extra in ("sklearn", "skimage"):
        pytest.importorskip(extra)
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert "144 -> 16 visual tokens" in printed(code)


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]
)
def test_every_link_leads_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    near = [link.partition("#")[0] for link in links if not re.match(r"\w+:", link)]
    assert [link for link in near if link and not ((ROOT / name).parent / link).exists()] == []
    if name == "README.md":
        assert "docs/demo.png" in near


def test_the_picture_at_the_top_is_large_enough_to_read_and_small_enough_to_load() -> None:
    from PIL import Image

    picture = ROOT / "docs" / "demo.png"
    assert picture.stat().st_size < 400_000
    with Image.open(picture) as image:
        assert image.width > 1000
