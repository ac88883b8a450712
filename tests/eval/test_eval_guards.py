"""What an evaluation must not mix up: runs of other settings, methods at other stages, what a crop hides, padding."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import greedyprune as gp
from greedyprune import testbed
from greedyprune.budget import Ratio
from greedyprune.eval import Answers, Config, Engine, Item, Job, configurations, evaluate
from greedyprune.eval.loop import make_batches
from greedyprune.eval.store import Store, settings
from greedyprune.models.table import FAMILIES
from greedyprune.verify.traces import changed, fingerprint

QUARTER = {"1/4": Ratio(0.25)}
STAGES = [gp.Input(), gp.Layer(2)]


# A run folder ---------------------------------------------------------------------------------------------------------


class Model(nn.Linear):
    """As much of a model as a run folder asks about."""

    def __init__(self, kind: str = "cpu") -> None:
        super().__init__(3, 2)
        self.kind = kind
        with torch.no_grad():
            self.weight.copy_(torch.arange(6.0).view(2, 3))
            self.bias.zero_()

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        return torch.device(self.kind)


def engine_of(model: nn.Module | None = None, attention: str = "sdpa", longest: int = 8) -> Any:
    return SimpleNamespace(model=model or Model(), parts=SimpleNamespace(attention=attention), longest=longest)


def retrained() -> Model:
    """Another checkpoint of the same name and shapes."""
    model = Model()
    with torch.no_grad():
        model.bias[1] = 1e-3
    return model


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("weights", engine_of(retrained())),
        ("dtype", engine_of(Model().bfloat16())),
        ("device", engine_of(Model("cuda"))),
        ("attention", engine_of(attention="eager")),
        ("max_new_tokens", engine_of(longest=9)),
    ],
)
def test_a_run_folder_notices_every_setting_that_answers_depend_on(tmp_path: Path, name: str, other: Any) -> None:
    items = [Item("q", "t", Image.new("RGB", (4, 4)), "p", "?", ("yes",))]
    own = settings(engine_of(), items, 4)
    Store(tmp_path, own)
    Store(tmp_path, settings(engine_of(), items, 4))  # the same again goes on
    with pytest.raises(ValueError, match=f"holds a run with other settings .*{name} was {own[name]} and is "):
        Store(tmp_path, settings(other, items, 4))


# Who is compared with whom --------------------------------------------------------------------------------------------


def test_the_best_other_and_random_choice_are_those_of_the_same_stage() -> None:
    configs = configurations(["greedyprune", "divprune", "random"], QUARTER, STAGES, seeds=(0, 1))
    answers = Answers([], configs, {})
    for config in configs[1:]:
        others = [other for some in answers.rivals(config).values() for other in some]
        draws = answers.draws_of(config)
        assert {other.place for other in [*others, *draws]} == {config.place}
        assert config.name not in {other.name for other in others}
        assert len(draws) == (0 if config.name == "random" else 2)
        assert len(others) == (2 if config.name == "random" else 3)


def test_where_random_choice_ran_at_other_stages_alone_it_is_compared_all_the_same() -> None:
    ours, draw = (
        Config("greedyprune", gp.GreedyPrune(), Ratio(0.25), "1/4", gp.Layer(3)),
        configurations(["random"], QUARTER, [gp.Input()]),
    )
    assert Answers([], [*draw, ours], {}).draws_of(ours) == draw[1:]


# The engine -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled() -> tuple[Any, Any]:
    return testbed.load("llava")


def item(name: str, text: str, size: tuple[int, int] = (168, 168), *boxes: Any) -> Item:
    return Item(name, "t", Image.effect_noise(size, 80).convert("RGB"), name, text, ("yes",), boxes)


def test_what_a_centre_crop_hides_is_no_region(bundled: tuple[Any, Any]) -> None:
    """A wide picture, of which the model sees the square in the middle."""
    model, processor = bundled[0], copy.deepcopy(bundled[1])
    worker = processor.image_processor
    height = worker.size.height
    worker.do_center_crop, worker.crop_size = True, type(worker.size)(height=height, width=height)
    worker.size = type(worker.size)(shortest_edge=height)
    engine = Engine(model, processor)
    wide = (336, 168)
    batch = engine.prepare(
        0,
        [
            item("hidden", "is it ?", wide, (0, 0, 80, 168)),
            item("middle", "is it ?", wide, (84, 0, 252, 168)),
            item("left half", "is it ?", wide, (84, 0, 168, 168)),
        ],
    )
    assert [len(rows) for rows in batch.regions] == [0, 144, 72]
    assert set((batch.regions[2] % 12).tolist()) == set(range(6))


def test_questions_of_unequal_length_are_padded_on_the_left(bundled: tuple[Any, Any]) -> None:
    """Whatever the processor does by itself: an answer goes on at the right end."""
    model, processor = bundled[0], copy.deepcopy(bundled[1])
    processor.tokenizer.padding_side = "right"
    engine = Engine(model, processor)
    asked = [item("short", "is it red ?"), item("long", "how many red circles are in the picture and where is one ?")]
    mask = engine.inputs(asked, [one.open() for one in asked])["attention_mask"]
    assert mask.sum(1).unique().numel() == 2
    assert bool(mask[:, -1].all())
    assert bool((mask.diff(dim=1) >= 0).all())


def state_of(processor: Any) -> list[dict[str, str]]:
    """Whatever an evaluation could leave on a processor."""
    parts = processor, processor.tokenizer, processor.image_processor
    # The tokenizer of the Rust library is set by transformers at every call.
    return [{name: str(value) for name, value in vars(one).items() if name != "_tokenizer"} for one in parts]


def test_an_evaluation_leaves_model_processor_and_torch_as_they_were(bundled: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = bundled[0], copy.deepcopy(bundled[1])
    processor.tokenizer.padding_side = "right"

    def modes() -> tuple[Any, ...]:
        return torch.get_num_threads(), torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    with torch.no_grad():  # transformers puts hooks of its own on a model that runs for the first time
        inputs = processor(images=item("a", "b").image, text=testbed.prompt(processor, "is it ?"), return_tensors="pt")
        model.generate(**inputs, max_new_tokens=1)
    before = fingerprint(model), state_of(processor), model.generation_config.to_dict(), modes(), torch.get_rng_state()
    asked = [item("short", "is it red ?"), item("long", "how many red circles are in the picture ?")]
    configs = configurations(["grid", "cls", "oracle", "random"], QUARTER)
    evaluate(Engine(model, processor), Job(asked, configs), tmp_path)
    assert changed(before[0], fingerprint(model)) == set()
    assert state_of(processor) == before[1]
    assert model.generation_config.to_dict() == before[2]
    assert modes() == before[3]
    assert torch.equal(torch.get_rng_state(), before[4])


def test_a_processor_that_fails_is_put_back(bundled: tuple[Any, Any]) -> None:
    processor = copy.deepcopy(bundled[1])
    processor.tokenizer.padding_side = "right"
    with pytest.raises(TypeError, match="NoneType"):
        Engine(bundled[0], processor).inputs([item("broken", "is it ?")], [None])
    assert processor.tokenizer.padding_side == "right"


@pytest.mark.parametrize(
    ("family", "config", "sizes"),
    [
        ("gemma3", {}, 1),
        ("llava", {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}, 1),
        ("llava", {"model_type": "pixtral", "image_size": 1024, "patch_size": 16}, 2),
        ("qwen2_5_vl", {}, 2),
        ("internvl", {}, 2),
    ],
)
def test_batches_are_of_one_image_size_unless_every_image_has_as_many_tokens(
    family: str, config: dict[str, Any], sizes: int
) -> None:
    parts = SimpleNamespace(family=FAMILIES[family], config=SimpleNamespace(vision_config=SimpleNamespace(**config)))
    processor = SimpleNamespace(tokenizer=lambda text: {"input_ids": text.split()})
    engine: Any = SimpleNamespace(parts=parts, processor=processor, prompt=lambda one: one.text)
    asked = [item(str(number), "is it ?", (16 + 16 * (number % 2), 16)) for number in range(4)]
    batches = make_batches(engine, asked, 4)
    assert len(batches) == sizes
    assert sorted(one.name for batch in batches for one in batch) == [one.name for one in asked]
    assert all(len({one.open().size for one in batch}) == 3 - sizes for batch in batches)
