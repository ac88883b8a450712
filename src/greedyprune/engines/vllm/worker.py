"""A model class of vLLM whose images come out of its encoder with the rows that stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

import torch

from greedyprune.engines.vllm.choosing import Grid, choose
from greedyprune.engines.vllm.plan import FIELD, Plan
from greedyprune.engines.vllm.store import LARGEST, Store

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
        self.store = Store(LARGEST, vllm_config.device_config.device)

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
        rows = self.encoded(kwargs, plans)
        grids = self.grids(kwargs, [each.shape[0] for each in rows])
        keeps = choose(self, [self.judged(each) for each in rows], plans, grids)
        # NaN in the cache of keys and values would reach other requests, which use its blocks later.
        rows = [
            each if plan.policy is None else torch.nan_to_num(each, 0.0, 0.0, 0.0)
            for each, plan in zip(rows, plans, strict=True)
        ]
        return [self.carried(each, keep, grid) for each, keep, grid in zip(rows, keeps, grids, strict=True)]

    def encoded(self, fields: Mapping[str, Any], plans: Sequence[Plan]) -> list[Tensor]:
        """All rows of each image: out of the store, or out of the encoder. (images) x (n, D)"""
        known = [self.store.get(plan.image) if plan.image else None for plan in plans]
        missing = [image for image, rows in enumerate(known) if rows is None]
        expected, flat = self.sizes(fields, len(plans)), self.flat(fields)
        made: list[Tensor] = []
        for first, last in groups([expected[image] for image in missing], self.most_rows):
            some = missing[first:last]
            made += self.unpruned(fields if len(some) == len(plans) else part(fields, flat, some))
        for image, rows in zip(missing, made, strict=True):
            known[image] = rows
            if plans[image].image:
                self.store[plans[image].image] = rows
        return [rows for rows in known if rows is not None]

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


def part(fields: Mapping[str, Any], flat: Mapping[str, list[int]], images: Sequence[int]) -> dict[str, Any]:
    """The fields of some images, in order. `flat`: as `PrunesImages.flat` says."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        ends = list(accumulate(flat.get(name, [1] * len(value)), initial=0))
        pieces = [value[ends[image] : ends[image + 1]] for image in images]
        found[name] = torch.cat(pieces) if isinstance(value, torch.Tensor) else [each for one in pieces for each in one]
    return found


def grids_of(thw: Tensor, merge: int) -> list[Grid]:
    """The grids of tokens, from those of patches. `merge`: patches along a token's side. (images, 3) -> (images)"""
    listed = cast("list[list[int]]", cast("Any", torch.as_tensor(thw).reshape(-1, 3)).tolist())
    return [(t, h // merge, w // merge) for t, h, w in listed]
