"""What the app shows is what the library says: dense first, methods beside it, problems in their place."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

import greedyprune as gp
from greedyprune import testbed
from greedyprune.app import show
from greedyprune.app.session import Answer, Session
from greedyprune.plots import save_steps, steps
from greedyprune.registry import DEFAULT

ASK = "Is there a red circle?"


@pytest.fixture(scope="module")
def session() -> Session:
    model, processor = testbed.load()
    return Session("llava", lambda: SimpleNamespace(model=model, processor=processor, bundled=True), longest=4)


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    drawn = Image.new("RGB", (168, 168), (110, 110, 100))
    ImageDraw.Draw(drawn).ellipse((40, 40, 90, 90), fill=(220, 20, 30))
    return drawn


def test_methods_stand_beside_the_dense_answer(session: Session, scene: Image.Image) -> None:
    dense, soft, late, bad = session.answer(scene, ASK, ["soft_greedyprune", "divprune", "nothing"], "25%")
    assert (dense.text, dense.kept, dense.selection) == ("yes", 144, None)
    assert (soft.text, soft.kept, soft.at) == ("yes", 36, "layer:2")
    assert (late.kept, late.at) == (36, "input")
    assert "there is no method 'nothing'" in bad.problem
    assert late.cache_bytes is not None
    assert late.cache_bytes * dense.sequence == dense.cache_bytes * late.sequence
    assert dense.flops > soft.flops > late.flops
    page = show.cards(session, scene, [dense, soft, late, bad])
    assert page.count("<figure") == 4
    assert (page.count("data:image/gif;base64,"), page.count("data:image/png;base64,")) == (2, 1)
    assert "36 of 144" in page


def test_only_methods_that_run_are_offered(session: Session) -> None:
    names = session.methods()
    assert names[0] == DEFAULT
    assert {"divprune", "fastv", "cls"} <= set(names)


def test_what_a_model_says_is_escaped(session: Session, scene: Image.Image) -> None:
    page = show.cards(session, scene, [Answer("<b>", "<script>"), Answer("m", "", problem="<i>no</i>")])
    assert "<script>" not in page
    assert "<b>" not in re.sub("&lt;b&gt;", "", page)
    assert "&lt;i&gt;no" in page
    assert "&lt;" in show.message("<")


def test_an_animation_grows_to_the_whole_selection(scene: Image.Image) -> None:
    features = gp.Cues(torch.eye(144))
    keep: Any = gp.select("random", features, 9)
    chosen = SimpleNamespace(order=keep.order, gains=keep.gains, k=keep.k, n=keep.n, grid=(1, 12, 12))
    drawn = steps(scene, chosen, frames=4, size=120)
    assert [drawn[0] == drawn[-1], len(drawn)] == [False, 5]
    assert drawn[-1].tobytes() == gp.plots.overlay(scene, keep, grid=(1, 12, 12), size=120).tobytes()
    assert len(steps(scene, chosen, frames=100, size=120)) == 10
    buffer = io.BytesIO()
    save_steps(buffer, drawn)
    with Image.open(buffer) as found:
        assert (found.format, found.n_frames) == ("GIF", 5)
    with pytest.raises(ValueError, match="frames=0: write the number of steps"):
        steps(scene, chosen, frames=0)
