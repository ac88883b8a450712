"""Coordinate tokens: the visual tokens whose rotary embedding nearly is the identity or a quarter turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from greedyprune.models.locate import images
from greedyprune.models.parts import find_parts
from greedyprune.ops.ranking import ranked

if TYPE_CHECKING:
    from collections.abc import Mapping


def coordinate_tokens(
    model: Any, inputs: Mapping[str, Any], share: float = 0.05, positions: Tensor | None = None
) -> list[list[int]]:
    """Find the position tokens of IVC-Prune, per image of a prompt, for `protect=` with any method.

        protect = gp.coordinate_tokens(model, inputs)
        with gp.prune(model, "fastv", keep=64, protect=protect):
            out = model.generate(**inputs)

    A token at position m has V(m) = sum_k cos(m theta_k) and U(m) = sum_k sin(m theta_k) over the rotary frequencies of
    decoder layer 0. The round(share n) of an image's n tokens with the largest V are named, and as many with the
    largest U. With several axes of positions both are sums over the axes. `positions`: the position ids, (b, q), or
    (axes, b, q) as `model.model.get_rope_index` gives them; None counts the tokens that are no padding. Raises
    ValueError for a share that is not from 0 to 1, or if positions cannot be counted.

    Source: IVC-Prune, ICLR 2026 (arXiv 2602.03060); its code has share=0.05 for LLaVA, 0.1 for Qwen2.5-VL. Differs: its
    own choice of other tokens is not here. Protected tokens count towards the budget. Ties go to the lowest token.
    Cost: one rotary embedding of the prompt.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share!r} is no share of an image's tokens: write a number from 0 to 1.")
    parts, spans = find_parts(model), images(model, inputs)
    ids: Tensor = inputs["input_ids"]
    if positions is None:
        if hasattr(parts.outer, "get_rope_index"):
            raise ValueError(
                "this model numbers positions along several axes: pass positions=, the ids (axes, b, q) that its "
                "get_rope_index returns for these inputs."
            )
        mask = inputs.get("attention_mask")
        counted = mask if isinstance(mask, Tensor) and mask.ndim == 2 else torch.ones_like(ids)
        positions = (counted.long().cumsum(1) - 1).clamp_min(0)
    if positions.shape[-2:] != ids.shape:
        given = tuple(positions.shape)
        raise ValueError(f"positions has shape {given}: pass a position for each of the {tuple(ids.shape)} tokens.")
    device = next(parts.text.parameters()).device
    rotation: object = parts.rotate(torch.zeros(1, device=device), positions.to(device), 0)
    if not isinstance(rotation, tuple):
        raise ValueError(f"a {parts.decoder_type!r} decoder gives no cosines and sines: name the tokens yourself.")
    tables = [_sums(table) for table in cast("tuple[Tensor, ...]", rotation)]
    found: list[list[int]] = []
    for span in spans:
        many, columns = round(span.n * share), span.columns.cpu()
        best = [ranked(table[span.row, columns])[:many] for table in tables]
        found.append(cast("list[int]", torch.cat(best).unique().tolist()))  # pyright: ignore[reportUnknownMemberType]
    return found


def _sums(table: Tensor) -> Tensor:
    """The sum over axes and channels. (b, q, c) or (axes, b, q, c) -> (b, q) float64"""
    sums = table.double().cpu().sum(-1)
    return sums.sum(0) if sums.ndim > 2 else sums
