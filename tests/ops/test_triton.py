"""The Triton kernels, in Triton's interpreter on the CPU: they decide as torch's operations do, and who runs is known.

`make test-kernels` runs this file. It fails where triton is missing.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from test_kernels import RULES, drawn, same
from torch import Tensor

import cases
import counted
import greedyprune as gp
from greedyprune import resident
from greedyprune.ops.cosine import SLACK, unit64
from greedyprune.ops.kernels import chosen, loops
from greedyprune.ops.kernels.loops import Barrier, Linear
from greedyprune.ops.kernels.pairs import Pairs

pytestmark = pytest.mark.kernels
ROUNDS = 12
"""For each kind of rows and each of three rules of keys: 324 batches; and 216 of suppression."""


@pytest.fixture(scope="module")
def scans() -> ModuleType:
    """The kernels, interpreted."""
    import triton

    assert triton.knobs.runtime.interpret, "set TRITON_INTERPRET=1, as `make test-kernels` does"
    from greedyprune.ops.kernels.triton import scans

    return scans


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, scans: ModuleType) -> None:
    """The CPU counts as a device whose selections stay there, and that runs kernels."""
    for module in (resident, chosen):
        monkeypatch.setattr(module, "KINDS", frozenset({"cpu"}))


def whole(units: Tensor) -> Pairs:
    """Pairs that are known as a whole, also where rows are short and ties many. (b, n, d)"""
    pairs = Pairs(units)
    pairs.whole = torch.bmm(units, units.mT).clamp_(-1, 1)
    return pairs


def case(kind: str, seed: int) -> tuple[Pairs, Tensor, int, Tensor, random.Random]:
    """One to three images of one size: their pairs, saliencies, a budget, and given rows."""
    dice = random.Random(f"{kind} {seed}")
    b, n, d = dice.choice([1, 1, 2, 3]), dice.choice([1, 2, 17, dice.randint(3, 16)]), dice.choice([1, 2, 3, 8, 30])
    k = dice.choice([1, n, dice.randint(1, n), dice.randint(1, n)])
    drawn = [cases.draw(kind, n, d, 10 * seed + image) for image in range(b)]
    units = unit64(torch.stack([x for x, _ in drawn]))
    worth = (units @ unit64(torch.stack([t for _, t in drawn]))[:, :, None])[:, :, 0]
    given = dice.choice([0, 0, 1, min(k, 3), k])
    rows = torch.tensor([dice.sample(range(n), given) for _ in range(b)], dtype=torch.int64).view(b, given)
    return whole(units), worth, k, rows, dice


@pytest.mark.parametrize("kind", cases.KINDS)
def test_falling_keys_take_the_rows_that_torch_takes(kind: str, scans: ModuleType) -> None:
    """Rows and order; keys up to the rounding of a logarithm."""
    for seed in range(ROUNDS):
        pairs, worth, k, given, dice = case(kind, seed)
        first = given if given.shape[1] else worth.argmax(1, keepdim=True)
        weight = dice.choice([0.0, 1.0, 8.0, 300.0])
        for rule in (Linear(torch.zeros_like(worth), 1.0), Linear(0.3 * worth, 0.7), Barrier(weight * worth, weight)):
            (order, keys), (theirs, values) = (each.falling(pairs, first, k, rule) for each in (scans, loops))
            assert order.tolist() == theirs.tolist(), (seed, rule)
            torch.testing.assert_close(keys, values, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", cases.KINDS)
def test_suppression_takes_and_passes_over_the_rows_that_torch_does(kind: str, scans: ModuleType) -> None:
    for seed in range(2 * ROUNDS):
        pairs, worth, k, given, dice = case(kind, seed)
        rank = worth.argsort(dim=1, descending=True, stable=True).argsort(1)
        cosines = pairs.whole
        assert cosines is not None
        some = cosines.flatten()[dice.randrange(cosines.numel())]  # one that occurs: many lie at the threshold
        bound = dice.choice([some, torch.tensor(0.5), torch.tensor(-1.0), torch.tensor(1.0)]).double() + SLACK
        bound = dice.choice(
            [bound.expand(1, 1), bound - 0.2 * torch.arange(len(rank))[:, None]]
        )  # for all, or for each
        for mine, theirs in zip(
            scans.suppressing(pairs, rank, given, bound, k),
            loops.suppressing(pairs, rank, given, bound, k),
            strict=True,
        ):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs), seed


def test_ties_go_to_the_lowest_row(scans: ModuleType) -> None:
    """Cosines a rounding apart: the later row is farther by less than float64 tells."""
    angle = torch.tensor([0.0, 1.0, -1.0 - 1e-14, 1.0 + 1e-14, 0.5], dtype=torch.float64)
    pairs, worth = whole(torch.stack([angle.cos(), angle.sin()], 1)[None]), angle.new_zeros(1, 5)
    for rule in (Linear(worth, 1.0), Linear(worth, 0.5), Barrier(worth, 8.0)):
        assert scans.falling(pairs, torch.zeros(1, 1, dtype=torch.int64), 3, rule)[0].tolist() == [[0, 1, 2]]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_methods_choose_by_kernels_as_by_torch(rule: gp.Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protected rows and budgets of everything among them; the certificate too. A kernel runs where it can."""
    ran: list[bool] = []
    own = chosen.kernels
    monkeypatch.setattr(chosen, "kernels", lambda pairs: ran.append(own(pairs) is not None) or own(pairs))
    for seed, kind in enumerate(cases.KINDS):
        cues, k = drawn(kind, seed)
        found = gp.select_batch(rule, cues, [k] * len(cues))
        with monkeypatch.context() as patched:
            patched.setattr(chosen, "kernels", lambda pairs: None)
            expected = gp.select_batch(rule, cues, [k] * len(cues))
        for mine, theirs in zip(found, expected, strict=True):
            same(mine, theirs, (kind, seed, k))
    assert any(ran)


