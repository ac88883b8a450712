"""The worker's part: which rows of each image stay. Nothing here raises: it would end the engine and all requests."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from greedyprune.choosing import select_batch
from greedyprune.cues import Cues, Need
from greedyprune.engines.vllm.plan import Plan
from greedyprune.keep import Keep

log = logging.getLogger(__name__)
Grid = tuple[int, int, int]


def choose(
    model: Any,
    rows: Sequence[Tensor],
    plans: Sequence[Plan],
    grids: Sequence[Grid | None],
    more: Sequence[Mapping[Need, Tensor]] | None = None,
) -> list[Keep]:
    """The rows that stay of each image, exactly as many as the front end wrote placeholders for.

    (images) x (n, d) -> (images). `more`: what the images' methods read in the vision tower. Images with one method
    are chosen from together. Rows that no method can judge, such as NaN out of a tower that overflowed, are thinned
    out evenly, and the log says so.
    """
    sizes = [plan.count(each.shape[0], grid) for each, plan, grid in zip(rows, plans, grids, strict=True)]
    found: dict[int, Keep] = {}
    groups: dict[bytes, list[int]] = {}
    for image, plan in enumerate(plans):
        if plan.policy is not None and (plan.measuring or sizes[image] < rows[image].shape[0]):
            groups.setdefault(plan.policy.to_bytes(), []).append(image)
    for group in groups.values():
        try:
            texts = [_embedded(model, plans[image].text, rows[image]) for image in group]
            cues = [
                Cues(rows[image], text=text, grid=grids[image], more={} if more is None else more[image])
                for image, text in zip(group, texts, strict=True)
            ]
            found |= zip(group, _chosen([plans[image] for image in group], cues), strict=True)
        except Exception as error:
            log.error("greedyprune cannot choose, so evenly spaced tokens stay: %s: %s", type(error).__name__, error)
    return [
        keep if (keep := found.get(image)) is not None and keep.k == size and not plans[image].measuring
        else evenly(rows[image].shape[0], size, rows[image].device)
        for image, size in enumerate(sizes)
    ]  # fmt: skip


def evenly(n: int, k: int, device: torch.device) -> Keep:
    """k of n rows, evenly spaced."""
    rows = (2 * torch.arange(k, device=device) + 1) * n // (2 * max(k, 1))
    return Keep.from_order(rows, torch.zeros(k, device=device), n)


def _chosen(plans: list[Plan], cues: list[Cues]) -> list[Keep]:
    """Choose from images that share a method. A selection that fails on its data is even, and is logged."""
    policies = [plan.policy for plan in plans if plan.policy is not None]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = select_batch(policies[0].method, cues, [each.keep for each in policies], on_error="even")
    for each in caught:
        log.warning("greedyprune: %s", each.message)
    return found


def _embedded(model: Any, text: tuple[int, ...], rows: Tensor) -> Tensor | None:
    """The rows of the text in the language model's embedding table. -> (m, d)"""
    if not text:
        return None
    ids = torch.tensor(text, device=rows.device)
    return model.get_language_model().embed_input_ids(ids).to(rows.dtype)
