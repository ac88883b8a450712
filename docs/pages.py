"""What the scripts that write pages share: the part of a page between two markers, and the models of some rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
README = ROOT / "README.md"
Row = Mapping[str, str]


def between(text: str, name: str) -> str:
    """What stands between the markers of this name. Raises ValueError if the page has no such markers."""
    begin, end = _marks(name)
    first = text.index(begin) + len(begin)
    return text[first : text.index(end, first)]


def rewrite(page: Path, name: str, made: str) -> None:
    """Put new text between the markers of this name."""
    begin, end = _marks(name)
    text = page.read_text(encoding="utf-8")
    old = between(text, name)
    page.write_text(text.replace(f"{begin}{old}{end}", f"{begin}{made}{end}"), encoding="utf-8", newline="\n")


def models(rows: Iterable[Row]) -> list[str]:
    """The models in these rows, in their order."""
    return list(dict.fromkeys(row["model"] for row in rows))


def short(model: str) -> str:
    """The name of a model in a page and in a file's name: of one that the testbed's training made, its folder."""
    return model.removesuffix("/model")


def of(rows: Iterable[Row], **columns: str) -> list[Row]:
    """The rows with these values, as in of(rows, model="llava", task="mean")."""
    return [row for row in rows if all(row[name] == value for name, value in columns.items())]


def mean(rows: list[Row], name: str) -> float:
    """The mean of a column."""
    return sum(float(row[name]) for row in rows) / len(rows)


def percent(share: float | str) -> str:
    """A share as per cent."""
    return f"{100 * float(share):.1f} %"


def measured_on(rows: Iterable[Row]) -> str:
    """The machines and commits of some rows."""
    found = dict.fromkeys(
        f"{row['cpu']}, {row['cores']} cores, {row.get('threads') or 1} thread(s), torch {row['torch']}, "
        f"{row['date']}, commit {row['commit']}"
        for row in rows
    )
    return f"*{'; '.join(found)}.*"


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->\n", f"\n<!-- {name}: end -->"
