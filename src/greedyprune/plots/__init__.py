"""Pictures of kept tokens: `overlay` draws one selection on its image, `side_by_side` makes a captioned sheet, and
`steps` shows it grow.

    with gp.prune(model, gp.GreedyPrune(), keep=64) as pruned:
        model.generate(**inputs)
    gp.plots.overlay(image, pruned.selections[0]).save("kept.png")

Needs Pillow: `pip install 'greedyprune[plots]'`.
"""

from __future__ import annotations

try:
    import PIL  # noqa: F401
except ModuleNotFoundError as missing:
    raise ImportError(
        "greedyprune.plots needs Pillow, which is not installed: pip install 'greedyprune[plots]'"
    ) from missing

from greedyprune.plots.patches import overlay as overlay
from greedyprune.plots.sheet import side_by_side as side_by_side
from greedyprune.plots.steps import save_steps as save_steps
from greedyprune.plots.steps import steps as steps
from greedyprune.preprocessing.seen import seen as seen

__all__ = ["overlay", "save_steps", "seen", "side_by_side", "steps"]
