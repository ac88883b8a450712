"""Stage three: everything learns from answers alone, on pictures, with all visual tokens; and how answers score."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor
from torch.nn.functional import cross_entropy

from greedyprune.testbed.generator import picture
from greedyprune.testbed.layout import PATCH, one
from greedyprune.testbed.questions import FURTHER, KINDS, ask
from greedyprune.testbed.train.labels import Labels
from greedyprune.testbed.train.loop import Attention, Run, Schedule, train
from greedyprune.testbed.train.models import MEAN, STD, Architecture
from greedyprune.testbed.train.packing import IGNORED, Packed, pack

STEPS = 2400
BATCH = 8  # pictures of each process
LENGTH = 144  # tokens of questions and answers about one picture
HANDS = 32  # ways to set a letter in a font: from one alone, glyphs are learned by heart
SHRUNK = 0.25  # of the batches, where a model takes pictures of any size: else down-scaling would be new to it
DECODER_RATE, PROJECTOR_RATE, TOWER_RATE = 6e-4, 3e-4, 2e-4

WANTED = {
    "exist": 4, "count-shape": 3, "count-colour": 3, "color": 2, "shape": 2, "where": 3, "rel": 4, "digit": 3, "ocr": 2,
    "compare": 3, "coverage-number": 1, "coverage-missing": 1,
}  # fmt: skip
"""Questions asked about a scene in training, of which as many are used as fit."""
ALSO = {"grounding": 3, "multiturn": 3}
"""The same for the further tasks, in a training that includes them."""


def also_wanted(also: Sequence[str]) -> dict[str, int]:
    """The questions of these further tasks that are asked about a scene."""
    return {task: ALSO[task] for task in also}


def answer_loss(logits: Tensor, packed: Packed, attention: Attention | None = None) -> Tensor:
    """Mean cross-entropy of the tokens of all answers. Each kind's own loss goes to `attention`."""
    targets = packed.targets.to(logits.device)
    losses = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    if attention is not None:
        see_kinds(losses.detach().view_as(targets), packed, attention)
    return losses.sum() / (targets != IGNORED).sum()


def see_kinds(losses: Tensor, packed: Packed, attention: Attention) -> None:
    """Tell `attention` the loss of each whole answer. (b, length)"""
    for row, turns in zip(losses.cpu(), packed.turns, strict=True):
        for turn in turns:
            attention.see(turn.kind, float(row[turn.first : turn.first + turn.length].sum()))


class Score:
    """Questions answered right, every token of the answer, by kind."""

    def __init__(self) -> None:
        self.found: defaultdict[str, list[bool]] = defaultdict(list)

    def add(self, logits: Tensor, packed: Packed) -> None:
        self.see(logits.argmax(-1).cpu() == packed.targets, packed)

    def see(self, same: Tensor, packed: Packed) -> None:
        """Count the answers all of whose tokens are the same as the targets. (b, length)"""
        right = same.tolist()
        for row, turns in zip(right, packed.turns, strict=True):
            for turn in turns:
                self.found[turn.kind].append(all(row[turn.first : turn.first + turn.length]))

    def row(self) -> dict[str, Any]:
        shares = {
            kind: sum(self.found[kind]) / len(self.found[kind]) for kind in (*KINDS, *FURTHER) if self.found[kind]
        }
        mean = sum(shares.values()) / max(1, len(shares))
        return {kind: f"{share:.3f}" for kind, share in shares.items()} | {"mean": f"{mean:.4f}"}


def choose(kind: Tensor, sure: Tensor, k: int) -> Tensor:
    """k rows of each scene: all that are `sure`, then objects, then background, at random. (b, n), (b, n) -> (b, k)"""
    worth = torch.rand(kind.shape) + 0.8 * (kind > 0) + 3.0 * sure
    return worth.topk(k, 1).indices.sort(1).values


def choose_shown(labels: Labels, k: int) -> Tensor:
    """k rows of each labelled scene: all in the middle of an object or with a character, then as `choose`. -> (b, k)"""
    return choose(labels.kind, (labels.centre > 0) | (labels.slot >= 0), k)


def run_answers(run: Run, architecture: Architecture, model: Any, also: Sequence[str] = ()) -> None:
    """Train the whole model in place. `also`: further tasks that it is asked."""
    tower, projector = architecture.tower(model), architecture.projector(model)
    attention, wanted = Attention(), WANTED | also_wanted(also)
    held_out = [_batch(architecture, (9, i), 40, attention, "dev", wanted) for i in range(4)]

    def loss(step: int, done: float) -> Tensor:
        pixels, packed = _batch(architecture, (run.seed, 3, run.rank, step), BATCH, attention, "train", wanted)
        return answer_loss(_logits(architecture, model, pixels, packed, run.device), packed, attention)

    def test() -> dict[str, Any]:
        score = Score()
        with torch.no_grad():
            for pixels, packed in held_out:
                score.add(_logits(architecture, model, pixels, packed, run.device), packed)
        return score.row()

    groups = [
        {"params": list(architecture.decoder_weights(model)), "lr": DECODER_RATE},
        {"params": list(projector.parameters()), "lr": PROJECTOR_RATE},
        {"params": list(tower.parameters()), "lr": TOWER_RATE},
    ]
    if run.step == 0 and run.rank == 0 and not run.path.exists():
        run.record(**test())
    train(run, {"model": model, "attention": attention}, groups, loss, test, Schedule(constant=0.3))


def _batch(
    architecture: Architecture,
    seed: tuple[int, ...],
    n: int,
    attention: Attention,
    split: str,
    wanted: Mapping[str, int] = WANTED,
) -> tuple[Tensor, Packed]:
    rng = np.random.default_rng(seed)
    size = one(rng, architecture.sizes)
    drawn = [picture(rng, split, size, hands=HANDS if split == "train" else 1) for _ in range(n)]
    questions = [ask(objects, size, rng, wanted) for _, objects in drawn]
    packed = pack(questions, rng, LENGTH, attention.weights, architecture.wording)
    images = [image for image, _ in drawn]
    if split == "train" and len(architecture.sizes) > 1 and rng.random() < SHRUNK:
        images = _shrink(images, rng.uniform(0.5, 1))
    return to_pixels([np.asarray(image) for image in images]), packed


def _shrink(images: list[Image], factor: float) -> list[Image]:
    """The same pictures with fewer pixels, whole patches of them."""
    width, height = (PATCH * round(edge * factor / PATCH) for edge in images[0].size)
    return [image.resize((width, height), Resampling.BICUBIC) for image in images]


def _logits(architecture: Architecture, model: Any, pixels: Tensor, packed: Packed, device: str) -> Tensor:
    with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
        _, tokens = architecture.see(model, pixels.to(device))
        return architecture.logits(model, tokens, None, grid_of(pixels), packed)


def grid_of(pixels: Tensor) -> tuple[int, int]:
    """Rows and columns of visual tokens. (b, 3, h, w)"""
    return pixels.shape[2] // PATCH, pixels.shape[3] // PATCH


def to_pixels(images: list[np.ndarray]) -> Tensor:
    """Pixels as the processors make them from pictures of the right size. -> (b, 3, h, w)"""
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
