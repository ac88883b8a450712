"""Checks of a user's tensors. Each error names the tensor, says what is wrong with it, and says what to pass."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import torch

if TYPE_CHECKING:
    from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The floating-point types that a selection accepts."""


def check_tensor(name: str, value: object, device: torch.device | None = None, what: str = "a") -> None:
    """Raise unless `value` is a dense tensor with values, on `device` (that of the features) if one is given.

    `what` precedes "torch tensor" in the error for other types. The check reads no value, so it waits for no device.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}: pass {what} torch tensor.")
    if value.is_nested or value.layout != torch.strided:
        layout = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise TypeError(f"{name} is a {layout} tensor: pass an ordinary one, dense and in one block.")
    if value.is_meta:
        raise TypeError(f"{name} lies on the meta device and holds no values: pass a tensor with values.")
    if value.is_floating_point() and value.dtype not in FLOATS:
        raise TypeError(f"{name} has type {value.dtype}, which is not supported: pass {name}.to(torch.float32).")
    if device is not None and value.device != device:
        raise ValueError(f"{name} lies on {value.device} and the features on {device}: move it there, .to({device}).")


def check_floats(name: str, value: Tensor) -> None:
    """Raise ValueError unless the tensor's values are floating-point numbers."""
    if not value.is_floating_point():
        raise ValueError(f"{name} has type {value.dtype}: pass floating-point values, such as {name}.float().")


def is_count(value: object, least: int) -> bool:
    """True if `value` is an int (no bool) of `least` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless an option is a whole number of `least` or more."""
    if not is_count(value, least):
        raise ValueError(f"{name}={value!r}: write a whole number, {least} or more.")


def is_number(value: object, least: float, most: float = float("inf")) -> bool:
    """True if `value` is an int or a float (no bool) from `least` to `most`."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def check_share(name: str, value: object) -> None:
    """Raise ValueError unless an option is a number from 0 to 1."""
    if not is_number(value, 0, 1):
        raise ValueError(f"{name}={value!r} is no share: write a number from 0 to 1.")


def check_cosine(name: str, value: object) -> None:
    """Raise ValueError unless an option is a number from -1 to 1."""
    if not is_number(value, -1, 1):
        raise ValueError(f"{name}={value!r} is no cosine: write a number from -1 to 1.")


def check_question(rows: object, count: int) -> None:
    """Raise unless `rows` is a slice that holds at least one of `count` text rows (any slice if count is 0)."""
    if not isinstance(rows, slice):
        raise TypeError(f"question={rows!r} is no slice: write which text rows it is, such as slice(1, 4).")
    try:
        chosen = range(*rows.indices(count))
    except (TypeError, ValueError):
        chosen = None
    if chosen is None or chosen.step < 1:
        raise ValueError(f"question={rows!r}: write whole numbers, in ascending order, such as slice(1, 4).")
    if count and not chosen:
        raise ValueError(f"question={rows!r} holds none of the {count} text rows: leave it out to take them all.")


def as_grid(grid: object, n: int) -> tuple[int, int, int]:
    """Check a grid of n tokens and return it as three integers."""
    try:
        sides = tuple(operator.index(side) for side in cast("Iterable[int]", grid))
    except TypeError:
        raise TypeError(f"grid={grid!r} is no grid: write (t, h, w), three whole numbers.") from None
    if len(sides) != 3 or min(sides) < 1 or sides[0] * sides[1] * sides[2] != n:
        raise ValueError(f"grid={sides} does not hold {n} tokens: (t, h, w) needs t*h*w = {n}.")
    return sides


def check_protect(rows: Tensor, n: int) -> None:
    """Raise ValueError unless `rows` are distinct, ascending numbers of n tokens. (p,)"""
    if rows.ndim != 1 or rows.dtype != torch.int64:
        raise ValueError(
            f"protect has shape {tuple(rows.shape)} and type {rows.dtype}: pass (p,) token numbers, int64."
        )
    listed = rows.cpu()
    if rows.numel() and (int(listed[0]) < 0 or int(listed[-1]) >= n or not bool((listed.diff() > 0).all())):
        raise ValueError(f"protect={listed!r}: token numbers must be distinct, ascending, from 0 to {n - 1}.")
