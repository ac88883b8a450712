"""The page answers through gradio's own client, as a browser asks it. Run by `make test-app`, which installs gradio."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

client = pytest.importorskip("gradio_client")
pytest.importorskip("gradio")

pytestmark = pytest.mark.app

ASK = "is there a red circle ?"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a page of the bundled models."""
    from greedyprune.app.page import serve
    from greedyprune.app.session import Session
    from greedyprune.cli._load import load

    sessions = {name: Session(name, partial(load, name), 4) for name in ("llava", "qwen")}
    page, found = serve(sessions, "127.0.0.1", None, wait=False)
    yield found
    page.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = Image.new("RGB", (168, 168), (110, 110, 100))
    ImageDraw.Draw(drawn).ellipse((40, 40, 90, 90), fill=(220, 20, 30))
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    drawn.save(path)
    return path


def ask(address: str, picture: Any, question: str = ASK, share: float = 25, model: str = "llava") -> str:
    """What the page says."""
    given = (picture, question, share, ["soft_greedyprune", "divprune"], "the method's own", model)
    return client.Client(address, verbose=False).predict(*given, api_name="/ask")


def test_a_picture_is_answered_by_every_method(address: str, scene: Path) -> None:
    told = ask(address, client.handle_file(str(scene)))
    assert told.count('class="gp-answer">yes<') == 3
    assert told.count("36 of 144") == 2
    assert "16 of 144" in ask(address, client.handle_file(str(scene)), share=11)


def test_another_model_is_loaded_when_it_is_asked(address: str, scene: Path) -> None:
    assert ask(address, client.handle_file(str(scene)), model="qwen").count("<figure") == 3


def test_what_is_missing_is_said(address: str, scene: Path) -> None:
    assert "no picture yet" in ask(address, None)
    assert "no question yet" in ask(address, client.handle_file(str(scene)), question=" ")


def test_an_example_is_drawn(address: str) -> None:
    image, question = client.Client(address, verbose=False).predict(api_name="/draw")
    assert question.endswith("?")
    with Image.open(image if isinstance(image, str) else image["path"]) as found:
        assert found.size == (168, 168)
