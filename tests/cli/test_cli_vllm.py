"""The options of vLLM that prune images: printed, run with, and refused before vLLM starts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from commands import complaint, greedy
from greedyprune import testbed

LLAVA = testbed.FOLDERS["llava"]


def args(*more: str) -> list[str]:
    result = greedy("vllm-args", LLAVA, *more)
    assert result.exit_code == 0, result.output
    return shlex.split(result.stdout)


def test_the_options_hold_the_architecture_and_the_policy() -> None:
    flag, overrides = args("--keep", "25%")
    assert flag == "--hf-overrides"
    assert json.loads(overrides) == {
        "architectures": ["GreedyPruneLlavaForConditionalGeneration"],
        "greedyprune": {"method": "soft_greedyprune", "keep": "25%"},
    }
    method = {"type": "mmr", "text": "question_max"}
    _, overrides, trust = args("--keep", "64", "--method", json.dumps(method), "--requests")
    assert json.loads(overrides)["greedyprune"] == {"method": method, "keep": "64"}
    assert trust == "--trust-request-mm-kwargs"
    assert json.loads(args("--requests")[1])["greedyprune"] == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "nothing would be pruned"),
        (["--method", "divprune"], "--method needs --keep"),
        (["--keep", "0"], "leaves nothing"),
        (["--keep", "64", "--method", "fastv"], "cannot run in vLLM"),
        (["--keep", "64", "--method", "{"], "--method is no JSON"),
    ],
)
def test_what_vllm_would_refuse_is_refused_here(given: list[str], said: str) -> None:
    found = complaint(greedy("vllm-args", LLAVA, *given), 2)
    assert said in found
    assert found.count("greedyprune: ") <= 1


def test_a_method_that_looks_into_the_tower_needs_a_model_whose_tower_shows_it() -> None:
    assert json.loads(args("--keep", "64", "--method", "cls")[1])["greedyprune"]["method"] == "cls"
    found = complaint(greedy("vllm-args", testbed.FOLDERS["qwen"], "--keep", "64", "--method", "cls"), 2)
    assert "no class token" in found


def test_a_model_that_cannot_be_pruned_in_vllm_and_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    assert "is a LlamaForCausalLM" in complaint(greedy("vllm-args", tmp_path, "--keep", "64"), 1)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlavaNextForConditionalGeneration"]}))
    assert "a newline ends each row" in complaint(greedy("vllm-args", tmp_path, "--keep", "64"), 1)
    (tmp_path / "config.json").write_text("{}")
    assert "names no architecture" in complaint(greedy("vllm-args", tmp_path, "--keep", "64"), 1)
    assert "cannot be read" in complaint(greedy("vllm-args", tmp_path / "no", "--keep", "64"), 1)


def test_serve_becomes_vllm_with_all_other_options(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[list[str]]()
    monkeypatch.setattr("os.execvp", lambda name, command: seen.append(command))
    monkeypatch.setattr("shutil.which", lambda name: "/bin/vllm")
    greedy("vllm", "serve", LLAVA, "--keep", "25%", "--port", "8000", "--", "--dtype", "float32")
    (command,) = seen
    assert command[:4] == ["vllm", "serve", str(LLAVA), "--hf-overrides"]
    assert command[5:] == ["--port", "8000", "--dtype", "float32"]
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "pip install vllm" in complaint(greedy("vllm", "serve", LLAVA, "--keep", "25%"), 1)


def test_the_doctor_reads_a_release_of_vllm(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").touch()
    result = greedy("doctor", "llava", "--json", "--vllm", tmp_path)
    assert result.exit_code == 1
    assert "is a vLLM that is not known here" in result.stderr
    found = json.loads(result.stdout)["vllm"]
    assert not found["known"]
    assert any("BaseMultiModalProcessor.apply is missing" in each for each in found["moved"])
    assert "cannot be read" in complaint(greedy("doctor", "llava", "--vllm", LLAVA / "config.json"), 1)
