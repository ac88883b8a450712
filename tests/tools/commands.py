"""Tools for tests of the command line: run it, read its one line of complaint, and make files to give it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from typer.testing import CliRunner

from greedyprune import testbed
from greedyprune.cli.app import app

ASK = "is there a red circle ?"


def greedy(*args: object) -> Any:
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


def complaint(result: Any, status: int) -> str:
    """The one line in which a command failed."""
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    line, rest = result.stderr.split("\n", 1)
    assert rest == ""
    assert line.startswith("greedyprune: error: ")
    return line


def fill(made: Path) -> Path:
    """Put pictures good and bad into a folder, and folders that are no models."""
    scene = Image.new("RGB", (168, 168), (110, 110, 100))
    ImageDraw.Draw(scene).ellipse((40, 40, 90, 90), fill=(220, 20, 30))
    scene.save(made / "scene.png")
    scene.resize((90, 200)).save(made / "tall.jpg")
    (made / "cut.png").write_bytes((made / "scene.png").read_bytes()[:300])
    (made / "empty.png").touch()
    (made / "text.png").write_text("no picture at all")
    (made / "nothing").mkdir()
    llama = made / "llama"
    llama.mkdir()
    (llama / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 50}))
    for name, missing in (("weightless", "model.safetensors"), ("speechless", "chat_template.jinja")):
        shutil.copytree(testbed.FOLDERS["llava"], made / name, ignore=shutil.ignore_patterns(missing, "__pycache__"))
    broken = made / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    (made / "clip.mp4").write_bytes(b"film")
    scene.save(made / "film.gif", save_all=True, append_images=[scene.rotate(90)])
    scene.save(made / "still.gif")
    return made
