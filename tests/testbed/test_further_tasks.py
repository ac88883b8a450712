"""Further tasks, *grounding* and *multiturn*: they tell the truth, and change no draw of what was there before them."""

import hashlib
import json
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tiny_gemma
from greedyprune import testbed
from greedyprune.cli._plan import Questions
from greedyprune.cli._suite import shipped
from greedyprune.eval import Engine
from greedyprune.eval.items import digest
from greedyprune.eval.scenes import Scenes
from greedyprune.testbed import FURTHER, SIZES, TASKS, Item, sample, scenes
from greedyprune.testbed.layout import COLOURS, SHAPES, layout
from greedyprune.testbed.questions import CELLS, INSIDE, ask
from greedyprune.testbed.train import answers, command, sheet, symbols
from greedyprune.testbed.train.answers import Score
from greedyprune.testbed.train.export import export
from greedyprune.testbed.train.gemma import run, stages
from greedyprune.testbed.train.gemma.decoder import Gemma
from greedyprune.testbed.train.gemma.packages import NotReady
from greedyprune.testbed.train.gemma.stages import ARMS, draw
from greedyprune.testbed.train.gemma.start import assemble
from greedyprune.testbed.train.loop import Attention
from greedyprune.testbed.train.models import ARCHITECTURES
from greedyprune.testbed.train.packing import IGNORED, Packed, pack
from greedyprune.testbed.train.start import start_decoder, start_tower


def digest_of(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def asked(found: list[Item]) -> str:
    """A digest of what is asked about which scenes. Pixels differ between versions of Pillow."""
    seen = [(*question[:7], image.size) for image, question in found]
    return digest_of(seen)


def packed(batch: Packed) -> str:
    return digest_of([batch.ids.tolist(), batch.targets.tolist(), batch.turns])


# What was drawn before there were further tasks -----------------------------------------------------------------------


def test_questions_of_published_rows_are_drawn_as_ever() -> None:
    assert asked(sample(60)) == "63c6669e6979247c"
    assert asked(sample(60, "dev", 3, sizes=SIZES)) == "e3bd6d3237611246"
    assert asked(sample(20, "train", 1, ("ocr", "where"))) == "3fe3fc09962c83fd"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("llava", ["64d8df2f4293eb06", "cd786fff6771de71", "e33660c204af16c6"]),
        ("qwen", ["ae594f13488af5f4", "7297a044f7efb6f2", "27cfd371fa9dc4d4"]),
    ],
)
def test_default_trainings_of_bundled_models_draw_as_ever(name: str, wanted: list[str]) -> None:
    made, attention = ARCHITECTURES[name], Attention()
    first = symbols._batch(made, (3, 1, 0, 5), 4, attention, "train", symbols.WANTED | symbols.HELP)[2]
    last = [
        answers._batch(made, seed, 3, attention, split)[1] for seed, split in (((3, 3, 0, 5), "train"), ((9, 1), "dev"))
    ]
    assert [packed(batch) for batch in (first, *last)] == wanted


def test_default_trainings_of_gemma_draw_as_ever() -> None:
    architecture = Gemma.of(assemble(tiny_gemma.text_model(), tiny_gemma.tokenizer())[1])
    found: dict[str, str] = {}
    for arm, listed in ARMS.items():
        for stage in listed:
            batch = draw(architecture, stage, (3, *stage.name.encode(), 5), 3, "train", Attention())
            rows = None if batch.rows is None else batch.rows.tolist()
            told = batch.packed.ids.tolist(), batch.packed.targets.tolist(), batch.packed.turns, rows
            found[f"{arm} {stage.name}"] = digest_of([*told])
    assert found == {
        "words objects": "7ce275b552267965",
        "words pictures": "7baed716f34033e9",
        "random captions": "b650adf1d154d5de",
        "random objects": "3bb2879d9d6ea0dd",
        "random binding": "94014f3fb44ab280",
        "random pictures": "7baed716f34033e9",
    }


def test_further_tasks_leave_the_other_questions_alone() -> None:
    usual = sample(40, "dev", 2)
    for tasks in ((*TASKS, *FURTHER), (*TASKS, "multiturn")):
        both = sample(4 * len(tasks), "dev", 2, tasks)
        assert asked([item for item in both if item.question.task in TASKS]) == asked(usual)
    alone = [[item.question for item in sample(6, "dev", 2, (task,))] for task in FURTHER]
    both = [item.question for item in sample(12, "dev", 2, FURTHER)]
    assert [both[::2], both[1::2]] == alone
    assert sample(3, "dev", 2, FURTHER)[2].question == both[2]
    assert [scene.questions for scene in islice(scenes("dev", 2), 3)] == [
        tuple(q for q in scene.questions if q.task in TASKS) for scene in islice(scenes("dev", 2), 3)
    ]


# What further tasks ask -----------------------------------------------------------------------------------------------


