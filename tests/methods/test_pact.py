"""PACT against plain float64 loops: centres, and the tokens within their distance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cases
import greedyprune as gp
from examples import by_worth, cosine
from greedyprune.methods.pact import LOOK


def drawn(seed: int, n: int, kind: str) -> gp.Cues:
    x, _ = cases.draw("iid", n, 6, seed)
    keys, _ = cases.draw(kind, n, 8, seed + 1)
    look = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    return gp.Cues(x, attention=look, keys=keys.view(n, 2, 4))


def pact(cues: gp.Cues, stay: int, cutoff: float, reach: float, most: int) -> tuple[list[int], dict[int, list[int]]]:
    """The centres in order, and the tokens of each."""
    assert cues.keys is not None
    worth = (cues[LOOK].double() * cues.features.double().norm(dim=1)).tolist()
    staying, keys = sorted(by_worth(worth)[:stay]), cues.keys.flatten(1)
    apart = [[1 - cosine(a, b) for b in keys] for a in keys]
    dense = {i: sum(math.exp(-((apart[i][j] / 2.0) ** 2)) for j in staying) for i in staying}
    centres: list[int] = []
    for i in sorted(staying, key=lambda i: -dense[i]):
        if len(centres) < most and all(apart[i][j] >= cutoff for j in centres):
            centres.append(i)
    groups = {i: [i] for i in centres}
    for i in set(range(cues.n)) - set(centres):
        nearest = min(sorted(centres), key=lambda j: apart[i][j]) if centres else None
        if nearest is not None and apart[i][nearest] <= reach * cutoff:
            groups[nearest].append(i)
    return centres, groups


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 5000), n=st.integers(2, 18), kind=st.sampled_from(("iid", "offset", "clustered")), d=st.data()
)
def test_pact_averages_within_a_distance_of_dense_tokens(seed: int, n: int, kind: str, d) -> None:
    k, cutoff = d.draw(st.integers(1, n - 1)), d.draw(st.sampled_from((0.07, 0.31, 0.83)))
    share, reach = d.draw(st.sampled_from((0.3, 0.55, 1.0))), d.draw(st.sampled_from((0.8, 1.5)))
    cues = drawn(seed, n, kind)
    keep = gp.select(gp.PACT(cutoff=cutoff, share=share, reach=reach), cues, k)
    centres, groups = pact(cues, max(int(n * share), k), cutoff, reach, k)
    assert keep.order.tolist() == centres
    means = torch.stack([cues.features[groups[row]].double().mean(0) for row in keep.rows.tolist()])
    torch.testing.assert_close(keep.merge(cues.features).double(), means, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 5000), n=st.integers(2, 18), kind=st.sampled_from(cases.KINDS), d=st.data())
def test_without_a_distance_pact_keeps_as_many_as_it_is_asked_for(seed: int, n: int, kind: str, d) -> None:
    k = d.draw(st.integers(1, n - 1))
    cues = drawn(seed, n, kind)
    keep = gp.select("pact", cues, k)
    assert keep.k == k
    assert gp.PACT().exact
    assert not gp.PACT(cutoff=0.2).exact
    assert keep.weights is not None
    assert (keep.weights.sum(1) - 1).abs().max() < 1e-6
    assert ((keep.weights > 0).sum(0) <= 1).all()  # no token is in two groups
    stay = by_worth((cues[LOOK].double() * cues.features.double().norm(dim=1)).tolist())[: max(int(n * 0.55), k)]
    assert set(keep.rows.tolist()) <= set(stay)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"share": 1.5}, r"share=1\.5 is no share"),
        ({"cutoff": 3}, "cutoff=3 is no cosine distance"),
        ({"reach": 0}, "reach=0: write a number above 0"),
        ({"width": math.inf}, "width=inf: write a number above 0"),
    ],
)
def test_wrong_options_are_refused(option, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        gp.PACT(**option)
