"""`greedyprune serve`: its options become settings, and what is wrong is said before a model is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import greedyprune.server.run
from commands import complaint, greedy
from greedyprune import testbed
from greedyprune.budget import Ratio
from greedyprune.methods.divprune import DivPrune

Ran = list[tuple[Any, ...]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Instead of serving, note what would be served."""
    calls: Ran = []

    def note(model: Any, processor: Any, settings: Any, **where: Any) -> None:
        calls.append((processor, settings, where))

    monkeypatch.setattr(greedyprune.server.run, "serve", note)
    return calls


def test_options_become_settings(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    monkeypatch.setenv("GREEDYPRUNE_API_KEY", "other")
    method = ("--method", "divprune", "--keep", "1/9", "--at", "input", "--decay", 0.5)
    files = ("--api-key-file", tmp_path / "key", "--chat-template", tmp_path / "chat.jinja")
    done = greedy("serve", *method, *files, "--port", 9000, "--max-body-mb", 2, "--max-megapixels", 3, "--name", "mine")
    assert done.exit_code == 0, done.stderr
    processor, settings, where = ran[0]
    assert (settings.method, settings.keep, settings.decay) == (DivPrune(), Ratio(1 / 9), 0.5)
    assert (settings.api_key, settings.body_bytes, settings.pixels, settings.name) == (
        "secret",
        2**21,
        3 * 10**6,
        "mine",
    )
    assert processor.chat_template == "{{ messages }}"
    assert where == {"host": "127.0.0.1", "port": 9000}
    assert "secret" not in done.stderr
    greedy("serve", "qwen")
    assert (ran[1][1].api_key, ran[1][1].name) == ("other", "qwen")


def test_a_server_for_other_machines_without_a_key_is_warned_about(ran: Ran) -> None:
    assert "set GREEDYPRUNE_API_KEY" in greedy("serve", "--host", "0.0.0.0").stderr
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--decay", "2"], "--decay=2.0"), (["--keep", "many"], "--keep 'many'"), (["--at", "top"], "--at"),
        (["--method", "nope"], "--method"), (["--api-key-file", "absent"], "--api-key-file 'absent'"),
        (["--chat-template", "absent"], "--chat-template 'absent'"), (["--name", " "], "--name is empty"),
    ],
)  # fmt: skip
def test_wrong_options(options: list[str], told: str, ran: Ran) -> None:
    assert told in complaint(greedy("serve", *options), 2)
    assert ran == []


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, ran: Ran) -> None:
    for name in ("app", "gate"):
        monkeypatch.delitem(sys.modules, f"greedyprune.server.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install 'greedyprune[serve]'" in complaint(greedy("serve"), 1)


def test_a_model_without_a_template_and_a_taken_port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import shutil
    import socket

    bare = tmp_path / "bare"
    shutil.copytree(testbed.FOLDERS["llava"], bare, ignore=shutil.ignore_patterns("chat_template.jinja", "__pycache__"))
    assert "--chat-template FILE" in greedy("serve", bare).stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = greedy("serve", "--port", taken.getsockname()[1])
    assert "choose another --port" in found.stderr
    assert found.exit_code == 1
