"""`greedyprune verify`: a table, a last line and a status; JSON that is pure; and errors that help."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import complaint, fill, greedy
from greedyprune import testbed, verify
from planted import lag, shaken
from tiny import fresh


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = fill(tmp_path_factory.mktemp("given"))
    for name in ("llava", "qwen2_5_vl"):
        fresh(name).model.save_pretrained(made / name)
    return made


def test_a_good_checkpoint_is_proven(folder: Path) -> None:
    result = greedy("verify", folder / "llava", "--steps", 2)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    head, *rest = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    assert head == "llava, prompts by its config alone"
    assert rest[0].split() == ["property", "input", "layer:1", "layer:2"]
    assert sum(line.startswith("a dropped token is a masked token") for line in rest) == 1
    assert rest[-1] == "proven: 24 of 24"


def test_each_kind_of_attention_has_a_table(folder: Path) -> None:
    result = greedy("verify", folder / "llava", "--steps", 2, "--attention", "both", "--images", 3)
    assert result.exit_code == 0, result.output
    heads = [line.split() for line in result.stdout.splitlines() if line.strip().startswith("property")]
    assert heads == [["property,", kind, "input", "layer:1", "layer:2"] for kind in ("sdpa", "eager")]
    assert result.stdout.splitlines()[-1] == "proven: 48 of 48"


def test_json_is_one_document(folder: Path) -> None:
    options = ("--at", "layer:3:early", "--steps", 2, "--images", "16x24,24x16", "--attention", "eager", "--json")
    result = greedy("verify", folder / "qwen2_5_vl", *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["family"], found["dtype"], found["sizes"]) == ("qwen2_5_vl", "float32", ["16x24", "24x16"])
    assert [found[name] for name in ("proven", "of", "failed", "untold", "does_not_apply")] == [31, 31, 0, 0, 1]
    (beside,) = [v for v in found["verdicts"] if v["outcome"] != "passed"]
    assert (beside["outcome"], beside["passed"], beside["applies"]) == ("does not apply", None, False)
    assert "an early cut" in beside["detail"]
    assert [v["at"] for v in found["verdicts"]].count("layer:3:early") == 8
    assert {v["attention"] for v in found["verdicts"]} == {"eager"}
    assert all(v["error"] <= v["bound"] for v in found["verdicts"] if v["passed"])


def test_a_broken_one_fails_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lag(monkeypatch)
    result = greedy("verify", folder / "llava", "--steps", 2)
    assert result.exit_code == 1
    assert "a dropped token is a masked token (input, sdpa)" in result.stderr
    assert result.stderr.startswith("greedyprune: error: ")
    assert result.stderr.count("\n") == 1
    assert "of 24" in result.stdout.splitlines()[-1]
    assert "a dropped token is a masked token (input, sdpa): does not hold: " in " ".join(result.stdout.split())


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Any]], None]:
    """Do something to the model that a command opens, before it is proven."""
    own = verify.open_subject

    def wrap(change: Callable[[Any], Any]) -> None:
        def opened(model: Any, *given: Any) -> Any:
            made = own(model, *given)
            change(model)
            return made

        monkeypatch.setattr(verify, "open_subject", opened)

    return wrap


def test_what_could_not_be_told_fails_by_name(folder: Path, foreign) -> None:
    foreign(lambda model: model.lm_head.register_forward_hook(shaken))
    result = greedy("verify", folder / "llava", "--steps", 2)
    assert result.exit_code == 1
    assert "12 of 24 verdicts could not be told: keeping all changes nothing (input, sdpa); " in result.stderr
    assert "failures" not in result.stderr
    assert result.stdout.splitlines()[-1] == "proven: 12 of 24 (12 could not be told)"
    said = " ".join(result.stdout.split())
    assert "a row alone is the row in its batch (layer:1, sdpa): could not be told: batch: the plain model" in said


def test_json_tells_outcomes_apart(folder: Path, foreign) -> None:
    foreign(lambda model: model.lm_head.weight.data.zero_())
    result = greedy("verify", folder / "llava", "--steps", 2, "--at", "layer:2:early", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [found[name] for name in ("proven", "of", "failed", "untold", "does_not_apply")] == [27, 31, 0, 4, 1]
    told = {(v["name"], v["at"]): (v["outcome"], v["applies"]) for v in found["verdicts"]}
    assert told["a dropped token is a masked token", "layer:1"] == ("not told", True)
    assert told["a cache changes nothing", "layer:2:early"] == ("does not apply", False)
    assert told["text is left alone", "input"] == ("passed", True)


def test_what_does_not_apply_passes_and_is_printed(folder: Path) -> None:
    result = greedy("verify", folder / "llava", "--steps", 2, "--at", "layer:2:early")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "proven: 31 of 31 (1 not applicable)"
    assert "a cache changes nothing (layer:2:early, sdpa): does not apply: " in " ".join(result.stdout.split())


def test_nothing_that_applies_is_nothing_proven(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greedyprune.verify.properties._refused", lambda *_: "it has no attention of this kind")
    result = greedy("verify", folder / "llava", "--steps", 2)
    assert result.exit_code == 1
    assert "nothing was proven: no property applies" in result.stderr


def test_a_broken_chat_template_or_model_is_named_and_is_no_failure_of_pruning(folder: Path, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    broken = shutil.copytree(testbed.FOLDERS["llava"], tmp_path / "broken", ignore=ignored)
    (broken / "chat_template.jinja").write_text("{{ messages.nothing.at.all }}")
    said = complaint(greedy("verify", broken), 1)
    assert "cannot be proven: the chat template of this checkpoint fails on a prompt with 1 image " in said
    assert "verdicts" not in said
    model = fresh("llava").model
    model.lm_head.weight.data[5] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    said = complaint(greedy("verify", tmp_path / "nan"), 1)
    assert "cannot be proven: the model answers the prompt 'one image' with logits that are NaN" in said
    assert "verdicts" not in said


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["absent"], 1, "'absent': there is no such folder"),
        (["nothing"], 1, "'nothing' is no checkpoint: the folder holds no config.json"),
        (["scene.png"], 1, "'scene.png' is a file: give the folder"),
        (["broken"], 1, "cannot read the model 'broken'"),
        (["llama"], 1, "'llama' cannot be pruned"),
        (["weightless"], 1, "cannot load the model 'weightless'"),
        (["llava", "--at", "middle"], 2, "'middle' names no stage"),
        (["llava", "--at", "layers:1,2"], 2, "--at layers:1,2 is several cuts"),
        (["llava", "--at", "layer:9"], 1, "this model has 4 decoder layers"),
        (["llava", "--attention", "flash"], 2, "--attention 'flash' is unknown: choose one of sdpa, eager or both"),
        (["llava", "--dtype", "int8"], 2, "--dtype 'int8' is unknown"),
        (["llava", "--images", "1"], 2, "--images '1': write a number from 2 up"),
        (["llava", "--images", "20x20"], 2, "two sizes or more"),
        (["llava", "--images", "20x0,20x20"], 2, "two sizes or more"),
        (["llava", "--steps", "1"], 2, "--steps"),
        (["llava", "--device", "toaster"], 2, "--device 'toaster' cannot be used"),
        ([], 2, "greedyprune verify --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], status: int, message: str
) -> None:
    monkeypatch.chdir(folder)
    assert message in complaint(greedy("verify", *options), status)


def test_a_checkpoint_whose_prompts_cannot_be_made_is_told_what_to_save(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llava.modeling_llava import LlavaModel

    monkeypatch.setattr(LlavaModel, "get_image_features", lambda self, pixel_values, image_sizes: None)
    said = complaint(greedy("verify", folder / "llava"), 1)
    assert "cannot be proven: this checkpoint has no processor" in said
    assert said.endswith("save its processor beside it.")
