"""The first steps of a user, in any environment: `python tests/tools/first_steps.py`, from the root of the project.

The demonstration, every property of both bundled models, a quick evaluation, and the README's snippet with a bundled
model. It stops at the first that fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import greedyprune
from greedyprune import testbed


def main() -> None:
    """Run all steps."""
    home = Path(greedyprune.__file__).parent
    print(f"greedyprune in {home}, transformers {version('transformers')}")
    snippet = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    command = [sys.executable, "-m", "greedyprune.cli"]
    steps = {
        "doctor": [*command, "doctor"],
        "the README's snippet": [sys.executable, "-c", snippet],
        "demo": [*command, "demo"],
        **{f"verify {name}": [*command, "verify", str(folder)] for name, folder in testbed.FOLDERS.items()},
        "eval --quick": [*command, "eval", "--quick"],
    }
    for name, step in steps.items():
        begun = time.time()
        print(f"\n== {name}", flush=True)
        subprocess.run(step, check=True, cwd=home.parent)
        print(f"== {name}: done in {time.time() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
