"""Golden traces of DivPrune, CDPruner, SCOPE, MMTok and FastV: a small fixed example, and a reference by the equations.

References are plain loops in float64 and share no code with the library; the literal orders are theirs.
"""

from __future__ import annotations

import math

import pytest
import torch

import brute
import cases
import greedyprune as gp
from books import Rows, cosines, covering, first
from greedyprune.cues import Attention
from greedyprune.naming import method_class

N, D, M = 10, 5, 3
X = torch.tensor([[math.sin(1 + 1.7 * i + 0.9 * j * j + 0.37 * i * j * j) for j in range(D)] for i in range(N)])
ROWS = torch.tensor([[math.cos(0.3 * i * i + 1.1 * j * (i + 1)) for j in range(4)] for i in range(N)])
TEXT = torch.tensor([[math.cos(2.0 * i + 0.7 * j) for j in range(D)] for i in range(M)])
LOOK = torch.tensor([(7 * i % N + 1) / N for i in range(N)])
CUES = gp.Cues(X, text=TEXT, question=slice(1, 3), attention=LOOK, encoded=ROWS)


def divprune(cues: gp.Cues, k: int) -> list[int]:
    """First whose nearest other is farthest; then whose nearest kept one is."""
    gram = cosines(cues.features, cues.features)
    n = len(gram)
    order = [first({i: -max(gram[i][j] for j in range(n) if j != i) for i in range(n)})]
    while len(order) < k:
        order.append(first({i: -max(gram[i][j] for j in order) for i in range(n) if i not in order}))
    return order


def cdpruner(cues: gp.Cues, k: int) -> list[int]:
    """Greedy MAP by the published recursion: e_i = (L_ji - sum of c_mj c_mi) / d_j, d_i^2 falls by e_i^2."""
    assert cues.text is not None
    assert cues.question is not None
    gram = cosines(cues.features, cues.features)
    mean = [math.fsum(row) / len(row) for row in cosines(cues.features, cues.text[cues.question])]
    scaled = [(value - min(mean)) / (max(mean) - min(mean)) for value in mean]
    quality = [math.exp(0.5 / (2 * (1 - 0.5)) * value) for value in scaled]
    kernel = [[quality[i] * gram[i][j] * quality[j] for j in range(len(gram))] for i in range(len(gram))]
    left = [kernel[i][i] for i in range(len(gram))]
    columns: Rows = []
    order: list[int] = []
    while len(order) < k:
        j = first({i: value for i, value in enumerate(left) if i not in order})
        e = [(kernel[j][i] - math.fsum(c[j] * c[i] for c in columns)) / math.sqrt(left[j]) for i in range(len(gram))]
        columns.append(e)
        left = [value - change * change for value, change in zip(left, e, strict=True)]
        order.append(j)
    return order


def scope(cues: gp.Cues, k: int) -> list[int]:
    """Coverage of the tower's rows by cosine, times attention."""
    assert cues.encoded is not None
    assert cues.attention is not None
    gram = cosines(cues.encoded, cues.encoded)
    return covering(gram, [1.0] * len(gram), cues.attention.double().tolist(), k)


def softmax(values: list[float], temperature: float) -> list[float]:
    weights = [math.exp((value - max(values)) / temperature) for value in values]
    return [weight / math.fsum(weights) for weight in weights]


def mmtok(cues: gp.Cues, k: int) -> list[int]:
    """Words on top, visual tokens below, each a softmax over the tokens that may cover it."""
    assert cues.text is not None
    assert cues.question is not None
    assert cues.encoded is not None
    words = [softmax(row, 0.02) for row in cosines(cues.text[cues.question], cues.features)]
    image = [softmax(row, 0.2) for row in cosines(cues.encoded, cues.encoded)]
    share = [1 / len(words)] * len(words) + [0.5 / len(image)] * len(image)
    return covering(words + image, share, [1.0] * len(image), k)


def fastv(cues: gp.Cues, k: int) -> list[int]:
    """The most attended, from the highest down."""
    assert cues.attention is not None
    values = cues.attention.double().tolist()
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]


