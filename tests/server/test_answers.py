"""The server answers as `generate` does, each request with its own budget and its own report."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import greedyprune as gp
from served import NAME, Served, about, items, said, served, url_of

pytest.importorskip("sklearn")
pytest.importorskip("skimage")

WISHES: list[dict[str, object]] = [{}, {"keep": 9}, {"keep": "1/2"}, {"keep": 144}, {"keep": 20}, {"keep": [12]}]


@pytest.fixture(scope="module")
def llava() -> Iterator[Served]:
    with served(*gp.testbed.load(), window_ms=50) as found:
        yield found


def test_answers_and_reports_are_those_of_generate_alone_and_together(llava: Served) -> None:
    def ask(number: int) -> object:
        return llava.ask(about(number), pruning={**WISHES[number], "rows": True} if number else {"rows": True})

    expected = [llava.reference(number, **WISHES[number]) for number in range(6)]  # type: ignore[arg-type]
    alone = ask(1)
    with llava.held() as gate, ThreadPoolExecutor(7) as pool:
        first = pool.submit(llava.ask, said("user", "what color ?"))  # it holds the model while the others gather
        llava.until(lambda: llava.service.room.inside == 1 and not len(llava.service.waiting))
        waiting = [pool.submit(ask, number) for number in range(6)]
        llava.until(lambda: len(llava.service.waiting) == 6)
        gate.release(10_000)
        together = [each.result() for each in waiting]
        assert first.result().usage.visual_tokens == 0
    for number, (found, (text, request)) in enumerate(zip(together, expected, strict=True)):
        kept, selection = found.greedyprune, request.selections[0]
        assert found.choices[0].message.content == text, number
        assert found.choices[0].finish_reason == "stop"
        assert kept["images"][0]["rows"] == selection.rows.tolist(), number
        assert (found.usage.visual_tokens, found.usage.visual_tokens_kept) == (144, selection.k)
        assert kept["batch"] == 6
    assert alone.greedyprune["batch"] == 1
    assert alone.choices[0].message.content == expected[1][0]


def test_a_stream_tells_the_same_piece_by_piece(llava: Served) -> None:
    whole = llava.ask(about(2), pruning={"keep": 16})
    chunks = list(llava.ask(about(2), pruning={"keep": 16}, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:-1]] == ["stop"]
    assert chunks[-2].greedyprune["images"][0]["kept"] == 16
    assert chunks[-1].usage == whole.usage


def test_methods_places_and_details_are_each_requests_own(llava: Served) -> None:
    own = llava.ask(about(0), pruning={"method": {"type": "mmr", "trade": 0.3}, "keep": 10, "at": "layer:3"})
    assert (own.greedyprune["method"], own.greedyprune["at"]) == ("mmr", "layer:3")
    method = llava.ask(about(0), pruning={"method": "divprune"})  # it brings its place, and the server its budget
    assert (method.greedyprune["at"], method.usage.visual_tokens_kept) == ("input", 36)
    kept = {detail: llava.ask(about(0, detail)).usage.visual_tokens_kept for detail in ("low", "high", "auto")}
    assert kept == {"low": 64, "high": 144, "auto": 36}
    layers = llava.ask(about(0), pruning={"keep": "layer:1 50%, layer:3 10"})
    assert (layers.greedyprune["at"], layers.usage.visual_tokens_kept) == ("layers:1,3", 10)
    total = llava.ask(about(0), about(1), pruning={"keep": "total:50"})
    assert [each["kept"] for each in total.greedyprune["images"]] == [25, 25]


def test_images_of_earlier_turns_decay(llava: Served) -> None:
    turns = [about(0), said("assistant", "yes"), about(1), said("assistant", "two"), about(2)]
    faded = llava.ask(*turns, pruning={"keep": 64, "decay": 0.25})
    assert [each["kept"] for each in faded.greedyprune["images"]] == [16, 16, 64]  # 4 and 16 of 64, and a floor of 16
    assert [each["kept"] for each in llava.ask(*turns, pruning={"keep": 64}).greedyprune["images"]] == [64, 64, 64]
    small = llava.ask(*turns, pruning={"keep": [144, 8, 3], "decay": 0.25})
    assert [each["kept"] for each in small.greedyprune["images"]] == [16, 8, 3]


def test_limits_of_an_answer(llava: Served) -> None:
    short = llava.ask(about(3), max_tokens=1)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 1)
    text = llava.ask(about(3)).choices[0].message.content
    stopped = llava.ask(about(3), stop=[text[-1]])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == text[: text.index(text[-1])]


def test_draws_with_a_seed_repeat(llava: Served) -> None:
    def drawn(seed: int) -> str:
        unsure = said("user", "circle what left many digit ?")
        return llava.ask(unsure, temperature=2.0, seed=seed, max_tokens=6).choices[0].message.content

    first = [drawn(seed) for seed in range(4)]
    assert [drawn(seed) for seed in range(4)] == first
    assert len(set(first)) > 1
    whole = llava.ask(about(4)).choices[0].message.content
    assert llava.ask(about(4), temperature=5e-324, top_p=5e-324).choices[0].message.content == whole


def test_a_preview_counts_what_the_answer_uses_and_says_whether_it_fits(llava: Served) -> None:
    body = {"messages": [about(0, "low"), said("assistant", "yes"), about(1)], "greedyprune": {"decay": 0.5}}
    seen = llava.post("/v1/greedyprune/count", **body).json()
    usage = llava.post(**body).json()["usage"]
    assert (seen["visual_tokens"], seen["visual_tokens_kept"]) == (288, 32 + 36)
    assert [usage[name] for name in ("prompt_tokens", "visual_tokens", "visual_tokens_kept")] == [
        seen["prompt_tokens"],
        288,
        68,
    ]
    assert (seen["fits"], seen["exact"], seen["context"]) == (True, True, 512)
    assert seen["prompt_tokens_kept"] == seen["prompt_tokens"] - 288 + 68
    many = {"messages": [about(0), about(1), about(2), about(3)]}
    assert llava.post("/v1/greedyprune/count", **many).json()["fits"] is False
    assert llava.post(**many).json()["error"]["code"] == "context_length_exceeded"


def test_models_health_and_metrics(llava: Served) -> None:
    assert [each.id for each in llava.client.models.list()] == [NAME]
    assert llava.client.models.retrieve(NAME).greedyprune["keep"] == 36
    told = llava.http.get("/openapi.json").json()
    schemas, paths = told["components"]["schemas"], told["paths"]
    assert schemas["Chat"]["properties"]["model"]["enum"] == [NAME]
    assert paths["/v1/models/{name}"]["get"]["parameters"][0]["schema"]["enum"] == [NAME]
    assert llava.http.get("/health").json() == {"status": "ok"}
    before = llava.http.get("/metrics").text
    llava.ask(about(0), pruning={"keep": 10})
    after = llava.http.get("/metrics").text

    def counted(text: str, name: str) -> float:
        return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0.0)

    for name, more in (('tokens_total{kind="visual"}', 144), ('tokens_total{kind="visual_kept"}', 10)):
        assert counted(after, f"greedyprune_{name}") == counted(before, f"greedyprune_{name}") + more
    assert counted(after, "greedyprune_requests_inside") == 0
    assert 'path="/v1/chat/completions",status="200"' in after


def test_the_example_of_the_page_runs_as_written(llava: Served, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    items()[0].image.save(tmp_path / "scene.png")
    here = code.replace("http://127.0.0.1:8000", llava.url).replace('model="bundled"', f'model="{NAME}"')
    told: list[tuple[object, ...]] = []
    scope: dict[str, Any] = {"print": lambda *each: told.append(each)}
    exec(here.replace("scene.png", str(tmp_path / "scene.png")), scope)
    scope["client"].close()
    assert told[1] == (144, "->", 16)


def test_pictures_of_any_size_share_a_batch() -> None:
    pictures = [items()[0].image, items()[1].image.resize((112, 140)), items()[2].image.resize((196, 168))]
    question = {"type": "text", "text": "how many circles ?"}
    parts = [[{"type": "image_url", "image_url": {"url": url_of(each)}}, question] for each in pictures]
    turns = [{"role": "user", "content": each} for each in parts]
    with served(*gp.testbed.load("qwen"), keep="1/4") as qwen:
        alone = [qwen.ask(turn, pruning={"rows": True}) for turn in turns]
        with qwen.held() as gate, ThreadPoolExecutor(4) as pool:
            first = pool.submit(qwen.ask, said("user", "what color ?"))
            qwen.until(lambda: qwen.service.room.inside == 1 and not len(qwen.service.waiting))
            waiting = [pool.submit(qwen.ask, turn, pruning={"rows": True}) for turn in turns]
            qwen.until(lambda: len(qwen.service.waiting) == 3)
            gate.release(10_000)
            together = [each.result() for each in waiting]
            first.result()
    assert {each.greedyprune["batch"] for each in together} == {3}
    assert len({each.usage.visual_tokens for each in together}) == 3
    for one, other in zip(alone, together, strict=True):
        assert one.greedyprune["images"] == other.greedyprune["images"]
        assert one.choices[0].message.content == other.choices[0].message.content
