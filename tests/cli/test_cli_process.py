"""The command line as a process of its own: standard output stays pure, --help is quick, what is missing is named."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import ASK, fill


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("given"))


def outside(*args: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run it as a process of its own."""
    command = [sys.executable, "-m", "greedyprune.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


IN_TURN = """
import json, sys
from greedyprune.cli import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["greedyprune", *command]
    try:
        main()
    except SystemExit as end:
        for stream in (sys.stdout, sys.stderr):
            print(f"left with {end.code}", file=stream, flush=True)
"""


def in_turn(*commands: list[object]) -> Iterator[tuple[int, str, str]]:
    """Run commands in one process, which imports transformers once. -> status, standard output and standard error"""
    told = json.dumps([list(map(str, command)) for command in commands])
    out = subprocess.run([sys.executable, "-c", IN_TURN, told], capture_output=True, text=True, check=True)
    texts = (re.split(r"^left with (\d+)\n", text, flags=re.MULTILINE) for text in (out.stdout, out.stderr))
    (*said, last), (*errors, last_error) = texts
    assert last == last_error == "", "nothing is said on the way out"
    for at in range(0, len(said), 2):
        yield int(said[at + 1]), said[at], errors[at]


def test_a_method_of_ones_own_is_found_in_the_folder_where_the_command_runs(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "greedyprune"  # like that of an installed package: its own folder is on the path
    script.write_text("from greedyprune.cli import main\nmain()\n")
    (tmp_path / "my_own_methods.py").write_text(
        "from greedyprune import Random\n\n\nclass Mine(Random):\n    'Mine draws.'\n"
    )
    command = [sys.executable, str(script), "methods", "my_own_methods:Mine"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "Mine draws." in shown.stdout, shown.stderr


def test_a_process_of_its_own_keeps_standard_output_pure(folder: Path) -> None:
    ask = ["run", folder / "scene.png", "--ask", ASK, "--json"]
    bad, good = in_turn([*ask, "--model", folder / "llama"], ask)  # the first one imports everything
    assert bad[:2] == (1, "")
    assert bad[2].count("\n") == 1
    assert (good[0], good[2]) == (0, "")
    assert json.loads(good[1])["pruned"]["answer"] == "yes"


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom greedyprune.cli import main\n"
        "try: main()\nfinally: sys.stderr.write(str({'torch', 'transformers', 'PIL'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert out.stderr == "set()"


@pytest.mark.parametrize("module", ["greedyprune", "greedyprune.cli"])
def test_it_runs_as_a_module(module: str) -> None:
    out = subprocess.run([sys.executable, "-m", module, "-V"], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("greedyprune ")


def test_a_console_without_greek_still_gets_the_list() -> None:
    out = outside("methods", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert out.returncode == 0
    assert "greedyprune" in out.stdout


def test_without_typer_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None\nfrom greedyprune.cli import main; main()"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 1
    assert out.stderr.strip().endswith("pip install 'greedyprune[cli]'")
    assert out.stderr.count("\n") == 1


def without(missing: str, code: str, *given: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that lacks a package."""
    block = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
    )
    command = [sys.executable, "-c", block + code, *given]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("missing", ["sklearn", "skimage", "matplotlib", "PIL"])
def test_demo_without_the_testbed_extra_says_what_to_install(missing: str, tmp_path: Path) -> None:
    if missing != "PIL":
        pytest.importorskip(missing)
    out = without(missing, "from greedyprune.cli import main; main()", "demo", "--save", str(tmp_path / "out"))
    assert (out.returncode, out.stdout) == (1, "")
    assert out.stderr.count("\n") == 1
    assert out.stderr.strip().endswith("pip install 'greedyprune[testbed]'")
    assert list(tmp_path.iterdir()) == []


def test_training_without_the_testbed_extra_says_what_to_install() -> None:
    run = "import runpy; sys.argv[1:] = ['--help']; runpy.run_module('greedyprune.testbed.train', run_name='__main__')"
    out = without("PIL", run)
    assert (out.returncode, out.stdout) == (1, "")
    assert out.stderr.strip().splitlines()[-1].endswith("pip install 'greedyprune[testbed]'")
    assert "Traceback" not in out.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_a_real_interrupt(folder: Path) -> None:
    code = (
        # A shell's background jobs, and all that they start, ignore interrupts.
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from greedyprune.cli import _load, main\n"
        "def wait(*_):\n    sys.stdout.write('ready\\n'); sys.stdout.flush(); time.sleep(60)\n"
        "_load.open_image = wait\nmain()"
    )
    command = [sys.executable, "-c", code, "run", str(folder / "scene.png"), "--ask", ASK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "greedyprune: error: interrupted.\n")
