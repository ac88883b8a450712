"""The worker's part inside vLLM, with a stand-in for vLLM's model classes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import greedyprune as gp
from greedyprune.engines.vllm.choosing import choose
from greedyprune.engines.vllm.mrope import CHANNELS, PrunesMRoPE
from greedyprune.engines.vllm.plan import FIELD, Plan
from greedyprune.engines.vllm.store import Store, Whole
from greedyprune.engines.vllm.tower import Tower
from greedyprune.engines.vllm.worker import PrunesImages, grids_of, groups, part

D, IMAGE, VIDEO, TEXT = 8, 11, 12, 50


def plan(method: object = "divprune", keep: object = 5, text: tuple[int, ...] = (), **more: Any) -> Plan:
    return Plan(gp.Policy(method, keep, "input", "original"), text, **more)  # type: ignore[arg-type]


class Engine:
    """What the mixins need of a model class: an encoder, a table of embeddings, and stock positions."""

    supports_multimodal_pruning = False

    def __init__(self, *, vllm_config: Any = None, prefix: str = "") -> None:
        self.config = SimpleNamespace(
            vision_config=SimpleNamespace(spatial_merge_size=2), image_token_id=IMAGE, video_token_id=VIDEO
        )
        self.runs: list[int] = []

    def embed_multimodal(self, **fields: Any) -> list[torch.Tensor]:
        sizes = (fields["image_grid_thw"].prod(-1) // 4).tolist()
        self.runs.append(sum(sizes))
        assert fields["pixel_values"].shape[0] == 4 * sum(sizes)
        return list(fields["pixel_values"].reshape(-1, 4, D).mean(1).split(sizes))

    def get_language_model(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(60, D, generator=generator)
        return SimpleNamespace(embed_input_ids=lambda ids: table[ids])

    def get_mrope_input_positions(self, tokens: list[int], features: list[Any]) -> tuple[torch.Tensor, int]:
        """Text counts on by 1; an image lies behind it, and text behind the image's larger side."""
        found, following, end = list[torch.Tensor](), 0, 0
        for feature in features:
            place = feature.mm_position
            found.append(following + torch.arange(place.offset - end).expand(3, -1))
            ((t, h, w),) = grids_of(feature.data["image_grid_thw"].data, 2)
            assert place.length == t * h * w
            assert set(tokens[place.offset : place.offset + place.length]) == {IMAGE}
            base = following + place.offset - end
            axes = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
            found.append(base + torch.stack(axes).reshape(3, -1))
            following, end = base + max(h, w), place.offset + place.length
        found.append(following + torch.arange(len(tokens) - end).expand(3, -1))
        positions = torch.cat(found, 1)
        return positions, int(positions.max()) + 1 - len(tokens)


class Pruned(PrunesMRoPE, Engine):
    def __init__(self, most: int = 10**6) -> None:
        Engine.__init__(self)
        self.most_rows, self.store, self.tower = most, Store(10**6, "cpu"), Tower(self.config)


def fields(grids: list[tuple[int, int]], plans: list[Plan]) -> dict[str, Any]:
    """The fields of images, in grids of tokens."""
    generator = torch.Generator().manual_seed(1)
    n = sum(h * w for h, w in grids)
    return {
        "pixel_values": torch.randn(4 * n, D, generator=generator),
        "image_grid_thw": torch.tensor([[1, 2 * h, 2 * w] for h, w in grids]),
        FIELD: [each.to_tensor() for each in plans],
    }


GRIDS = [(3, 4), (2, 9), (3, 4)]


def test_each_image_is_chosen_from_as_its_plan_says() -> None:
    model, soft = Pruned(), gp.SoftGreedyPrune(at=gp.Input())
    plans = [plan(soft, 5, (3, 4)), Plan(), plan("divprune", "1/4")]
    rows = model.embed_multimodal(**fields(GRIDS, plans))
    whole = [each[:, :D] for each in Pruned().embed_multimodal(**fields(GRIDS, [Plan()] * 3))]
    text = model.get_language_model().embed_input_ids(torch.tensor([3, 4]))
    first = gp.select(soft, gp.Cues(whole[0], text=text, grid=(1, 3, 4)), 5)
    third = gp.select("divprune", gp.Cues(whole[2], grid=(1, 3, 4)), 3)
    assert torch.equal(rows[0][:, :D], whole[0][first.rows])
    assert torch.equal(rows[1][:, :D], whole[1])
    assert torch.equal(rows[2][:, :D], whole[2][third.rows])


