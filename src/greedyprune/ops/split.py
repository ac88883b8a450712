"""Division of a budget into whole numbers: in given proportions by largest remainder, or in equal parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise


def split(total: int, shares: Sequence[float], at_least: int = 0, at_most: Sequence[int] | None = None) -> list[int]:
    """Divide `total` into whole numbers in the proportion of `shares`, by largest remainder, ties to the first part.

    Every part gets `at_least` first (if `total` is too small, the first parts do), and at most its `at_most`. The rest
    that a full part cannot take goes to the others, by the same rule. If all shares are zero, parts are equal. Raises
    ValueError if the parts together cannot hold `total`.
    """
    room = [total] * len(shares) if at_most is None else list(at_most)
    if sum(room) < total:
        raise ValueError(f"{len(shares)} parts that hold {sum(room)} together cannot hold {total}.")
    parts = [0] * len(shares)
    for _ in range(at_least):
        for i in range(len(parts)):
            parts[i] += parts[i] < room[i] and sum(parts) < total
    while sum(parts) < total:
        left = total - sum(parts)
        open_parts = [i for i in range(len(parts)) if parts[i] < room[i]]
        weight = sum(shares[i] for i in open_parts)
        exact = {i: left * shares[i] / weight if weight > 0 else left / len(open_parts) for i in open_parts}
        whole = {i: min(math.floor(exact[i]), room[i] - parts[i]) for i in open_parts}
        for i, amount in whole.items():
            parts[i] += amount
        if any(whole[i] < math.floor(exact[i]) for i in open_parts):
            continue  # a part is full: the others share the rest
        for i in sorted(open_parts, key=lambda i: (math.floor(exact[i]) - exact[i], i)):
            parts[i] += parts[i] < room[i] and sum(parts) < total
    return parts


def level(total: int, room: Sequence[int]) -> list[int]:
    """Divide `total` into equal whole numbers, each at most its room. -> (parts)

    A remainder goes to parts that are evenly spread. What a full part cannot take goes to the others, by `split`.
    """
    count = max(len(room), 1)
    ends = [(2 * part * total + count) // (2 * count) for part in range(len(room) + 1)]
    parts = [min(end - start, most) for (start, end), most in zip(pairwise(ends), room, strict=True)]
    left = [most - part for part, most in zip(parts, room, strict=True)]
    more = split(total - sum(parts), [1.0] * len(room), at_most=left)
    return [part + extra for part, extra in zip(parts, more, strict=True)]
