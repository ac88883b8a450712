"""Engines that stay on a device, run on the CPU: they decide as the others do, and the host hardly waits."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

import cases
import counted
import far
import greedyprune as gp
from greedyprune import resident
from greedyprune.bench.features import image_like
from greedyprune.ops.cosine import unit64
from greedyprune.ops.kernels import batch, pairs, picks, suppression

RULES = [
    gp.DivPrune(),
    gp.DivPrune(preprocess="center"),
    gp.MMR(),
    gp.MMR(preprocess="center", text="question_max", trade=0.9),
    gp.SoftGreedyPrune(),
    gp.SoftGreedyPrune(text="question_max", preprocess="channels"),
    gp.SoftGreedyPrune(weight=0, text="question_mean"),
    gp.SoftGreedyPrune(weight=60, saliency="key_norm"),
    gp.GreedyPrune(),
    gp.GreedyPrune(tau=0.3, text="question_max"),
    gp.GreedyPrune(tau=0.3, fallback="none"),
    gp.GreedyPrune(tau=1.0, preprocess="rmsnorm"),
    gp.GreedyPrune(tau=gp.MeanScaled(), preprocess="center"),
    gp.GreedyPrune(tau=gp.Quantile(0.95), saliency="attention"),
]
ROUNDS = 5
"""For each rule, kind of rows and round: three images, so 1,890 selections."""
rules = pytest.mark.parametrize("rule", RULES, ids=str)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU counts as a device whose selections stay there."""
    monkeypatch.setattr(resident, "KINDS", frozenset({"cpu"}))


def drawn(kind: str, seed: int, images: int = 3) -> tuple[list[gp.Cues], int]:
    """Images of one size with everything a rule asks for, in some precision. Texts are longer or shorter."""
    dice = random.Random(f"{kind} {seed}")
    n, d = dice.randint(1, 20), dice.choice([1, 2, 3, 8, 30])
    k = dice.choice([dice.randint(1, n), n, n + 2])
    given = sorted(dice.sample(range(n), dice.choice([0, 0, min(k, n, 3), min(k, n)])))
    how = dice.choice([lambda y: y, lambda y: y.double(), lambda y: y.clamp(-1e4, 1e4).bfloat16()])
    g = torch.Generator().manual_seed(seed)
    made: list[gp.Cues] = []
    for image in range(images):
        x, t = cases.draw(kind, n, d, 100 * image + seed)
        text = torch.cat([torch.randn(2 + image, d, generator=g), t[None]])
        made.append(
            gp.Cues(
                how(x),
                text=how(text),
                question=slice(1, 3 + image),
                attention=torch.rand(n, generator=g).round(decimals=1),
                keys=torch.randn(n, 2, 3, generator=g),
                norm=torch.rand(d, generator=g) + 0.1,
                protect=torch.tensor(given) if given else None,
            )
        )
    return made, k


def same(one: gp.Keep, other: gp.Keep, what: object) -> None:
    """Equal decisions; values that are only reported are near each other."""
    assert one.order.tolist() == other.order.tolist(), what
    assert int(one.before_fallback) == int(other.before_fallback), what
    assert (one.suppressed_by is None) == (other.suppressed_by is None)
    assert one.suppressed_by is None or torch.equal(one.suppressed_by, other.suppressed_by), what
    torch.testing.assert_close(one.gains.double(), other.gains.double(), rtol=1e-5, atol=1e-5)
    mine, theirs = one.certificate, other.certificate
    assert type(mine) is type(theirs)
    if isinstance(mine, gp.Certificate) and isinstance(theirs, gp.Certificate):
        assert (mine.maximal, mine.share is None) == (theirs.maximal, theirs.share is None), what
        assert (mine.tau, mine.pairwise_max) == pytest.approx((theirs.tau, theirs.pairwise_max), abs=2e-6)
        assert mine.share == pytest.approx(theirs.share, abs=1e-5)
    if isinstance(mine, gp.SoftCertificate) and isinstance(theirs, gp.SoftCertificate):
        assert (mine.factor, mine.level) == (theirs.factor, pytest.approx(theirs.level, rel=1e-6, abs=1e-6)), what


