"""The evaluation loop on the bundled model: the same questions for all, resumable, and no failure is an answer."""

from __future__ import annotations

import json
import os
import queue
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import greedyprune as gp
import tiny
from greedyprune.budget import LayerAverage, Ratio
from greedyprune.cli._suite import loader
from greedyprune.eval import Engine, Item, Job, configurations, evaluate, rows
from greedyprune.eval.auc import auc_rows
from greedyprune.eval.digits import Digits
from greedyprune.eval.engine import ItemError
from greedyprune.eval.loop import _answer_queue, _next_outcome, make_batches, refused
from greedyprune.eval.scenes import Scenes
from greedyprune.naming import as_method
from greedyprune.registry import METHODS
from greedyprune.stages import Input, Layer

for extra in ("sklearn", "skimage", "matplotlib"):
    pytest.importorskip(extra)

NINTH = {"1/9": Ratio(1 / 9)}
UNTIMED = {"seconds"}


@pytest.fixture(scope="module")
def engine() -> Engine:
    model, processor = loader("llava", "cpu", None)()
    return Engine(model, processor)


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return Scenes(3, seed=5, tasks=("count", "color", "where", "ocr")).items()


def table(engine: Engine, job: Job, folder: Path) -> list[dict[str, object]]:
    """The rows without what differs between two runs of anything."""
    made = rows(evaluate(engine, job, folder), resamples=100)
    return [{name: value for name, value in row.items() if name not in UNTIMED} for row in made]


# The loop -------------------------------------------------------------------------------------------------------------


def test_every_configuration_answers_every_question(engine: Engine, items: list[Item], tmp_path: Path) -> None:
    configs = configurations([*METHODS, "oracle"], NINTH, seeds=(0, 1))
    said: list[tuple[int, int]] = []
    answers = evaluate(engine, Job(items, configs, batch=8), tmp_path, lambda done, total: said.append((done, total)))
    assert said[0] == (0, len(items) * len(configs))
    assert said[-1][0] == said[-1][1]
    assert {item.name for item in answers.items} == {item.name for item in items}
    found = {(row["method"], row["seed"]): row for row in rows(answers, resamples=100) if row["task"] == "mean"}
    assert set(found) == {(config.name, config.seed) for config in configs}
    assert found["dense", None]["accuracy"] >= 0.9
    assert found["oracle", None]["region_recall"] > 0.9 > found["grid", None]["region_recall"]
    for (name, _), row in found.items():
        assert row["n"] == 12
        assert row["kept"] == (144 if name == "dense" else 16) or not as_method(name).exact
        if str(row["stage"]).startswith("depths"):
            starts, counts = as_method(name).at.of(5).indices, as_method(name).counts(16, 144, 3)
            seen = [next((c for s, c in zip(starts[::-1], counts[::-1], strict=True) if s <= i), 144) for i in range(5)]
            assert row["averaged"] == sum(seen) / 5
        else:
            assert (
                row["averaged"]
                == {"": 144, "input": 16, "layer:2": (2 * 144 + 3 * 16) / 5, "layer:4": (4 * 144 + 16) / 5}[
                    str(row["stage"])
                ]
            )
    assert found["pool", None]["prefill_mflops"] < found["greedyprune", None]["prefill_mflops"]
    assert "get_image_features" not in vars(engine.parts.outer)


def test_answers_are_those_of_the_plain_model(engine: Engine, items: list[Item], tmp_path: Path) -> None:
    configs = configurations(["saliency", "cls"], {"all": 144, "16": 16})
    answers = evaluate(engine, Job(items, configs, batch=5), tmp_path)
    dense, *others = configs
    for batch, some in enumerate(make_batches(engine, items, 5)):
        inputs = engine.inputs(some, [item.open() for item in some])
        with torch.no_grad():
            out = engine.model.generate(**inputs, do_sample=False, max_new_tokens=8)
        told = engine.processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        lines = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
        found = {(line["config"], line["batch"]): line for line in lines}
        assert found[dense.key, batch]["told"] == [text.strip() for text in told]
        for config in others[:2]:  # all tokens kept
            assert found[config.key, batch]["told"] == found[dense.key, batch]["told"]
        # A method that looks into the tower sees it there, although others get their features without its work.
        with gp.prune(engine.model, "cls", 16) as pruned, torch.no_grad():
            engine.model.generate(**inputs, max_new_tokens=1)
        prepared = engine.prepare(batch, some)
        hit = [
            int(torch.isin(region, s.rows).sum()) for region, s in zip(prepared.regions, pruned.selections, strict=True)
        ]
        assert found[others[3].key, batch]["found"] == hit
    assert len(answers.items) == len(items)


