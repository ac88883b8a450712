"""transformers' own ways: the page runs as written, and `transformers serve` prunes what it loads."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from greedyprune import testbed
from greedyprune.engines import transformers_serve
from greedyprune.engines.transformers_serve import pruning
from greedyprune.policy import Policy
from greedyprune.preprocessing.inputs import to_model

for extra in ("sklearn", "skimage", "matplotlib"):
    pytest.importorskip(extra)

PAGE = Path(__file__).parents[2] / "docs" / "transformers.md"


def test_the_page_runs_as_written() -> None:
    for needed in ("peft", "accelerate"):
        pytest.importorskip(needed)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr


def test_transformers_serve_prunes_the_model_that_it_loads() -> None:
    manager = pytest.importorskip("transformers.cli.serving.model_manager").ModelManager
    stock = manager._load_model
    with pruning(Policy("grid", 16)):  # type: ignore[arg-type]
        model = manager(device="cpu", dtype="float32")._load_model(f"{testbed.FOLDERS['llava']}@main")
    assert manager._load_model is stock
    processor = testbed.load()[1]
    item = testbed.sample(1, seed=3)[0]
    inputs = processor(images=item.image, text=testbed.prompt(processor, item.question.text), return_tensors="pt")
    out = model.generate(**to_model(inputs, model), max_new_tokens=2, return_dict_in_generate=True)
    assert out.past_key_values.layers[-1].keys.shape[2] < inputs["input_ids"].shape[1] - 100


def test_a_release_that_loads_elsewhere_and_a_wrong_budget_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers.cli.serving.model_manager")
    monkeypatch.setattr(transformers_serve, "SEAM", "_gone")
    with pytest.raises(RuntimeError, match="no _gone"), pruning(Policy("grid", 16)):  # type: ignore[arg-type]
        pass
    with pytest.raises(SystemExit):
        transformers_serve.main(["folder", "--keep", "many"])
    assert "many" in capsys.readouterr().err


def test_transformers_serve_answers_over_http(tmp_path: Path) -> None:
    from transformers.utils import import_utils

    if not getattr(import_utils, "is_serve_available", lambda: False)():
        pytest.skip("needs transformers[serving]")
    pytest.importorskip("transformers.cli.transformers", exc_type=ImportError)  # 5.16 needs requests, 5.24 does not
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = str(testbed.FOLDERS["llava"])
    command = [sys.executable, "-m", "greedyprune.engines.transformers_serve", folder, "--keep", "16"]
    options = ["--port", str(port), "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    try:
        item = testbed.sample(1, seed=3)[0]
        held = io.BytesIO()
        item.image.save(held, "PNG")
        url = "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": item.question.text}]
        body: dict[str, Any] = {"model": folder, "messages": [{"role": "user", "content": parts}], "max_tokens": 8}
        assert said(port, body, server, tmp_path / "log") == item.question.answer
    finally:
        server.terminate()
        server.wait(30)


def said(port: int, body: dict[str, Any], server: Any, log: Path) -> str:
    """The answer of a server that may still be starting."""
    head = {"Content-Type": "application/json"}
    call = Request(f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode(), head)
    while server.poll() is None:
        try:
            with urlopen(call, timeout=300) as reply:
                return json.load(reply)["choices"][0]["message"]["content"].strip()
        except URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise AssertionError(log.read_text()) from error
            time.sleep(0.2)
    raise AssertionError(log.read_text())
