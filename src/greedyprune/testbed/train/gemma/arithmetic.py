"""How a decoder of 100 million weights is trained on whatever there is: the number type, the weights, a faster norm."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

from greedyprune.testbed.train.gemma.packages import NotReady

FASTER = 1.5
"""Times as fast as float32 that bfloat16 must be on a CPU: it rounds, so it has to be worth it."""


def number_type(device: str) -> tuple[torch.dtype, str]:
    """The number type that this device trains in, and the reason as a sentence."""
    if device != "cpu":
        return torch.bfloat16, "The decoder is trained in bfloat16."
    gain = _seconds(torch.float32) / _seconds(torch.bfloat16)
    if gain >= FASTER:
        return torch.bfloat16, f"The decoder is trained in bfloat16, {gain:.1f} times as fast as float32 on this CPU."
    return torch.float32, (
        "The decoder is trained in float32, which is slower than on a CPU with fast bfloat16: on this one bfloat16 "
        f"takes {1 / gain:.1f} times as long."
    )


def _seconds(dtype: torch.dtype) -> float:
    """The shortest of three products of matrices of a decoder layer's shape."""
    a, b = torch.ones(128, 640, dtype=dtype), torch.ones(640, 2048, dtype=dtype)
    taken: list[float] = []
    for _ in range(3):
        begun = time.perf_counter()
        torch.mm(a, b)
        taken.append(time.perf_counter() - begun)
    return min(taken)


class Weights:
    """The trained weights in float32, which the optimizer changes. The model holds them in its own number type.

    A model in float32 holds the very same tensors. Otherwise gradients move here as they are made, and `to_model`
    rounds the weights into the model. Part of a checkpoint.
    """

    def __init__(self, model_weights: Iterable[nn.Parameter]) -> None:
        self._held = list(model_weights)
        self._hooks: list[Any] = []
        self._rounded = any(weight.dtype != torch.float32 for weight in self._held)
        self.exact = [self._copy_of(weight) for weight in self._held] if self._rounded else self._held

    def _copy_of(self, weight: nn.Parameter) -> nn.Parameter:
        exact = nn.Parameter(weight.detach().float().clone())

        def move(held: Tensor) -> None:
            assert held.grad is not None
            gradient = held.grad.float()
            exact.grad = gradient if exact.grad is None else exact.grad + gradient
            held.grad = None

        self._hooks.append(weight.register_post_accumulate_grad_hook(move))
        return exact

    def release(self) -> None:
        """Stop moving gradients, so that others can train the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def to_model(self) -> None:
        """Round the weights into the model."""
        if self._rounded:
            with torch.no_grad():
                for held, exact in zip(self._held, self.exact, strict=True):
                    held.copy_(exact)

    def state_dict(self) -> dict[str, Tensor]:
        return {str(i): weight.detach() for i, weight in enumerate(self.exact)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take weights over. Raises NotReady if they are those of another model."""
        shapes = [tuple(weight.shape) for weight in self.exact]
        if [tuple(weight.shape) for weight in state.values()] != shapes:
            raise NotReady("the checkpoint holds the weights of another model: choose another folder with --out.")
        with torch.no_grad():
            for weight, found in zip(self.exact, state.values(), strict=True):
                weight.copy_(found)
        self.to_model()


@contextmanager
def fast_norms() -> Iterator[None]:
    """Inside, Gemma's RMS norms are one fused operation. They round a little differently in bfloat16."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

    def fused(self: Any, x: Tensor) -> Tensor:
        return rms_norm(x, (x.shape[-1],), (1.0 + self.weight.float()).to(x.dtype), self.eps)

    usual = Gemma3RMSNorm.forward
    Gemma3RMSNorm.forward = fused
    try:
        yield
    finally:
        Gemma3RMSNorm.forward = usual