def further(task: str, n: int = 150) -> list[tuple[Any, Any]]:
    """Questions of one task, with the objects of their scenes."""
    found = []
    rng = np.random.default_rng(4)
    for number in range(n):
        size = SIZES[number % len(SIZES)]
        objects = layout(rng, "train", size)
        found += [((objects, size), question) for question in ask(objects, size, rng, {task: 3})]
    return found


def test_grounding_names_the_cell_that_holds_the_middle() -> None:
    """By counting the dividing lines that lie before the middle."""
    seen = set()
    for (objects, size), question in further("grounding"):
        *_, colour, shape, mark = question.text.split()
        assert question.text == f"where is the center of the {colour} {shape} {mark}"
        (thing,) = [thing for thing in objects if (thing.colour, thing.kind) == (colour, shape)]
        lines = [[length * part / CELLS for part in range(1, CELLS)] for length in size]
        numbers = [1 + sum(line < at for line in some) for at, some in zip(thing.centre, lines, strict=True)]
        assert question.answer == f"{numbers[1]} {numbers[0]}"
        assert all(
            abs(at - line) > INSIDE - 1e-9 for at, some in zip(thing.centre, lines, strict=True) for line in some
        )
        assert question.boxes == (thing.box,)
        assert colour in COLOURS
        assert shape in SHAPES
        seen.add(question.answer)
    assert len(seen) > 30


def test_a_second_turn_asks_about_another_thing_and_both_answers_are_right() -> None:
    kinds = set()
    for (objects, size), question in further("multiturn"):
        ((first, told),) = question.before
        rng = np.random.default_rng(0)
        every = {
            q.text: q for q in ask(objects, size, rng, dict.fromkeys(("color", "shape", "where", "digit", "ocr"), 99))
        }
        one, two = every[first], every[question.text]
        assert (told, question.answer) == (one.answer, two.answer)
        assert one.boxes != two.boxes == question.boxes
        assert len(two.boxes) == 1
        assert (question.guesses, question.others) == (two.guesses, two.others)
        kinds.add((one.kind, two.kind))
    assert len(kinds) > 15


def test_a_question_and_the_same_one_in_a_second_turn_are_both_asked() -> None:
    rng = np.random.default_rng(0)
    wanted = dict.fromkeys(("color", "shape", "where", "digit", "ocr"), 9) | {"multiturn": 3}
    found = ask(layout(rng, "train", SIZES[0]), SIZES[0], rng, wanted)
    texts = [question.text for question in found]
    assert {question.text for question in found if question.before} <= {q.text for q in found if not q.before}
    assert len(texts) > len(set(texts))


def test_items_hold_the_turns_and_a_run_folder_tells_them_apart() -> None:
    from dataclasses import replace

    (item,) = Scenes(1, "dev", 3, ("multiturn",)).items()
    ((first, told),) = item.before
    model, processor = testbed.load("llava")
    assert Engine(model, processor).prompt(item) == (
        f"<s> USER: <image> {first} ASSISTANT: {told} </s> USER: {item.text} ASSISTANT:"
    )
    others = [replace(item, before=()), replace(item, before=((first, "7"),)), replace(item, text=f"{first} {told}")]
    assert len({digest([each]) for each in (item, *others)}) == 4


# Who is asked ---------------------------------------------------------------------------------------------------------


def test_only_models_that_learnt_further_tasks_are_asked_them(tmp_path: Path) -> None:
    assert testbed.learnt("llava") == TASKS
    assert set(FURTHER).isdisjoint(TASKS)
    (tmp_path / testbed.SHEET).write_text(json.dumps({"tasks": ["color", "grounding", "multiturn"]}))
    found = shipped(Questions("testbed", None, 2, "dev", 0), False, str(tmp_path))
    assert {item.task for item in found} == {"color", "grounding", "multiturn"}
    with pytest.raises(ValueError, match=r"name one or more of exist, .*, grounding, multiturn, each once"):
        sample(1, tasks=("pointing",))


# Training with them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_packed_second_turn_is_answered_as_one_prompt_of_both_turns(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    architecture = ARCHITECTURES[name]
    model = architecture.build()
    start_decoder(architecture, model)
    start_tower(architecture, model)
    export(architecture, model, tmp_path)
    model, processor = testbed.load(tmp_path)
    size = architecture.sizes[-1]
    found = sample(6, "dev", 3, ("multiturn",), [size])
    whole = pack([[q] for _, q in found], np.random.default_rng(0), 60, Attention().weights, architecture.wording)
    pixels = answers.to_pixels([np.asarray(image) for image, _ in found])
    with torch.no_grad():
        _, tokens = architecture.see(model, pixels)
        logits = architecture.logits(model, tokens, None, answers.grid_of(pixels), whole)
        for row, (image, question) in enumerate(found):
            (turn,) = whole.turns[row]
            assert int((whole.targets[row] != IGNORED).sum()) == turn.length
            text = testbed.prompt(processor, question) + " " + question.answer
            alone = model(**processor(images=image, text=text, return_tensors="pt")).logits[0, -turn.length :]
            mine = logits[row, turn.first : turn.first + turn.length]
            torch.testing.assert_close(mine, alone, atol=2e-4, rtol=1e-4)


