"""Processors load without torchvision: the family's own class, for images alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from greedyprune import testbed
from greedyprune.preprocessing.processors import load_processor
from greedyprune.testbed.train.export import export
from greedyprune.testbed.train.models import ARCHITECTURES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-VL with random weights, as it is shipped."""
    made = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(0)
    architecture = ARCHITECTURES["qwen"]
    export(architecture, architecture.build(), made)
    return made


def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ImportError("Qwen2VLVideoProcessor requires the Torchvision library but it was not found")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", refuse)


def test_images_and_text_go_through_the_familys_own_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_torchvision(monkeypatch)
    processor = load_processor(str(folder))
    assert isinstance(processor, transformers.Qwen2_5_VLProcessor)
    pictures = [Image.new("RGB", (196, 140), "red"), Image.new("RGB", (168, 168), "blue")]
    asked = [testbed.prompt(processor, "is there a red circle ?")] * 2
    inputs = processor(images=pictures, text=asked, padding=True, return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum(1).tolist() == [140, 144]
    assert inputs["image_grid_thw"].tolist() == [[1, 20, 28], [1, 24, 24]]
    assert inputs["pixel_values"].shape == (560 + 576, 3 * 2 * 7 * 7)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    out = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert out.shape[1] <= inputs["input_ids"].shape[1] + 2
    assert processor.batch_decode(inputs["input_ids"][:, -4:]) == ["? <|im_end|> <|im_start|> assistant"] * 2


def test_videos_are_refused_with_the_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_torchvision(monkeypatch)
    with pytest.raises(ImportError, match="pip install torchvision"):
        load_processor(str(folder))(text=["x"], videos=[torch.zeros(2, 3, 28, 28)])


def test_the_stock_processor_is_used_where_it_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = object()
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *_, **__: made)
    assert load_processor("anywhere") is made


def test_another_missing_package_is_told_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ImportError("no sentencepiece")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", refuse)
    with pytest.raises(ImportError, match="no sentencepiece"):
        load_processor(str(folder))