def test_the_encoder_runs_on_no_more_rows_than_were_measured() -> None:
    data = fields(GRIDS, [plan()] * 3)
    together, apart = Pruned(), Pruned(most=20)
    one, other = together.embed_multimodal(**data), apart.embed_multimodal(**data)
    assert (together.runs, apart.runs) == ([42], [12, 18, 12])
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert groups([100, 100, 300], 250) == [(0, 2), (2, 3)]
    assert groups([], 250) == []
    some = part({"a": [1, 2, 3], "b": torch.arange(6), "c": torch.tensor(7)}, {"b": [1, 2, 3]}, [0, 2])
    assert (some["a"], some["b"].tolist(), int(some["c"])) == ([1, 3], [0, 3, 4, 5], 7)


def test_a_second_question_about_an_image_runs_no_encoder() -> None:
    model, soft = Pruned(), gp.SoftGreedyPrune(at=gp.Input())
    first = [plan(soft, 5, (3, 4), image="a"), plan(soft, 5, (3, 4), image="b"), plan(soft, 5, (3, 4), image="c")]
    second = [plan(soft, 5, (7, 8), image="a"), plan(soft, 5, (7, 8), image="new"), plan("divprune")]
    data = fields(GRIDS, second)
    model.embed_multimodal(**fields(GRIDS, first))
    assert model.runs == [42]
    got, want = model.embed_multimodal(**data), Pruned().embed_multimodal(**data)
    assert model.runs == [42, 30]  # the second and the third image
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert len(model.store) == 4  # a method that reads no question needs no store


def test_the_store_forgets_what_was_not_used_for_the_longest_time() -> None:
    rows, store = torch.ones(4, 2), Store(3 * 32, "cpu")
    for key in "abc":
        store[key] = Whole(rows, {})
    rows += 1
    assert store.get("a") is not None
    store["d"] = Whole(rows, {})
    store["large"] = Whole(torch.ones(100, 2), {})
    assert [key for key in "abcd" if store.get(key) is not None] == ["a", "c", "d"]
    assert (len(store), store.bytes) == (3, 96)
    assert torch.equal(store.get("a").rows, torch.ones(4, 2))  # type: ignore[union-attr]
    store["d"] = Whole(torch.ones(4, 2), {gp.Attention("cls"): torch.ones(4)})
    assert [key for key in "acd" if store.get(key) is not None] == ["a", "d"]  # 32 and 48 bytes
    assert (len(store), store.bytes) == (2, 80)


def test_an_image_that_measures_memory_is_chosen_from_and_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[int]()
    own = gp.DivPrune.select_batch
    monkeypatch.setattr(gp.DivPrune, "select_batch", lambda self, cues, k: seen.extend(k) or own(self, cues, k))
    (rows,) = Pruned().embed_multimodal(**fields([(3, 4)], [plan("divprune", "1/2", measuring=True)]))
    assert (rows.shape[0], seen) == (12, [6])