def test_gemma_packs_a_second_turn_as_its_chat_template_writes_it() -> None:
    processor = assemble(tiny_gemma.text_model(), tiny_gemma.tokenizer())[1]
    architecture = Gemma.of(processor)
    (question,) = [item.question for item in sample(1, "dev", 3, ("multiturn",))]
    row = pack([[question]], np.random.default_rng(0), 400, Attention().weights, architecture.wording)
    (turn,) = row.turns[0]
    ids = processor.tokenizer(testbed.prompt(processor, question))["input_ids"]
    assert row.ids[0, : turn.first + 1].tolist() == ids[2:]  # behind <bos> and the picture


def test_a_training_with_further_tasks_asks_and_scores_them() -> None:
    made, attention = ARCHITECTURES["llava"], Attention()
    wanted = answers.WANTED | answers.also_wanted(FURTHER)
    _, _, batch = symbols._batch(made, (3, 1), 8, attention, "train", wanted)
    assert set(FURTHER) <= {turn.kind for row in batch.turns for turn in row}
    score = Score()
    score.see(torch.ones_like(batch.targets) > 0, batch)
    assert {score.row()[task] for task in FURTHER} == {"1.000"}
    gemma = Gemma.of(assemble(tiny_gemma.text_model(), tiny_gemma.tokenizer())[1])
    stage = ARMS["words"][0]
    turns = draw(gemma, stages.replace(stage, length=900), (4,), 6, "train", attention, FURTHER).packed.turns
    assert set(FURTHER) <= {turn.kind for row in turns for turn in row}
    known = set(gemma.english.vocabulary())
    assert all(set(gemma.english.answer(question.answer)) <= known for _, question in sample(40, tasks=FURTHER))


def test_the_switch_reaches_every_stage_and_the_sheet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(command.subprocess, "Popen", lambda words, **_: started.append(words) or SimpleNamespace())
    monkeypatch.setattr(command, "_wait", lambda *_: None)
    for also in ([], ["--also", "multiturn", "grounding", "grounding"]):
        started.clear()
        monkeypatch.setattr(sys, "argv", ["train", "llava", "--out", str(tmp_path), *also])
        command.main()
        ends = {tuple(words[words.index("--also") :]) if "--also" in words else () for words in started}
        assert ends == {("--also", *FURTHER) if also else ()}
        assert len(started) == 5

    took: dict[str, Any] = {}
    monkeypatch.setattr(command.symbols, "run_symbols", lambda *given: took.update(symbols=given[-1]))
    monkeypatch.setattr(command.answers, "run_answers", lambda *given: took.update(answers=given[-1]))
    monkeypatch.setattr(command, "_join", lambda *_: None)
    for stage in ("symbols", "answers"):
        words = ["train", "llava", "--out", str(tmp_path), "--processes", "1", "--stage", stage, "--also", "grounding"]
        monkeypatch.setattr(sys, "argv", words)
        command.main()
    assert took == {"symbols": ["grounding"], "answers": ["grounding"]}


@pytest.mark.parametrize("also", [[], ["grounding"]])
def test_a_bundled_training_with_further_tasks_writes_what_it_learnt(
    also: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And the default one writes no sheet, as ever."""
    model = testbed.load("qwen")[0]
    torch.save({"model": model.state_dict()}, tmp_path / "answers.pt")
    monkeypatch.setattr(command, "CHECKED", 2)
    words = ["train", "qwen", "--out", str(tmp_path), "--processes", "1", "--stage", "export"]
    monkeypatch.setattr(sys, "argv", words + (["--also", *also] if also else []))
    command.main()
    assert (tmp_path / "model" / testbed.SHEET).exists() == bool(also)
    learnt = testbed.learnt(tmp_path / "model")
    assert learnt == TASKS if not also else {"color", "where"} <= set(learnt) < {*TASKS, "grounding"}


def test_a_gemma_folder_keeps_to_its_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / run.SETTINGS).write_text(
        json.dumps(
            {
                "arm": "words",
                "seed": 0,
                "scale": 1.0,
                "stages": [run.asdict(s) for s in ARMS["words"]],
                "type": "float32",
            }
        )
    )
    with pytest.raises(NotReady, match="holds a run with"):
        run.train_gemma(tmp_path, "words", 0, also=FURTHER)
    took: list[Any] = []
    monkeypatch.setattr(run.LlavaForConditionalGeneration, "from_pretrained", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(run, "_remove_leftovers", took.append)
    with pytest.raises(ZeroDivisionError):  # a folder of before goes on without the switch
        run.train_gemma(tmp_path, "words", 0)
    assert took == [tmp_path]


def test_shares_are_those_of_the_tasks_that_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = testbed.load("llava")
    monkeypatch.setattr(sheet, "correct", lambda question, told: bool(question.before))
    assert sheet.shares_right(model, processor, 1, ("color", *FURTHER)) == {"color": 0, "grounding": 0, "multiturn": 1}
