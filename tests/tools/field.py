"""What tests of faults from the field share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import greedyprune as gp
import proofs
from proofs import MADE

cuts = pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)


def orders(handle: gp.Pruned) -> list[list[int]]:
    """What was taken of each image, in order."""
    return [selection.order.tolist() for selection in handle.selections]


def prompt_of(ids: list[int], rows: proofs.Rows = ((0,),)) -> dict[str, Tensor]:
    """A prompt of these tokens, with the pictures of these rows."""
    made = MADE.prompt(rows)
    mask = torch.ones(1, len(ids), dtype=torch.long)
    return {**made, "input_ids": torch.tensor([ids]), "attention_mask": mask}
