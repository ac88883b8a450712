"""DyToK: frames share the budget as a plain float64 loop says, and the inner method chooses in each by itself."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import brute
import greedyprune as gp
from clips import clips
from golden import mean, parts_of, quota
from greedyprune.cues import Attention, Grid, Text
from greedyprune.naming import as_method
from greedyprune.plain import from_plain, to_plain
from greedyprune.testing import check_method

LAST = Attention("last_text")


def shares(look: list[float], frames: int) -> list[float]:
    """Each frame's share of the budget."""
    size = len(look) // frames
    return parts_of([mean(look[f * size : (f + 1) * size]) for f in range(frames)])


@settings(deadline=None)
@given(clip=clips(), data=st.data())
def test_frames_share_the_budget_by_their_attention(clip, data) -> None:
    x, look, grid, k = clip
    guard = sorted(data.draw(st.sets(st.integers(0, len(x) - 1), max_size=min(k, 3))))
    size = grid[1] * grid[2]
    held = [sum(i // size == f for i in guard) for f in range(grid[0])]
    free = quota(k - len(guard), shares(look.tolist(), grid[0]), [size - own for own in held])
    order = []
    for f in range(grid[0]):
        mine = [i for i in guard if i // size == f]
        ranking = [i + f * size for i in brute.ranking_of(look[f * size : (f + 1) * size].tolist())]
        order += mine + [i for i in ranking if i not in mine][: free[f]]
    protect = torch.tensor(guard) if guard else None
    keep = gp.select("dytok", gp.Cues(x, attention=look, grid=grid, protect=protect), k)
    assert keep.order.tolist() == order


@pytest.mark.parametrize("inner", ["divprune", "soft_greedyprune", "visionzip", "pool"])
def test_the_inner_method_sees_one_frame_at_a_time(inner) -> None:
    g = torch.Generator().manual_seed(0)
    x, look = (
        torch.randn(4 * 12, 8, generator=g),
        torch.rand(48, generator=g) * torch.tensor([1, 3, 0, 2]).repeat_interleave(12),
    )
    more = {"attention": look, "keys": torch.randn(48, 2, 4, generator=g), "text": torch.randn(3, 8, generator=g)}
    keep = gp.select(gp.DyToK(inner=inner), gp.Cues(x, grid=(4, 3, 4), **more), 20)
    counts = quota(20, shares(look.tolist(), 4), [12] * 4)
    assert counts[2] == 0
    rows: list[int] = []
    merged: list[torch.Tensor] = []
    for f, count in enumerate(counts):
        mine = slice(12 * f, 12 * (f + 1))
        own = {name: value if name == "text" else value[mine] for name, value in more.items()}
        alone = gp.select(inner, gp.Cues(x[mine], grid=(1, 3, 4), **own), count)
        rows += [12 * f + row for row in alone.rows.tolist()]
        merged.append(alone.merge(x[mine]))
    assert keep.rows.tolist() == rows
    torch.testing.assert_close(keep.merge(x), torch.cat(merged))


def test_several_layers_are_averaged() -> None:
    first, second = Attention("last_text", layer=0), Attention("last_text", layer=3)
    method = gp.DyToK(inner="random", layers=[0, 3])
    assert method.needs == (Grid(), first, second)
    looks = {first: torch.tensor([0.5, 0.5, 0.0, 0.0]), second: torch.tensor([0.0, 0.0, 0.25, 0.25])}
    keep = gp.select(method, gp.Cues(torch.ones(4, 2), grid=(2, 1, 2), more=looks), 3)
    assert (keep.rows // 2).bincount().tolist() == [2, 1]


def test_frames_are_weighed_by_relevance_if_asked_to() -> None:
    method = gp.DyToK(inner="grid", weights="relevance", at=gp.Input())
    assert method.needs == (Grid(),)
    assert method.reads >= {"relevance", "grid"}
    cues = gp.Cues(torch.ones(12, 2), grid=(3, 2, 2), relevance=torch.tensor([3.0, 1, 2] * 4).sort().values)
    assert (gp.select(method, cues, 6).rows // 4).bincount(minlength=3).tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="needs weights of 0 or more: pass relevance="):
        gp.select(method, gp.Cues(torch.ones(4, 2), grid=(2, 1, 2)), 2)
    with pytest.raises(ValueError, match="needs weights of 0 or more"):
        gp.select(method, gp.Cues(torch.ones(4, 2), grid=(2, 1, 2), relevance=-torch.ones(4)), 2)


@pytest.mark.parametrize("inner", ["visionzip", "pool", "fastv"])
def test_it_keeps_the_contract_with_other_methods_inside(inner) -> None:
    method = gp.DyToK(inner=inner)
    own = as_method(inner)
    assert (method.merges, method.exact) == (own.merges, own.exact)
    assert set(own.needs) <= set(method.needs)
    check_method(method)
    plain = json.loads(json.dumps(to_plain(method)))
    assert plain["inner"]["type"] == inner
    assert from_plain(plain) == method == from_plain({"type": "dytok", "inner": inner})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"inner": "vidcom2"}, "inner=VidCom2 compares frames: name a method"),
        ({"inner": gp.DyToK()}, "inner=DyToK compares frames"),
        ({"inner": "divprun"}, "did you mean 'divprune'"),
        ({"inner": "os:system"}, "would import a module"),
        ({"weights": "cosine"}, "weights='cosine' is unknown: choose one of attention, relevance"),
        ({"layers": (1.5,)}, r"layers=1\.5: write a whole number, 0 or more"),
        ({"weights": "relevance", "layers": (1,)}, r"layers=\(1,\) is read by weights="),
    ],
)
def test_what_it_cannot_do_is_refused(options, match) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        gp.DyToK(**options)


def test_the_place_must_fit_both() -> None:
    with pytest.raises(ValueError, match="FastV cannot run at Input"):
        gp.DyToK().check_stage(gp.Input())
    with pytest.raises(ValueError, match="DyToK cannot run at Layers"):
        gp.DyToK().check_stage(gp.Layers((1, 2)))
    assert Text() in gp.DyToK(inner="greedyprune").needs


def test_it_reads_no_more_of_the_text_than_its_inner_method() -> None:
    assert gp.DyToK(inner="mmr").reads == {"tokens", "last_text", "grid", "attention", "protect"}
