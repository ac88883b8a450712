"""Batches on Ray: an actor that is killed loses nothing and repeats nothing. `make test-ray` runs these tests."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from greedyprune import testbed
from greedyprune.batch import Job, open_source, run
from greedyprune.batch.on_ray import Actors
from greedyprune.batch.replicas import application
from greedyprune.policy import Policy

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray warns of itself


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Ray with two cores on this machine."""
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    yield
    ray.shutdown()


def actors() -> set[int]:
    """The process ids of the actors that answer rows."""
    found: set[int] = set()
    for each in psutil.Process().children(recursive=True):
        try:
            name = " ".join(each.cmdline())
        except psutil.Error:
            continue
        if name.startswith("ray::") and "_Actor" in name:
            found.add(each.pid)
    return found


def test_an_actor_killed_in_the_middle_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    items = testbed.sample(6, seed=3)
    lines: list[str] = []
    for number in range(24):
        item = items[number % len(items)]
        item.image.save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"id": f"r{number}", "image": f"{number}.png", "question": item.question.text}))
    lines[7] = "{broken"
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path / "rows.jsonl")
    job = Job(partial(testbed.load, "llava"), Policy("soft_greedyprune", 36), tmp_path, max_new_tokens=4)  # type: ignore[arg-type]
    seen: set[int] = set()
    killed: list[int] = []

    def watch(done: int) -> None:
        seen.update(actors())
        if done and not killed and seen:
            killed.append(max(seen))
            os.kill(killed[0], signal.SIGKILL)

    done = run(source, tmp_path / "two.jsonl", job, Actors(2, rows=2), say=watch)
    assert killed
    assert len(seen) > 1, "two actors worked, or one took the place of the other"
    assert (done.rows, done.failed) == (24, 1)
    run(source, tmp_path / "one.jsonl", job)
    texts = ((tmp_path / f"{name}.jsonl").read_text() for name in ("two", "one"))
    two, one = ([json.loads(line) for line in text.splitlines()] for text in texts)
    assert [row["id"] for row in two] == [7 if number == 7 else f"r{number}" for number in range(24)]
    assert two == one


def test_a_model_that_cannot_be_loaded_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "what ?"}\n')
    source = open_source(tmp_path / "rows.jsonl")
    job = Job(partial(testbed.load, "nothing"), Policy("grid", 4), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="'nothing' is neither"):
        run(source, tmp_path / "out.jsonl", job, Actors())


def test_a_replica_answers_over_http_as_the_server_does() -> None:
    for needed in ("fastapi", "prometheus_client"):
        pytest.importorskip(needed)
    from ray import serve

    def build() -> Any:  # inside, so that Ray sends it as a value: replicas do not find the modules of tests
        from greedyprune.server.app import make_app
        from greedyprune.server.settings import Settings

        return make_app(*testbed.load("llava"), Settings(name="llava", keep=36))

    item, held = testbed.sample(1, seed=3)[0], io.BytesIO()
    item.image.save(held, "PNG")
    url = "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": item.question.text}]
    body = {"model": "llava", "messages": [{"role": "user", "content": parts}], "max_tokens": 8}
    head = {"Content-Type": "application/json"}
    call = Request("http://127.0.0.1:8000/v1/chat/completions", json.dumps(body).encode(), head)
    serve.run(application(build, (1, 2), cpus=0.5), name="test", route_prefix="/")
    try:
        with urlopen(call, timeout=120) as reply:
            assert json.load(reply)["choices"][0]["message"]["content"].strip() == item.question.answer
    finally:
        serve.shutdown()


def test_replicas_are_counted_from_one() -> None:
    for wrong in (0, (2, 1), (0, 3)):
        with pytest.raises(ValueError, match="replicas="):
            application(lambda: None, wrong)
