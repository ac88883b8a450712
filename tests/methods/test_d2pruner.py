"""D2Pruner against plain float64 loops: pivots, the independent set with and without nearness, the bias of places."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cases
import greedyprune as gp
from examples import cosine
from greedyprune.methods.d2pruner import LOOK

GRIDS = ((1, 3, 4), (2, 2, 5), (1, 1, 7), (1, 5, 5))


def similarity(cues: gp.Cues, i: int, j: int, share: float) -> float:
    assert cues.grid is not None
    _, h, w = cues.grid
    apart = (i // w % h - j // w % h) ** 2 + (i % w - j % w) ** 2
    near = math.exp(-apart / 2) if i // (h * w) == j // (h * w) else 0.0
    return (1 - share) * cosine(cues.features[i], cues.features[j]) + share * near


def book(cues: gp.Cues, k: int, bias: list[float], share: float, pivots: float, theta: float) -> list[int]:
    score = [float(a) / (b + 1e-7) for a, b in zip(cues[LOOK].double(), bias, strict=True)]
    ranking = sorted(range(cues.n), key=lambda i: -score[i])
    guard = [] if cues.protect is None else cues.protect.tolist()
    ranking = guard + [i for i in ranking if i not in guard]
    own = max(math.floor(k * pivots), len(guard))
    rest: list[int] = []
    for i in ranking[own:]:
        if len(rest) < k - own and all(similarity(cues, i, j, share) <= theta for j in rest):
            rest.append(i)
    fill = [i for i in ranking[own:] if i not in rest]
    return (ranking[:own] + rest + fill)[:k]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 5000), grid=st.sampled_from(GRIDS), kind=st.sampled_from(cases.KINDS), data=st.data())
def test_pivots_then_tokens_unlike_those_taken(seed: int, grid: tuple[int, int, int], kind: str, data) -> None:
    n = math.prod(grid)
    k, share = data.draw(st.integers(1, n)), data.draw(st.sampled_from((0.0, 0.5, 1.0)))
    pivots, theta = data.draw(st.sampled_from((0.0, 0.3, 0.7, 1.0))), data.draw(st.sampled_from((0.0, 0.37, 0.81)))
    x, _ = cases.draw(kind, n, 6, seed)
    g = torch.Generator().manual_seed(seed)
    look, weights = torch.rand(n, generator=g), torch.rand(math.prod(grid[1:]), generator=g)
    protect = data.draw(st.sampled_from((None, torch.tensor([0]))))
    cues = gp.Cues(x, grid=grid, attention=look, protect=protect)
    bias = data.draw(st.sampled_from((None, gp.PositionBias(tuple(weights.tolist()), grid[1:]))))
    method = gp.D2Pruner(bias=bias, spatial=share, pivots=pivots, threshold=theta)
    places = [1.0 - 1e-7] * n if bias is None else weights.tolist() * grid[0]
    keep = gp.select(method, cues, k)
    assert keep.order.tolist() == book(cues, k, places, share, pivots, theta)
    score = [float(look[i].double()) / (places[i] + 1e-7) for i in keep.order.tolist()]
    assert keep.gains.tolist() == pytest.approx(score)


def test_it_says_who_was_passed_over_for_whom() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.1], [-1.0, 0.0]])
    cues = gp.Cues(x, attention=torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1]), grid=(1, 1, 5))
    keep = gp.select(gp.D2Pruner(pivots=0), cues, 3)
    assert keep.order.tolist() == [0, 1, 4]
    assert keep.suppressed_by is not None
    assert keep.suppressed_by.tolist() == [-1, -1, 1, 0, -1]
    assert int(keep.before_fallback) == 3
    near = gp.select(gp.D2Pruner(pivots=0, spatial=1.0, threshold=0.1), cues, 3)
    assert near.order.tolist() == [0, 3, 1]  # cells 0 and 3 are apart; then the best of those passed over
    assert int(near.before_fallback) == 2
    assert near.suppressed_by is not None
    assert near.suppressed_by.tolist() == [-1, -1, 0, -1, 3]


def test_a_bias_is_read_off_on_another_grid() -> None:
    bias = gp.PositionBias((1.0, 3.0, 5.0, 7.0), (2, 2))
    assert bias.of(4, (1, 2, 2)).tolist() == [1, 3, 5, 7]
    assert bias.of(8, (2, 2, 2)).tolist() == [1, 3, 5, 7] * 2
    larger = bias.of(16, (1, 4, 4)).view(4, 4)
    assert larger[0, 0] == 1
    assert larger[3, 3] == 7
    assert larger[0].tolist() == [1, 1.5, 2.5, 3]
    assert torch.equal(larger.flip(0, 1), 8 - larger)
    assert gp.PositionBias((1.0, 2.0)).of(2, (1, 1, 2)).tolist() == [1, 2]
    assert gp.from_plain(gp.to_plain(gp.D2Pruner(bias=bias))) == gp.D2Pruner(bias=bias)
    with pytest.raises(ValueError, match="the bias is of images with 2 visual tokens and this image has 3"):
        gp.PositionBias((1.0, 2.0)).of(3, (1, 1, 3))
    with pytest.raises(ValueError, match="this image has 3, without a grid"):
        bias.of(3, None)


@pytest.mark.parametrize(
    ("values", "grid", "why"),
    [
        ((1.0, -0.5), None, r"values holds -0\.5: pass the mean attention"),
        ((1.0, math.nan), None, "values holds nan"),
        ((0.0, 0.0), None, "values holds no value above 0"),
        ((), None, "values holds no value above 0"),
        ((1.0, 2.0), (3, 1), r"grid=\(3, 1\) and 2 values do not fit"),
    ],
)
def test_a_bias_that_is_none_is_refused(values, grid, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        gp.PositionBias(values, grid)


def test_wrong_options_are_refused() -> None:
    for option, why in (
        ({"pivots": 1.5}, r"pivots=1\.5 is no share"),
        ({"spatial": -1}, "spatial=-1 is no share"),
        ({"threshold": 2}, "threshold=2 is no similarity"),
        ({"epsilon": 0}, "epsilon=0: write a small number above 0"),
    ):
        with pytest.raises(ValueError, match=why):
            gp.D2Pruner(**option)
    with pytest.raises(TypeError, match=r"bias is a list: pass what gp\.calibrate\(\) returns"):
        gp.D2Pruner(bias=[1.0])  # type: ignore[arg-type]
    assert gp.Grid() in gp.D2Pruner(spatial=0.5).needs
    assert gp.D2Pruner().needs == (LOOK,)
