"""EVS: keep a video's first frame and the cells that change from frame to frame (efficient video sampling)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from greedyprune.cues import Cues, Grid, Need
from greedyprune.keep import Keep, protected_first
from greedyprune.method import Method
from greedyprune.ops.grid import uniform_cells
from greedyprune.ops.ranking import ranked
from greedyprune.ops.video import changes
from greedyprune.stages import Input, Stage


@dataclass(frozen=True, kw_only=True)
class EVS(Method):
    """Top-k by 1 - cos(x_{t,p}, x_{t-1,p}), the change of cell p since the frame before. The first frame comes first.

        gp.prune(model, gp.EVS(), keep=gp.Ratio(0.25))

    The budget is that of the whole clip, so frames with more change get more of it. It uses neither text nor
    attention. Gains are the changes, 2 in the first frame. Bagrov et al. (NVIDIA), arXiv 2510.14624.

    Differs: rows are compared, as in vLLM's version; the paper compares pixels. k may be smaller than a frame; the
    source keeps at least the whole first frame. If k is smaller, the evenly spread cells of `UniformGrid` stay of the
    first frame. So an image, which is one frame, is a uniform grid. Values within 1e-12 are ties; ties go to the
    lowest index. A zero row has cosine 0 with every row. Cost: O(n d) and O(n log n).
    """

    needs: ClassVar[tuple[Need, ...]] = (Grid(),)
    equivariant: ClassVar[bool] = False
    compares_frames: ClassVar[bool] = True

    at: Stage = Input()

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        assert cues.grid is not None
        _, h, w = cues.grid
        worth = changes(cues.features, cues.grid)
        ranking = ranked(worth)  # no cell changes by more than 2, so the first frame comes first, in raster order
        if k < h * w:
            ranking = protected_first(ranking, uniform_cells((1, h, w), k).to(worth.device))
        order = protected_first(ranking, cues.protect)[:k]
        return Keep.from_order(order, worth[order], cues.n)
