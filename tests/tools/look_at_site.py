"""Look at the site in headless Chromium: `make test-site`, which builds it first. Any fault stops it.

Every page at three widths, in light and dark: no error of the browser, no picture that is missing, nothing that makes a
page wider than its window, formulas that are drawn. Then the search, by hand as it were. Screenshots go to a folder.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

SITE = Path(__file__).parents[2] / "site"
WIDTHS = (420, 820, 1280)
TALLEST = 3000
"""Pixels of a screenshot."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(folder: Path) -> None:
    """Look at everything."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit("there is no Chromium: apt-get install chromium")
    address = served()
    pages = sorted(path.parent.relative_to(SITE).as_posix() for path in SITE.rglob("index.html"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme)
            said: list[str] = []
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            for name in pages:
                page.goto(f"{address}/{'' if name == '.' else name + '/'}")
                for width in WIDTHS:
                    look(page, name, width)
                    shown = folder / f"{name.replace('.', 'index').replace('/', '-')}-{width}-{scheme}.png"
                    height = min(TALLEST, page.evaluate("document.documentElement.scrollHeight"))
                    page.screenshot(path=shown, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
            require(not said, f"the browser says {said}")
            require(dark(page) == (scheme == "dark"), f"the site is not {scheme} where the reader is")
        search(browser.new_page(viewport={"width": 1280, "height": 900}), address)
        browser.close()
    sys.stdout.write(f"{len(pages)} pages at {len(WIDTHS)} widths, light and dark: {folder}\n")


def served() -> str:
    """The address of the site, served by a thread that ends with this process."""
    handler = functools.partial(Quiet, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def look(page: Page, name: str, width: int) -> None:
    """One page at one width."""
    page.set_viewport_size({"width": width, "height": 900})
    lost = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
    require(not lost, f"{name} shows no {lost}")
    wide = page.evaluate("document.documentElement.scrollWidth")
    require(wide <= width, f"{name} is {wide} pixels wide in a window of {width}")
    flat = page.evaluate("[...document.querySelectorAll('.formula')].filter(f => f.clientHeight < 15).length")
    require(not flat, f"{flat} formulas of {name} are not drawn")


def dark(page: Page) -> bool:
    """Whether the page is drawn light on dark."""
    return page.evaluate("document.body.getAttribute('data-md-color-scheme')") == "slate"


def search(page: Page, address: str) -> None:
    """Look for a word, and follow the first page that is found."""
    page.goto(address)
    page.locator("[data-md-component=search-query]").click()
    page.keyboard.type("downscale")
    first = page.locator(".md-search-result__link").first
    first.wait_for()
    first.click()
    page.wait_for_url(lambda url: url.rstrip("/") != address)
    require("downscale" in page.inner_text("article"), f"the search for a word led to {page.url}, where it is not")


def require(true: bool, fault: str) -> None:
    """Stop with this fault unless it is true."""
    if not true:
        raise SystemExit(fault)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    main(place)
