"""`relevance=`: what a model of the user's own says of each token reaches the right image, at every cut."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

import greedyprune as gp
from proofs import MODEL, RAGGED, TWO, forward, generate

pytestmark = pytest.mark.usefixtures("untouched")


@dataclass(frozen=True, kw_only=True)
class MostRelevant(gp.Method):
    """Top-k by the relevance that was given, by place where none was."""

    weighs_relevance: ClassVar[bool] = True

    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        worth = torch.zeros(cues.n) if cues.relevance is None else cues.relevance
        order = worth.sort(descending=True, stable=True).indices[:k]
        return gp.Keep.from_order(order, worth[order], cues.n)


def values(seed: int, n: int = 16) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2), gp.Layers((1, 3))], ids=str)
@pytest.mark.parametrize("run", [forward, generate], ids=["forward", "generate"])
def test_every_image_is_chosen_by_its_own(at: gp.Stage, run) -> None:
    told = [values(1), None, values(2)]
    with gp.prune(MODEL, MostRelevant(), 5, at=at, relevance=told) as handle:
        run(MODEL, RAGGED)
    for one, given in zip(handle.selections, told, strict=True):
        expected = torch.zeros(16) if given is None else given
        assert one.order.tolist() == expected.sort(descending=True, stable=True).indices[:5].tolist()


def test_calls_may_differ_and_beams_repeat_it() -> None:
    with gp.prune(MODEL, MostRelevant(), 5, relevance=[values(1), values(2)]) as handle:
        if "mm_encoder_outputs" in inspect.signature(MODEL.forward).parameters:
            generate(MODEL, TWO, num_beams=2)
        else:  # older releases give beams of several images other images
            with pytest.raises(ValueError, match="relevance has 2 entries, and the call has 4 images"):
                generate(MODEL, TWO, num_beams=2)
        beams = [one.rows.tolist() for one in handle.selections]
        with handle.using(relevance=[]):
            forward(MODEL, TWO)
            assert [one.rows.tolist() for one in handle.selections] == [[0, 1, 2, 3, 4]] * 2
        forward(MODEL, TWO)
        plain = [one.rows.tolist() for one in handle.selections]
    assert sorted(map(tuple, beams)) == sorted(map(tuple, plain * (len(beams) // 2)))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([values(1)], ValueError, "relevance has 1 entries, and the call has 2 images"),
        ([values(1), values(2, 15)], ValueError, r"relevance of image 1 has shape \(15,\), the image has 16"),
    ],
)
def test_what_does_not_fit_the_call_is_refused(given, error, words: str) -> None:
    with gp.prune(MODEL, MostRelevant(), 5, relevance=given), pytest.raises(error, match=words):
        forward(MODEL, TWO)


@pytest.mark.parametrize("given", [values(1), "high", [[0.5]], [torch.ones(2, 2)], [torch.ones(3, dtype=torch.int64)]])
def test_what_is_no_relevance_is_refused(given) -> None:
    with pytest.raises(TypeError, match="relevance"):
        gp.prune(MODEL, MostRelevant(), 5, relevance=given)


def test_bad_values_are_named() -> None:
    bad = values(1)
    bad[3] = torch.nan
    with (
        gp.prune(MODEL, MostRelevant(), 5, relevance=[bad, None]),
        pytest.raises(ValueError, match="relevance holds NaN or infinity, first in row 3"),
    ):
        forward(MODEL, TWO)
    cues = gp.Cues(torch.ones(4, 2))
    with pytest.raises(ValueError, match="relevance has shape"):
        replace(cues, relevance=torch.ones(4, 2))
