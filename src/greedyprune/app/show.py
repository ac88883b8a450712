"""Answers as HTML: a card for each, with what was kept drawn over the picture as it was taken."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

from greedyprune.plots.steps import save_steps, steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from PIL import Image

    from greedyprune.app.session import Answer, Session

SIZE = 320
"""The longest side of a drawn picture in pixels."""
STYLE = """
.gp-cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 16px; }
.gp-card { border: 1px solid var(--border-color-primary, #ccc); border-radius: 8px; padding: 12px; margin: 0; }
.gp-card h3 { margin: 0 0 4px; font-size: 1rem; overflow-wrap: anywhere; }
.gp-card img { width: 100%; border-radius: 4px; }
.gp-answer { font-size: 1.15rem; margin: 4px 0 8px; white-space: pre-wrap; overflow-wrap: anywhere; }
.gp-problem { color: var(--error-text-color, #b00020); }
.gp-card table { width: 100%; font-size: .85rem; border-collapse: collapse; }
.gp-card td { border: 0 !important; border-top: 1px solid var(--border-color-primary, #ccc) !important; }
.gp-card td { padding: 4px 0 !important; }
.gp-card td:last-child { text-align: right; }
"""


def cards(session: Session, image: Image.Image, answers: Sequence[Answer]) -> str:
    """All answers, that of the dense model first. Everything that a model says is escaped."""
    dense = answers[0]
    return f'<div class="gp-cards">{"".join(_card(session, image, each, dense) for each in answers)}</div>'


def message(text: str) -> str:
    """One sentence instead of answers."""
    return f'<p class="gp-problem">{html.escape(text)}</p>'


def _card(session: Session, image: Image.Image, answer: Answer, dense: Answer) -> str:
    title = html.escape(answer.title + (f" at {answer.at}" if answer.at else ""))
    if answer.problem:
        return (
            f'<figure class="gp-card"><h3>{title}</h3><p class="gp-problem">{html.escape(answer.problem)}</p></figure>'
        )
    drawn = _drawn(session, image, answer)
    told = html.escape(answer.text) or "(nothing)"
    return (
        f'<figure class="gp-card"><h3>{title}</h3><p class="gp-answer">{told}</p>{drawn}'
        f"<table>{_table(_counts(answer, dense))}</table></figure>"
    )


def _drawn(session: Session, image: Image.Image, answer: Answer) -> str:
    """The picture, or the animation of what was kept of it, or a word where that cannot be drawn."""
    buffer = io.BytesIO()
    if answer.selection is None:
        whole = image.copy()
        whole.thumbnail((SIZE, SIZE))
        whole.save(buffer, format="PNG")
        return _img("the whole picture", "png", buffer)
    try:
        save_steps(buffer, steps(image, answer.selection, part=session.part(image), size=SIZE))
    except ValueError:
        return "<p>Its tokens lie on no grid, so they are not drawn.</p>"
    about = f"{answer.title}: {answer.kept} kept patches of {answer.tokens}, drawn as they were taken"
    return _img(about, "gif", buffer)


def _img(about: str, kind: str, data: io.BytesIO) -> str:
    encoded = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{html.escape(about, quote=True)}" src="data:image/{kind};base64,{encoded}">'


def _counts(answer: Answer, dense: Answer) -> Iterable[tuple[str, str]]:
    """What an answer costs, with its share of the dense one."""
    yield "visual tokens", f"{answer.kept} of {answer.tokens}"
    yield "in sequence", f"{answer.sequence}"
    if answer.cache_bytes is not None and dense.cache_bytes:
        yield "KV cache", f"{answer.cache_bytes / 1e6:.2f} MB, {100 * answer.cache_bytes / dense.cache_bytes:.0f} %"
    yield "prompt FLOPs", f"{answer.flops / 1e9:.3g} G, {100 * answer.flops / max(dense.flops, 1):.0f} %"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>" for name, text in rows)
