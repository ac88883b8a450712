"""Where the images of a prompt are, told without its decoder: the same as pruning finds them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import greedyprune as gp
import tiny
from breadth import some
from greedyprune.models.parts import find_parts
from proofs import FIRST, forward

ROWS = ((0, 1), (2,))
QUIET = ("llava", "qwen2_5_vl", "gemma3", "idefics3", "internvl")
"""Models whose images are told by ids, grids and config alone."""


@pytest.mark.parametrize("name", some(tiny.NAMES, *FIRST))
def test_images_are_where_pruning_finds_them(name: str) -> None:
    made = tiny.tiny(name)
    inputs = made.prompt(ROWS)
    with gp.prune(made.model, "random", gp.Ratio(1.0), at=gp.Input()) as pruned:
        forward(made.model, inputs)
        truth = pruned.selections
    found = gp.images(made.model, inputs)
    assert [(s.row, s.n, s.kind) for s in truth] == [(s.row, s.n, s.kind) for s in found]
    assert [s.grid for s in truth] == [s.grid for s in found]
    tokens = torch.tensor([token for _, token in find_parts(made.model).media])
    for span in found:
        assert torch.isin(inputs["input_ids"][span.row, span.columns], tokens).all()
        assert span.columns.tolist() == sorted(set(span.columns.tolist()))


@pytest.mark.parametrize("name", QUIET)
def test_nothing_runs_where_ids_and_grids_tell_enough(name: str) -> None:
    made, ran = tiny.fresh(name), list[Any]()
    for module in made.model.modules():
        module.register_forward_pre_hook(lambda module, args: ran.append(module))
    assert len(gp.images(made.model, made.prompt(ROWS))) == 3
    assert ran == []


def test_the_decoder_never_runs() -> None:
    made, ran = tiny.fresh("llava_next"), list[Any]()
    made.model.get_decoder().register_forward_pre_hook(lambda module, args: ran.append(module))
    assert len(gp.images(made.model, made.prompt(ROWS))) == 3
    assert ran == []


@pytest.mark.parametrize("grid", [(1, 0, 0), (1, 0, 4), (1, 4, 0), (0, 4, 4), (1, 1, 4)], ids=str)
def test_a_grid_without_a_patch_is_refused_by_name(grid: tuple[int, int, int]) -> None:
    made = tiny.tiny("qwen2_5_vl")
    inputs = made.prompt(((0,),))
    for grids in ([grid], [*inputs["image_grid_thw"].tolist(), grid]):
        with pytest.raises(ValueError, match=rf"a grid of {re.escape(str(grid))} patches holds no visual token"):
            gp.images(made.model, {**inputs, "image_grid_thw": torch.tensor(grids)})


def test_text_holds_no_images() -> None:
    made = tiny.tiny("llava")
    assert gp.images(made.model, {"input_ids": torch.full((1, 4), 9)}) == []


def test_inputs_that_do_not_fit_are_an_error() -> None:
    made = tiny.tiny("llava")
    inputs = made.prompt(((0,),))
    with pytest.raises(TypeError, match="hold no input_ids"):
        gp.images(made.model, {"pixel_values": inputs["pixel_values"]})
    with pytest.raises(ValueError, match="16 image placeholders, its image features have 48 rows"):
        gp.images(made.model, {**inputs, "pixel_values": torch.cat([inputs["pixel_values"]] * 3)})
