"""The stages of training: which tokens are shown, what is asked, how fast weights change."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from greedyprune.testbed.generator import picture
from greedyprune.testbed.layout import PATCH, Object
from greedyprune.testbed.questions import ask
from greedyprune.testbed.train.answers import HANDS, Score, also_wanted, choose_shown, see_kinds, to_pixels
from greedyprune.testbed.train.gemma.arithmetic import Weights, fast_norms
from greedyprune.testbed.train.gemma.decoder import Answers, Gemma
from greedyprune.testbed.train.labels import label
from greedyprune.testbed.train.loop import Attention, Run, Schedule, train
from greedyprune.testbed.train.packing import IGNORED, Packed, pack

HELD_OUT = 24  # pictures of the dev split
SIZE = (168, 168)

WANTED = {
    "exist": 4, "where": 3, "color": 2, "shape": 2, "digit": 3, "ocr": 2, "rel": 2, "count-shape": 1,
    "count-colour": 1,
}  # fmt: skip
"""Questions asked about a scene in training, of which as many are used as fit."""
FIRST = 1e6
"""The weight of a caption: where there is one, it comes before the questions."""


@dataclass(frozen=True)
class Stage:
    """One stage."""

    name: str
    steps: int
    shown: int
    """Visual tokens of a picture: all that tell something, then others at random."""
    captions: float
    """The share of pictures whose objects are listed."""
    decoder_rate: float
    projector_rate: float
    asked: bool = True
    """False: objects are listed and nothing is asked."""
    among_all: bool = False
    """True: the tokens of answers compete with all words."""
    constant: float = 1.0
    """The share of the steps at the full learning rate."""
    batch: int = 6
    """Pictures of a step."""
    length: int = 160
    """Tokens of questions and answers about one picture."""


PICTURES = Stage("pictures", 240, 144, 0.1, 2e-4, 3e-4, among_all=True, constant=0.3)
ARMS = {
    "words": (Stage("objects", 260, 44, 0.3, 2e-4, 5e-4), PICTURES),
    "random": (
        Stage("captions", 200, 24, 1.0, 3e-4, 3e-3, asked=False, batch=16, length=64),
        Stage("objects", 350, 32, 0.3, 3e-4, 1e-3),
        Stage("binding", 400, 44, 0.3, 2e-4, 5e-4),
        replace(PICTURES, steps=200),
    ),
}
"""The stages of each arm: the projector starts at word embeddings, or at random."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """A batch: pixels, what is asked, and the visual tokens that are shown."""

    pixels: Tensor
    packed: Packed
    rows: Tensor | None
    """(b, shown), or None for all."""


def draw(
    architecture: Gemma,
    stage: Stage,
    seed: tuple[int, ...],
    n: int,
    split: str,
    attention: Attention,
    also: Sequence[str] = (),
) -> Pictures:
    """Pictures of a split, and questions about them, of further tasks too if they are named."""
    rng = np.random.default_rng(seed)
    drawn = [picture(rng, split, SIZE, hands=HANDS if split == "train" else 1) for _ in range(n)]
    asked = WANTED | also_wanted(also) if stage.asked else {}
    questions = [
        ask(objects, SIZE, rng, {**asked, "caption": int(rng.random() < stage.captions)}) for _, objects in drawn
    ]
    weights = attention.weights
    weights["caption"] = FIRST
    packed = pack(questions, rng, stage.length, weights, architecture.wording)
    pixels = to_pixels([np.asarray(image) for image, _ in drawn])
    return Pictures(pixels, packed, _shown([objects for _, objects in drawn], stage, rng))


def _shown(scenes: list[tuple[Object, ...]], stage: Stage, rng: np.random.Generator) -> Tensor | None:
    """The visual tokens that are shown of each scene; None for all. -> (b, shown)"""
    if stage.shown >= (SIZE[0] // PATCH) * (SIZE[1] // PATCH):
        return None
    labels = label(scenes, SIZE)
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**31)))
        return choose_shown(labels, stage.shown)


def states_of(architecture: Gemma, model: Any, batch: Pictures, device: str) -> Tensor:
    """The decoder's last states of the turns. -> (b, length, d)"""
    _, tokens = architecture.see(model, batch.pixels.to(device))
    rows = batch.rows.to(device) if batch.rows is not None else None
    if rows is not None:
        tokens = tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[-1]))
    return architecture.states(model, tokens, rows, (SIZE[1] // PATCH, SIZE[0] // PATCH), batch.packed)


def run_stage(
    run: Run,
    stage: Stage,
    architecture: Gemma,
    model: Any,
    before: dict[str, Tensor] | None = None,
    also: Sequence[str] = (),
) -> None:
    """Train the decoder and the projector in place, from the weights of the stage before. `also`: further tasks.

    The curve's rows are shares of held-out answers that are right, and of the tokens of lists; the tokens of answers
    compete among themselves.
    """
    model.requires_grad_(False)
    decoder, projector = list(architecture.decoder_weights(model)), list(architecture.projector(model).parameters())
    for weight in (*decoder, *projector):
        weight.requires_grad_()
    weights, attention, answers = Weights([*decoder, *projector]), Attention(), Answers(model, architecture.english)
    if before is not None:
        weights.load_state_dict(before)
    held_out = [draw(architecture, stage, (9, i), HELD_OUT // 4, "dev", Attention(), also) for i in range(4)]

    def loss(step: int, done: float) -> Tensor:
        weights.to_model()
        torch.manual_seed(random.Random(f"{run.seed} {stage.name} {step}").getrandbits(31))
        seed = run.seed, *stage.name.encode(), step
        batch = draw(architecture, stage, seed, stage.batch, "train", attention, also)
        states = states_of(architecture, model, batch, run.device)
        losses = answers.losses(states, batch.packed)
        see_kinds(losses.detach(), batch.packed, attention)
        total = losses.sum() / (batch.packed.targets != IGNORED).sum()
        return total + answers.loss_among_all(states, batch.packed) if stage.among_all else total

    def test() -> dict[str, Any]:
        weights.to_model()
        score, listed = Score(), list[bool]()
        with torch.no_grad():
            for batch in held_out:
                told = answers.told(states_of(architecture, model, batch, run.device)).cpu()
                same = told == batch.packed.targets
                score.see(same, batch.packed)
                for row, turns in zip(same, batch.packed.turns, strict=True):
                    some = [row[turn.first : turn.first + turn.length] for turn in turns if turn.kind == "caption"]
                    listed += torch.cat(some).tolist() if some else []
        return score.row() | ({"caption tokens": f"{sum(listed) / len(listed):.3f}"} if listed else {})

    groups = [
        {"params": weights.exact[: len(decoder)], "lr": stage.decoder_rate},
        {"params": weights.exact[len(decoder) :], "lr": stage.projector_rate},
    ]
    schedule = Schedule(stage.constant, warm=30, betas=(0.9, 0.98), decay=0.0, test_every=40)
    try:
        with fast_norms():
            train(run, {"weights": weights, "attention": attention}, groups, loss, test, schedule)
    finally:
        weights.release()
    weights.to_model()


def finished(folder: Path, stage: Stage) -> dict[str, Tensor] | None:
    """The weights that a finished stage left; None if it is not finished."""
    path = folder / f"{stage.name}.pt"
    if not path.exists():
        return None
    saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return saved["weights"] if "optimizer" not in saved else None
