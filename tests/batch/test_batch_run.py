"""A batch run: nothing is lost and nothing is done twice, wherever it was killed; one bad row costs no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import complaint, greedy
from greedyprune import testbed
from greedyprune.attach.request import Request
from greedyprune.batch import Answerer, Job, journal, open_source, run
from greedyprune.lock import locked
from greedyprune.outputs import replacing
from greedyprune.policy import Policy
from greedyprune.preprocessing.inputs import to_model

JOB = Job(lambda: (None, None), Policy("grid", 4), Path())  # type: ignore[arg-type]


class Counted:
    """Stands in for a model: says the id of each row, and stops as if killed after some."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.asked = stop, list[int]()

    def __call__(self, source: Any, job: Job, start: int) -> Iterator[list[dict[str, Any]]]:
        for number in range(start, len(source), 2):
            if self.stop is not None and number >= self.stop:
                raise KeyboardInterrupt
            rows = source.read(number, number + 2)
            self.asked += range(number, number + len(rows))
            records = [{"id": row["id"], "answer": f"é {row['id']}", "error": None} for row in rows]
            yield [{**record, "visual_tokens": 9, "kept": 4} for record in records]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Seven rows."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{n}", "question": "what ?"}) + "\n" for n in range(7)))
    return path


def read(output: Path) -> list[dict[str, Any]]:
    """The records of an output."""
    if output.suffix == ".jsonl":
        return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return pytest.importorskip("pyarrow.parquet").read_table(output).to_pylist()


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("stop", [0, 2, 6])
def test_a_killed_run_goes_on_behind_what_is_done(name: str, stop: int, rows: Path, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    source, output, work = open_source(rows), tmp_path / name, Counted(stop)
    with pytest.raises(KeyboardInterrupt):
        run(source, output, JOB, work)
    lines = output if name.endswith("jsonl") else journal.folder_of(output) / "rows.jsonl"
    with lines.open("ab") as file:
        file.write(b'{"id": "r')  # a line that was being written
    again = Counted()
    done = run(source, output, JOB, again)
    assert work.asked + again.asked == list(range(7))
    whole = tmp_path / f"whole{output.suffix}"
    run(source, whole, JOB, Counted())
    assert output.read_bytes() == whole.read_bytes()
    assert [record["id"] for record in read(output)] == [f"r{number}" for number in range(7)]
    assert (done.rows, done.before, done.failed) == (7, stop, 0)
    run(source, output, JOB, Counted(0))  # nothing is left to do
    assert sorted(path.name for path in journal.folder_of(output).iterdir()) == ["lock", "run.json"]


def test_a_kill_while_parquet_is_written_loses_nothing(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")

    def killed(path: Path) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "replacing", killed)
    output = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(open_source(rows), output, JOB, Counted())
    monkeypatch.setattr(journal, "replacing", replacing)
    assert run(open_source(rows), output, JOB, Counted(0)).before == 7
    assert len(read(output)) == 7


def test_an_output_of_another_run_is_refused(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run(open_source(rows), output, JOB, Counted())
    with pytest.raises(ValueError, match=r"other settings.*model was None and is 'b'"):
        run(open_source(rows), output, JOB, Counted(), {"model": "b"})
    rows.write_text(rows.read_text() + '{"question": "more ?"}\n')
    with pytest.raises(ValueError, match=r"other settings.*input was"):
        run(open_source(rows), output, JOB, Counted())
    assert len(read(output)) == 7
    with pytest.raises(ValueError, match="did not write it"):
        run(open_source(rows), rows, JOB, Counted())
    with pytest.raises(ValueError, match=r"neither \.jsonl nor"):
        run(open_source(rows), tmp_path / "out.csv", JOB, Counted())


def test_two_processes_do_not_write_one_output(rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with locked(journal.folder_of(output)), pytest.raises(ValueError, match="another process"):
        run(open_source(rows), output, JOB, Counted())


def test_rows_that_do_not_come_back_are_an_error(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="2 of 7 rows came back"):
        run(open_source(rows), tmp_path / "out.jsonl", JOB, lambda *given: [next(Counted()(*given))])


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answerer]:
    """The bundled model, and five scenes as rows."""
    for extra in ("sklearn", "skimage", "matplotlib"):
        pytest.importorskip(extra)
    root = tmp_path_factory.mktemp("scenes")
    for number, item in enumerate(testbed.sample(4, seed=3)):
        item.image.save(root / f"{number}.png")
        (root / f"{number}.txt").write_text(item.question.text)
    job = Job(partial(testbed.load, "llava"), Policy("soft_greedyprune", 36), root, max_new_tokens=4, together=4)  # type: ignore[arg-type]
    made = Answerer(job)
    yield made
    made.pruned.remove()


def asked(answerer: Answerer, number: int, **more: Any) -> dict[str, Any]:
    """A row about a scene."""
    question = (answerer.job.root / f"{number}.txt").read_text()
    return {"id": f"q{number}", "image": f"{number}.png", "question": question, **more}


def test_an_answer_is_that_of_generate_and_a_bad_row_costs_no_other(answerer: Answerer) -> None:
    rows = [
        asked(answerer, 0),
        "rows.jsonl:2 is no JSON",
        asked(answerer, 1),
        asked(answerer, 2, image="none.png"),
        asked(answerer, 2, greedyprune={"keep": 9}),
        asked(answerer, 3, question="<image> ?"),
        {"id": "text", "question": "how many circles ?"},
        asked(answerer, 3, greedyprune={"method": "fastv", "at": "input"}),
    ]
    told = answerer.answer(10, rows)
    assert [record["id"] for record in told] == ["q0", 11, "q1", "q2", "q2", "q3", "text", "q3"]
    assert [record["kept"] for record in told] == [36, 0, 36, 0, 9, 0, 0, 0]
    assert [record["visual_tokens"] for record in told] == [144, 0, 144, 0, 144, 0, 0, 0]
    errors = [record["error"] or "" for record in told]
    for place, words in ((1, "is no JSON"), (3, "no such file"), (5, "stands for a picture"), (7, "attention")):
        assert words in errors[place]
    assert [place for place, error in enumerate(errors) if error] == [1, 3, 5, 7]
    processor, model = answerer.processor, answerer.model
    for place, keep in ((0, 36), (2, 36), (4, 9)):
        row = rows[place]
        assert isinstance(row, dict)
        from PIL import Image

        image = Image.open(answerer.job.root / row["image"]).convert("RGB")
        inputs = to_model(
            processor(images=image, text=testbed.prompt(processor, row["question"]), return_tensors="pt"), model
        )
        with torch.inference_mode():
            out = answerer.pruned.request(keep=keep).generate(**inputs, max_new_tokens=4, do_sample=False)
        alone = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert told[place]["answer"] == alone


def test_a_call_that_fails_is_tried_row_by_row(answerer: Answerer, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = Request.generate, list[int]()

    def generate(self: Request, **inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 1 or len(sizes) == 3:
            raise RuntimeError("out of memory")
        return real(self, **inputs)

    monkeypatch.setattr(Request, "generate", generate)
    told = answerer.answer(0, [asked(answerer, number) for number in range(3)])
    assert sizes == [3, 1, 1, 1]
    assert [record["error"] for record in told] == [None, "RuntimeError: out of memory", None]


def test_the_command_answers_a_folder_and_says_what_failed(answerer: Answerer, tmp_path: Path) -> None:
    given = tmp_path / "pages"
    given.mkdir()
    (given / "a.png").write_bytes((answerer.job.root / "0.png").read_bytes())
    (given / "b.png").write_text("no picture")
    output = tmp_path / "out.jsonl"
    command = ("batch", given, output, "--model", "llava", "--ask", "how many circles ?", "--max-new-tokens", "2")
    first = greedy(*command)
    assert first.exit_code == 1
    assert "2 rows, 2 of them answered now, 1 with an error" in first.stdout
    good, bad = read(output)
    assert (good["id"], good["kept"], bad["id"], bad["answer"]) == ("a.png", 36, "b.png", None)
    assert "0 of them answered now" in greedy(*command).stdout
    assert "other settings" in complaint(greedy(*command, "--keep", "9"), 1)
    assert "no such file" in complaint(greedy("batch", tmp_path / "none", output, "--model", "llava"), 2)
    assert "--ray" in complaint(greedy(*command, "--actors", "2"), 2)