BOOKS = {"divprune": divprune, "cdpruner": cdpruner, "scope": scope, "mmtok": mmtok, "fastv": fastv}
GOLDEN = {
    "divprune": [0, 5, 2, 9, 4],
    "cdpruner": [2, 4, 1, 0, 5],
    "scope": [1, 7, 4, 5, 8],
    "mmtok": [5, 4, 1, 3, 7],
    "fastv": [7, 4, 1, 8, 5],
}


@pytest.mark.parametrize("name", BOOKS)
def test_the_fixed_example_is_taken_in_the_known_order(name: str) -> None:
    assert BOOKS[name](CUES, 5) == GOLDEN[name]
    assert gp.select(name, CUES, 5).order.tolist() == GOLDEN[name]


@pytest.mark.parametrize("name", BOOKS)
@pytest.mark.parametrize("kind", ["iid", "offset", "clustered"])
def test_the_order_is_that_of_the_equations(name: str, kind: str) -> None:
    for seed in range(20):
        x, _ = cases.draw(kind, 16, 24, seed)
        g = torch.Generator().manual_seed(seed)
        cues = cases.cues(x, torch.randn(4, 24, generator=g), seed, encoded=torch.randn(16, 24, generator=g))
        for k in (1, 5, 16):
            keep = gp.select(name, cues, k)
            if int(keep.before_fallback) == k:
                assert keep.order.tolist() == BOOKS[name](cues, k), (seed, k)


def test_a_relevance_of_the_users_own_is_the_quality_itself() -> None:
    relevance = torch.linspace(0, 3, N)
    cues = gp.Cues(X, text=TEXT, relevance=relevance)
    assert gp.select("cdpruner", cues, 1).order.tolist() == [N - 1]
    gram = torch.tensor(cosines(X, X)).double()
    quality = relevance.double() / 3
    kernel = quality[:, None] * gram * quality
    two = [float(torch.det(kernel[[N - 1, j]][:, [N - 1, j]])) for j in range(N - 1)]
    assert gp.select("cdpruner", cues, 2).order.tolist() == [N - 1, two.index(max(two))]


def test_attention_may_come_as_its_own_need_or_as_the_field() -> None:
    named = gp.Cues(X, text=TEXT, more={Attention("last_text"): LOOK})
    assert gp.select("fastv", named, 4).order.tolist() == gp.select("fastv", CUES, 4).order.tolist()


@pytest.mark.parametrize("name", ["divprune", "cdpruner", "scope", "mmtok", "zspaprune", "todre", "facility"])
def test_centring_is_the_same_as_centred_rows(name: str) -> None:
    """What all visual tokens share does not matter once it is taken off."""
    moved = gp.Cues(X + 5, text=TEXT + 5, question=slice(1, 3), attention=LOOK, encoded=ROWS + 3)
    mean = X.double().mean(0).float()
    by_hand = gp.Cues(
        X - mean, text=TEXT - mean, question=slice(1, 3), attention=LOOK, encoded=ROWS - ROWS.double().mean(0).float()
    )
    method = method_class(name)
    centred = gp.select(method(preprocess="center"), moved, 6).order.tolist()
    assert centred == gp.select(method(), by_hand, 6).order.tolist()


@pytest.mark.parametrize("name", ["greedyprune", "mmr"])
@pytest.mark.parametrize("text", ["last", "question_mean", "question_max"])
def test_unit_centring_is_the_same_as_unit_centred_rows(name: str, text: str) -> None:
    """No row's length matters, and the text loses the mean of the same rows."""
    method, size = method_class(name), torch.linspace(0.2, 9, N)[:, None]
    words = TEXT.clone()
    long = gp.Cues(size * (X + 5), text=0.1 * (words + 5), question=slice(1, 3))
    chosen = {"last": words[-1:], "question_mean": words[1:3].mean(0, True), "question_max": words[1:3]}[text] + 5
    rows, asked = brute.centre(X + 5, chosen)
    by_hand = gp.Cues(rows, text=asked)
    how = "last" if text != "question_max" else text
    centred = gp.select(method(preprocess="center", text=text), long, 6).order.tolist()
    assert centred == gp.select(method(text=how), by_hand, 6).order.tolist()
    assert centred != gp.select(method(text=text), long, 6).order.tolist()
