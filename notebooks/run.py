"""Run the notebooks and keep their outputs: each `.py` here, in cells that begin with `# %%`, makes an `.ipynb`.

python notebooks/run.py [NAME ...]          # all, or those named, as in `make notebooks TESTS=first_steps`
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient

HERE = Path(__file__).parent


def main(names: list[str]) -> None:
    """Run each notebook in a folder of its own. A cell that fails stops everything."""
    sources = {path.stem: path for path in sorted(HERE.glob("*.py")) if path.stem != Path(__file__).stem}
    if unknown := set(names) - set(sources):
        raise SystemExit(f"there is no notebook {min(unknown)!r}: there are {', '.join(sources)}.")
    for name in names or sources:
        book = jupytext.read(sources[name], fmt="py:percent")
        for place, cell in enumerate(book.cells):
            cell.id = f"{name}-{place}"  # the same at every run
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(book, timeout=1200, resources={"metadata": {"path": folder}}).execute()
        for cell in book.cells:
            cell.metadata.pop("execution", None)  # times of day
            if cell.cell_type == "code":
                cell.outputs = kept(cell.outputs)
        book.metadata.pop("language_info", None)
        jupytext.write(book, HERE / f"{name}.ipynb", fmt="ipynb")
        sys.stdout.write(f"{name}: {len(book.cells)} cells\n")


def kept(outputs: list[Any]) -> list[Any]:
    """The outputs as they are kept: what was printed in one piece, one form of each result, nothing of other libraries.

    These write to the standard error. A notebook that fails writes nothing at all.
    """
    found: list[Any] = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if found and found[-1].output_type == "stream":
                found[-1].text += output.text
                continue
        elif best := [form for form in ("text/html", "image/png") if form in output.data]:
            output.data = {best[0]: output.data[best[0]]}
        found.append(output)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
