"""FlashVID equals a float64 reference in plain loops: what it takes of a frame, its trees over time, its clusters."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import brute
import greedyprune as gp
from clips import clips, equal_parts, first_best, merges_as, peaks, scenes
from golden import SLACK, Rows, gram, quota
from greedyprune.ops.matching import largest_with_others
from greedyprune.ops.video import rooted


def spread(x: Rows, look: list[float], count: int) -> list[int]:
    """The rows of a frame that are taken, in order."""
    worth, cosines = [math.log(max(a, 2.2250738585072014e-308)) for a in look], gram(x)
    alone = [max([-1.0, *(c for j, c in enumerate(row) if j != i)]) for i, row in enumerate(cosines)]
    first = brute.ranking_of([w + math.log(max(1 - c, SLACK)) for w, c in zip(worth, alone, strict=True)])[0]
    return brute.log_barrier(torch.tensor(x, dtype=torch.float64), worth, count, 1.0, [first])[0]


def trees(x: Rows, scene: range, size: int, free: list[int], joins: float, least: int) -> dict[int, list[int]]:
    """The tokens of each tree, by the place of its first."""
    cosines, links = gram(x), {}
    for f in scene[1:]:
        before = [i for i in free if i // size == f - 1]
        for i in [i for i in free if i // size == f and before]:
            links[i] = before[first_best([cosines[i][j] for j in before])]
    ranking = [list(links)[i] for i in brute.ranking_of([cosines[i][j] for i, j in links.items()])]
    ranking = ranking[: max(len(free) - least, 0)]
    links = {i: links[i] for i in ranking if cosines[i][links[i]] > joins + SLACK}
    found: dict[int, list[int]] = {}
    for i in free:
        root = i
        while root in links:
            root = links[root]
        found.setdefault(root, []).append(i)
    return found


def flashvid(method: gp.FlashVID, x: Rows, look: list[float], grid: tuple[int, int, int], k: int):
    t, size = grid[0], grid[1] * grid[2]
    quotas = equal_parts(k, t)
    taken: list[int] = []
    centres: list[int] = []
    parts: dict[int, dict[int, float]] = {}
    for scene in scenes(x, t, method.scenes, method.tau):
        own: list[int] = []
        for f in scene:
            mine = range(f * size, (f + 1) * size)
            if count := math.ceil(quotas[f] * method.share - 1e-9):
                own += [mine[i] for i in spread([x[i] for i in mine], [look[i] for i in mine], count)]
        rest = sum(quotas[f] for f in scene) - len(own)
        taken += own
        if not rest:
            continue
        free = [i for f in scene for i in range(f * size, (f + 1) * size) if i not in own]
        found = trees(x, scene, size, free, method.joins, rest)
        means = {r: [math.fsum(c) / len(m) for c in zip(*(x[i] for i in m), strict=True)] for r, m in found.items()}
        roots = [[r for r in sorted(found) if r // size == f] for f in scene]
        room = [len(each) for each in roots]
        for here, count in zip(roots, quota(rest, [float(r) for r in room], room, least=1), strict=True):
            if not count:
                continue
            order, of = peaks([means[r] for r in here], count, min(count, 7) if count > 1 else 7)
            for c in order:
                inside = [r for r, o in zip(here, of, strict=True) if o == c]
                parts[here[c]] = {i: 1 / (len(inside) * len(found[r])) for r in inside for i in found[r]}
            centres += [here[c] for c in order]
    return taken + centres, parts | {i: {i: 1.0} for i in taken}


OPTIONS = st.sampled_from(
    [
        {},
        {"scenes": 2, "tau": -1.0},
        {"scenes": 1, "tau": 0.5, "joins": 0.3},
        {"share": 1.0},
        {"share": 0.0, "scenes": 1, "tau": -1.0, "joins": -0.5},
    ]
)


@settings(deadline=None)
@given(clip=clips(), options=OPTIONS)
def test_flashvid_equals_the_book(clip, options) -> None:
    x, look, grid, k = clip
    method = gp.FlashVID(**options)
    merges_as(method, x, look, grid, k, lambda rows: flashvid(method, rows, look.tolist(), grid, k))


def test_trees_by_hand() -> None:
    e = torch.eye(4)
    x = torch.cat([e[[0, 1]], e[[1, 2]], e[[1, 3]]])  # frames of two
    free = torch.ones(6, dtype=torch.bool)
    assert rooted(x, (3, 1, 2), free, 0.8, 1).tolist() == [0, 1, 1, 3, 1, 5]  # 2 joins 1, and 4 joins 2
    assert rooted(x, (3, 1, 2), free, 0.8, 5).tolist() == [0, 1, 1, 3, 4, 5]  # five trees stay
    free[2] = False
    assert rooted(x, (3, 1, 2), free, 0.8, 1).tolist() == [0, 1, -1, 3, 4, 5]
    assert rooted(x, (3, 1, 2), ~free, 0.8, 1).tolist() == [-1, -1, 2, -1, -1, -1]
    assert largest_with_others(x[:1]).tolist() == [-1.0]
    assert largest_with_others(x[[0, 1, 2]]).tolist() == [0.0, 1.0, 1.0]


def test_a_token_that_stands_still_is_kept_once() -> None:
    g = torch.Generator().manual_seed(0)
    still = torch.randn(1, 6, 16, generator=g)
    clip = still.repeat(4, 1, 1)
    clip[:, 5] = torch.randn(4, 16, generator=g)  # one cell changes in every frame
    cues = gp.Cues(clip.flatten(0, 1), attention=torch.ones(24), grid=(4, 2, 3))
    keep = gp.select(gp.FlashVID(share=0.0, scenes=1, tau=-1.0), cues, 9)
    assert keep.rows.tolist() == [0, 1, 2, 3, 4, 5, 11, 17, 23]
    assert torch.allclose(keep.merge(cues.features), torch.cat([clip[0], clip[1:, 5]]), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scenes": True}, "scenes=True: write a whole number"),
        ({"tau": -2}, "tau=-2 is no cosine"),
        ({"joins": 1.5}, r"joins=1\.5 is no cosine"),
        ({"share": 2}, "share=2 is no share"),
    ],
)
def test_knobs_out_of_range_are_refused(options, match) -> None:
    with pytest.raises(ValueError, match=match):
        gp.FlashVID(**options)
