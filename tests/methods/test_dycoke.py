"""DyCoke equals a float64 reference in plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import brute
import greedyprune as gp
from clips import clips, equal_parts
from golden import Rows, both, gram, quota


def leveled(total: int, room: list[int]) -> list[int]:
    """Equal parts, the remainder evenly spread, and what a full part cannot take by largest remainder."""
    parts = [min(part, most) for part, most in zip(equal_parts(total, len(room)), room, strict=True)]
    left = [most - part for part, most in zip(parts, room, strict=True)]
    return [a + b for a, b in zip(parts, quota(total - sum(parts), [1.0] * len(room), left), strict=True)]


def dycoke(x: Rows, grid: tuple[int, int, int], group: int, k: int, guard: list[int]) -> list[int]:
    t, size = grid[0], grid[1] * grid[2]
    worth = []
    for f in range(t):
        place = f % group
        before = f - 1 if place % 2 else f - place
        for cell in range(size):
            pair = [x[f * size + cell], x[before * size + cell]]
            worth.append(2.0 if place == 0 else 1 - gram(pair)[0][1])
    ranking = [i for i in brute.ranking_of(worth) if i not in guard]
    room = [sum(i // size == f for i in ranking) for f in range(t)]
    first, others = [f for f in range(t) if f % group == 0], [f for f in range(t) if f % group]
    left = k - len(guard)
    whole = leveled(min(left, sum(room[f] for f in first)), [room[f] for f in first])
    rest = leveled(left - sum(whole), [room[f] for f in others])
    budget = dict(zip([*first, *others], [*whole, *rest], strict=True))
    order = list(guard)
    for f in range(t):
        mine = [i for i in ranking if i // size == f]
        if f in first:  # spread evenly, by the rule of the uniform grid
            frame = gp.Cues(torch.ones(size, 1), grid=(1, *grid[1:]))
            spread = [f * size + cell for cell in gp.select("grid", frame, budget[f]).order.tolist()]
            mine = [i for i in dict.fromkeys([*spread, *mine]) if i not in guard]
        order += mine[: budget[f]]
    return order


@settings(deadline=None)
@given(clip=clips(), group=st.sampled_from([1, 2, 3, 4, 4, 5]), data=st.data())
def test_dycoke_equals_the_book(clip, group, data) -> None:
    x, _, grid, k = clip
    guard = sorted(data.draw(st.sets(st.integers(0, len(x) - 1), max_size=min(k, 3))))
    both(gp.DyCoke(group=group), x, k, guard, lambda rows: dycoke(rows, grid, group, k, guard), grid=grid)


def test_of_a_clip_that_stands_still_the_first_frames_stay() -> None:
    g = torch.Generator().manual_seed(0)
    clip = torch.randn(1, 6, 8, generator=g).repeat(9, 1, 1)
    clip[2, 4] = clip[5, 1] = -clip[0, 0]  # two cells change
    keep = gp.select("dycoke", gp.Cues(clip.flatten(0, 1), grid=(9, 2, 3)), 24)
    assert keep.rows.tolist()[:6] == list(range(6))
    assert {2 * 6 + 4, 5 * 6 + 1} <= set(keep.rows.tolist())
    assert (keep.rows // 6).bincount(minlength=9).tolist() == [6, 1, 1, 1, 6, 1, 1, 1, 6]


def test_an_image_is_one_frame() -> None:
    cues = gp.Cues(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), grid=(1, 3, 4))
    assert gp.select("dycoke", cues, 5).rows.tolist() == gp.select("grid", cues, 5).rows.tolist()


@pytest.mark.parametrize("group", [0, 2.5, True])
def test_a_group_is_a_number_of_frames(group) -> None:
    with pytest.raises(ValueError, match=r"group=.*: write a whole number, 1 or more"):
        gp.DyCoke(group=group)
