"""Videos end to end: budgets per clip and per frame, methods that compare frames, images and videos in one prompt."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import greedyprune as gp
import proofs
from breadth import some
from greedyprune.attach.forward.quotas import quotas
from greedyprune.budget import parse_budget
from greedyprune.cues import Need
from greedyprune.models._family import ImageTokens
from greedyprune.models.prompt import Span
from greedyprune.models.table import FAMILIES
from greedyprune.policy import Policy
from looks import asking
from proofs import EARLY, Case, generate
from tiny import tiny

pytestmark = pytest.mark.usefixtures("untouched")

GRIDS = {
    "qwen2_5_vl video": [(2, 3, 4), (3, 2, 3)],
    "qwen3_vl video": [(2, 3, 4), (3, 2, 3)],
    "llava_onevision video": [(3, 2, 2), (3, 2, 2)],
    "llava_next_video video": [(2, 3, 3), (2, 3, 3)],
}
"""Of clips 0 and 1. In Qwen2.5-VL the rows of clip 1 share a position in time; LLaVA-OneVision's clips are alike."""
MIXED = ("qwen2_5_vl image and video", "qwen3_vl image and video")
TWO = ((0, 1),)
FEW = {"max_new_tokens": 3}

clips = pytest.mark.parametrize("name", some(GRIDS, "qwen2_5_vl video", "llava_next_video video"))
places = pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)


class Ranked(gp.Method):
    """Takes what a model of the user's own calls relevant; of a clip without that, the first tokens."""

    weighs_relevance: ClassVar[bool] = True

    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        worth = torch.arange(cues.n, 0, -1.0) if cues.relevance is None else cues.relevance
        order = worth.argsort(descending=True)[:k]
        return gp.Keep.from_order(order, worth[order], cues.n)


def run_of(name: str, method: Any, keep: Any, at: gp.Stage, rows=TWO, **more: Any) -> proofs.Run:
    """What a tiny model says while pruned."""
    made = tiny(name)
    with gp.prune(made.model, method, keep, at=at, **more) as handle:
        run = generate(made.model, made.prompt(rows), max_new_tokens=proofs.FEW)
    return proofs.Run(run.sequences, run.tokens, run.logits, run.cache, handle.selections, handle.report())


def cues_of(name: str, at: gp.Stage, selections) -> list[gp.Cues]:
    """What an unpatched model shows of each clip of one prompt."""
    made = tiny(name)
    inputs = made.prompt(TWO)
    ids, states = inputs["input_ids"], proofs.states_entering(made.model, inputs, at)[0]
    visual = proofs.is_visual(ids)[0]
    before = int((~visual[: int(visual.nonzero()[-1])]).sum())
    text = states[~visual]
    columns = [places[:, 1] for places in proofs.image_columns(ids, selections)]
    return [
        gp.Cues(states[mine], text=text, question=slice(before, len(text)), grid=grid)
        for mine, grid in zip(columns, GRIDS[name], strict=True)
    ]


def per_frame(selection) -> list[int]:
    """How many tokens stayed of each frame."""
    t, h, w = selection.grid
    return selection.rows.div(h * w, rounding_mode="floor").bincount(minlength=t).tolist()


def assert_masked(name: str, run: proofs.Run, at: gp.Stage) -> None:
    """The answer is that of a model that is whole and cannot look at what was dropped."""
    ids = tiny(name).prompt(TWO)["input_ids"]
    truth = proofs.truth_of(name, Case("two", TWO, 0), run, proofs.dropped_columns(ids, run.selections), at)
    proofs.near(run.logits, truth)


# Methods that compare frames ------------------------------------------------------------------------------------------


