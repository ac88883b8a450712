"""Selections that methods' released code made, in `released.json`, and the cues that they were made on.

The file holds facts alone: which tokens were kept, of which cues, by which commit of which repository. Cues are drawn
again here from the entry's seed, as whole numbers divided by powers of two, so every machine has the same ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import greedyprune as gp
from greedyprune.cues import Attention, Keys
from greedyprune.naming import method_class
from greedyprune.ops.relevance import cosines_with
from greedyprune.probes.decoder import raters
from greedyprune.tiles import Tiles

WIDTH, WORDS, HEADS = 32, 6, 8


@dataclass(frozen=True)
class Drawn:
    """The tensors of a seed, in the order in which one generator gives them."""

    rows: Tensor
    """(n, 32) tokens that resemble their neighbours, with a common offset."""
    encoded: Tensor
    """(n, 32) others of the same kind."""
    text: Tensor
    """(6, 32)"""
    heads: Tensor
    """(8, n) attention of eight heads, positive. Its mean over the heads is exact in float32, without ties."""
    others: Tensor
    """(8, n) the same of another layer."""
    keys: Tensor
    """(n, 2, 8)"""
    word_keys: Tensor
    """(6, 2, 8)"""
    norm: Tensor
    """(32,)"""


def draw(n: int, seed: int) -> Drawn:
    """The tensors of a seed. All values are whole numbers divided by a power of two, so float32 holds them."""
    g = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=g)

    def tokens() -> Tensor:
        centres, offset = whole(-99, 99, 12, WIDTH), whole(-40, 40, WIDTH)
        near = (torch.arange(n) * 12 // n + whole(0, 2, n)) % 12
        return (centres[near] + whole(-60, 60, n, WIDTH) + offset).float() / 64

    def attention() -> Tensor:
        return (whole(1, 2**17, HEADS, n) * 2 ** whole(0, 3, n)).float() / 2**30

    return Drawn(
        tokens(),
        tokens(),
        whole(-99, 99, WORDS, WIDTH).float() / 64,
        attention(),
        attention(),
        whole(-99, 99, n, 2, 8).float() / 64,
        whole(-99, 99, WORDS, 2, 8).float() / 64,
        whole(32, 96, WIDTH).float() / 64,
    )


@dataclass(frozen=True)
class Compared:
    """A method of ours, with its options, beside the selections of one source."""

    method: str
    options: dict[str, Any]
    selections: list[dict[str, Any]]
    shared: list[int] | None
    """The number of rows of each selection that ours shares. None: ours is equal."""

    def __str__(self) -> str:
        return "-".join([self.method, *(f"{name}={value}" for name, value in self.options.items())])


def sources() -> dict[str, dict[str, Any]]:
    """What the file holds of each method."""
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))["methods"]


def compared() -> list[Compared]:
    """Everything that ours is held to."""
    return [
        Compared(method, each["options"], source["selections"], each.get("shared"))
        for method, source in sources().items()
        for each in source["compared"]
    ]


def cues(method: str, selection: dict[str, Any]) -> gp.Cues:
    """The cues of a selection, for the methods that need them."""
    drawn = draw(selection["n"], selection["seed"])
    look, other, relevance, tiles = drawn.heads.mean(0), drawn.others.mean(0), None, None
    if method == "cdpruner":  # in place of CLIP's patches and words
        relevance = -cosines_with(drawn.encoded, drawn.text).mean(1)
    if method == "sparsevlm":  # each word attends in its own way
        words = [(look if word % 2 else other).roll(word) for word in range(WORDS)]
        look = torch.stack(words)[raters(drawn.rows, drawn.text)].mean(0)
    if "layout" in selection:  # the whole view and the crops are equally large
        rows, columns = selection["layout"]
        size = drawn.rows.shape[0] // (1 + rows * columns)
        side = int(size**0.5)
        tiles = Tiles(torch.arange(1 + rows * columns).repeat_interleave(size) - 1, (rows, columns), (side, side))
    return gp.Cues(
        drawn.rows,
        text=drawn.text,
        grid=selection.get("grid"),
        tiles=tiles,
        attention=look,
        keys=drawn.keys,
        encoded=drawn.encoded[:, : selection.get("width", WIDTH)],
        relevance=relevance,
        more={
            Keys("decoder", of="text"): drawn.word_keys,
            Attention("received", layer=1 / 3): other,
            Attention("tower", layer=0): other,
        },
        norm=drawn.norm,
    )


def ours(compared: Compared, selection: dict[str, Any]) -> gp.Keep:
    """What our method keeps of a selection's cues."""
    options = {**compared.options, **selection.get("options", {})}
    method = method_class(compared.method)(**options)
    return gp.select(method, cues(compared.method, selection), selection["k"])
