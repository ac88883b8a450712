"""Find the images, videos and sounds of a processed prompt before the model runs."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from greedyprune.models import layouts
from greedyprune.models._family import ImageTokens, Visuals
from greedyprune.models.parts import find_parts
from greedyprune.models.prompt import Prompt, lay_out, newlines, rows_of_features

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greedyprune.models._family import Layout, Medium
    from greedyprune.models.parts import Parts
    from greedyprune.models.prompt import Span

BY_RUNS: tuple[Layout, ...] = (
    layouts.by_runs,
    layouts.runs_of_tiles,
    layouts.runs_near,
    layouts.runs_until_last,
    layouts.runs_until_global,
    layouts.overview_first,
)
"""The layouts that read only the token ids."""
GRIDS = {"image": "image_grid_thw", "video": "video_grid_thw"}
"""The input that holds the patch grid of each image, (images, 3): frames, rows and columns."""


def images(model: Any, inputs: Mapping[str, Any]) -> list[Span]:
    """Find the images, videos and sounds of a processed prompt: the prompt, columns, tokens and grid of each.

        for image in gp.images(model, processor(text=..., images=..., return_tensors="pt")):
            print(image.kind, image.row, image.n, image.grid, image.columns)

    The order is the order of the placeholders, as in `pruned.selections`. The decoder does not run. For most families
    the token ids, the processor's grids and the config are enough. If they are not (tiles with newlines, sizes that
    only the encoder knows), the encoder computes the features once. Raises TypeError or ValueError if the model cannot
    be pruned, if there are no `input_ids`, or if text and images do not fit.
    """
    parts, ids = find_parts(model), inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        raise TypeError("the inputs hold no input_ids (b, q): pass what the model's own processor returned.")
    ids = ids.cpu()
    mask = inputs.get("attention_mask")
    valid = mask.bool().cpu() if isinstance(mask, Tensor) and mask.ndim == 2 else torch.ones_like(ids).bool()
    media: list[tuple[Tensor, list[ImageTokens]]] = []
    for medium, token in parts.media:
        here = ids == token
        if any(inputs.get(name) is not None for name in medium.inputs) and bool(here.any()):
            media.append((here, _of_medium(parts, medium, ids, here, inputs)))
    return Prompt.of(valid, media).spans


def _of_medium(parts: Parts, medium: Medium, ids: Tensor, here: Tensor, inputs: Mapping[str, Any]) -> list[ImageTokens]:
    """Find the images of one medium. The encoder runs only if token ids, grids and config are not enough."""
    if medium.layout in BY_RUNS:
        return lay_out(parts, medium, Visuals(ids, here, kind=medium.kind))
    total = int(here.sum())
    grids = _grids(parts, inputs.get(GRIDS.get(medium.kind, "")), total)
    if medium.layout is layouts.positioned_grids and grids:
        return [ImageTokens(math.prod(grid), grid, kind=medium.kind) for grid in grids]
    pixels = inputs.get(medium.inputs[0])
    one_size = parts.family.takes_one_size(parts.config)
    if one_size and isinstance(pixels, Tensor) and total % pixels.shape[0] == 0:
        lengths = [total // pixels.shape[0]] * pixels.shape[0]
        return lay_out(parts, medium, Visuals(ids, here, lengths, kind=medium.kind))
    features = _encode(parts, medium, inputs)
    rows = rows_of_features(features)
    breaks = None if rows is None else _newlines_among(parts, features, rows, total)
    return lay_out(parts, medium, Visuals(ids, here, rows, None, breaks, medium.kind))


def _newlines_among(parts: Parts, features: Any, rows: list[int], total: int) -> Tensor | None:
    """Find the placeholders that hold a newline; None if the family has no newline. -> (placeholders,) bool"""
    computed = getattr(features, "pooler_output", features)
    each: list[Tensor] = [tokens.flatten(0, -2) for tokens in computed]
    row = getattr(parts.outer, parts.family.newline or "", None)
    if row is None:
        return None
    if sum(rows) + len(rows) == total:  # the model appends a newline to each video later
        each = [torch.cat([tokens, row.detach().to(tokens)[None]]) for tokens in each]
    tokens = torch.cat(each)[None]
    return newlines(parts, tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device="cpu"))


def _grids(parts: Parts, given: object, total: int) -> list[tuple[int, int, int]]:
    """Compute the grids of merged patches from patch grids, (images, 3); empty if they do not give `total` tokens.

    Raises ValueError for a grid without a token.
    """
    if not isinstance(given, Tensor):
        return []
    merge = int(getattr(parts.config.vision_config, "spatial_merge_size", 1))
    rows: Any = given
    grids = [(int(t), int(h) // merge, int(w) // merge) for t, h, w in rows.tolist()]
    for patches, grid in zip(rows.tolist(), grids, strict=True):
        if not math.prod(grid):
            raise ValueError(
                f"a grid of {tuple(patches)} patches holds no visual token: build text and images with the model's own "
                "processor."
            )
    tokens = sum(math.prod(grid) for grid in grids)
    frames = tokens // total  # the model may merge this many frames of a video into one
    if tokens % total or any(t % frames for t, _, _ in grids):
        return []
    return [(t // frames, h, w) for t, h, w in grids]


@torch.no_grad()
def _encode(parts: Parts, medium: Medium, inputs: Mapping[str, Any]) -> Any:
    """Compute the features of one medium with the model's encoder; None if the model has no method for it."""
    compute: Callable[..., Any] | None = getattr(parts.outer, medium.features, None) if medium.features else None
    if compute is None:
        return None
    parameters = inspect.signature(compute).parameters
    sizes = f"{medium.kind}_sizes"
    swallows = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    given = {
        name: value
        for name, value in inputs.items()
        if value is not None and (name in parameters or (name == sizes and swallows))
    }
    # The first parameter takes the pixels. Older releases call it pixel_values for videos, too.
    return compute(**{**given, next(iter(parameters)): inputs.get(medium.inputs[0])})