@clips
@places
@pytest.mark.parametrize("keep", [5, 10, gp.Ratio(0.5)], ids=str)
@pytest.mark.parametrize(
    "method", [gp.EVS(), gp.VidCom2(), gp.DyCoke(group=2)], ids=lambda method: type(method).__name__
)
def test_a_clip_is_pruned_as_its_states_alone(name, at, keep, method) -> None:
    run = run_of(name, method, keep, at)
    assert [(s.kind, s.grid) for s in run.selections] == [("video", grid) for grid in GRIDS[name]]
    for selection, cues in zip(run.selections, cues_of(name, at, run.selections), strict=True):
        assert selection.order.tolist() == gp.select(method, cues, keep).order.tolist()
    assert_masked(name, run, at)


@clips
@places
@pytest.mark.filterwarnings("ignore:keep=13 .* is more than all of them")
def test_evs_keeps_the_first_frame(name, at) -> None:
    for keep in (3, 8, 13):
        for selection in run_of(name, gp.EVS(), keep, at).selections:
            t, h, w = selection.grid
            first = min(keep, h * w)
            assert per_frame(selection)[0] == first
            assert selection.k == min(keep, t * h * w)


@clips
@places
def test_vidcom2_gives_frames_unlike_the_clip_more(name, at) -> None:
    run = run_of(name, gp.VidCom2(), 6, at)
    shares = [shares_of(cues) for cues in cues_of(name, at, run.selections)]
    for selection, share in zip(run.selections, shares, strict=True):
        kept = torch.tensor(per_frame(selection))
        assert int(kept.sum()) == 6
        assert bool(((kept - 6 * share).abs() < 1).all()), (kept, share)  # the largest remainders are rounded up
    assert any(float(share.max() - share.min()) > 0.01 for share in shares)


