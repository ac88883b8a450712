"""Stage one: the decoder learns to answer from symbolic visual tokens. No picture is drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from greedyprune.testbed.layout import PATCH, layout, one
from greedyprune.testbed.questions import ask
from greedyprune.testbed.train.answers import WANTED, Score, also_wanted, answer_loss, choose_shown
from greedyprune.testbed.train.codebook import symbols
from greedyprune.testbed.train.labels import Labels, label
from greedyprune.testbed.train.loop import Attention, Run, train
from greedyprune.testbed.train.models import Architecture
from greedyprune.testbed.train.packing import Packed, pack
from greedyprune.testbed.train.start import start_decoder

STEPS = 4500
BATCH = 16
LENGTH = 112  # tokens of questions and answers about one scene
TOKENS = 44  # visual tokens shown of a scene
NOISE = 0.3
RATE = 1.5e-3
HELP = {"side": 2}  # questions of training alone

Batch = tuple[Labels, tuple[int, int], Packed]


def run_symbols(
    run: Run,
    architecture: Architecture,
    model: Any,
    structured: bool = True,
    separate: bool = False,
    also: Sequence[str] = (),
) -> None:
    """Train the decoder in place; the tower and the projector are not touched. `also`: further tasks it is asked."""
    start_decoder(architecture, model, structured, separate)
    attention, wanted = Attention(), WANTED | also_wanted(also)
    held_out = [_batch(architecture, (9, i), 50, attention, "dev", wanted) for i in range(len(architecture.sizes))]

    def loss(step: int, done: float) -> torch.Tensor:
        torch.manual_seed(hash((run.seed, step, run.rank)) % 2**31)
        batch = _batch(architecture, (run.seed, 1, run.rank, step), BATCH, attention, "train", wanted | HELP)
        return answer_loss(_logits(architecture, model, batch), batch[2], attention)

    def test() -> dict[str, Any]:
        score = Score()
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            for batch in held_out:
                score.add(_logits(architecture, model, batch), batch[2])
        return score.row()

    weights = list(architecture.decoder_weights(model))
    parts = {"decoder": architecture.decoder(model), "head": model.lm_head, "attention": attention}
    train(run, parts, [{"params": weights, "lr": RATE}], loss, test)


def _batch(
    architecture: Architecture,
    seed: tuple[int, ...],
    n: int,
    attention: Attention,
    split: str,
    wanted: Mapping[str, int] = WANTED,
) -> Batch:
    rng = np.random.default_rng(seed)
    size = one(rng, architecture.sizes)
    scenes = [layout(rng, split, size) for _ in range(n)]
    questions = [ask(objects, size, rng, wanted) for objects in scenes]
    packed = pack(questions, rng, LENGTH, attention.weights, architecture.wording)
    return label(scenes, size), (size[1] // PATCH, size[0] // PATCH), packed


def _logits(architecture: Architecture, model: Any, batch: Batch) -> torch.Tensor:
    labels, grid, packed = batch
    rows = choose_shown(labels, TOKENS)
    tokens = symbols(labels, grid, NOISE)
    shown = tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[-1]))
    return architecture.logits(model, shown, rows, grid, packed)
