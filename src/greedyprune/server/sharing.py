"""Which requests may share a batch, and their inputs and budgets as one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from greedyprune.budget import PerLayer
from greedyprune.plain import to_plain

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from torch import Tensor

    from greedyprune.policy import Policy
    from greedyprune.server.jobs import Job


def key_of(job: Job) -> Hashable:
    """Jobs with equal keys may share a batch; None if the job runs alone.

    They agree in everything but prompts, budgets and lengths of answers: method, place and positions, sampling, and the
    shape of what the images became.
    """
    chat, prepared = job.chat, job.prepared
    if chat.samples and chat.seed is not None:
        return None
    policy = prepared.wish.policy
    plain = {name: value for name, value in policy.to_dict().items() if name != "keep"}
    schedule = to_plain(policy.keep) if isinstance(policy.keep, PerLayer) else None
    rest = _rest(prepared.inputs)
    if rest is None:
        return None
    how = (chat.temperature, chat.top_p) if chat.samples else None
    return (json.dumps([plain, schedule], sort_keys=True), how, bool(prepared.spans), rest)


def policy_of(jobs: Sequence[Job]) -> Policy:
    """One policy for jobs that share a batch: the budgets of their images, one after the other."""
    policy = jobs[0].prepared.wish.policy
    if isinstance(policy.keep, PerLayer) or not jobs[0].prepared.spans:
        return policy
    budgets: list[Any] = []
    for job in jobs:
        keep = job.prepared.wish.policy.keep
        assert isinstance(keep, tuple)
        budgets += keep
    return replace(policy, keep=tuple(budgets))


def joined(inputs: Sequence[dict[str, Tensor]], pad: int) -> dict[str, Tensor]:
    """Join batches of one, padded on the left. (1, q_i) -> (b, max q_i); values of images one after the other."""
    if len(inputs) == 1:
        return dict(inputs[0])
    longest = max(one["input_ids"].shape[1] for one in inputs)
    found: dict[str, Tensor] = {}
    for name, first in inputs[0].items():
        values = [one[name] for one in inputs]
        if _is_sequence(first, inputs[0]):
            fill = pad if name == "input_ids" else 0
            values = [torch.nn.functional.pad(value, (longest - value.shape[1], 0), value=fill) for value in values]
        found[name] = torch.cat(values)
    return found


def _rest(inputs: dict[str, Tensor]) -> Hashable:
    """The names and shapes of what must agree for inputs to be joined; None if they cannot be."""
    if not all(isinstance(value, torch.Tensor) and value.ndim for value in inputs.values()):
        return None
    if "attention_mask" not in inputs:
        return None
    return tuple(
        (name, value.dtype, None if _is_sequence(value, inputs) else value.shape[1:])
        for name, value in sorted(inputs.items())
    )


def _is_sequence(value: Tensor, inputs: dict[str, Tensor]) -> bool:
    """True for values with one entry per token of the prompt. (1, q)"""
    return value.shape == inputs["input_ids"].shape
