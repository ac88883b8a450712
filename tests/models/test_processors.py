"""Processors load without torchvision: the family's own class for images and text, and clips of Qwen types."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from greedyprune import testbed
from greedyprune.preprocessing.processors import load_processor
from greedyprune.preprocessing.videos import frames_as_pictures
from greedyprune.testbed.train.export import export
from greedyprune.testbed.train.models import ARCHITECTURES, MEAN, STD


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


def film(frames: int, width: int, height: int) -> list[Image.Image]:
    return [Image.effect_noise((width, height), 60 + at).convert("RGB") for at in range(frames)]


def test_a_clip_becomes_the_patches_that_the_model_reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_torchvision(monkeypatch)
    processor = load_processor(str(folder))
    frames = film(3, 28, 42)  # 4 x 6 patches of 7 x 7 pixels, so nothing is resized
    text = "<|vision_start|> <|video_pad|> <|vision_end|> what is it ?"
    seen = [{"total_num_frames": 12, "fps": 4.0, "frames_indices": [1, 5, 9]}]
    found = processor(text=text, videos=[frames], video_metadata=seen, do_sample_frames=False, return_tensors="pt")
    assert found["video_grid_thw"].tolist() == [[2, 6, 4]]
    assert int((found["input_ids"] == processor.video_token_id).sum()) == 2 * 6 * 4 // 4
    assert found["second_per_grid_ts"].tolist() == [2.0]  # two frames, at one a second
    pixels = np.stack([np.asarray(frame, np.float64) / 255 for frame in [*frames, frames[-1]]])
    pixels = (pixels - MEAN) / STD
    row = 0
    for step in (0, 2):
        for high, wide, down, right in itertools.product(range(3), range(2), range(2), range(2)):  # blocks of 2 x 2
            top, left = 7 * (2 * high + down), 7 * (2 * wide + right)
            patch = pixels[step : step + 2, top : top + 7, left : left + 7]  # time, row, column, channel
            wanted = torch.from_numpy(patch.transpose(3, 0, 1, 2).reshape(-1)).float()
            torch.testing.assert_close(found["pixel_values_videos"][row], wanted)
            row += 1


def test_bounds_of_a_frame_and_of_a_clip_are_told_apart(folder: Path) -> None:
    frames = film(4, 56, 56)
    bounds = {"do_resize": True, "min_pixels": 28 * 28, "max_pixels": 4 * 28 * 28}
    settings = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    del settings["video_processor"]["size"]
    settings["video_processor"] |= bounds
    made = folder.parent / "bounded"
    made.mkdir()
    (made / "processor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    for model_type, side in (("qwen2_5_vl", 8), ("qwen3_vl", 4)):
        part = frames_as_pictures(str(made), model_type, Qwen2VLImageProcessorPil)
        assert part is not None
        assert part([frames])["video_grid_thw"].tolist() == [[2, side, side]]


def test_clips_that_cannot_be_read_are_refused_with_the_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_torchvision(monkeypatch)
    processor = load_processor(str(folder))
    text, frames = "<|video_pad|>", film(2, 28, 28)
    with pytest.raises(ValueError, match="without do_sample_frames"):
        processor(text=text, videos=[frames], do_sample_frames=True)
    with pytest.raises(ValueError, match="differ in size"):
        processor.video_processor([[*frames, *film(1, 42, 28)]])
    assert frames_as_pictures(str(folder), "glm4v", Qwen2VLImageProcessorPil) is None
    processor.video_processor = None
    with pytest.raises(ImportError, match="clips of 'qwen2_5_vl' models need torchvision"):
        processor(text=text, videos=[frames])


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