@pytest.mark.parametrize("broken", ["rows", "method"])
def test_a_selection_that_fails_is_even_and_is_logged(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = torch.randn(12, D)
    if broken == "rows":
        rows[3] = torch.nan
    else:
        monkeypatch.setattr("greedyprune.engines.vllm.choosing.select_batch", lambda *_, **__: 1 / 0)
    with caplog.at_level(logging.WARNING):
        (keep,) = choose(Engine(), [rows], [plan(keep=4)], [(1, 3, 4)])
    assert keep.rows.tolist() == [1, 4, 7, 10]
    assert "evenly spaced" in caplog.text


def test_one_broken_image_leaves_the_others_as_they_are() -> None:
    rows = [torch.randn(12, D, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    alone = choose(Engine(), rows, [plan(keep=4)] * 3, [None] * 3)
    rows[1] = rows[1] * torch.nan
    found = choose(Engine(), rows, [plan(keep=4)] * 3, [None] * 3)
    assert [each.rows.tolist() for each in found[::2]] == [each.rows.tolist() for each in alone[::2]]
    assert found[1].k == 4


def test_rows_that_hold_nan_become_zeros() -> None:
    """In a cache of keys and values, NaN would reach the requests that use its blocks later."""
    data = fields([(3, 4), (3, 4)], [plan(keep=4), Plan()])
    data["pixel_values"][4:8] = torch.nan  # of the second token, which is one of the evenly spaced ones
    data["pixel_values"][48:52] = torch.inf
    pruned, whole = Pruned().embed_multimodal(**data)
    assert pruned.isfinite().all()
    assert not whole.isfinite().all()  # as vLLM has it


@dataclass
class Feature:
    modality: str
    mm_position: Any
    data: Any


@dataclass
class Place:
    offset: int
    length: int


def prompt(model: Pruned, plans: list[Plan]) -> tuple[list[int], list[Feature], list[torch.Tensor], list[int]]:
    """A prompt with pruned images: its tokens, features and rows, and the columns of its tokens in the whole prompt."""
    rows = model.embed_multimodal(**fields(GRIDS, plans))
    tokens, features, columns, start = [TEXT, TEXT], list[Feature](), [0, 1], 2
    whole = [each[:, :D] for each in Pruned().embed_multimodal(**fields(GRIDS, [Plan()] * 3))]
    for (h, w), mine, every in zip(GRIDS, rows, whole, strict=True):
        k = mine.shape[0]
        grid = SimpleNamespace(data=torch.tensor([1, 2 * h, 2 * w]))
        features.append(Feature("image", Place(len(tokens), k), {"image_grid_thw": grid}))
        kept = [int((every == row).all(1).nonzero()[0, 0]) for row in mine[:, :D]]
        columns += [start + row for row in kept] + [start + h * w, start + h * w + 1]
        tokens += [IMAGE] * k + [TEXT] * 2
        start += h * w + 2
    return tokens, features, rows, columns


@pytest.mark.parametrize("step", [1000, 4, 1])
def test_kept_tokens_have_their_original_positions_whatever_the_chunks(step: int) -> None:
    model = Pruned()
    tokens, features, rows, columns = prompt(model, [plan(keep=5), Plan(), plan("grid", 7)])
    long, whole = list[int](), list[Feature]()
    for (h, w), feature in zip(GRIDS, features, strict=True):
        long += [TEXT] * 2
        whole.append(replace(feature, mm_position=Place(len(long), h * w)))
        long += [IMAGE] * (h * w)
    wanted, shift = Engine().get_mrope_input_positions([*long, TEXT, TEXT], whole)
    positions, delta = model.get_mrope_input_positions(tokens, features[::-1])
    text = torch.tensor([token == TEXT for token in tokens])
    assert torch.equal(positions[:, text], wanted[:, columns][:, text])  # before any row is there
    assert delta == shift + len(long) + 2 - len(tokens)
    for first in range(0, len(tokens), step):
        mine = list[torch.Tensor]()
        for feature, each in zip(features, rows, strict=True):
            place = feature.mm_position
            begin, end = (min(max(at - place.offset, 0), place.length) for at in (first, first + step))
            mine += [each[begin:end]] if end > begin else []
        plain, positions, after = model.recompute_mrope_positions(tokens, mine, positions, first)
        assert all(each.shape[1] == D for each in plain)
        assert after == delta
    assert torch.equal(positions, wanted[:, columns])


def test_rows_and_columns_survive_bfloat16() -> None:
    model, h, w = Pruned(), 300, 2
    data = fields([(h, w)], [plan("grid", 40)])
    data["pixel_values"] = data["pixel_values"].bfloat16()
    (rows,) = model.embed_multimodal(**data)
    keep = gp.select("grid", gp.Cues(torch.zeros(h * w, D), grid=(1, h, w)), 40)
    digits = rows[:, -CHANNELS:].long()
    assert torch.equal(digits[:, 0] * 128 + digits[:, 1], gp.grid_positions((1, h, w), keep.rows)[:, 1])


def test_a_servers_own_pruning_of_videos_is_refused() -> None:
    config = SimpleNamespace(get_multimodal_config=lambda: SimpleNamespace(video_pruning_rate=0.5))
    with pytest.raises(ValueError, match="--video-pruning-rate cannot be combined"):
        PrunesImages(vllm_config=SimpleNamespace(model_config=config))
