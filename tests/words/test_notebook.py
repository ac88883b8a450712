"""What a notebook shows: true counts, one filled cell for each kept token, and nothing of a text that is HTML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

import pytest
import torch

import greedyprune as gp


def selection(grid: tuple[int, int, int] | None, order: list[int], n: int) -> gp.Selection:
    rows = torch.tensor(order)
    return gp.Selection(0, 0, grid, gp.Ratio(0.25), gp.Keep.from_order(rows, torch.zeros(len(order)), n))


def cells(html: str) -> list[tuple[str, str, float, str]]:
    """Place, shade and title of each filled cell."""
    found = re.findall(r'<rect x="(\d+)" y="(\d+)".*?fill-opacity="([\d.]+)"><title>(.*?)</title>', html)
    return [(x, y, float(shade), title) for x, y, shade, title in found]


def test_a_map_fills_the_cells_of_the_kept_tokens_and_the_first_is_darkest() -> None:
    html = selection((1, 2, 4), [5, 0, 3], 8)._repr_html_()
    assert "3 of 8 tokens kept, budget 25%" in html
    ElementTree.fromstring(html.replace("<br>", "<br/>"))  # well-formed
    # 240 / 4 pixels for a cell, in raster order
    assert cells(html) == [
        ("0", "0", 0.65, "token 0, taken as number 2"),
        ("180", "0", 0.3, "token 3, taken as number 3"),
        ("60", "60", 1.0, "token 5, taken as number 1"),
    ]


def test_a_clip_has_a_map_for_each_frame_up_to_a_limit() -> None:
    html = selection((10, 1, 2), [0, 3, 19], 20)._repr_html_()
    assert html.count("<svg") == 8
    assert "and 2 more frames" in html
    assert [title for *_, title in cells(html)] == ["token 0, taken as number 1", "token 3, taken as number 2"]


def test_a_selection_without_a_grid_has_counts_alone() -> None:
    html = selection(None, [1, 2], 7)._repr_html_()
    assert "2 of 7 tokens kept" in html
    assert "<svg" not in html


def test_show_draws_what_overlay_draws() -> None:
    image = pytest.importorskip("PIL.Image").new("RGB", (40, 20), "red")
    mine = selection((1, 2, 4), [5, 0], 8)
    drawn = mine.show(image, order=True, size=64)
    assert drawn.tobytes() == gp.plots.overlay(image, mine, order=True, size=64).tobytes()
    with pytest.raises(ValueError, match="has no grid"):
        selection(None, [1], 7).show(image)


def test_a_report_is_a_table_before_and_after() -> None:
    report = gp.Report(
        "FastV", "layer:2", 576, 64, 1, 600, 88, 32, 96.0, cache_bytes=1536, cache_bytes_full=3 * 2**20,
        prefill_flops=10**12, prefill_flops_full=4 * 10**12,
    )  # fmt: skip
    html = report._repr_html_()
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", html)]
    assert rows == [
        ["visual tokens", "576", "64", "-89 %"],
        ["length of the sequence", "600", "88", "-85 %"],
        ["keys and values", "3 MiB", "1.5 KiB", "-100 %"],
        ["FLOPs of the prompt", "4 T", "1 T", "-75 %"],
    ]
    assert "96 visual tokens per decoder layer" in html
    assert "nothing was pruned" in gp.Report("FastV", "layer:2")._repr_html_()


@dataclass(frozen=True, kw_only=True)
class Hostile(gp.Method):
    """<script>alert(1)</script> a & b"""

    word: str = "<b>"


def test_texts_are_escaped_and_options_are_shown() -> None:
    html = Hostile()._repr_html_()
    assert "<script" not in html
    assert "<b>" not in html
    assert "<td>word</td><td>&#x27;&lt;b&gt;&#x27;</td>" in html
    assert "<td>weight</td><td>8.0</td>" in gp.SoftGreedyPrune()._repr_html_()
