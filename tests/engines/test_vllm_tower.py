"""What is read in a vision tower inside vLLM, with stand-ins for vLLM's modules, and what is refused there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, LlavaConfig, Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

import greedyprune as gp
from greedyprune import testbed
from greedyprune.cues import Seen
from greedyprune.engines.vllm.eyes import Eyes
from greedyprune.engines.vllm.plan import FIELD, Plan, able, read_policy
from greedyprune.engines.vllm.store import Store
from greedyprune.engines.vllm.tower import Tower
from greedyprune.engines.vllm.worker import PrunesImages
from greedyprune.naming import as_method

HEADS, WIDTH = 2, 8
LLAVA, QWEN = (AutoConfig.from_pretrained(testbed.FOLDERS[name]) for name in ("llava", "qwen"))
CLS, RECEIVED, KEYS, ROWS = gp.Attention("cls", 0), gp.Attention("received", 0), gp.Keys("tower", 0), gp.Encoded(0)


class Joint(nn.Linear):
    """Queries, keys and values in one, and a bias beside them, as vLLM's layers return them."""

    def forward(self, states: torch.Tensor) -> Any:
        return super().forward(states), None


class Layer(nn.Module):
    """A layer whose attention changes nothing: what it is given can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.qkv_proj = nn.Identity(), Joint(WIDTH, 3 * WIDTH)
        self.head_dim, self.tp_size = WIDTH // HEADS, 1

    def apply_rotary_emb(self, rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return rows * cos + sin

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        return hidden_states + 1

    def heads(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        queries, keys, _ = self.qkv_proj(states)[0].double().unflatten(-1, (3, HEADS, -1)).unbind(-3)
        return queries, keys


def clip(side: int = 2, **more: Any) -> Tower:
    """A tower with a class token, and side * side patches."""
    vision = {"model_type": "clip_vision_model", "num_hidden_layers": 24, "image_size": side, "patch_size": 1}
    return Tower(LlavaConfig(vision_config=vision, **more))


def test_attention_and_keys_are_those_of_the_layer() -> None:
    layer, states = Layer(), torch.randn(3, 5, WIDTH)
    eyes = Eyes(clip(), [layer], lambda _: (layer, True))
    one = replace(CLS, heads="one")
    with torch.no_grad(), eyes.reading({CLS, one, RECEIVED, KEYS, ROWS}, None) as seen:
        layer(hidden_states=states)
    queries, keys = layer.heads(states)
    scores = torch.einsum("bqhc,bkhc->bhqk", queries, keys)
    weights = (scores / (WIDTH // HEADS) ** 0.5).softmax(-1).mean(1)
    patches = slice(1, None)  # the class token is no visual token
    torch.testing.assert_close(seen[CLS], weights[:, 0, patches].flatten().float())
    torch.testing.assert_close(seen[RECEIVED], weights.mean(1)[:, patches].flatten().float())
    together = (scores.sum(1) / WIDTH**0.5).softmax(-1)[:, 0, patches]
    torch.testing.assert_close(seen[one], together.flatten().float())
    torch.testing.assert_close(seen[KEYS].double(), keys[:, patches].flatten(0, 1))
    torch.testing.assert_close(seen[ROWS], (states + 1)[:, patches].flatten(0, 1))
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks


def test_packed_images_attend_inside_their_windows_after_a_rotation() -> None:
    vision = {"window_size": 2, "patch_size": 1, "spatial_merge_size": 1, "fullatt_block_indexes": [1], "depth": 2}
    tower, layer = Tower(Qwen2_5_VLConfig(vision_config=vision)), Layer()
    grids, states = torch.tensor([[1, 2, 3], [1, 2, 2]]), torch.randn(10, 1, WIDTH)
    rotary = {"rotary_pos_emb_cos": torch.tensor(0.5), "rotary_pos_emb_sin": torch.tensor(0.1)}
    windows = [0] * 4 + [1] * 2 + [2] * 4
    for index, parts in ((0, windows), (1, [0] * 6 + [1] * 4)):
        need = replace(RECEIVED, layer=index)
        with torch.no_grad(), Eyes(tower, [layer] * 2, lambda _: (layer, True)).reading({need}, grids) as seen:
            layer(states, **rotary)
        queries, keys = (each[:, 0] * 0.5 + 0.1 for each in layer.heads(states))
        scores = torch.einsum("qhc,khc->hqk", queries, keys) / (WIDTH // HEADS) ** 0.5
        apart = torch.tensor(parts)[:, None] != torch.tensor(parts)
        weights = scores.masked_fill(apart, -torch.inf).softmax(-1).mean(0)
        received = weights.sum(0) / (~apart).sum(0)
        order = torch.tensor([0, 1, 4, 2, 3, 5, 6, 7, 8, 9])  # out of the order of the windows
        torch.testing.assert_close(seen[need], received[order].float())


def test_the_borders_of_windows_are_those_of_transformers() -> None:
    vision, grids = QWEN.vision_config, [[1, 20, 24], [1, 6, 14], [2, 4, 10]]
    tower = Qwen2_5_VisionTransformerPretrainedModel._from_config(vision)
    borders = dict[int, list[int]]()
    hooks = [
        block.attn.register_forward_pre_hook(
            lambda module, args, given, index=index: borders.update({index: given["cu_seqlens"].tolist()}),
            with_kwargs=True,
        )
        for index, block in enumerate(tower.blocks)
    ]
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    try:
        with torch.no_grad():
            tower(torch.zeros(644, width, dtype=tower.dtype), grid_thw=torch.tensor(grids))
    finally:
        for hook in hooks:
            hook.remove()
    assert {index: Tower(QWEN).borders(index, grids) for index in borders} == borders
    assert len({len(each) for each in borders.values()}) == 2  # windows in some layers, frames in the others


def test_what_cannot_be_read_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    layer = Layer()
    layer.qkv_proj = None  # type: ignore[assignment]
    with Eyes(clip(), [layer], lambda _: (layer, True)).reading({CLS, ROWS}, None) as seen:
        layer(torch.randn(1, 5, WIDTH))
    assert set(seen) == {ROWS}
    assert "cannot read the class token's attention" in caplog.text


def test_a_need_names_a_layer_that_vllm_loads() -> None:
    tower = clip()
    assert (tower.count, tower.loaded) == (24, 23)
    assert tower.placed(gp.Attention("tower")) == gp.Attention("cls", 22)
    assert tower.placed(gp.Encoded()) == gp.Encoded(22)
    assert "vLLM loads 23 of the tower's 24 layers" in str(tower.lacking(gp.Encoded(-1)))
    assert "no layer 24" in str(tower.lacking(gp.Keys("tower", 24)))
    assert clip(vision_feature_layer=-1).lacking(gp.Encoded(-1)) is None
    assert clip(vision_feature_layer=[-5, -2]).placed(gp.Encoded()) == gp.Encoded(22)  # the deepest
    assert "name one" in str(clip(vision_feature_layer=0).lacking(gp.Encoded()))
    qwen = Tower(QWEN)
    assert qwen.placed(gp.Encoded()) == gp.Encoded(None)  # what the merger's norm reads
    assert qwen.placed(gp.Attention("tower")) == gp.Attention("received", QWEN.vision_config.depth - 1)
    assert "no class token" in str(qwen.lacking(gp.Attention("cls")))


def test_needs_that_no_worker_can_read_are_refused() -> None:
    towers: list[tuple[Tower, Seen, str]] = [
        (clip(), gp.Attention("last_text"), "cuts before the decoder"),
        (clip(), gp.Values(), "cuts before the decoder"),
        (clip(), gp.Keys("tower", of="text"), "cuts before the decoder"),
        (replace(clip(), split=True), gp.Attention("tower"), "--mm-encoder-tp-mode data"),
        (Tower(LlavaConfig(vision_config={"model_type": "pixtral"})), gp.Encoded(), "pixtral) cannot be read"),
        (Tower(SimpleNamespace(model_type="new")), gp.Encoded(), "(new, None) cannot be read"),
    ]
    for tower, need, said in towers:
        assert said in str(tower.lacking(need))
    with pytest.raises(ValueError, match=r"ClsTopK cannot run in vLLM: .* no class token .* These can: .*visionzip"):
        read_policy({"method": "cls", "keep": 64}, None, "original", Tower(QWEN))
    with pytest.raises(ValueError, match="may keep fewer"):
        read_policy({"method": {"type": "prumerge", "adaptive": True}, "keep": 64}, None, "compact", clip())


def test_methods_that_look_into_the_tower_run_where_it_is_read() -> None:
    more = {"visionzip", "vispruner", "hired", "hiprune", "prumerge", "scope", "mmtok", "tome"}
    assert set(able(clip())) - set(able()) >= more | {"cls"}
    assert set(able(Tower(QWEN))) - set(able()) >= more
    assert set(able(Tower(LlavaConfig(vision_config={"model_type": "pixtral"})))) == set(able())


def test_the_page_names_every_method_that_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "vllm.md").read_text(encoding="utf-8")
    assert [name for name in able(clip()) if f"`{name}`" not in page] == []
    listed = page.partition("methods that need a grid (")[2].partition(")")[0]
    gridded = {name for name in able() if any(isinstance(need, gp.Grid) for need in as_method(name).needs)}
    assert set(listed.replace("`", "").split(", ")) == gridded


class Encoder(nn.Module):
    """A model class of vLLM with a tower of two layers, as far as pruning needs it."""

    def __init__(self, *, vllm_config: Any = None, prefix: str = "") -> None:
        super().__init__()
        self.layers, self.runs = nn.ModuleList([Layer(), Layer()]), 0

    def embed_multimodal(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        self.runs += 1
        for layer in self.layers:
            pixel_values = layer(pixel_values)
        return list(pixel_values[:, 1:])

    def get_language_model(self) -> Any:
        return SimpleNamespace(embed_input_ids=lambda ids: torch.ones(len(ids), WIDTH))


class Pruned(PrunesImages, Encoder):
    reads_tower = True

    def __init__(self) -> None:
        Encoder.__init__(self)
        self.most_rows, self.store = 10**6, Store(10**6, "cpu")
        self.tower = Tower(LlavaConfig(vision_config={"model_type": "clip_vision_model", "num_hidden_layers": 2}))

    def sizes(self, fields: Any, images: int) -> list[int]:
        return [16] * images

    def grids(self, fields: Any, sizes: Any) -> Any:
        return [(1, 4, 4)] * len(sizes)

    def eyes(self) -> Eyes:
        return Eyes(self.tower, list(self.layers), lambda i: (self.layers[-1 if i is None else i], True))


def plan(method: object, text: tuple[int, ...] = (), image: str = "") -> Plan:
    return Plan(gp.Policy(method, 5, "input", "compact"), text, image=image)  # type: ignore[arg-type]


@torch.no_grad()
def test_each_image_of_a_batch_gets_its_own_cues() -> None:
    model, pixels = Pruned(), torch.randn(3, 17, WIDTH)
    plans = [plan("visionzip"), plan("divprune"), plan("cls")]
    rows = model.embed_multimodal(pixel_values=pixels, **{FIELD: [each.to_tensor() for each in plans]})
    queries, keys = model.layers[0].heads(pixels)  # the projector reads what layer 0 of 2 puts out
    weights = torch.einsum("bhc,bkhc->bhk", queries[:, 0], keys) / (WIDTH // HEADS) ** 0.5
    attention = weights.softmax(-1).mean(1)[:, 1:].float()
    whole = pixels[:, 1:] + 2
    more = {gp.Attention("tower"): attention[0], gp.Keys("tower"): keys[0, 1:].float()}
    first = gp.select("visionzip", gp.Cues(whole[0], more=more), 5)
    third = gp.select("cls", gp.Cues(whole[2], attention=attention[2]), 5)
    torch.testing.assert_close(rows[0], first.merge(whole[0]))
    torch.testing.assert_close(rows[1], whole[1][gp.select("divprune", gp.Cues(whole[1]), 5).rows])
    torch.testing.assert_close(rows[2], whole[2][third.rows])


@torch.no_grad()
def test_stored_rows_without_a_methods_cues_run_the_tower_again_and_then_no_more() -> None:
    model, pixels = Pruned(), torch.randn(1, 17, WIDTH)
    soft, mmtok = gp.SoftGreedyPrune(at=gp.Input()), "mmtok"
    for method, text, runs in ((soft, (1,), 1), (mmtok, (1,), 2), (mmtok, (2,), 2), (soft, (2,), 2)):
        model.embed_multimodal(pixel_values=pixels, **{FIELD: [plan(method, text, "a").to_tensor()]})
        assert model.runs == runs


@torch.no_grad()
def test_a_tower_that_cannot_be_read_ends_no_engine(caplog: pytest.LogCaptureFixture) -> None:
    model = Pruned()
    model.layers[0].tp_size = None  # type: ignore[assignment]
    (rows,) = model.embed_multimodal(pixel_values=torch.randn(1, 17, WIDTH), **{FIELD: [plan("cls").to_tensor()]})
    assert rows.shape == (5, WIDTH)
    assert "evenly spaced" in caplog.text


def test_the_tower_is_not_compiled_past_the_hooks(caplog: pytest.LogCaptureFixture) -> None:
    config = SimpleNamespace(
        model_config=SimpleNamespace(
            get_multimodal_config=lambda: SimpleNamespace(video_pruning_rate=None), hf_config=LLAVA
        ),
        compilation_config=SimpleNamespace(compile_mm_encoder=True),
        scheduler_config=SimpleNamespace(max_num_encoder_input_tokens=100),
        device_config=SimpleNamespace(device="cpu"),
    )
    PrunesImages.__init__(Pruned(), vllm_config=config)
    assert not config.compilation_config.compile_mm_encoder
    assert "compile_mm_encoder is off" in caplog.text
