"""Cues that nobody can select from are refused where they are made, by the name of the cue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

import cases
import greedyprune as gp
from greedyprune import cues
from greedyprune.checks import check_tensor
from greedyprune.naming import as_method
from greedyprune.registry import METHODS

N, D = 24, 8
WORDS = gp.Keys("decoder", of="text")
FLOATS = ("features", "text", "attention", "keys", "encoded", "relevance", "norm", "more")


def everything(**more: Any) -> gp.Cues:
    x, _ = cases.draw("iid", N, D, 0)
    return cases.cues(x, torch.randn(5, D, generator=torch.Generator().manual_seed(1)), relevance=x[:, 0], **more)


def with_bad(field: str, make: Any) -> dict[str, Any]:
    """The field that `make` makes of a good one."""
    cues = everything()
    return {"more": {WORDS: make(cues.more[WORDS])}} if field == "more" else {field: make(getattr(cues, field))}


@pytest.mark.parametrize("field", FLOATS)
@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda x: x.tolist(), TypeError, "is a list: pass "),
        (lambda x: x.numpy(), TypeError, "is a ndarray: pass "),
        (lambda x: x.to("meta"), TypeError, "lies on the meta device and holds no values"),
        (lambda x: x.to(torch.float8_e4m3fn), TypeError, r"has type torch\.float8_e4m3fn, .*\.to\(torch\.float32\)"),
        (lambda x: x.to_sparse(), TypeError, "is a sparse_coo tensor: pass an ordinary one"),
        (lambda x: torch.nested.nested_tensor([x, x]), TypeError, "is a nested tensor: pass an ordinary one"),
        (lambda x: x.to(torch.complex64), ValueError, r"type torch\.complex64"),
        (lambda x: x.long(), ValueError, r"type torch\.int64"),
        (lambda x: x > 0, ValueError, r"type torch\.bool"),
        (lambda x: x[None], ValueError, "has shape"),
        (lambda x: x[..., :0], ValueError, "has shape"),
    ],
    ids=[
        "list",
        "array",
        "meta",
        "float8",
        "sparse",
        "nested",
        "complex",
        "integers",
        "bool",
        "one axis more",
        "empty",
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_is_no_tensor_of_numbers_is_refused_by_name(
    field: str, make: Any, kind: type[Exception], message: str
) -> None:
    name = r"Keys\(where='decoder', layer=None, of='text'\)" if field == "more" else field
    with pytest.raises(kind, match=rf"^{name} .*{message}"):
        replace(everything(), **with_bad(field, make))


@pytest.mark.parametrize(
    ("field", "value", "kind", "message"),
    [
        ("protect", [1, 2], TypeError, r"protect is a list: pass a \(p,\) int64 torch tensor"),
        ("protect", torch.ones(N) > 0, ValueError, r"protect has shape \(24,\) and type torch\.bool"),
        ("grid", 24, TypeError, r"grid=24 is no grid: write \(t, h, w\), three whole numbers"),
        ("grid", (1.0, 4.0, 6.0), TypeError, r"grid=\(1\.0, 4\.0, 6\.0\) is no grid"),
        ("grid", "1,4,6", TypeError, "grid='1,4,6' is no grid"),
        ("grid", (4, 6), ValueError, r"grid=\(4, 6\) does not hold 24 tokens"),
        ("grid", (-1, -4, 6), ValueError, r"does not hold 24 tokens"),
        ("tiles", (1, 2), TypeError, r"tiles is a tuple: pass Tiles\(crop, layout, whole\)"),
        ("more", [torch.ones(N)], TypeError, r"more is a list: pass a dict such as \{Keys"),
        ("more", {"attention": torch.ones(N)}, TypeError, r"more has the key 'attention': write a need, such as Keys"),
        ("more", {gp.Attention("cls"): torch.ones(N, 2)}, ValueError, r"Attention\(.* \(24, 2\): pass \(n\)"),
        ("more", {gp.Keys("tower"): torch.ones(N, 2)}, ValueError, r"Keys\(.* \(24, 2\): pass \(n, h, c\)"),
        ("more", {gp.Values(): torch.ones(N, 2)}, ValueError, r"Values\(.* \(24, 2\): pass \(n, h, c\), n = 24"),
        ("more", {gp.Change(): torch.ones(N)}, ValueError, r"Change\(.* \(24,\): pass \(n, d\), n = 24"),
        ("more", {gp.Encoded(): torch.ones(N)}, ValueError, r"Encoded\(.* \(24,\): pass \(n, c\), n = 24"),
    ],
)  # fmt: skip
def test_what_is_of_another_form_is_refused_by_name(
    field: str, value: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        replace(everything(), **{field: value})


def test_tiles_are_made_of_a_tensor() -> None:
    with pytest.raises(TypeError, match=r"tiles: crop is a list: pass an \(n,\) int64 torch tensor"):
        gp.Tiles([0, -1], (1, 1), (1, 1))  # type: ignore[arg-type]


def test_a_grid_may_be_of_any_integers() -> None:
    for grid in (torch.tensor([1, 4, 6]), [1, 4, 6], torch.tensor([1, 4, 6]).numpy()):
        assert everything(grid=grid).grid == (1, 4, 6)


@pytest.mark.parametrize("rows", [slice(0, 0), slice(5, 9), slice(-3, -4), slice(2, 1)])
def test_a_question_of_no_rows_is_refused(rows: slice) -> None:
    with pytest.raises(ValueError, match=r"question=slice\(.*\) holds none of the 5 text rows: leave it out"):
        everything(question=rows)


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ((1, 3), TypeError, r"question=\(1, 3\) is no slice: write which text rows"),
        (2, TypeError, "question=2 is no slice"),
        (slice(0.5, 3), ValueError, r"question=slice\(0\.5, 3, None\): write whole numbers"),
        (slice(3, 1, -1), ValueError, "in ascending order"),
        (slice(0, 3, 0), ValueError, "in ascending order"),
    ],
)
def test_a_question_is_a_slice(rows: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        everything(question=rows)


def test_a_question_of_no_text_stands_for_nothing() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    wordless = gp.Cues(x, text=x[:0], question=slice(0, 0))  # a prompt of an image alone
    assert gp.select("divprune", wordless, 3).k == 3
    with pytest.raises(ValueError, match="GreedyPrune needs text, and the cues hold none"):
        gp.select("greedyprune", wordless, 3)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_attention_below_0_is_refused_where_it_is_read(name: str) -> None:
    method = as_method(name)
    cues = everything(grid=(1, 4, 6))
    assert cues.attention is not None
    scores = cues.attention.clone()
    scores[17] = -0.5
    scores[20] = -1.0
    reads = [need for need in method.needs if isinstance(need, gp.Attention)]
    if not reads:
        assert gp.select(method, replace(cues, attention=scores), 5).k <= 5
    else:
        with pytest.raises(ValueError, match=r"attention holds -0\.5, first in row 17 of 24: pass attention weights"):
            gp.select(method, replace(cues, attention=scores), 5)


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_in_any_cue_is_refused_by_its_name_and_row(name: str, value: float) -> None:
    cues = everything(grid=(1, 4, 6))
    for field, row in (("relevance", 9), ("norm", 3)):
        bad = getattr(cues, field).clone()
        bad[row] = value
        with pytest.raises(ValueError, match=f"{field} holds NaN or infinity, first in row {row} of {len(bad)}"):
            gp.select(name, replace(cues, **{field: bad}), 5)
    for need, wide in ((need, need_cue(need, cues)) for need in as_method(name).needs):
        if wide is not None:
            wide[2] = value
            with pytest.raises(ValueError, match=rf"{type(need).__name__}\(.*\) holds NaN or infinity, first in row 2"):
                gp.select(name, replace(cues, more={**cues.more, need: wide}), 5)


def need_cue(need: gp.Need, cues: gp.Cues) -> torch.Tensor | None:
    """A cue that meets a need by being listed under it."""
    return cues[need].clone() if isinstance(need, (gp.Attention, gp.Keys, gp.Encoded)) else None


@pytest.mark.parametrize("name", sorted(METHODS))
def test_no_tokens_are_no_trouble(name: str) -> None:
    x = torch.empty(0, D)
    cues = gp.Cues(
        x,
        text=torch.ones(2, D),
        attention=x[:, 0],
        keys=x.view(0, 2, 4),
        encoded=x,
        more={WORDS: torch.ones(2, 2, 4), gp.Change(): x},
    )
    if any(isinstance(need, gp.Grid) for need in as_method(name).needs):
        with pytest.raises(ValueError, match="needs grid"):
            gp.select(name, cues, 3)
    else:
        assert gp.select(name, cues, 3).k == 0
        assert gp.select(name, cues, gp.Ratio(0.5)).k == 0


def test_rows_without_a_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features has shape \(4, 0\): rows have a width of 1 or more"):
        gp.Cues(torch.ones(4, 0))


def test_cues_on_two_devices_are_refused_by_name() -> None:
    x = torch.ones(2, 3)
    check_tensor("text", x, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"text lies on cpu and the features on cuda:1: move it there, \.to\(cuda:1\)"):
        check_tensor("text", x, torch.device("cuda", 1))


def test_a_sum_that_overflows_holds_no_infinity() -> None:
    cues = replace(everything(norm=torch.ones(D)), features=torch.full((N, D), 3e38))
    cues.require_finite()
    assert gp.select(gp.Random(), cues, 4).k == 4


def test_every_need_is_held_by_the_prompt_or_read_inside_a_model() -> None:
    """A need that `Seen` lacks is read by no hook, and one that `_SEEN` lacks may have any shape."""
    needs = {each for each in vars(cues).values() if isinstance(each, type) and issubclass(each, cues.Need)}
    assert needs - {cues.Need, gp.Text, gp.Grid} == set(get_args(cues.Seen)) == set(cues._SEEN)
