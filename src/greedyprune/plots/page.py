"""One HTML file that holds its pictures and needs nothing else: it opens offline and runs no scripts."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

STYLE = """
:root { color-scheme: light dark; --ink: #1c1f24; --pale: #5b626c; --line: #e3e6ea; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --pale: #a3aab4; --line: #3a3f47; --paper: #16181c; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
body { max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin-top: 1.8rem; }
p, li { max-width: 46rem; } .pale { color: var(--pale); }
img { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
.wide { overflow-x: auto; }
.wide img { min-width: 640px; background: #fff; }
table { border-collapse: collapse; font-size: 12.5px; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--pale); font-weight: 600; border-bottom: 1px solid var(--pale); }
th:first-child, td:first-child { text-align: left; }
summary { cursor: pointer; margin: .5rem 0; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file, from pieces of HTML."""
    body = "\n".join([heading(title, 1), *parts])
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, pale: bool = False) -> str:
    """A paragraph of plain text."""
    return f"<p{' class=pale' if pale else ''}>{html.escape(text)}</p>"


def bullets(texts: Iterable[str]) -> str:
    """A list of plain texts."""
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"


def picture(image: Figure | Image, about: str) -> str:
    """A figure or an image inside the page, with a text for readers who cannot see it.

    Figures are vectors. A window that is narrower than they can be read in scrolls them.
    """
    buffer = io.BytesIO()
    drawn: Any = image
    kind = "svg+xml" if hasattr(drawn, "savefig") else "png"
    if kind == "png":
        drawn.save(buffer, format="PNG", optimize=True)
    else:
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<div class="wide"><img alt="{html.escape(about, quote=True)}" src="data:image/{kind};base64,{data}"></div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts; the first column names the row."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def folded(title: str, inner: str) -> str:
    """A block that opens on a click."""
    return f"<details><summary>{html.escape(title)}</summary>{inner}</details>"
