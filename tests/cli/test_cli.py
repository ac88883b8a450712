"""The command line: it answers, it lists what there is, and its JSON is pure. What goes wrong is in test_cli_errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import greedyprune
from commands import ASK, complaint, fill, greedy
from greedyprune import testbed
from greedyprune.budget import Ratio
from greedyprune.cli._answer import _prefill
from greedyprune.cli._options import method_of
from greedyprune.cli._show import progress
from greedyprune.cli._show import size as size_in_words
from greedyprune.methods.random import Random
from greedyprune.models.table import FAMILIES, IMPOSSIBLE
from greedyprune.naming import as_method
from greedyprune.plain import from_plain, to_plain
from greedyprune.registry import DEFAULT, METHODS
from greedyprune.stages import Layer
from tiny import tiny


def size(path: str | Path) -> tuple[int, int]:
    """Of a picture."""
    with Image.open(path) as image:
        return image.size


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("given"))


# Answers --------------------------------------------------------------------------------------------------------------


def test_run_answers_and_draws(folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "kept.png"
    result = greedy("run", folder / "scene.png", "--ask", "Is there a red circle?", "--keep", "16", "--save", saved)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("yes\n")
    assert "16 of 144" in result.stdout
    assert "bundled model knows generated scenes alone" in result.stdout
    assert result.stderr == ""
    assert size(saved) == (504, 504)


def test_compare_as_json_is_one_document_with_both_answers(folder: Path, tmp_path: Path) -> None:
    pictures, saved = (folder / "scene.png", folder / "tall.jpg"), tmp_path / "kept.png"
    options = ("--method", "saliency", "--at", "input", "--compare", "--json", "--save", saved)
    result = greedy("run", *pictures, "--ask", ASK, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    dense, pruned = found["dense"], found["pruned"]
    assert (dense["visual_tokens"], dense["kept"], pruned["kept"]) == (288, 288, 72)
    assert (found["at"], found["method"], found["overlay"]) == ("input", "saliency", str(saved))
    assert dense["sequence"] - pruned["sequence"] == 216
    assert dense["cache_bytes"] / dense["sequence"] == pruned["cache_bytes"] / pruned["sequence"]
    assert min(dense["first_token_ms"], pruned["first_token_ms"], pruned["select_ms"]) > 0
    assert [len(selection["rows"]) for selection in pruned["selections"]] == [36, 36]


def test_keeping_everything_gives_the_dense_answer(folder: Path) -> None:
    result = greedy("run", folder / "scene.png", "--ask", ASK, "--keep", "100%", "--compare", "--json")
    found = json.loads(result.stdout)
    assert found["dense"]["answer"] == found["pruned"]["answer"] == "yes"
    assert found["dense"]["cache_bytes"] == found["pruned"]["cache_bytes"]


def test_a_method_with_options_as_json(folder: Path) -> None:
    wanted = {"type": "greedyprune", "tau": {"type": "quantile", "q": 0.9}, "at": {"type": "layer", "index": 3}}
    options = ("--method", json.dumps(wanted), "--keep", "16", "--positions", "compact")
    result = greedy("run", folder / "scene.png", "--ask", ASK, "--json", *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["method"], found["at"], found["positions"]) == ("greedyprune", "layer:3", "compact")
    assert found["plain"] == to_plain(from_plain(wanted))
    assert greedy("run", folder / "scene.png", "--ask", ASK, *options).stdout.count("greedyprune at layer:3") == 1


def test_options_reach_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def record(model: Any, *args: Any, **more: Any) -> Any:
        seen.append((args, more))
        return prune(model, *args, **more)

    prune = greedyprune.prune
    monkeypatch.setattr(greedyprune, "prune", record)
    options = ("--method", '{"type": "random", "seed": 5}', "--at", "layer:2:early", "--positions", "compact")
    assert greedy("run", folder / "still.gif", "--ask", ASK, *options).exit_code == 0
    assert seen == [
        ((Random(seed=5), Ratio(0.25)), {"at": Layer(2, early=True), "positions": "compact", "restore": "none"}),
    ]


def test_early_frees_the_caches_of_the_first_layers_too(folder: Path) -> None:
    late, early = (
        json.loads(greedy("run", folder / "scene.png", "--ask", ASK, "--json", "--at", at).stdout)["pruned"]
        for at in ("layer:2", "layer:2:early")
    )
    assert early["at"] == "layer:2:early"
    assert early["cache_bytes"] < late["cache_bytes"]
    assert early["selections"][0]["rows"] == late["selections"][0]["rows"]


def test_a_word_the_bundled_model_does_not_know_is_told(folder: Path) -> None:
    result = greedy("run", folder / "scene.png", "--ask", "any zebra ?", "--json")
    assert result.exit_code == 0
    assert "never seen the word 'any'" in result.stderr
    json.loads(result.stdout)


def test_square_brackets_are_printed_as_they_are(folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "[bold]x.png"
    result = greedy("run", folder / "scene.png", "--ask", ASK, "--save", saved)
    assert result.exit_code == 0
    assert "[bold]x.png" in result.stdout.replace("\n", "")


def test_demo_covers_every_kind_and_writes_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in ("sklearn", "skimage", "matplotlib"):
        pytest.importorskip(extra)
    monkeypatch.setattr("greedyprune.cli._answer.TIMED", 1)
    result = greedy("demo", "--save", tmp_path / "out", "--seed", "4", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [pair["kind"] for pair in found["pairs"]] == list(testbed.KINDS)
    for pair in found["pairs"]:
        assert [pair["answers"][name]["kept"] for name in ("dense", "1/4", "1/9")] == [144, 36, 16]
        assert size(pair["overlay"])[0] > 1500
    assert found["summary"]["dense"]["right"] >= 8
    assert found["summary"]["1/9"]["cache_bytes"] < found["summary"]["dense"]["cache_bytes"]
    assert size(found["contact_sheet"])[0] > 1500
    assert len(list((tmp_path / "out").iterdir())) == len(testbed.KINDS) + 1


def test_demo_prints_what_it_measured_in_100_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in ("sklearn", "skimage", "matplotlib"):
        pytest.importorskip(extra)
    from greedyprune.cli import _answer, demo

    monkeypatch.setattr(_answer, "TIMED", 1)
    monkeypatch.setattr(demo, "_draw", lambda pairs, folder: [folder / "contact-sheet.png"])
    result = greedy("demo", "--save", tmp_path)
    assert result.exit_code == 0, result.output
    *lines, last = result.stdout.rstrip().splitlines()
    assert max(map(len, lines)) <= 100
    assert str(tmp_path) in last
    for words in ("what does the", "36 kept (1/4)", "16 of 144", "prompt FLOPs", "but no time", "kB"):
        assert words in result.stdout


# Lists ----------------------------------------------------------------------------------------------------------------


def test_methods_are_those_of_the_registry() -> None:
    found = json.loads(greedy("methods", "--json").stdout)
    assert [row["name"] for row in found] == list(METHODS)
    row = found[0]
    assert (row["class"], row["at"], row["needs"], row["exact"]) == ("GreedyPrune", "layer:2", ["text"], True)
    assert "tau" in row["options"]
    for row in found:
        assert as_method(row["plain"]) == as_method(row["name"])


def test_methods_have_a_line_each_by_kind_and_the_default_is_marked() -> None:
    shown = greedy("methods").stdout.splitlines()
    lines = [line.split() for line in shown if line.startswith("  ")]
    assert sorted(line[0] for line in lines) == sorted(METHODS)
    assert [line[0] for line in lines if "(start here)" in " ".join(line)] == [DEFAULT]
    kinds = {row["name"]: row["kind"] for row in json.loads(greedy("methods", "--json").stdout)}
    told, kind = {}, ""
    for line in shown[:-1]:
        kind = kind if line.startswith("  ") else line.removesuffix(":")
        told.update({line.split()[0]: kind} if line.startswith("  ") else {})
    assert told == kinds
    assert (kinds["fastv"], kinds["cls"], kinds["evs"]) == (
        "reads the question", "reads the vision tower", "compares frames",
    )  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_the_card_of_a_method_shows_its_options_as_the_command_line_takes_them(name: str) -> None:
    result = greedy("methods", name)
    assert result.exit_code == 0, result.output
    row = json.loads(greedy("methods", name, "--json").stdout)
    assert result.stdout.startswith(f"{row['class']} ({name}): {row['kind']}")
    assert all(f"\n{option} " in result.stdout for option in row["options"])
    found = re.search(r"--method '(.*)'$", result.stdout.strip())
    assert (found is not None) == bool(row["options"])
    if found:
        assert method_of(found[1]) == as_method(name)


def test_a_card_that_is_not_there_is_suggested() -> None:
    assert "did you mean 'greedyprune'?" in complaint(greedy("methods", "gredyprune"), 2)
    assert "leave 'grid' out" in complaint(greedy("methods", "grid", "--matrix"), 2)
    assert "did you mean 'llava'?" in complaint(greedy("models", "lava"), 2)
    assert "leave 'llava' out" in complaint(greedy("models", "llava", "--markdown"), 2)


def test_what_is_known_of_one_family() -> None:
    found = json.loads(greedy("models", "internvl", "--json").stdout)
    assert "hiprune" in found["methods that need one tile"]
    assert "fastv" in found["methods"]
    assert "visionzip" in json.loads(greedy("models", "fast_vlm", "--json").stdout)["methods that cannot run"]
    assert "fastv" in json.loads(greedy("models", "qwen3_5", "--json").stdout)["methods that need a later cut"]
    assert "its tower is convolutional" in greedy("models", "fast_vlm").stdout
    assert "an image is all its tiles together" in greedy("families", "internvl").stdout
    refused = next(iter(IMPOSSIBLE))
    assert "cannot be pruned" in greedy("models", refused).stdout


def test_models_are_those_of_the_table() -> None:
    found = json.loads(greedy("models", "--json").stdout)
    assert [row["family"] for row in found["families"]] == list(FAMILIES)
    assert {row["family"]: row["reason"] for row in found["impossible"]} == IMPOSSIBLE
    shown = greedy("models").stdout
    assert all(name in shown for name in (*FAMILIES, *IMPOSSIBLE))
    for row in found["families"]:
        assert row["stages"] == [stage.__name__.lower() for stage in FAMILIES[row["family"]].stages]
        assert row["attention"] == ["sdpa", "eager"]
        assert row["reads"] == [medium.kind for medium in FAMILIES[row["family"]].media]
    assert {"qwen2_5_vl", "qwen3_vl"} <= {row["family"] for row in found["families"] if row["downscale"]}
    matrix = greedy("models", "--matrix").stdout
    assert all(name in matrix for name in FAMILIES)
    assert "cannot be pruned" in shown
    assert "cannot be pruned" not in matrix
    assert json.loads(greedy("models", "--matrix", "--json").stdout) == found["families"]
    assert greedy("models", "--matrix", "--markdown").exit_code == 2


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_400, "999 kB"),
        (1_500_000, "1.5 MB"),
        (2.34e9, "2.34 GB"),
    ],
)
def test_sizes_are_those_of_the_decimal_units(count: float, shown: str) -> None:
    assert size_in_words(count) == shown


def test_the_time_that_is_printed_leaves_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says: 1.9 s for the first prefill, then 10, 20, 30, 40 and 50 ms."""
    ends = [1.9, 0.010, 0.050, 0.020, 0.040, 0.030]
    readings = iter([reading for end in ends for reading in (0.0, end)])
    monkeypatch.setattr("greedyprune.cli._answer.time.perf_counter", lambda: next(readings))
    made = tiny("llava")
    with torch.inference_mode():
        first_ms, held = _prefill(made.model, made.prompt(((0,),)))
    assert first_ms == pytest.approx(30)
    assert held > 0


