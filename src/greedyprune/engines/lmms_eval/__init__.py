"""lmms-eval: the model `greedyprune` of that harness, a local task for it, and a table of many runs.

    lmms-eval --model greedyprune --model_args pretrained=llava-hf/llava-1.5-7b-hf,method=divprune,keep=64 --tasks pope

The package's entry point in the group `lmms_eval.models` leads here. The harness imports this file while it starts, so
it imports nothing itself.
"""

from __future__ import annotations

from typing import Any

NAME = "greedyprune"
"""The name behind lmms-eval's `--model`."""
DENSE, DOWNSCALE = "dense", "downscale"
"""What `method=` takes beside the names of methods: no pruning, and smaller images without pruning."""


def manifest() -> Any:
    """What lmms-eval registers: the name of the model, and the place of its class."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest(NAME, chat_class_path=f"{__name__}.model.GreedyPrune")
