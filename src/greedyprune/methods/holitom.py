"""HoliTom: windows of frames in which cells stand still, each still cell once, and the attended tokens of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from greedyprune.checks import check_cosine, check_share
from greedyprune.cues import Cues
from greedyprune.keep import Keep
from greedyprune.ops.merging import alone, merged
from greedyprune.ops.ranking import ranked
from greedyprune.ops.relevance import weighed
from greedyprune.ops.scenes import merged_cells
from greedyprune.ops.split import split
from greedyprune.ops.video import still_windows
from greedyprune.saliencies import MergingFrames


@dataclass(frozen=True, kw_only=True)
class HoliTom(MergingFrames):
    """Average cells that stand still over windows of frames, cluster these means, and keep attended tokens of the rest.

        gp.prune(model, gp.HoliTom(), keep=gp.Ratio(0.15))
        gp.prune(model, gp.HoliTom(saliency="attention"), keep=gp.Ratio(0.15), at=gp.Layer(2))

    A cell is still in a window of frames if the cosine of its rows in all consecutive frames is above 0.8. With c still
    cells, a window of l frames saves c (l - 1) tokens. Windows are those that save most together, by dynamic
    programming. A still cell becomes the mean of its rows, at the window's first frame. The still cells of a window are
    one part, the other cells of each frame are one each, and parts share k by their sizes. Still cells are clustered by
    density (DPC-kNN of up to 7 neighbours), and the centres stay. A centre becomes 0.6 x + 0.4 times the mean of those
    that are nearest to it. Of each frame's other cells the most attended stay. If still cells save more than k asks
    for, fewer than k tokens stay. Gains are saliencies. Kele Shao et al., NeurIPS 2025.

    Differs: this is the part in front of the decoder, "HoliTom (w/o M)"; the source can merge once more in a decoder
    layer. The attention is that of the tower's class token, else the mean over all its tokens, or any other `saliency`.
    Shares are exact, where the source rounds those of still cells to the nearest number and others up. The densities of
    one cluster are all equal in the source, and random noise decides; here 7 neighbours count then. An image is one
    frame: its most attended tokens stay. Cost: one query at one layer of the tower, O(n d + t²), and O((h w)² d) for
    each window.
    """

    tau: float = 0.8
    """A cell is still from one frame to the next if the cosine of its rows is above this."""
    beta: float = 0.6
    """The weight of the centre in its cluster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cosine("tau", self.tau)
        check_share("beta", self.beta)

    @property
    def exact(self) -> bool:
        """False: if still cells save more than that, fewer than k tokens are left."""
        return False

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the attended tokens and compute the means of still cells. (n, d) -> Keep with weights"""
        assert cues.grid is not None
        worth, size = weighed(self, cues), cues.grid[1] * cues.grid[2]
        parts, start = list[tuple[Tensor, int]](), 0
        for length, still in still_windows(cues.features, cues.grid, self.tau):
            parts.append((still.nonzero()[:, 0] + start * size, length))
            moving = (~still).nonzero()[:, 0]
            parts += [(moving + frame * size, 1) for frame in range(start, start + length)]
            start += length
        room = [rows.shape[0] for rows, _ in parts]
        counts = split(min(k, sum(room)), [float(each) for each in room], at_most=room)
        chosen, weights = list[Tensor](), list[Tensor]()
        for (rows, length), count in zip(parts, counts, strict=True):
            if count and length == 1:
                chosen.append(rows[ranked(worth[rows])[:count]])
                weights.append(alone(chosen[-1], cues.n))
            elif count:
                over = rows + size * torch.arange(length, device=rows.device)[:, None]
                centres, means = merged_cells(cues.features, over, count, self.beta)
                chosen.append(centres)
                weights.append(means)
        order = torch.cat(chosen)
        return merged(order, worth[order], torch.cat(weights))
