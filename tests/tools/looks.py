"""Tools for tests of attention cues: methods that note the cue they are given, and the weights of eager attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

import greedyprune as gp
import proofs
from greedyprune.cues import Attention, Need
from tiny import IMAGE, Tiny, tiny

CLS, LAST, RATERS = Attention("cls"), Attention("last_text"), Attention("raters")


@dataclass(frozen=True, kw_only=True)
class Cls(proofs.Custom):
    needs: ClassVar[tuple[Need, ...]] = (CLS,)
    at: gp.Stage = gp.Input()


@dataclass(frozen=True, kw_only=True)
class Last(proofs.Custom):
    needs: ClassVar[tuple[Need, ...]] = (LAST,)
    at: gp.Stage = gp.Layer(2)


def noting(seen: list[Tensor], need: Need) -> Any:
    """A method's choice that notes the cue it is given, and keeps tokens from all over the image."""

    def choose(cues: gp.Cues, k: int) -> gp.Keep:
        seen.append(cues[need])
        return gp.Keep.from_order(
            torch.randperm(cues.n, generator=torch.Generator().manual_seed(k))[:k], torch.zeros(k), cues.n
        )

    return choose


def near(a: Tensor, b: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def all_near(seen: list[Tensor], expected: list[Tensor], atol: float = 1e-5) -> None:
    """As many cues as expected, each near its own, and the cases tell tokens apart."""
    assert len(seen) == len(expected) > 0
    for mine, wanted in zip(seen, expected, strict=True):
        near(mine, wanted, atol)
        assert wanted.max() - wanted.min() > 1e-3


def eager_rows(weights: Tensor, inputs: dict[str, Tensor], counts: list[int]) -> list[Tensor]:
    """Per image what the last token looks at, mean over heads, from returned weights. (b, h, q, t) -> [(n,)]"""
    ids = inputs["input_ids"]
    row = weights.mean(1)[:, -1, -ids.shape[1] :]
    return [row[places[:, 0], places[:, 1]] for places in (ids == IMAGE).nonzero().split(counts)]


def class_rows(made: Tiny, pixels: Tensor, layer: int) -> Tensor:
    """What the class token looks at in a layer, from the eager tower's returned weights. -> (images, 1 + n)"""
    with torch.no_grad():
        out = made.model.model.vision_tower(pixels, output_attentions=True)
    return out.attentions[layer].mean(1)[:, 0]


def asking(seen: list[Tensor], need: Need, at: gp.Stage) -> gp.Method:
    """A method that needs one cue and notes it for every image."""

    @dataclass(frozen=True, kw_only=True)
    class Asking(proofs.Custom):
        needs: ClassVar[tuple[Need, ...]] = (need,)

    return Asking(choose=noting(seen, need), at=at)


def asking_all(given: list[gp.Cues], wanted: tuple[Need, ...], at: gp.Stage) -> gp.Method:
    """A method that needs several cues, the last prompt token's attention among them, and notes all of them."""

    @dataclass(frozen=True, kw_only=True)
    class AskingAll(proofs.Custom):
        needs: ClassVar[tuple[Need, ...]] = wanted

    def choose(cues: gp.Cues, k: int) -> gp.Keep:
        given.append(cues)
        return noting([], LAST)(cues, k)

    return AskingAll(choose=choose, at=at)


def prompt_of(family: str, case: proofs.Case) -> tuple[Tiny, dict[str, Tensor], list[Tensor], list[tuple[int, Tensor]]]:
    """An eager model, its prompt, the embeddings of its rows, and of every image its row and columns."""
    eager = tiny(family, "eager")
    inputs = eager.prompt(case.rows)
    embeds = proofs.entering(eager.model.get_decoder().layers[0], eager.model, inputs)["hidden_states"]
    with gp.prune(eager.model, "random", 1) as handle:
        proofs.forward(eager.model, inputs)
        places = proofs.image_columns(inputs["input_ids"], handle.selections)
    return eager, inputs, embeds, [(int(p[0, 0]), p[:, 1]) for p in places]


def text_of(inputs: dict[str, Tensor], row: int) -> list[int]:
    """The columns of a prompt's text."""
    return [
        column
        for column, (token, real) in enumerate(
            zip(inputs["input_ids"][row].tolist(), inputs["attention_mask"][row].tolist(), strict=True)
        )
        if real and token != IMAGE
    ]


def raters_of(inputs: dict[str, Tensor], embeds: Tensor, row: int, columns: Tensor) -> list[int]:
    """The columns of an image's raters, in plain loops."""
    text = text_of(inputs, row)
    spoken = [0.0] * len(text)
    for i in columns.tolist():
        scores = [float(embeds[row, i].double() @ embeds[row, j].double()) for j in text]
        most = max(scores)
        total = sum(math.exp(score - most) for score in scores)
        for j, score in enumerate(scores):
            spoken[j] += math.exp(score - most) / total / len(columns)
    mean = sum(spoken) / len(spoken)
    chosen = [j for j, m in zip(text, spoken, strict=True) if m > mean and j > int(columns[-1])]
    return chosen or [int(inputs["attention_mask"][row].nonzero()[-1])]