@pytest.mark.usefixtures("here")
def test_one_launch_replaces_all_picks() -> None:
    x = torch.randn(3, 24, 32, generator=torch.Generator().manual_seed(0))
    cues = [cases.cues(each, each[:4] + 1, 3) for each in x]
    for rule in (gp.DivPrune(), gp.MMR(), gp.SoftGreedyPrune(), gp.GreedyPrune()):
        rule.select_batch(cues, [4] * 3)  # the kernels are proven
        few, many = (counted.sizes(lambda k=k, rule=rule: rule.select_batch(cues, [k] * 3)) for k in (4, 12))
        assert few.operations == many.operations


def test_cosines_without_a_value_read_nothing_outside(scans: ModuleType) -> None:
    pairs = whole(torch.full((2, 5, 4), torch.nan, dtype=torch.float64))
    worth, rank = torch.full((2, 5), torch.nan, dtype=torch.float64), torch.arange(5).expand(2, 5)
    for rule in (Linear(worth, 0.5), Barrier(worth, 8.0)):
        order, _ = scans.falling(pairs, rank[:, :1], 4, rule)
        assert ((order >= 0) & (order < 5)).all()
    order, _, by, _ = scans.suppressing(pairs, rank, rank[:, :0], worth[:1, :1], 4)
    assert order.tolist() == [[0, 1, 2, 3]] * 2
    assert (by < 5).all()


def at(n: int, d: int) -> Pairs:
    return Pairs(torch.empty(1, n, d, dtype=torch.float64, device="meta"))


def test_torch_scans_where_no_kernel_can(monkeypatch: pytest.MonkeyPatch, scans: ModuleType) -> None:
    small = Pairs(torch.eye(4, dtype=torch.float64)[None])
    assert chosen.kernels(small) is None  # the CPU is no such device
    monkeypatch.setattr(chosen, "KINDS", frozenset({"cpu", "meta"}))
    monkeypatch.setattr(chosen, "_PROVEN", {torch.device("meta"): scans, torch.device("cpu"): scans})
    assert chosen.kernels(small) is chosen.kernels(at(8, 8)) is scans
    assert chosen.kernels(at(9, 8)) is None  # more rows than coordinates: no matrix of all pairs
    assert chosen.kernels(at(chosen.MOST + 1, 2 * chosen.MOST)) is None
    monkeypatch.setattr(chosen, "installed", lambda: False)
    assert chosen.kernels(small) is None


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("fault", ["it raises", "its keys are wrong", "it takes other rows"])
def test_kernels_that_fail_are_said_and_never_used(
    fault: str, monkeypatch: pytest.MonkeyPatch, scans: ModuleType
) -> None:
    monkeypatch.setattr(chosen, "_PROVEN", {})
    own = scans.falling

    def broken(*given: Any) -> tuple[Tensor, Tensor]:
        if fault == "it raises":
            raise RuntimeError("no C compiler")
        order, keys = own(*given)
        return (order.flip(1), keys) if fault == "it takes other rows" else (order, keys + 1e-6)

    monkeypatch.setattr(scans, "falling", broken)
    pairs, worth, k, given, _ = case("iid", 5)
    given = given if given.shape[1] else worth.argmax(1, keepdim=True)
    rule = Linear(worth, 0.5)
    told = "no C compiler" if fault == "it raises" else "its linear keys and barrier's keys differ from torch's"
    with pytest.warns(gp.PruneWarning, match=f"Triton cannot be used on cpu, so torch selects there.*{told}"):
        found = chosen.falling(pairs, given, k, rule)
    assert found[0].tolist() == loops.falling(pairs, given, k, rule)[0].tolist()
    chosen.falling(pairs, given, k, rule)  # said once, and not tried again


COMPILED = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from greedyprune.ops.kernels.triton import scans

CASES = {
    "linear": (scans.falling_kernel, "fp64 fp64 i64 fp64 fp64 i64 fp64", {"BARRIER": False}),
    "barrier": (scans.falling_kernel, "fp64 fp64 i64 fp64 fp64 i64 fp64", {"BARRIER": True}),
    "suppressing": (scans.suppressing_kernel, "fp64 i64 i64 fp64 i64 u8 i64 fp64", {}),
}
kernel, pointers, constants = CASES[sys.argv[1]]
constants = {**constants, "N": 1024}
types = ["*" + each for each in pointers.split()] + ["i32"] * 3 + ["constexpr"] * len(constants)
source = ASTSource(kernel, dict(zip(kernel.arg_names, types, strict=True)), constants)
made = compile(source, GPUTarget("cuda", 90, 32), options={"num_warps": 4, "enable_fp_fusion": False})
assert made.asm["cubin"]
print(made.asm["ptx"])
"""


@pytest.mark.parametrize("kernel", ["linear", "barrier", "suppressing"])
def test_a_kernel_becomes_machine_code_in_float64_alone(kernel: str) -> None:
    """Triton compiles without a GPU. No value is a float32; outside the logarithm no product is fused into a sum."""
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    made = subprocess.run([sys.executable, "-c", COMPILED, kernel], env=plain, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    assert re.search(r"max\.f64|setp\.\w+\.f64", made.stdout)
    assert not re.search(r"\.f32|\.f16", made.stdout)
    assert kernel == "barrier" or "fma" not in made.stdout
