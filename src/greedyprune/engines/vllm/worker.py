"""A model class of vLLM whose images come out of its encoder with the rows that stay."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from greedyprune.cues import Need, Seen
from greedyprune.engines.vllm.choosing import Grid, choose
from greedyprune.engines.vllm.plan import FIELD, Plan
from greedyprune.engines.vllm.store import LARGEST, Store, Whole
from greedyprune.engines.vllm.tower import Tower

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.engines.vllm.eyes import Eyes
    from greedyprune.keep import Keep

log = logging.getLogger(__name__)


class PrunesImages:
    """A mixin in front of a model class. A family says how its images' fields lie, and which grid they form."""

    reads_tower: ClassVar[bool] = False
    """True if `eyes` shows the layers of the vision tower."""
    supports_encoder_cudagraph = False  # a graph would run past `embed_multimodal`

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        if vllm_config.model_config.get_multimodal_config().video_pruning_rate:
            raise ValueError("--video-pruning-rate cannot be combined with greedyprune: leave it out.")
        compiling = vllm_config.compilation_config
        if self.reads_tower and compiling.compile_mm_encoder:
            log.warning("greedyprune: compile_mm_encoder is off, since methods look into the vision tower as it runs.")
            compiling.compile_mm_encoder = False
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # pyright: ignore[reportCallIssue]
        self.most_rows: int = vllm_config.scheduler_config.max_num_encoder_input_tokens
        """The number of rows that the encoder may make at once. vLLM counts those that stay, which are fewer."""
        self.store = Store(LARGEST, vllm_config.device_config.device)
        self.tower = Tower(vllm_config.model_config.hf_config)

    def flat(self, fields: Mapping[str, Any]) -> dict[str, list[int]]:
        """The fields whose images lie end to end, with each image's length. Other fields have one entry per image."""
        return {}

    def sizes(self, fields: Mapping[str, Any], images: int) -> list[int]:
        """The number of rows that the encoder will make of each image."""
        raise NotImplementedError

    def grids(self, fields: Mapping[str, Any], sizes: Sequence[int]) -> Sequence[Grid | None]:
        """The (t, h, w) grid of each image's tokens; None if they form none."""
        raise NotImplementedError

    def eyes(self) -> Eyes:
        """The layers of the vision tower."""
        raise NotImplementedError

    def judged(self, rows: Tensor) -> Tensor:
        """The part of an image's rows that enters the language model's first layer. (n, D) -> (n, d)"""
        return rows

    def carried(self, rows: Tensor, keep: Keep, grid: Grid | None) -> Tensor:
        """The rows that vLLM stores and hands to the language model. (n, D) -> (k, D')"""
        return keep.merge(rows)

    def written(
        self, rows: list[Tensor], keeps: Sequence[Keep], plans: Sequence[Plan], fields: Mapping[str, Any]
    ) -> list[Tensor]:
        """The rows of all placeholders of each image: those that stay, and more if a family has text between them."""
        return rows

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """The rows of each item, pruned if it is an image: (items) x (k, D')."""
        written = kwargs.pop(FIELD, None)
        if written is None:
            return self.unpruned(kwargs)
        plans = [Plan.from_tensor(each) for each in written]
        images = self.encoded(kwargs, plans)
        grids = self.grids(kwargs, [each.rows.shape[0] for each in images])
        more: list[dict[Need, Tensor]] = [
            {need: image.seen[at] for need, at in self.wanted(plan).items() if at in image.seen}
            for plan, image in zip(plans, images, strict=True)
        ]
        keeps = choose(self, [self.judged(each.rows) for each in images], plans, grids, more)
        # NaN in the cache of keys and values would reach other requests, which use its blocks later.
        rows = [
            each.rows if plan.policy is None else torch.nan_to_num(each.rows, 0.0, 0.0, 0.0)
            for each, plan in zip(images, plans, strict=True)
        ]
        found = [self.carried(each, keep, grid) for each, keep, grid in zip(rows, keeps, grids, strict=True)]
        return self.written(found, keeps, plans, kwargs)

    def encoded(self, fields: Mapping[str, Any], plans: Sequence[Plan]) -> list[Whole]:
        """All rows of each image, and what its method reads in the tower: out of the store, or out of the encoder."""
        known = [self.store.get(plan.image) if plan.image else None for plan in plans]
        needs = [set(self.wanted(plan).values()) for plan in plans]
        missing = [i for i, image in enumerate(known) if image is None or not needs[i] <= image.seen.keys()]
        expected, flat = self.sizes(fields, len(plans)), self.flat(fields)
        made: list[Whole] = []
        for first, last in groups([expected[image] for image in missing], self.most_rows):
            some = missing[first:last]
            mine = fields if len(some) == len(plans) else part(fields, flat, some)
            made += self.looked_at(mine, set[Seen]().union(*(needs[image] for image in some)))
        for image, whole in zip(missing, made, strict=True):
            known[image] = whole
            if plans[image].image:
                self.store[plans[image].image] = whole
        return [whole for whole in known if whole is not None]

    def looked_at(self, fields: Mapping[str, Any], needs: set[Seen]) -> list[Whole]:
        """Run the encoder on images, and read needs in its tower."""
        if not needs:
            return [Whole(rows, {}) for rows in self.unpruned(fields)]
        with self.eyes().reading(needs, fields.get("image_grid_thw")) as seen:
            rows = [*self.unpruned(fields)]
        sizes = [each.shape[0] for each in rows]
        parts = {need: values.split(sizes) for need, values in seen.items()}
        return [Whole(each, {need: parts[need][i] for need in parts}) for i, each in enumerate(rows)]

    def wanted(self, plan: Plan) -> dict[Seen, Seen]:
        """What an image's method reads in the tower, as it declares it -> with the number of the layer."""
        return {} if plan.policy is None else self.tower.wanted(plan.policy.method)

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
    """The fields of some images, in order. `flat`: as `PrunesImages.flat` says. A number is about all images."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, torch.Tensor) and not value.ndim:
            found[name] = value
            continue
        ends = list(accumulate(flat.get(name, [1] * len(value)), initial=0))
        pieces = [value[ends[image] : ends[image + 1]] for image in images]
        found[name] = torch.cat(pieces) if isinstance(value, torch.Tensor) else [each for one in pieces for each in one]
    return found


def grids_of(thw: Tensor, merge: int) -> list[Grid]:
    """The grids of tokens, from those of patches. `merge`: patches along a token's side. (images, 3) -> (images)"""
    listed = cast("list[list[int]]", cast("Any", torch.as_tensor(thw).reshape(-1, 3)).tolist())
    return [(t, h // merge, w // merge) for t, h, w in listed]


def square(n: int) -> Grid | None:
    """The grid of n tokens of a square image; None if n is no square."""
    side = math.isqrt(n)
    return (1, side, side) if side * side == n else None
