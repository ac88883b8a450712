"""The page in a real browser: an example is drawn, asked, and asked again by the slider. Run by `make test-browser`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

play = pytest.importorskip("playwright.sync_api")
pytest.importorskip("gradio")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.app,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: apt-get install chromium"),
]
PATIENCE = 180_000
"""Milliseconds until an answer must be there. Nothing is timed: a busy machine is no mistake."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a page of the bundled model."""
    from functools import partial

    from greedyprune.app.page import serve
    from greedyprune.app.session import Session
    from greedyprune.cli._load import load

    page, found = serve({"llava": Session("llava", partial(load, "llava"), 4)}, "127.0.0.1", None, wait=False)
    yield found
    page.close()


@pytest.mark.parametrize("width", [420, 1280])
def test_a_drawn_example_is_answered_and_the_slider_asks_again(address: str, width: int, tmp_path: Path) -> None:
    problems: list[str] = []
    with play.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab: Any = browser.new_page(viewport={"width": width, "height": 900})
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(address, timeout=PATIENCE)
        tab.click("#gp-draw", timeout=PATIENCE)
        tab.wait_for_selector("#gp-picture img", timeout=PATIENCE)
        assert tab.input_value("#gp-question textarea").endswith("?")
        tab.click("#gp-ask")
        tab.wait_for_selector("#gp-result .gp-card img", timeout=PATIENCE)
        assert tab.locator("#gp-result .gp-card").count() == 4
        assert "36 of 144" in tab.inner_text("#gp-result")
        slider = tab.locator("#gp-share input[type=range]")
        slider.focus()
        slider.press("End")
        slider.dispatch_event("pointerup")
        tab.wait_for_selector("#gp-result >> text=144 of 144 >> nth=3", timeout=PATIENCE)
        wide = tab.evaluate("document.documentElement.scrollWidth")
        folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
        tab.screenshot(path=folder / f"app-{width}.png", full_page=True)
        browser.close()
    assert problems == []
    assert wide <= width + 1, "the page is wider than its window"