@pytest.mark.parametrize("kind", cases.KINDS)
@rules
def test_a_device_decides_as_the_cpu_does(rule: gp.Method, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order and ties included: duplicates, zero rows, extreme rows, protected rows, whole budgets."""
    for seed in range(ROUNDS):
        cues, k = drawn(kind, seed)
        expected = gp.select_batch(rule, cues, [k] * 3)
        with monkeypatch.context() as patched:
            patched.setattr(resident, "KINDS", frozenset({"cpu"}))
            patched.setattr(pairs, "BLOCK", random.Random(seed).choice([1, 5, 256]))
            found = gp.select_batch(rule, cues, [k] * 3)
            alone = gp.select(rule, cues[1], k)
        for image, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            same(mine, theirs, (seed, image, k))
        same(alone, expected[1], (seed, k))


def test_ties_on_a_device_go_to_the_lowest_row() -> None:
    """Cosines a rounding apart: the later row is farther by less than float64 tells."""
    angle = torch.tensor([0.0, 1.0, -1.0 - 1e-14, 1.0 + 1e-14, 0.5], dtype=torch.float64)
    units = torch.stack([angle.cos(), angle.sin()], 1)[None]
    guard = torch.tensor([[0]])
    order, _ = picks.farthest_first(units, 3, given=guard)
    assert order.tolist() == [[0, 1, 2]]
    worth = torch.zeros(1, 5, dtype=torch.float64)
    assert picks.marginal_relevance(units, worth, 3, 0.5)[0].tolist() == [[0, 1, 2]]
    assert picks.log_barrier(units, worth, 3, 8.0, given=guard)[0].tolist() == [[0, 1, 2]]


def test_a_cosine_at_the_threshold_is_not_above_it_on_a_device() -> None:
    """Rows 1 and 2 are at cosine 1/2 from row 0, up to rounding, and row 3 is its copy."""
    x = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, -1], [1, -1, 1, 1], [2, 2, 2, 2]], dtype=torch.float64)
    units = unit64(x)[None]
    ranking, tau = torch.arange(4)[None], torch.tensor([[0.5]], dtype=torch.float64)
    whole = suppression.suppress(units, ranking, tau, 4)
    assert (whole.order.tolist(), whole.own.sum().item()) == ([[0, 1, 2, 3]], 3)
    assert whole.by.tolist() == [[-1, -1, -1, 0]]
    # A selection that is full ends before row 3.
    assert suppression.suppress(units, ranking, tau, 2).by.tolist() == [[-1, -1, -1, -1]]


@rules
def test_large_images_are_decided_alike(rule: gp.Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than the sample of a quantile, than the width, and than a pool."""
    x, t = image_like(324, 48, 5)
    cues = cases.cues(x, torch.stack([t + 0.1, t]), 3, attention=torch.rand(324), keys=torch.randn(324, 2, 4))
    expected = gp.select(rule, cues, 60)
    monkeypatch.setattr(resident, "KINDS", frozenset({"cpu"}))
    same(gp.select(rule, cues, 60), expected, rule)


def on_gpu(cues: gp.Cues) -> gp.Cues:
    """The same cues on the GPU that is played."""
    for _, value in cues.floating():
        far.sent(value)
    return cues


@rules
def test_the_host_waits_once_whatever_the_images(rule: gp.Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """For certificates, and for the checks of cues and answers."""
    operations = dict[tuple[int, int], int]()
    for images in (1, 3, 5):
        x = torch.randn(images, 40, 16, generator=torch.Generator().manual_seed(images))
        cues = [cases.cues(each.clone(), each[:4] + 1, 3) for each in x]
        for k in (4, 9):
            expected = gp.select_batch(rule, cues, [k] * images)
            found: list[gp.Keep] = []
            read = far.waits(
                lambda found=found, cues=cues, k=k: found.extend(
                    gp.select_batch(rule, [on_gpu(each) for each in cues], [k] * len(cues))
                )
            )
            assert [each.split(" at ")[0] for each in read] == ["cpu"]
            assert [keep.order.tolist() for keep in found] == [keep.order.tolist() for keep in expected]
            with monkeypatch.context() as patched:
                patched.setattr(resident, "KINDS", frozenset({"cpu"}))
                counts = counted.sizes(lambda cues=cues, k=k: rule.select_batch(cues, [k] * len(cues)))
            operations[images, k] = counts.operations
    # Images of one size share every pick: what two more cost does not depend on the number of picks.
    assert operations[5, 9] - operations[3, 9] == operations[5, 4] - operations[3, 4]


def test_images_of_several_sizes_are_read_together_too() -> None:
    sizes = [(30, 7), (30, 7), (30, 8), (20, 7), (30, 7)]
    for rule in (gp.GreedyPrune(), gp.SoftGreedyPrune()):
        cues = [on_gpu(cases.cues(torch.randn(n, 8), torch.randn(3, 8), 1)) for n, _ in sizes]
        read = far.waits(lambda rule=rule, cues=cues: gp.select_batch(rule, cues, [k for _, k in sizes]))
        assert len(read) == 1


def test_the_counter_sees_every_way_to_wait() -> None:
    x, other = far.sent(torch.arange(6.0)), torch.arange(6.0)
    for run in (
        lambda: x[0].item(), lambda: float(x[0]), lambda: bool((x > 2).any()), lambda: x.tolist(), lambda: x.cpu(),
        lambda: x.nonzero(), lambda: x[x > 2], lambda: x.masked_select(x > 2), lambda: x.numpy(), lambda: x.unique(),
        lambda: torch.tensor([1.0], device=x.device), lambda: x.new_tensor([1.0]), lambda: x[[1, 2]],
        lambda: x.to("cpu"), lambda: torch.isin(x, x), lambda: x.clone().__setitem__(x > 2, 0.0),
        lambda: torch.equal(x, x), lambda: other.to(x.device), lambda: x[other.long()], lambda: other.to(x),
        lambda: other.pin_memory().to(x.device), lambda: other.to(x.device, non_blocking=True),
    ):  # fmt: skip
        with far.far() as seen:
            run()
        assert seen.found
    with far.far() as seen:
        assert (x[torch.arange(2, device=x.device)] + x[1:3].masked_fill(x[:2] > 1, 0.0) + x[0]).shape == (2,)
        assert other.pin_memory().to(x.device, non_blocking=True).device == far.DEVICE
        assert other.device.type == "cpu"
        other.tolist()
        with pytest.raises(RuntimeError, match="on the host"):
            assert x + other
    assert seen.found == []


@pytest.mark.usefixtures("here")
@rules
def test_cues_that_hold_nan_are_refused_by_name_after_the_fact(rule: gp.Method) -> None:
    x = torch.randn(2, 30, 8)
    x[1, 3, 0] = torch.nan
    cues = [cases.cues(each, torch.randn(4, 8), 1) for each in x]
    for each, keep in ((cues, [7, 7]), (cues[1:], [7]), (cues, [7, 9])):
        with pytest.raises(ValueError, match="features holds NaN or infinity, first in row 3 of 30"):
            gp.select_batch(rule, each, keep)
    with pytest.warns(gp.PruneWarning, match="features holds NaN"):
        found = gp.select_batch(rule, cues, [7, 7], on_error="even")
    assert found[0].order.tolist() == gp.select(rule, cues[0], 7).order.tolist()


@pytest.mark.parametrize(
    "rule",
    [gp.GreedyPrune(tau=gp.Exact()), gp.GreedyPrune(fallback="relax"), gp.GreedyPrune(fallback="least_redundant")],
)
def test_searches_are_left_to_the_host(rule: gp.GreedyPrune) -> None:
    cues = on_gpu(gp.Cues(torch.randn(30, 8), text=torch.randn(2, 8)))
    assert not rule.stays
    assert len(far.waits(lambda: gp.select(rule, cues, 9))) > 2


def test_the_engines_read_no_value_at_all() -> None:
    """Tensors without values: whatever needs one raises."""
    for n, d in ((20, 64), (64, 8)):
        units, worth = (torch.empty(*size, dtype=torch.float64, device="meta") for size in ((3, n, d), (3, n)))
        given = torch.empty(3, 2, dtype=torch.int64, device="meta")
        for guard in (None, given):
            for order, gains in (
                picks.farthest_first(units, 9, given=guard),
                picks.marginal_relevance(units, worth, 9, 0.5, given=guard),
                picks.log_barrier(units, worth, 9, 8.0, given=guard),
            ):
                assert order.shape == gains.shape == (3, 9)
            for tau in (0.5, gp.Quantile(0.8), gp.MeanScaled()):
                found = suppression.greedy(units, worth, tau, 9, guard, fill=True)
                assert found.numbers.shape == (3, 6)


@pytest.mark.usefixtures("here")
def test_memory_is_linear_in_the_tokens_and_batches_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    n, d, k = 3000, 8, 12
    cues = [gp.Cues(torch.randn(n, d), text=torch.randn(1, d)) for _ in range(3)]
    for rule in (gp.DivPrune(), gp.MMR(), gp.SoftGreedyPrune(), gp.GreedyPrune()):
        limit = pairs.BLOCK * n if isinstance(rule, gp.DivPrune) else max(n * d, 192 * 192)
        assert counted.sizes(lambda rule=rule: gp.select(rule, cues[0], k)).largest <= limit
        whole = [keep.order.tolist() for keep in gp.select_batch(rule, cues, [k] * 3)]
        with monkeypatch.context() as patched:
            patched.setattr(batch, "AT_ONCE", 2 * n * d)
            assert [keep.order.tolist() for keep in gp.select_batch(rule, cues, [k] * 3)] == whole


@pytest.mark.usefixtures("here")
def test_a_long_chat_counts_towards_the_limit_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    n, d, m = 32, 8, 500
    cues = [gp.Cues(torch.randn(n, d), text=torch.randn(m, d), question=slice(0, 2)) for _ in range(4)]
    monkeypatch.setattr(batch, "AT_ONCE", (n + m) * d)
    own, sizes = gp.SoftGreedyPrune.at_once, list[int]()

    def counted_once(self: gp.SoftGreedyPrune, some: list[gp.Cues], k: int) -> batch.Chosen:
        sizes.append(len(some))
        return own(self, some, k)

    monkeypatch.setattr(gp.SoftGreedyPrune, "at_once", counted_once)
    for text, expected in (("question_max", [4]), ("chat_max", [1, 1, 1, 1])):
        sizes.clear()
        gp.select_batch(gp.SoftGreedyPrune(text=text), cues, [4] * 4)  # type: ignore[arg-type]
        assert sizes == expected


def words(count: int, d: int) -> Tensor:
    return torch.randn(count, d, generator=torch.Generator().manual_seed(count))


def test_a_short_text_is_filled_with_its_own_last_row() -> None:
    texts = [words(2, 4), words(5, 4)]
    filled = batch.stacked(texts)
    assert filled.shape == (2, 5, 4)
    assert torch.equal(filled[0], texts[0][[0, 1, 1, 1, 1]])
    assert torch.equal(filled[1], texts[1])


@pytest.mark.usefixtures("here")
def test_a_rule_of_ones_own_is_not_passed_over_on_a_device() -> None:
    class Last(gp.DivPrune):
        def select(self, cues: gp.Cues, k: int) -> gp.Keep:
            return gp.Keep.from_order(torch.arange(cues.n - k, cues.n), torch.zeros(k), cues.n)

    assert gp.DivPrune().stays
    assert not Last().stays
    assert gp.select(Last, gp.Cues(torch.randn(9, 4)), 2).order.tolist() == [7, 8]
