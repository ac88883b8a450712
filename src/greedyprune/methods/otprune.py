"""OTPrune: tokens whose distribution is near that of all tokens, by a determinant that stands for optimal transport."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from greedyprune.cues import Cues
from greedyprune.keep import Keep
from greedyprune.method import Method
from greedyprune.ops.volume import most_volume
from greedyprune.stages import Input, Stage


@dataclass(frozen=True, kw_only=True)
class OTPrune(Method):
    """Choose S, |S| = k, greedily for the largest log det(I + γ Z_S Z_S^T), Z = X X^T, X with channels of length 1.

        gp.prune(model, gp.OTPrune(), keep=64)

    Each channel of the tokens is divided by its length over all tokens. Row i of Z then says how token i covaries with
    every token. The determinant is a submodular stand-in for the 2-Wasserstein distance between the kept tokens and all
    of them, so the kept ones follow the distribution of the image. Gains are what log det grew by. OTPrune, CVPR 2026
    (arXiv 2602.20205), and its released code.

    Differs: decisions are those of float64, the released code's those of float32. Ties go to the lowest index. A
    channel of zeros stays one. Tokens keep raster order and their positions. The code counts images of one size behind
    35 tokens of text. Protected tokens are taken first. Cost: O(n² d + k n²), or O(n d² + k n d) if n > d, in float64.
    """

    at: Stage = Input()
    gamma: float = 0.01
    """γ, the weight of the tokens beside the ridge of 1: larger values ask for more diversity."""

    def __post_init__(self) -> None:
        if not (self.gamma >= 0 and math.isfinite(self.gamma)):
            raise ValueError(f"gamma={self.gamma!r} is no weight: write a number from 0; 0.01 is published.")

    def select(self, cues: Cues, k: int) -> Keep:
        """Choose the k rows that stay. (n, d) -> Keep"""
        x = _unit_channels(cues.features)
        if x.shape[0] <= x.shape[1]:
            a = b = x @ x.T
        else:  # Z Z^T = (X X^T X) X^T, a product of two matrices of width d
            a, b = x @ (x.T @ x), x
        found = most_volume(self.gamma * a, b, k, given=cues.protect)
        return Keep.from_order(found.order, found.gains, cues.n)


def _unit_channels(x: Tensor) -> Tensor:
    """Divide every channel by its length over all rows. (n, d) -> (n, d) float64"""
    x = x.double()
    x = x / x.abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)
    return x / x.square().sum(0).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