def test_the_tower_works_once_per_batch_and_for_methods_that_look_into_it(engine: Engine, items: list[Item]) -> None:
    calls: list[None] = []
    handle = engine.parts.outer.vision_tower.register_forward_hook(lambda *_: calls.append(None))
    try:
        batch = engine.prepare(0, items[:2])
        configs = configurations(["saliency", "fastv", "grid", "cls"], NINTH)
        calls.clear()
        for config in configs:
            engine.answer(batch, config)
    finally:
        handle.remove()
    assert len(calls) == 2


def test_a_run_that_stopped_goes_on_where_it_was(engine: Engine, items: list[Item], tmp_path: Path) -> None:
    configs = configurations(["greedyprune", "grid"], NINTH)
    whole = table(engine, Job(items, configs, batch=4), tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    folder = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        evaluate(engine, Job(items, configs[:2], batch=4), folder, stop)
    log = folder / "outcomes.jsonl"
    before = log.read_text().splitlines()
    assert 0 < len(before) < 6
    log.write_text("\n".join(before)[:-40])  # killed while writing
    said: list[int] = []
    answers = evaluate(engine, Job(items, configs, batch=4), folder, lambda done, _: said.append(done))
    assert said[0] == 4 * (len(before) - 1)
    assert rows(answers, resamples=100)[0].keys() == {*whole[0], *UNTIMED}
    assert table(engine, Job(items, configs, batch=4), folder) == whole
    assert len(log.read_text().splitlines()) == 9


def test_a_run_folder_does_not_mix_settings(engine: Engine, items: list[Item], tmp_path: Path) -> None:
    configs = configurations([], {})
    evaluate(engine, Job(items[:2], configs), tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(questions was .* name another folder, or delete it"):
        evaluate(engine, Job(items[:3], configs), tmp_path)
    with pytest.raises(ValueError, match="batch was 32 and is 7"):
        evaluate(engine, Job(items[:2], configs, batch=7), tmp_path)
    with pytest.raises(ValueError, match="commit was None and is abc"):
        evaluate(engine, Job(items[:2], configs, about={"commit": "abc"}), tmp_path)


def test_two_workers_give_the_rows_of_one(engine: Engine, items: list[Item], tmp_path: Path) -> None:
    few = items[::6]
    job = Job(few, configurations(["greedyprune"], NINTH), batch=1, load=loader("llava", "cpu", None))
    assert table(engine, replace(job, workers=2), tmp_path / "two") == table(engine, job, tmp_path / "one")
    with pytest.raises(ValueError, match="workers=2 needs load="):
        evaluate(engine, replace(job, workers=2, load=None), tmp_path / "none")


def test_batches_hold_every_question_once_and_pad_little(engine: Engine, items: list[Item]) -> None:
    batches = make_batches(engine, items, 5)
    assert sorted(item.name for batch in batches for item in batch) == sorted(item.name for item in items)
    assert [len(batch) for batch in batches] == [5, 5, 2]
    lengths = [len(item.text.split()) for batch in batches for item in batch]
    assert lengths == sorted(lengths)
    assert make_batches(engine, items[::-1], 5) == batches


# Failures -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Picky(gp.Method):
    """Refuses questions of one length."""

    words: int = 0

    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        assert cues.text is not None
        if cues.text.shape[0] == self.words:
            raise RuntimeError("too many words")
        return gp.Keep.from_order(torch.arange(k), torch.zeros(k), cues.n)


def test_a_question_that_fails_names_itself_and_is_no_answer(engine: Engine, items: list[Item], tmp_path: Path) -> None:
    longest = max(items, key=lambda item: len(item.text.split()))
    length = int((engine.inputs([longest], [longest.open()])["input_ids"] != engine.parts.media[0][1]).sum())
    config = replace(configurations(["grid"], NINTH)[1], name="picky", method=Picky(words=length))
    others = [item for item in items if len(item.text.split()) < len(longest.text.split())]
    with pytest.raises(ItemError, match=r"picky .* 1/9 input failed on .*too many words") as caught:
        evaluate(engine, Job([*others[:3], longest], [config]), tmp_path / "picky")
    assert longest.name in str(caught.value)
    assert not (tmp_path / "picky" / "outcomes.jsonl").exists()
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    with pytest.raises(ItemError, match="preparing failed on lines:7: UnidentifiedImageError"):
        evaluate(
            engine, Job([*others[:2], Item("lines:7", "t", broken, "p", "?", ("a",))], [config]), tmp_path / "broken"
        )


def test_a_worker_that_fails_says_why(engine: Engine, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    work, told = queue.Queue(), queue.Queue()
    work.put((3, [Item("q", "t", broken, "p", "?", ("a",))], configurations([], {})))
    _answer_queue(lambda: (engine.model, engine.processor), 8, os.cpu_count() or 1, work, told)
    assert "preparing failed on q: UnidentifiedImageError" in told.get()
    _answer_queue(lambda: 1 // 0, 8, os.cpu_count() or 1, work, told)  # type: ignore[arg-type,return-value]
    assert "ZeroDivisionError" in told.get()
    with pytest.raises(RuntimeError, match="a worker process ended with status 9"):
        _next_outcome(queue.Queue(), [SimpleNamespace(exitcode=None), SimpleNamespace(exitcode=9)], patience=0.01)


def test_what_a_model_cannot_do_is_told_with_the_reason(engine: Engine, items: list[Item]) -> None:
    configs = configurations(["saliency", "fastv"], NINTH, [gp.Layer(2), gp.Layer(7)])
    reasons = refused(engine, items[0], configs)
    assert [str(config) for config in configs if config.key in reasons] == [
        "saliency 1/9 layer:7",
        "fastv 1/9 layer:7",
    ]
    assert all("last place is Layer(4)" in reason for reason in reasons.values())


def test_items_that_cannot_be_counted_are_refused(engine: Engine, items: list[Item], tmp_path: Path) -> None:
    for bad, words in (
        ([], "no questions"),
        ([items[0], items[0]], "two items are called"),
        ([replace(items[0], answers=("?",))], "no answer that could be right"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(engine, Job(bad, configurations([], {})), tmp_path)


def test_real_handwriting_is_read(engine: Engine, tmp_path: Path) -> None:
    from greedyprune.testbed.assets import handwriting

    found = Digits([int(n) for n in handwriting("test")][:16]).items()
    assert [item.name for item in found] == [
        item.name for item in Digits([int(n) for n in handwriting("test")][:16]).items()
    ]
    (row,) = rows(evaluate(engine, Job(found, configurations([], {})), tmp_path), resamples=50)
    assert row["accuracy"] > 0.5
    assert row["task"] == "handwriting"


def test_saliency_finds_regions_and_blind_orders_do_not(engine: Engine, items: list[Item]) -> None:
    found = {(row["saliency"], row["stage"], row["task"]): row["auc"] for row in auc_rows(engine, items)}
    assert found["saliency", "layer:2", "color"] > 0.9
    assert found["cls", "input", "ocr"] == found["cls", "layer:2", "ocr"] > 0.8
    assert ("fastv", "input", "ocr") not in found
    assert not any(name == "random" for name, _, _ in found)


# Native resolution ----------------------------------------------------------------------------------------------------


class Words:
    """A tokenizer of six words."""

    padding_side = "left"

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [5 + len(word) for word in text.split()]}


class Native:
    """A processor for the tiny Qwen2.5-VL model: pictures keep their size."""

    def __init__(self) -> None:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        size = {"shortest_edge": 64, "longest_edge": 64 * 64}
        self.tokenizer, self.image_processor = Words(), Qwen2VLImageProcessorPil(patch_size=4, size=size)

    def apply_chat_template(self, messages: list[Any], add_generation_prompt: bool) -> str:
        return f"<image> {messages[0]['content'][1]['text']} so"

    def __call__(self, images: list[Any], text: list[str], **_: Any) -> dict[str, torch.Tensor]:
        vision = self.image_processor(images=images, return_tensors="pt")
        lines: list[list[int]] = []
        for line, grid in zip(text, vision["image_grid_thw"], strict=True):
            picture = [tiny.BEGIN, *[tiny.IMAGE] * (int(grid.prod()) // 4), tiny.END]
            lines.append([6, *picture, *self.tokenizer(line)["input_ids"]])
        longest = max(map(len, lines))
        ids = torch.tensor([[0] * (longest - len(line)) + line for line in lines])
        mask = torch.tensor([[0] * (longest - len(line)) + [1] * len(line) for line in lines])
        return {"input_ids": ids, "attention_mask": mask, **vision, **tiny.token_types(ids)}

    def batch_decode(self, out: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        return [" ".join(map(str, line)) for line in out.tolist()]


@pytest.fixture
def native(untouched: None) -> Engine:
    return Engine(tiny.tiny("qwen2_5_vl").model, Native(), max_new_tokens=3)


def test_images_of_several_sizes_and_down_scaling(native: Engine, tmp_path: Path) -> None:
    sizes = [(32, 32), (48, 32), (32, 32), (48, 32), (32, 32)]
    found = [
        Item(f"q{n}", "t", Image.effect_noise(size, 80).convert("RGB"), f"p{n}", "a " * n, ("1",), ((0, 0, 9, 9),))
        for n, size in enumerate(sizes)
    ]
    configs = configurations(["random", "downscale", "oracle", "grid"], {"1/4": Ratio(0.25)})
    batches = make_batches(native, found, 2)
    assert [{item.open().size for item in batch} for batch in batches] == [{(32, 32)}] * 2 + [{(48, 32)}]
    assert refused(native, found[0], configs) == {}
    made = rows(evaluate(native, Job(found, configs, batch=2), tmp_path), resamples=50)
    by = {row["method"]: row for row in made}
    dense = (3 * 16 + 2 * 24) / 5
    assert by["dense"]["kept"] == dense
    assert by["random"]["kept"] == by["oracle"]["kept"] == by["downscale"]["kept"] == dense / 4
    assert by["downscale"]["averaged"] == dense / 4
    assert by["downscale"]["region_recall"] is None
    assert by["oracle"]["region_recall"] == 1
    assert by["random"]["hard_n"] is not None


@pytest.mark.parametrize("at", [Input(), Layer(1)])
def test_equal_layer_averages_are_equal_wherever_tokens_are_cut(at: gp.Stage, native: Engine, tmp_path: Path) -> None:
    depth, n, average = len(native.parts.layers), 16, 9
    start = at.index if isinstance(at, Layer) else 0
    kept = (average * depth - n * start) // (depth - start)
    picture = Image.effect_noise((32, 32), 80).convert("RGB")
    found = [Item(f"q{i}", "t", picture, f"p{i}", "a", ("1",), ((0, 0, 9, 9),)) for i in range(3)]
    configs = configurations(["random", "downscale", "oracle"], {"9 per layer": LayerAverage(average)}, [at])
    made = rows(evaluate(native, Job(found, configs), tmp_path), resamples=50)
    by = {row["method"]: row for row in made}
    assert by["random"]["kept"] == by["oracle"]["kept"] == kept
    assert by["random"]["averaged"] == by["oracle"]["averaged"] == (n * start + kept * (depth - start)) / depth
    assert average - 1 < float(str(by["random"]["averaged"])) <= average
    assert by["downscale"]["kept"] == by["downscale"]["averaged"] <= average
    assert by["oracle"]["region_recall"] == 1
