"""FastVID equals a float64 reference in plain loops, and what it makes of short clips and large budgets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import brute
import greedyprune as gp
from clips import clips, equal_parts, first_best, merges_as, peaks, scenes
from golden import Rows, gram, quota
from greedyprune.ops.video import segments


def fastvid(method: gp.FastVID, x: Rows, look: list[float], grid: tuple[int, int, int], k: int):
    t, size = grid[0], grid[1] * grid[2]
    if k == len(x):
        return brute.ranking_of(look), {i: {i: 1.0} for i in range(k)}
    quotas, gram_ = equal_parts(k, t), gram(x)
    salient: list[int] = []
    targets: list[int] = []
    parts: dict[int, dict[int, float]] = {}
    for scene in scenes(x, t, method.scenes, method.tau):
        context = {f: math.floor(quotas[f] * method.context + 1e-9) for f in scene}
        own = {f: quotas[f] - context[f] for f in scene}
        anchors = [f for f in scene if (scene[-1] - f) % method.every == 0]
        others = [f for f in scene if f not in anchors]
        room = [size - own[f] for f in anchors]
        merging = dict(zip(anchors, quota(min(sum(context.values()), sum(room)), [1.0] * len(room), room), strict=True))
        left = sum(context.values()) - sum(merging.values())
        for f, more in zip(others, quota(left, [1.0] * len(others), [size - own[f] for f in others]), strict=True):
            own[f] += more
        taken: list[int] = []
        for f in scene:
            mine = range(f * size, (f + 1) * size)
            taken += [mine[i] for i in brute.ranking_of([look[i] for i in mine])][: own[f]]
        rest = [i for f in scene for i in range(f * size, (f + 1) * size) if i not in taken]
        for f in anchors:
            mine = [i for i in rest if i // size == f]
            if not merging[f]:
                continue
            centres = [mine[c] for c in peaks([x[i] for i in mine], merging[f], 4)[0]]
            joined = {c: [] for c in centres}
            for i in rest:
                joined[centres[first_best([gram_[i][c] for c in centres])]].append(i)
            for c in centres:
                weight = max(method.beta, 1 / (len(joined[c]) + 1))
                parts[c] = {c: weight}
                for i in joined[c]:
                    parts[c][i] = parts[c].get(i, 0) + (1 - weight) / len(joined[c])
            targets += centres
        salient += taken
    return salient + targets, parts | {i: {i: 1.0} for i in salient}


OPTIONS = st.sampled_from(
    [{}, {"scenes": 2, "tau": -1.0}, {"scenes": 1, "tau": 0.5, "every": 2}, {"context": 1.0, "beta": 0.1, "scenes": 3}]
)


@settings(deadline=None)
@given(clip=clips(), options=OPTIONS)
def test_fastvid_equals_the_book(clip, options) -> None:
    x, look, grid, k = clip
    method = gp.FastVID(**options)
    merges_as(method, x, look, grid, k, lambda rows: fastvid(method, rows, look.tolist(), grid, k))


def test_a_clip_is_cut_where_its_frames_change() -> None:
    g = torch.Generator().manual_seed(0)
    scene = torch.randn(3, 4, 8, generator=g)
    clip = scene[torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])] + 0.01 * torch.randn(10, 4, 8, generator=g)
    x, grid = clip.flatten(0, 1), (10, 2, 2)
    assert segments(x, grid, 1, 0.9) == [3, 2, 5]
    assert segments(x, grid, 2, -1.0) in ([3, 7], [5, 5])
    assert len(segments(x, grid, 8, 0.9)) == 8
    assert segments(x, grid, 99, 0.9) == [1] * 10  # fewer frames than scenes: one for each
    assert segments(x[:4], (1, 2, 2), 8, 0.9) == [1]
    still = torch.ones(24, 3)
    assert segments(still, (6, 2, 2), 3, 0.9) == [1, 1, 4]  # ties go to the earliest cut
    assert segments(still, (6, 2, 2), 1, 1.0) == [6]  # a frame is as like itself as can be, and no cut


def test_context_tokens_stand_in_anchor_frames_and_mix_their_scene_alone() -> None:
    g = torch.Generator().manual_seed(1)
    x, look = torch.randn(10 * 16, 8, generator=g), torch.rand(160, generator=g)
    keep = gp.select(gp.FastVID(scenes=2, tau=-1.0), gp.Cues(x, attention=look, grid=(10, 4, 4)), 50)
    lengths = segments(x, (10, 4, 4), 2, -1.0)
    scene = torch.repeat_interleave(torch.arange(len(lengths)), 16 * torch.tensor(lengths))
    assert keep.weights is not None
    last = torch.tensor(lengths).cumsum(0) - 1
    mixed = 0
    for row, weights in zip(keep.rows.tolist(), keep.weights, strict=True):
        parts = weights.nonzero()[:, 0]
        assert set(scene[parts].tolist()) == {int(scene[row])}
        assert math.isclose(float(weights.sum()), 1, abs_tol=1e-6)
        if len(parts) > 1:
            mixed += 1
            assert (int(last[scene[row]]) - row // 16) % 4 == 0
            assert float(weights[row]) >= 0.6
    assert mixed > 4


def test_a_budget_of_everything_merges_nothing() -> None:
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    keep = gp.select("fastvid", gp.Cues(x, attention=torch.rand(24), grid=(4, 2, 3)), 24)
    assert torch.equal(keep.merge(x), x)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"scenes": 0}, "scenes=0: write a whole number"),
        ({"every": 1.5}, r"every=1\.5: write a whole number"),
        ({"tau": 2}, "tau=2 is no cosine"),
        ({"context": -0.1}, r"context=-0\.1 is no share"),
        ({"beta": 1.1}, r"beta=1\.1 is no share"),
    ],
)
def test_knobs_out_of_range_are_refused(options, match) -> None:
    with pytest.raises(ValueError, match=match):
        gp.FastVID(**options)


def test_it_is_refused_where_it_cannot_choose() -> None:
    with pytest.raises(ValueError, match="FastVID needs grid"):
        gp.select("fastvid", gp.Cues(torch.ones(4, 2), attention=torch.ones(4)), 2)
    guarded = gp.Cues(torch.ones(4, 2), attention=torch.ones(4), grid=(2, 1, 2), protect=torch.tensor([1]))
    with pytest.raises(ValueError, match="FastVID merges tokens and cannot protect any"):
        gp.select("fastvid", guarded, 2)
    with pytest.raises(ValueError, match=r"FastVID cannot run at Layers.*: it runs at Input, Layer"):
        gp.FastVID().check_stage(gp.Layers((1, 2)))
