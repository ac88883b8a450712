"""DyCoke: of every four frames the first stays whole, and of the others the cells that changed most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from greedyprune.checks import check_whole
from greedyprune.cues import Cues, Grid, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.grid import uniform_cells
from greedyprune.ops.groups import best_of_each, counts, without
from greedyprune.ops.ranking import ranked
from greedyprune.ops.split import level
from greedyprune.ops.video import changes
from greedyprune.stages import Input, Layer, Stage


@dataclass(frozen=True, kw_only=True)
class DyCoke(Method):
    """Keep the first frame of every four, and of each other frame the cells least similar to those of an earlier frame.

        gp.prune(model, gp.DyCoke(), keep=gp.Ratio(0.5))

    A cell's worth is 1 - cos with the same cell of the frame that it is compared with: the second and the third of the
    four with the first, the fourth with the third. The other frames share equally what is left of k. It uses neither
    text nor attention. Gains are worths, 2 in the first frames. Keda Tao et al., CVPR 2025.

    Differs: k is the user's; the source keeps 30 % of the other frames. If k is smaller than the first frames, evenly
    spread cells of these stay. The source leaves out the last of an odd number of frames, and the third of the last
    four frames stays whole there; here the last group is like the others, and may be shorter. Its second stage, which
    drops entries of the KV cache during decoding, is left out. Protected tokens are taken first. An image is one frame,
    of which evenly spread cells stay. Values within 1e-12 are ties; ties go to the lowest index. Cost: O(n d) and
    O(n log n).
    """

    needs: ClassVar[tuple[Need, ...]] = (Grid(),)
    stages: ClassVar[tuple[type[Stage], ...]] = (Input, Layer)
    equivariant: ClassVar[bool] = False
    compares_frames: ClassVar[bool] = True

    at: Stage = Input()
    group: int = 4
    """The number of frames of which the first stays whole. Even places are compared with the first, odd ones with the
    frame before."""

    def __post_init__(self) -> None:
        check_whole("group", self.group)

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        assert cues.grid is not None
        (t, h, w), size = cues.grid, cues.grid[1] * cues.grid[2]
        place = [frame % self.group for frame in range(t)]
        since = [None if p == 0 else frame - (1 if p % 2 else p) for frame, p in enumerate(place)]
        worth = changes(cues.features, cues.grid, since)
        frame = torch.arange(cues.n, device=worth.device) // size
        free = without(ranked(worth), cues.protect)
        room = counts(frame, free, t)
        first, others = room[:: self.group], [own for own, p in zip(room, place, strict=True) if p]
        left = k - (cues.n - free.shape[0])
        whole = level(min(left, sum(first)), first)
        budgets = level(left - sum(whole), others)
        for number, count in enumerate(whole):
            budgets.insert(number * self.group, count)
        spread = [uniform_cells((1, h, w), count).to(frame.device) for count in whole]
        cells = torch.cat([rows + number * self.group * size for number, rows in enumerate(spread)])
        ranking = without(protected_first(free, cells), cues.protect)
        order = protected_first(best_of_each(ranking, frame, budgets), cues.protect)
        return Keep.from_order(order, worth[order], cues.n)
