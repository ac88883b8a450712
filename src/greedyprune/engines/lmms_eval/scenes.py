"""A local task of lmms-eval: questions about the testbed's scenes, which need no download.

    python -m greedyprune.engines.lmms_eval.scenes tasks --questions 4
    lmms-eval --model greedyprune --model_args pretrained=tasks/llava,keep=16 --include_path tasks --tasks scenes

The folder holds the pictures, the questions (`questions.jsonl`), and the task (`scenes.yaml` with its functions). An
answer is right by the rule of `greedyprune eval`, so that both give one accuracy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from greedyprune.extras import by_hand

TASK = "scenes"
_YAML = """# Written by greedyprune.engines.lmms_eval.scenes.
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: generate_until
doc_to_visual: !function scenes_functions.doc_to_visual
doc_to_text: !function scenes_functions.doc_to_text
doc_to_target: answer
process_results: !function scenes_functions.process_results
generation_kwargs:
  max_new_tokens: {longest}
  temperature: 0
  do_sample: false
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
metadata:
  - version: 1.0
"""
_FUNCTIONS = '''"""Written by greedyprune.engines.lmms_eval.scenes: a task finds functions only in a file beside it."""

from greedyprune.engines.lmms_eval.scenes import doc_to_text, doc_to_visual, process_results
'''


def write_task(folder: Path, items: Any, max_new_tokens: int = 8) -> None:
    """Write items of `greedyprune.eval` as a task of lmms-eval. The folder is made; its old task is replaced.

    Raises ValueError for a question with turns before it, which this task does not show.
    """
    from greedyprune.outputs import write_text

    pictures = folder.resolve() / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for item in items:
        if item.before:
            raise ValueError(f"{item.name} has turns before its question: leave out tasks of several turns.")
        picture = pictures / f"{item.picture}.png"
        if not picture.exists():
            item.open().save(picture)
        doc = {"name": item.name, "kind": item.task, "image": str(picture), "question": item.text}
        lines.append(json.dumps({**doc, "answer": item.answers[0], "answers": list(item.answers)}))
    questions = folder.resolve() / "questions.jsonl"
    write_text(questions, "\n".join(lines) + "\n")
    about = _YAML.format(task=TASK, questions=json.dumps(str(questions)), longest=max_new_tokens)
    write_text(folder / f"{TASK}.yaml", about)
    write_text(folder / "scenes_functions.py", _FUNCTIONS)


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """The picture of a question."""
    from greedyprune.preprocessing.pictures import open_picture

    return [open_picture(doc["image"])]


def doc_to_text(doc: dict[str, Any]) -> str:
    """The question."""
    return doc["question"]


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """1 for a right answer, word for word; case and punctuation do not count."""
    from greedyprune.eval.items import words

    return {"accuracy": float(words(results[0]) in [words(answer) for answer in doc["answers"]])}


def main(given: list[str] | None = None) -> None:
    """Write the task and the bundled model that knows these scenes."""
    parser = argparse.ArgumentParser(description="Write a local task of lmms-eval from the testbed's scenes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=4, help="of each kind")
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(given)
    from greedyprune.eval.scenes import Scenes

    write_task(options.folder, Scenes(options.questions, options.split, options.seed).items())
    link = options.folder / "llava"
    if not link.exists():
        from greedyprune.testbed import FOLDERS

        link.symlink_to(FOLDERS["llava"])


if __name__ == "__main__":
    by_hand(main, "testbed")
