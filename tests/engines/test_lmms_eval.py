"""lmms-eval: the model answers as `generate` does, the local task scores as ours does, the table says what papers say.

Where the harness is not installed, stand-ins take the place of the four names that the model imports. `make test-lmms`
installs it and runs the local task end to end through the entry point.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from greedyprune import testbed
from greedyprune.engines.lmms_eval import scenes, table
from greedyprune.eval import Engine, Scenes, configurations
from greedyprune.naming import parse_keep
from greedyprune.outputs import read_csv

for extra in ("sklearn", "skimage", "matplotlib"):
    pytest.importorskip(extra)

HARNESS = find_spec("lmms_eval") is not None
LOG = Path(__file__).parents[2] / "results" / "lmms" / "scenes.json"
pytestmark = pytest.mark.filterwarnings("default" if HARNESS else "error")


@dataclass
class Result:
    """Stands in for the harness's results and counts."""

    text: str = ""
    token_counts: Any = None
    output_tokens: int = 0


class Base:
    """Stands in for the harness's base class."""

    def __init__(self) -> None:
        self.cache_hook, self.task_dict = SimpleNamespace(add_partial=lambda *_: None), {}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the model, and what it logged."""
    logged: list[dict[str, Any]] = []
    if not HARNESS:
        names = ("", ".api", ".api.instance", ".api.model", ".models", ".models.model_utils")
        modules = {f"lmms_eval{name}": ModuleType(f"lmms_eval{name}") for name in names}
        metrics: Any = ModuleType("lmms_eval.models.model_utils.gen_metrics")
        metrics.log_metrics = lambda **given: None
        modules["lmms_eval.api.instance"].__dict__.update(GenerationResult=Result, TokenCounts=Result)
        modules["lmms_eval.api.model"].__dict__["lmms"] = Base
        for name, module in {**modules, metrics.__name__: metrics}.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "greedyprune.engines.lmms_eval.model", raising=False)
    from greedyprune.engines.lmms_eval import model

    monkeypatch.setattr(model, "log_metrics", lambda **given: logged.append(given))
    yield SimpleNamespace(GreedyPrune=model.GreedyPrune, logged=logged)
    if not HARNESS:
        sys.modules.pop("greedyprune.engines.lmms_eval.model", None)


def requests(model: Any, items: Any, **wanted: Any) -> list[Any]:
    """The requests of a task of these items, as the harness makes them."""
    model.task_dict = {"scenes": {"test": dict(enumerate(items))}}

    def messages(item: Any) -> list[dict[str, Any]]:
        parts = [{"type": "image", "url": item.open()}, {"type": "text", "text": item.text}]
        return [{"role": "user", "content": parts}]

    given = {"max_new_tokens": 8, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False, **wanted}
    args = [(item.text, messages, dict(given), number, "scenes", "test") for number, item in enumerate(items)]
    return [SimpleNamespace(args=each) for each in args]


@pytest.mark.parametrize(
    ("name", "method", "keep"),
    [("llava", "soft_greedyprune", "1/9"), ("llava", "dense", "all"), ("qwen", "downscale", "1/4")],
)
def test_it_answers_as_our_own_evaluation_does(made: Any, name: str, method: str, keep: str) -> None:
    items = Scenes(1, native=name == "qwen", tasks=testbed.TASKS[:5]).items()
    model = made.GreedyPrune(str(testbed.FOLDERS[name]), method=method, keep=keep, device="cpu", batch_size="2")
    try:
        told = [result.text for result in model.generate_until(requests(model, items))]
        logged = made.logged[0]["additional_metrics"]
        assert (logged["visual_tokens_kept"] < logged["visual_tokens"]) == (method != "dense")
        cut = requests(model, items[:1], until=["a", "e", "i", "o", "u", "1"])
        assert model.generate_until(cut)[0].text in ("y", "n")
    finally:
        if model.pruned is not None:
            model.pruned.remove()
    budgets: Any = {} if method == "dense" else {keep: parse_keep(keep)}
    configs = configurations([] if method == "dense" else [method], budgets)
    assert told == ours(Engine(model.model, model.processor), items, configs[-1])


def ours(engine: Engine, items: list[Any], config: Any) -> list[str]:
    """The answers of our own evaluation."""
    return engine.answer(engine.prepare(0, items), config).told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "names no model"),
        ({"pretrained": "x", "kep": 3}, "unknown option 'kep': known are pretrained, method, keep"),
        ({"pretrained": "x", "method": "greedy"}, "greedy"),
        ({"pretrained": "x", "keep": "many"}, "many"),
        ({"pretrained": "x", "batch_size": "auto"}, "--batch_size auto"),
    ],
)
def test_wrong_options_are_refused_before_the_weights_are_read(made: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made.GreedyPrune(**given)


def test_what_is_no_image_is_refused_by_name(made: Any) -> None:
    model = made.GreedyPrune(str(testbed.FOLDERS["llava"]), method="dense", device="cpu")
    model.task_dict = {"clips": {"test": [0]}}
    film = [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}]
    with pytest.raises(ValueError, match="'clips' shows a video"):
        model.generate_until([SimpleNamespace(args=("", lambda _: film, {}, 0, "clips", "test"))])


def test_a_table_has_the_dense_model_every_budget_and_the_control_that_fits() -> None:
    llava, qwen = (table.lines_of(table.CHECKPOINTS[name]) for name in ("llava", "qwen"))
    keeps = ["all", "192", "128", "64", "192 per layer", "128 per layer", "64 per layer"]
    assert list(dict.fromkeys(line.keep for line in llava)) == keeps
    assert [line.keep for line in llava if line.method == "pool"] == ["192", "128", "64"]
    assert [line.keep for line in qwen if line.method == "downscale"] == ["1/3", "2/9", "1/9"]
    for lines in (llava, qwen):
        assert len({line.name for line in lines}) == len(lines)
        assert {"random", "grid", "dense"} <= {line.method for line in lines}


def test_a_table_is_read_from_what_the_harness_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(line: str, pope: float, gqa: float) -> None:
        folder = tmp_path / line / "some__model"
        folder.mkdir(parents=True)
        results = {"pope": {"pope_f1_score,none": pope, "alias": "pope"}, "gqa": {"exact_match,none": gqa}}
        (folder / "1_results.json").write_text(json.dumps({"results": results}))

    write("dense-all", 0.8, 0.6)
    write("random-64", 0.6, 0.3)
    called: list[str] = ["llava", "--tasks", "pope,gqa", "--out", str(tmp_path), "--dry-run", "--limit", "8"]
    assert table.main(called) == 0
    told = capsys.readouterr().out
    assert "method=random,keep=128" in told
    assert "keep=64 per layer" in told
    assert "method=dense" not in told  # it is there already
    rows = {(row["method"], row["keep"]): row for row in read_csv(tmp_path / "table.csv")}
    assert rows["dense", "all"]["relative"] == "100.0"
    assert rows["random", "64"]["relative"] == "62.5"
    assert set(rows) == {("dense", "all"), ("random", "64")}
    with pytest.raises(SystemExit):
        table.main(["llava", "--tasks", "pop"])


@pytest.mark.skipif(not HARNESS, reason="needs lmms-eval: make test-lmms")
def test_the_local_task_runs_through_the_entry_point_and_scores_as_ours_does(tmp_path: Path) -> None:
    scenes.main([str(tmp_path / "task"), "--questions", "10"])
    options = ("--tasks", "scenes", "--batch_size", "4", "--output_path", str(tmp_path / "out"), "--log_samples")
    given = f"pretrained={tmp_path / 'task' / 'llava'},method=soft_greedyprune,keep=16,device=cpu"
    program = shutil.which("lmms-eval", path=Path(sys.executable).parent)
    assert program
    command = [program, "--model", "greedyprune", "--model_args", given, "--include_path", str(tmp_path / "task")]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    out = subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=offline)
    assert out.returncode == 0, out.stderr
    (results,), (samples,) = ((tmp_path / "out").rglob(f"*{end}") for end in ("_results.json", "_scenes.jsonl"))
    found = json.loads(results.read_text())
    lines = sorted((json.loads(line) for line in samples.read_text().splitlines()), key=lambda line: line["doc_id"])
    items = Scenes(10).items()
    config = configurations(["soft_greedyprune"], {"16": 16})[-1]
    told = ours(Engine(*testbed.load("llava")), items, config)
    right = [item.right(text) for item, text in zip(items, told, strict=True)]
    assert [line["filtered_resps"] for line in lines] == told
    assert found["results"]["scenes"]["accuracy,none"] == pytest.approx(sum(right) / len(right))
    if os.environ.get("GREEDYPRUNE_LMMS_LOG"):
        about = {"command": "make test-lmms", "task": "scenes", "method": "soft_greedyprune", "keep": 16}
        about |= {"questions": len(items), "accuracy": sum(right) / len(right), "lmms_eval": found["results"]["scenes"]}
        LOG.parent.mkdir(parents=True, exist_ok=True)
        pairs = zip(items, told, strict=True)
        rows = [{"question": item.text, "right": list(item.answers), "answer": text} for item, text in pairs]
        LOG.write_text(json.dumps({**about, "samples": rows}, indent=1) + "\n", encoding="utf-8")
