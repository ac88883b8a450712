"""Traces: anything that pruning could leave on a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from greedyprune.models._front import own_hooks

Fingerprint = dict[tuple[str, str], Any]

NOTED = {"rope_deltas"}
"""Attributes that models write themselves on every call."""


def fingerprint(model: nn.Module) -> Fingerprint:
    """Classes, attributes, hooks and weights of a model, by identity and version."""
    found: Fingerprint = {}
    for name, module in model.named_modules():
        found[name, "class"] = type(module)
        for key, value in vars(module).items():
            if key not in NOTED:
                found[name, key] = (type(value), len(value)) if isinstance(value, dict) else id(value)
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        found[name, "weight"] = (id(weight), weight.data_ptr(), weight._version, weight.dtype)
    return found


def changed(before: Fingerprint, after: Fingerprint) -> set[tuple[str, str]]:
    """The keys of two fingerprints that differ."""
    return {key for key in {*before, *after} if before.get(key) != after.get(key)}


def without_weights(found: Fingerprint) -> Fingerprint:
    """The same but for weights, which move where a model with 16 bits computes in float32 in between."""
    return {key: value for key, value in found.items() if key[1] != "weight"}


def hooks_on(model: nn.Module) -> int:
    """The number of hooks of this library on the model and its parts. Hooks of transformers do not count."""
    return sum(1 for _ in own_hooks(model))
