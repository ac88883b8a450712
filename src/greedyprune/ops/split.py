"""Division of a budget into whole numbers in given proportions, by largest remainder."""

from __future__ import annotations

import math
from collections.abc import Sequence


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