def unit_of(cues: gp.Cues) -> Tensor:
    """The quieter half of the channels, every row scaled to length 1. (n, d) -> (n, d / 2)"""
    x = cues.features.double()
    quiet = x[:, x.std(0, correction=0).argsort()[: x.shape[1] // 2]]
    return quiet / quiet.norm(dim=1, keepdim=True)


def shares_of(cues: gp.Cues) -> Tensor:
    """VidCom2's share of the budget for every frame, by its equations. -> (t,)"""
    unit, (t, h, w) = unit_of(cues), cues.grid
    away = (unit - unit.mean(0)).square().sum(1)
    like = sum((-away / (2 * width)).exp() for width in (1 / 8, 1 / 4, 1 / 2, 1, 2))
    unlike = (-like.view(t, h * w).mean(1) / 0.01).softmax(0)
    return (1 + unlike - unlike.mean()) / t


@places
def test_an_image_is_a_clip_of_one_frame(at) -> None:
    made = tiny("qwen2_5_vl")
    inputs = made.prompt(((0,),))
    grid, evs, vidcom = (
        run_of("qwen2_5_vl", method, 6, at, ((0,),)).selections[0] for method in ("grid", "evs", "vidcom2")
    )
    assert grid.grid == (1, 4, 4)
    assert evs.rows.tolist() == grid.rows.tolist()
    states = proofs.states_entering(made.model, inputs, at)[0][proofs.is_visual(inputs["input_ids"])[0]]
    unit = unit_of(gp.Cues(states))
    away = (unit - unit.mean(0)).norm(dim=1)
    assert vidcom.order.tolist() == away.argsort(descending=True)[:6].tolist()


# Methods that share a clip between its frames, and merge over time ----------------------------------------------------


def seen_by(name: str, method: gp.Method, at: gp.Stage) -> list[dict[Need, Tensor]]:
    """What a method is given of the inside of the model, of each clip."""
    made, found = tiny(name), [dict[Need, Tensor](), dict[Need, Tensor]()]
    for need in method.needs:
        if not isinstance(need, (gp.Grid, gp.Text)):
            seen: list[Tensor] = []
            with gp.prune(made.model, asking(seen, need, at), 2):
                proofs.forward(made.model, made.prompt(TWO))
            for clip, look in zip(found, seen, strict=True):
                clip[need] = look
    return found


def merging(made, inputs, at: gp.Stage, selections):
    """Hooks that let an unpatched model go on with what pruning merged, at the places of the tokens that stay."""
    start, text = proofs.start_of(at), made.model.get_decoder()
    columns = proofs.image_columns(inputs["input_ids"], selections)

    def put(x: Tensor) -> Tensor:
        x = x.clone()
        for places, selection in zip(columns, selections, strict=True):
            row, mine = places.unbind(1)
            x[row[selection.rows], mine[selection.rows]] = selection.keep.merge(x[row, mine])
        return x

    def states(module, args, kwargs):
        return (put(args[0]), *args[1:]), kwargs

    def planes(module, args, kwargs):
        deep = kwargs.get("deepstack_visual_embeds")
        if deep is None:
            return args, kwargs
        mask, whole = kwargs["visual_pos_masks"], []
        for index, plane in enumerate(deep):
            dense = plane.new_zeros(*mask.shape, plane.shape[-1])
            dense[mask] = plane
            whole.append((put(dense) if index >= start else dense)[mask])
        return args, {**kwargs, "deepstack_visual_embeds": whole}

    return proofs.hooked(
        text.layers[start].register_forward_pre_hook(states, with_kwargs=True),
        text.register_forward_pre_hook(planes, with_kwargs=True),
    )


SCENES = gp.FastVID(scenes=2, tau=-1.0, context=0.6)
TREES = gp.FlashVID(scenes=1, tau=-1.0, joins=0.0, share=0.3)
STILL = gp.HoliTom(tau=-1.0)
SHARING = [
    ("qwen2_5_vl video", SCENES, gp.Input()),
    ("qwen3_vl video", SCENES, gp.Layer(2)),
    ("llava_onevision video", replace(SCENES, saliency="attention"), gp.Layer(2)),
    ("qwen2_5_vl video", TREES, gp.Layer(2)),
    ("qwen3_vl video", TREES, gp.Input()),
    ("llava_onevision video", replace(TREES, saliency="attention"), gp.Layer(2)),
    ("qwen2_5_vl video", STILL, gp.Input()),
    ("llava_onevision video", replace(STILL, saliency="attention"), gp.Layer(2)),
    ("qwen2_5_vl video", gp.DyToK(inner="visionzip"), gp.Layer(2)),
    ("qwen2_5_vl video", gp.DyToK(), gp.Layer(2)),
    ("llava_onevision video", gp.DyToK(inner="divprune"), gp.Layer(2)),
    ("llava_onevision video", gp.DyToK(inner="soft_greedyprune", layers=(0, 1)), gp.Layer(2)),
]


@pytest.mark.parametrize(("name", "method", "at"), SHARING)
def test_a_clip_is_shared_between_frames_and_its_tokens_merged(name, method, at) -> None:
    keep = 6
    run = run_of(name, method, keep, at)
    looks = seen_by(name, method, at)
    for selection, cues, more in zip(run.selections, cues_of(name, at, run.selections), looks, strict=True):
        expected = gp.select(method, replace(cues, more=more), keep)
        assert selection.order.tolist() == expected.order.tolist()
        assert selection.k == expected.k <= keep < selection.n
        if method.merges:
            torch.testing.assert_close(selection.keep.weights, expected.weights)
    if not method.merges:
        assert_masked(name, run, at)
        return
    eager = tiny(name, "eager")
    inputs = eager.prompt(TWO)
    dropped = proofs.dropped_columns(inputs["input_ids"], run.selections)
    with merging(eager, inputs, at, run.selections):
        proofs.near(run.logits, proofs.masked(eager, inputs, run.sequences, dropped, at))
    unmerged = proofs.masked(eager, inputs, run.sequences, dropped, at)
    assert (run.logits - unmerged).abs().max() > 0.001


# Budgets per frame ----------------------------------------------------------------------------------------------------


@clips
@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2), EARLY, gp.Layers((1,))], ids=str)
@pytest.mark.parametrize("budget", [2, gp.Ratio(0.3)], ids=str)
def test_every_frame_is_pruned_by_itself(name, at, budget) -> None:
    method, stage = gp.GreedyPrune(), gp.Layer(1) if isinstance(at, gp.Layers) else at
    run = run_of(name, method, gp.PerFrame(budget), at)
    for selection, cues in zip(run.selections, cues_of(name, stage, run.selections), strict=True):
        t, h, w = cues.grid
        more = {"text": cues.text, "question": cues.question, "grid": (1, h, w)}
        frames = [gp.Cues(x, **more) for x in cues.features.view(t, h * w, -1)]
        alone = [gp.select(method, frame, budget) for frame in frames]
        assert selection.order.tolist() == [r + i * h * w for i, one in enumerate(alone) for r in one.order.tolist()]
        assert len(set(per_frame(selection))) == 1
        assert selection.k == gp.PerFrame(budget).of(t * h * w, t) < selection.n
    assert_masked(name, run, stage)