@pytest.mark.parametrize("command", ["", "demo", "run", "eval", "methods", "bench", "bench select"])
def test_help_shows_switches_without_a_value(command: str) -> None:
    shown = greedy(*command.split(), "--help").stdout
    assert "--help" in shown
    assert "<bool>" not in shown
    assert greedy("help", *command.split()).stdout == shown


def test_without_a_terminal_there_is_a_line_of_progress_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 59.0, 61.0, 100.0, 125.0])
    monkeypatch.setattr("greedyprune.cli._show.time.monotonic", lambda: next(now))
    with progress("loading", total=200) as say:
        say("answering", done=10)
        for done in (20, 30, 50):
            say(done=done)
    first, second = capsys.readouterr().err.splitlines()
    assert (first, second) == (
        "greedyprune: answering, 10 % done after 61 s", "greedyprune: answering, 25 % done after 125 s",
    )  # fmt: skip


def test_a_shell_completes_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_GREEDYPRUNE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "greedyprune me")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert greedy().stdout.split() == ["methods"]


def test_version_and_help() -> None:
    assert greedy("--version").stdout == greedy("-V").stdout == f"greedyprune {greedyprune.__version__}\n"
    assert "demo" in greedy().stdout
    for command in ("demo", "run", "methods", "models"):
        result = greedy(command, "--help")
        assert result.exit_code == 0
        assert "Example" in result.stdout
    shown = greedy("run", "--help").stdout
    assert all(word in shown for word in ("early", "original|compact", "JSON"))
