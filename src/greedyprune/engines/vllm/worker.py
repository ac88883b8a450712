"""A model class of vLLM whose images come out of its encoder with the rows that stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from greedyprune.engines.vllm.choosing import Grid, choose
from greedyprune.engines.vllm.plan import FIELD, Plan

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.keep import Keep


class PrunesImages:
    """A mixin in front of a model class. A family says how its images' fields lie, and which grid they form."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        if vllm_config.model_config.get_multimodal_config().video_pruning_rate:
            raise ValueError("--video-pruning-rate cannot be combined with greedyprune: leave it out.")
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # pyright: ignore[reportCallIssue]
        self.most_rows: int = vllm_config.scheduler_config.max_num_encoder_input_tokens
        """The number of rows that the encoder may make at once. vLLM counts those that stay, which are fewer."""

    def flat(self, fields: Mapping[str, Any]) -> dict[str, list[int]]:
        """The fields whose images lie end to end, with each image's length. Other fields have one entry per image."""
        return {}

    def sizes(self, fields: Mapping[str, Any], images: int) -> list[int]:
        """The number of rows that the encoder will make of each image."""
        raise NotImplementedError

    def grids(self, fields: Mapping[str, Any], sizes: Sequence[int]) -> Sequence[Grid | None]:
        """The (t, h, w) grid of each image's tokens; None if they form none."""
        raise NotImplementedError

    def judged(self, rows: Tensor) -> Tensor:
        """The part of an image's rows that enters the language model's first layer. (n, D) -> (n, d)"""
        return rows

    def carried(self, rows: Tensor, keep: Keep, grid: Grid | None) -> Tensor:
        """The rows that vLLM stores and hands to the language model. (n, D) -> (k, D')"""
        return keep.merge(rows)

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """The rows of each item, pruned if it is an image: (items) x (k, D')."""
        written = kwargs.pop(FIELD, None)
        if written is None:
            return self.unpruned(kwargs)
        plans = [Plan.from_tensor(each) for each in written]
        expected = self.sizes(kwargs, len(plans))
        rows: list[Tensor] = []
        for first, last in groups(expected, self.most_rows):
            whole = last - first == len(plans)
            rows += self.unpruned(kwargs if whole else part(kwargs, self.flat(kwargs), first, last))
        grids = self.grids(kwargs, [each.shape[0] for each in rows])
        keeps = choose(self, [self.judged(each) for each in rows], plans, grids)
        # NaN in the cache of keys and values would reach other requests, which use its blocks later.
        rows = [
            each if plan.policy is None else torch.nan_to_num(each, 0.0, 0.0, 0.0)
            for each, plan in zip(rows, plans, strict=True)
        ]
        return [self.carried(each, keep, grid) for each, keep, grid in zip(rows, keeps, grids, strict=True)]

    def unpruned(self, fields: Mapping[str, Any]) -> Iterable[Tensor]:
        """All rows of each item, as the model's own class makes them."""
        return cast("Any", super()).embed_multimodal(**fields)


def groups(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """The first and the last + 1 of images that are encoded at once: no more rows than `most`, but one image or more.

    groups([100, 100, 300], 250)    # [(0, 2), (2, 3)]
    """
    found: list[tuple[int, int]] = []
    first = rows = 0
    for image, size in enumerate(sizes):
        if image > first and rows + size > most:
            found.append((first, image))
            first, rows = image, 0
        rows += size
    return [*found, (first, len(sizes))] if sizes else []


def part(fields: Mapping[str, Any], flat: Mapping[str, list[int]], first: int, last: int) -> dict[str, Any]:
    """The fields of the images `first` to `last` - 1. `flat`: as `PrunesImages.flat` says."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        lengths = flat.get(name)
        if lengths is None:
            found[name] = value[first:last]
        else:
            begin = sum(lengths[:first])
            found[name] = value[begin : begin + sum(lengths[first:last])]
    return found


def grids_of(thw: Tensor, merge: int) -> list[Grid]:
    """The grids of tokens, from those of patches. `merge`: patches along a token's side. (images, 3) -> (images)"""
    listed = cast("list[list[int]]", cast("Any", torch.as_tensor(thw).reshape(-1, 3)).tolist())
    return [(t, h // merge, w // merge) for t, h, w in listed]