@pytest.mark.parametrize("name", ["qwen2_5_vl video", "qwen3_vl video"])
@pytest.mark.parametrize(("method", "at"), [("hired", gp.Input()), ("hired", gp.Layer(2)), ("fastv", gp.Layer(2))])
def test_what_is_seen_inside_the_model_is_that_of_the_frame(name, method, at) -> None:
    """These take the tokens most attended to, so a frame's are the first of the clip's ranking that lie in it."""
    ranked = run_of(name, method, 17, at).selections
    for selection, whole in zip(run_of(name, method, gp.PerFrame(2), at).selections, ranked, strict=True):
        ranking = [*whole.order.tolist(), *sorted(set(range(whole.n)) - set(whole.order.tolist()))]
        size = whole.n // whole.grid[0]
        for frame in range(whole.grid[0]):
            mine = [row for row in ranking if row // size == frame]
            assert selection.order[2 * frame : 2 * frame + 2].tolist() == mine[:2]


def test_a_merging_method_merges_inside_frames() -> None:
    for at in (gp.Input(), gp.Layer(2)):
        run = run_of("qwen3_vl video", gp.AveragePool(), gp.PerFrame(2), at)
        for selection in run.selections:
            weights, size = selection.keep.weights, selection.n // selection.grid[0]
            assert weights is not None
            for row, mean in zip(selection.rows.tolist(), weights, strict=True):
                assert {token // size for token in mean.nonzero()[:, 0].tolist()} == {row // size}


def test_relevance_and_protected_tokens_go_to_their_frames() -> None:
    name, generator = "qwen2_5_vl video", torch.Generator().manual_seed(0)
    relevance = [torch.rand(24, generator=generator), None]
    made = tiny(name)
    with gp.prune(made.model, Ranked(), gp.PerFrame(2), relevance=relevance) as handle:
        proofs.forward(made.model, made.prompt(TWO))
    order = relevance[0].argsort(descending=True).tolist()
    assert handle.selections[0].order.tolist() == [
        row for start in (0, 12) for row in [row for row in order if start <= row < start + 12][:2]
    ]
    kept = run_of(name, "greedyprune", gp.PerFrame(2), gp.Layer(2), protect=[[1, 2, 23], [17]]).selections
    assert [per_frame(s) for s in kept] == [[2, 2], [2, 2, 2]]
    assert {1, 2, 23} <= set(kept[0].rows.tolist())
    with pytest.raises(ValueError, match="protect holds 3 tokens of frame 1 of image 0 and the budget keeps 2 of a f"):
        run_of(name, "greedyprune", gp.PerFrame(2), gp.Input(), protect=[[12, 13, 23], None])


def test_what_cannot_be_per_frame_is_refused_with_the_remedy() -> None:
    model, budget = tiny("qwen2_5_vl video").model, gp.PerFrame(2)
    for at in (gp.Layers((1, 2)), gp.Depths((0.25, 0.5))):
        with pytest.raises(ValueError, match=r"cuts several times: use at=Input\(\) or one Layer\(l\), or give the b"):
            gp.prune(model, gp.GreedyPrune(), budget, at=at)
    for method in ("evs", "vidcom2", "dycoke", "fastvid", "flashvid", "holitom", "dytok"):
        with pytest.raises(ValueError, match=r"compares the frames .* give the budget of the whole clip, an int or"):
            gp.prune(model, method, [3, budget])
    with gp.prune(model, "evs", 3) as handle, pytest.raises(ValueError, match="compares the frames"):
        handle.using(keep=budget).__enter__()
    policy, columns = Policy(gp.GreedyPrune(), budget, gp.Input()), torch.arange(7)
    video = Span(0, columns, ImageTokens(7, None, kind="video"))
    with pytest.raises(ValueError, match=r"frames of video 0 are not known, .*: give the budget of the whole"):
        quotas(policy, gp.Hints(), 4, [video], torch.ones(1, 9, 4))
    image = Span(0, columns, ImageTokens(7, None))
    assert quotas(policy, gp.Hints(), 4, [image], torch.ones(1, 9, 4))[0][0].k == 2


def test_a_share_of_a_frame_that_rounds_to_all_says_so() -> None:
    with pytest.warns(gp.PruneWarning, match=r"keep=99%/frame of images with 18, 24 visual tokens rounds to all"):
        run_of("qwen2_5_vl video", "greedyprune", gp.PerFrame(gp.Ratio(0.99)), gp.Input())


# Images and videos in one prompt --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXED)
@places
def test_budgets_are_those_of_the_placeholders(name, at) -> None:
    rows, keep = ((0, 1), (3, 2)), [3, gp.PerFrame(2), gp.Ratio(0.5), gp.PerFrame(5)]
    selections = run_of(name, "greedyprune", keep, at, rows).selections
    assert [s.kind for s in selections] == ["image", "video", "video", "image"]
    assert [s.grid for s in selections] == [(1, 4, 4), (3, 2, 3), (3, 3, 3), (1, 4, 5)]
    assert [(s.row, s.k, s.budget) for s in selections] == list(zip((0, 0, 1, 1), (3, 6, 14, 5), keep, strict=True))
    assert per_frame(selections[1]) == [2, 2, 2]
    for row, first in ((0, 0), (1, 2)):  # and what is chosen does not depend on the other prompt
        alone = run_of(name, "greedyprune", keep[first : first + 2], at, (rows[row],)).selections
        assert [s.rows.tolist() for s in alone] == [s.rows.tolist() for s in selections[first : first + 2]]


@pytest.mark.parametrize("name", [*GRIDS, *MIXED])
@places
def test_clips_share_a_total(name, at) -> None:
    selections = run_of(name, "greedyprune", gp.Total(12, floor=2), at).selections
    assert [s.k for s in selections] == gp.Total(12, floor=2).share([s.n for s in selections])
    assert sum(s.k for s in selections) == 12


# The guide ------------------------------------------------------------------------------------------------------------

GUIDE = (Path(__file__).parents[2] / "docs" / "video.md").read_text(encoding="utf-8")


def test_the_guide_lists_the_families_with_videos() -> None:
    listed = GUIDE.split("<!-- families: begin -->")[1].split("<!-- families: end -->")[0]
    able = {name for name, family in FAMILIES.items() if any(medium.kind == "video" for medium in family.media)}
    assert set(re.findall(r"`(\w+)`", listed)) == able


def test_what_the_guide_shows_runs(capsys) -> None:
    made = tiny("qwen3_vl video")
    known = {"gp": gp, "model": made.model, "inputs": made.prompt(((0,),))}
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    for block in blocks:
        exec(block, known)
    assert len(blocks) == 3
    assert re.fullmatch(r"video \(2, 3, 4\) 6 of 24\ntensor\(\[( *\d+, ){5} *\d+\]\)\n", capsys.readouterr().out)


def test_budgets_of_the_guide_are_read() -> None:
    words = ("256", "25%", "16/frame", "25%/frame", "total:512:64")
    assert all(f"`{word}`" in GUIDE for word in words)
    assert [str(parse_budget(word)) for word in words] == [
        "256",
        "25%",
        "16/frame",
        "25%/frame",
        "512 total (floor 64)",
    ]
