"""The training recipe: packed questions are answered as if each stood alone, labels tell the truth, runs resume."""

import csv
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from breadth import some
from greedyprune import testbed
from greedyprune.preprocessing.processors import load_processor
from greedyprune.testbed import KINDS, TASKS, answer_patches, scenes
from greedyprune.testbed.generator import picture
from greedyprune.testbed.layout import COUNTS, CROWDED, PATCH, SHAPES, SIZES
from greedyprune.testbed.train.answers import HANDS, Score, answer_loss, choose, to_pixels
from greedyprune.testbed.train.codebook import NORM, apart, codebook, places, symbols
from greedyprune.testbed.train.export import export
from greedyprune.testbed.train.labels import CHARACTERS, PAINTS, label
from greedyprune.testbed.train.labels import KINDS as SEEN
from greedyprune.testbed.train.loop import Attention, Run
from greedyprune.testbed.train.models import ARCHITECTURES
from greedyprune.testbed.train.packing import IGNORED, Words, pack, visible
from greedyprune.testbed.train.start import start_decoder, start_tower
from greedyprune.testbed.train.symbols import run_symbols
from greedyprune.testbed.train.vision import pictures, run_vision
from greedyprune.testbed.train.vocabulary import IDS, SIZE, WORDS, encode

NAMES = tuple(ARCHITECTURES)


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """An untrained model of each architecture, and the same after export."""
    torch.manual_seed(0)
    architecture = ARCHITECTURES[request.param]
    model = architecture.build()
    start_decoder(architecture, model)
    start_tower(architecture, model)
    folder = tmp_path_factory.mktemp(request.param)
    export(architecture, model, folder)  # which leaves the weights rounded to half precision
    return architecture, model.float().eval(), load_processor(str(folder))


