"""The page of the app, in gradio: a picture, a question, a slider for the budget, and methods side by side.

build({"llava": Session("llava", load)}).launch()
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from greedyprune.app.show import STYLE, cards, message
from greedyprune.registry import DEFAULT

try:
    import gradio as gr  # pyright: ignore[reportMissingImports] - of an extra
except ModuleNotFoundError as missing:
    raise ImportError("the app needs gradio, which is not installed: pip install 'greedyprune[app]'") from missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

    from greedyprune.app.session import Session

OWN = "the method's own"
PLACES = (OWN, "input", "layer:1", "layer:2", "layer:4", "layer:8")
BESIDE = ("divprune", "random")
"""The methods that stand beside the default one at first."""
ABOUT = """# greedyprune
The same question, answered with all visual tokens and with few. The pictures show which were kept, in the order in
which each method took them."""
TOY = "The bundled models know generated scenes alone: draw an example, or start with `greedyprune app --model FOLDER`."


def build(sessions: Mapping[str, Session]) -> gr.Blocks:
    """The page for these models; the first is shown first. Nothing is loaded before it is asked for, but the first."""
    first = next(iter(sessions))
    known = sessions[first].methods()

    def ask(image: Image.Image | None, question: str, share: float, methods: list[str], place: str, model: str) -> str:
        """Answer a question about a picture, as HTML."""
        if image is None:
            return message("There is no picture yet: upload one, or draw an example.")
        if not (question or "").strip():
            return message("There is no question yet: write one.")
        session = sessions[model]
        at = None if place == OWN else place
        try:
            answers = session.answer(image.convert("RGB"), question, methods or [], f"{share:g}%", at)
        except (ValueError, TypeError, NotImplementedError) as error:
            return message(f"{model} cannot answer: {error}")
        return cards(session, image.convert("RGB"), answers)

    def draw() -> tuple[Any, str]:
        """A generated scene and a question about it."""
        from greedyprune import testbed

        try:
            item = testbed.sample(1, seed=random.randrange(10**6))[0]
        except ImportError as error:
            raise gr.Error(str(error)) from error
        return item.image, item.question.text

    def switch(model: str) -> Any:
        """The methods of another model."""
        names = sessions[model].methods()
        return gr.update(choices=names, value=[name for name in (DEFAULT, *BESIDE) if name in names])

    with gr.Blocks(title="greedyprune", analytics_enabled=False) as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                image = gr.Image(type="pil", label="Picture", height=300, elem_id="gp-picture")
                drawn = gr.Button("Draw an example", elem_id="gp-draw")
                question = gr.Textbox(label="Question", placeholder="what color is the circle ?", elem_id="gp-question")
                share = gr.Slider(1, 100, value=25, step=1, label="Visual tokens kept, in %", elem_id="gp-share")
                methods = gr.Dropdown(
                    known,
                    value=[name for name in (DEFAULT, *BESIDE) if name in known],
                    multiselect=True,
                    label="Methods",
                )
                place = gr.Dropdown(list(PLACES), value=OWN, label="Cut at")
                model = gr.Dropdown(list(sessions), value=first, label="Model", visible=len(sessions) > 1)
                asked = gr.Button("Ask", variant="primary", elem_id="gp-ask")
                gr.Markdown(TOY)
            with gr.Column(scale=3):
                result = gr.HTML(elem_id="gp-result")
        given: list[Any] = [image, question, share, methods, place, model]
        one = {"concurrency_limit": 1, "concurrency_id": "model"}
        asked.click(ask, given, result, api_name="ask", **one)
        question.submit(ask, given, result, api_name="submit", **one)
        share.release(ask, given, result, api_name="slide", **one)
        drawn.click(draw, None, [image, question], api_name="draw", **one)
        model.change(switch, model, methods, api_name="switch", **one)
    return page


def serve(sessions: Mapping[str, Session], host: str, port: int | None, wait: bool = True) -> tuple[gr.Blocks, str]:
    """Serve the page on this machine alone, unless the host says otherwise. -> the page and its address

    `wait`: return only when it is stopped.
    """
    page = build(sessions)
    _, address, _ = page.launch(
        server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=not wait, css=STYLE
    )
    return page, address