def test_packed_turns_are_answered_as_if_each_stood_alone(made):
    """The logits of every answer token equal those of one prompt through the exported processor and the model."""
    architecture, model, processor = made
    size = architecture.sizes[-1]
    found = list(islice(scenes("dev", 3, [size]), 2))
    packed = pack(
        [scene.questions for scene in found],
        np.random.default_rng(0),
        120,
        Attention().weights,
        architecture.wording,
    )
    pixels = to_pixels([np.asarray(scene.image) for scene in found])
    with torch.no_grad():
        _, tokens = architecture.see(model, pixels)
        together = architecture.logits(model, tokens, None, (size[1] // PATCH, size[0] // PATCH), packed)
    compared = 0
    for row, scene in enumerate(found):
        asked = {tuple(encode(question.text)): question for question in scene.questions}
        for turn in packed.turns[row]:
            answer = packed.targets[row, turn.first : turn.first + turn.length].tolist()
            start = turn.first - len(architecture.ask) + 1
            while start and packed.turn[row, start - 1] == packed.turn[row, turn.first]:
                start -= 1
            question = asked[tuple(packed.ids[row, start : turn.first - len(architecture.ask) + 1].tolist())]
            assert answer == [*encode(question.answer), architecture.end]
            text = testbed.prompt(processor, question) + " " + question.answer
            inputs = processor(images=scene.image, text=text, return_tensors="pt")
            with torch.no_grad():
                alone = model(**inputs).logits[0, -turn.length :]
            torch.testing.assert_close(
                together[row, turn.first : turn.first + turn.length], alone, atol=2e-4, rtol=1e-4
            )
            compared += 1
    assert compared > 10


def test_a_turn_sees_the_picture_and_itself_only():
    turn = torch.tensor([[0, 0, 1, 1, -1]])
    seen = visible(turn, 3)[0, 0]
    assert seen[:3, :3].equal(torch.ones(3, 3, dtype=torch.bool).tril())
    assert seen[3:, :3].all()
    assert seen[3:, 3:].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_a_larger_weight_brings_more_turns():
    scene = next(scenes("dev", 1))
    weights = Attention()
    for kind in (*KINDS, "side"):
        weights.loss[kind] = 0.0
    weights.loss["exist"] = 5.0
    first = [
        pack([scene.questions], np.random.default_rng(seed), 16, weights.weights, Words((5,), 2)).turns[0][0].kind
        for seed in range(200)
    ]
    assert first.count("exist") > 100
    assert len(set(first)) > 3


def test_labels_say_what_each_patch_shows():
    for seed, size in enumerate(SIZES):
        scene = next(scenes("train", seed, [size]))
        labels = label([scene.objects], size)
        grid = size[1] // PATCH, size[0] // PATCH
        for thing in scene.objects:
            x, y = (int(at) // PATCH for at in thing.centre)
            middle = y * grid[1] + x
            assert SEEN[labels.kind[0, middle]] == thing.kind
            assert PAINTS[labels.colour[0, middle]] == thing.colour
            assert bool(labels.centre[0, middle]) == (thing.kind != "sign")
            assert labels.side[0, middle] == (thing.side if thing.kind in SHAPES else 0)
            if thing.kind == "tile":
                assert CHARACTERS[labels.character[0, middle]] == thing.text
            if thing.kind == "sign":
                column, row = thing.box[0] // PATCH, int(thing.centre[1]) // PATCH
                spelled = labels.character[0, row * grid[1] + column :][:3]
                assert "".join(CHARACTERS[i] for i in spelled) == thing.text
                assert labels.slot[0, row * grid[1] + column :][:3].tolist() == [0, 1, 2]
        covered = set()
        for question in scene.questions:
            covered |= set(answer_patches(question, grid, size))
        shown = (labels.kind[0] > 0) | (labels.unclear[0] > 0)
        assert shown[sorted(covered)].all()


def test_a_separate_start_takes_words_out_of_the_basis_of_visual_tokens():
    book, turn = codebook(), apart()
    assert torch.allclose(turn @ turn.T, torch.eye(len(turn)), atol=1e-5)
    named = torch.tensor([IDS[kind] for kind in SEEN[1:]])
    architecture = ARCHITECTURES["llava"]
    for separate, alike in ((False, 1.0), (True, 0.0)):
        model = architecture.build()
        start_decoder(architecture, model, separate=separate)
        words = model.get_input_embeddings().weight.detach()[named]
        cosines = torch.nn.functional.cosine_similarity(words, book.kinds[1:])
        assert abs(float(cosines.mean()) - alike) < 0.1
        assert torch.allclose(words @ words.T, book.words[named] @ book.words[named].T, atol=1e-3)


def test_the_codebook_is_orthonormal_but_for_words_that_start_alike():
    book = codebook()
    plain = [IDS[word] for word in WORDS if not word.endswith("s") and word not in _RELATED]
    rows = torch.cat([book.words[plain], book.slots[:-1], book.centre[None], book.side[None], book.line])
    torch.testing.assert_close(rows @ rows.T / NORM**2, torch.eye(len(rows)), atol=1e-5, rtol=0)
    assert len(WORDS) <= SIZE
    assert not places((12, 12)).isnan().any()
    assert (places((10, 14))[0] - places((10, 14))[-1]).norm() > NORM


_RELATED = {"left", "right", "top", "bottom", "above", "below", "center", "middle", "larger", "smaller"}


def test_symbols_without_noise_can_be_read_back():
    size = SIZES[1]
    found = [scene.objects for scene in islice(scenes("train", 4, [size]), 6)]
    labels = label(found, size)
    grid = size[1] // PATCH, size[0] // PATCH
    tokens = symbols(labels, grid) - places(grid)
    book = codebook()
    assert (tokens @ book.kinds.T / book.kinds.square().sum(1)).argmax(-1).equal(labels.kind)
    there = labels.character >= 0
    assert (tokens @ book.characters[:-1].T).argmax(-1)[there].equal(labels.character[there])
    noisy = symbols(labels, grid, 0.3) - places(grid)
    assert 0.1 < float((noisy - tokens).norm() / tokens.norm()) < 0.6


def test_shown_rows_hold_what_is_sure_and_are_sorted():
    kind, sure = torch.tensor([[0, 1, 0, 1, 1, 0]]), torch.tensor([[0, 0, 0, 1, 1, 0]]) > 0
    for _ in range(20):
        rows = choose(kind, sure, 3)[0].tolist()
        assert rows == sorted(rows)
        assert {3, 4} <= set(rows)


def test_crowded_scenes_have_more_to_read():
    architecture = ARCHITECTURES["llava"]
    usual, crowded = (pictures(architecture, (5,), 12, "train", counts)[1] for counts in (COUNTS, CROWDED))
    assert (crowded.character >= 0).sum() > 1.3 * (usual.character >= 0).sum()


def test_signs_come_in_many_hands_where_answers_are_learned():
    rng = np.random.default_rng(0)
    drawn = [picture(rng, "train", SIZES[0], CROWDED, HANDS)[1] for _ in range(30)]
    assert len({thing.glyph for objects in drawn for thing in objects if thing.kind == "sign"}) > HANDS // 2


def test_scores_count_whole_answers():
    scene = next(scenes("dev", 1))
    packed = pack([scene.questions], np.random.default_rng(0), 200, Attention().weights, Words((5,), 2))
    right = torch.nn.functional.one_hot(packed.targets.clamp_min(0), SIZE).float() * 50
    score = Score()
    score.add(right, packed)
    assert set(score.row().values()) <= {"1.000", "1.0000"}
    assert float(answer_loss(right, packed)) < 1e-3
    where = next(turn for turn in packed.turns[0] if turn.kind == "ocr" or turn.length > 2)
    wrong = right.roll(1, -1)
    right[0, where.first] = wrong[0, where.first]
    score = Score()
    score.add(right, packed)
    assert float(score.row()[where.kind]) < 1
    assert (packed.targets != IGNORED).sum() == sum(turn.length for turn in packed.turns[0])
    assert {question.task for question in scene.questions} <= set(TASKS)


@pytest.mark.parametrize("stage", some(["symbols", "vision"], "symbols"))
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(stage: str, tmp_path: Path):
    def weights(folder: Path, *stops: int) -> list[torch.Tensor]:
        folder.mkdir()
        for stop in stops:
            torch.manual_seed(3)
            architecture = ARCHITECTURES["llava"]
            model = architecture.build()
            start_tower(architecture, model)
            run = Run(stage, folder, seed=3, steps=40, stop=stop)
            if stage == "symbols":
                run_symbols(run, architecture, model)
            else:
                run_vision(run, architecture, model)
            run.record(note=stop)
        with (folder / f"{stage}.csv").open() as file:
            assert [int(row["note"]) for row in csv.DictReader(file)] == list(stops)[-1:]
        part = architecture.decoder(model) if stage == "symbols" else architecture.tower(model)
        return [weight.detach() for weight in part.parameters()]

    whole, parts = weights(tmp_path / "whole", 2), weights(tmp_path / "parts", 1, 2)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
