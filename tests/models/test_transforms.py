"""Down-scaling: the real processor makes exactly the announced tokens of the smaller images, as many as it may."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from greedyprune.budget import PerLayer, Ratio
from greedyprune.models.table import FAMILIES
from greedyprune.preprocessing.transforms import downscale

SIZES = ((448, 448), (640, 480), (333, 777), (1200, 90), (60, 1500), (2000, 1500), (41, 37))
PROCESSORS = {
    "qwen2_5_vl": Qwen2VLImageProcessorPil(),
    "qwen3_vl": Qwen2VLImageProcessorPil(patch_size=16, size={"shortest_edge": 65536, "longest_edge": 16777216}),
    "small": Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 200}),
    "narrow": Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28 * 20, "longest_edge": 28 * 28 * 40}),
}
SQUARE, QWEN = Image.new("RGB", (448, 448)), PROCESSORS["qwen2_5_vl"]


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture of random pixels."""
    pixels = np.random.default_rng(width + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def counted(images: list[Image.Image], processor: Any) -> list[int]:
    """The tokens the model would get, by what the processor returns."""
    grids = processor(images=images, return_tensors="np")["image_grid_thw"]
    return [int(grid.prod()) // processor.merge_size**2 for grid in grids]


def side(processor: Any) -> int:
    """Pixels of a token."""
    return processor.patch_size * processor.merge_size


def family(name: str, image_processor: Any = QWEN) -> Any:
    """A processor as a family's class, which needs a tokenizer to be built."""
    return type(name, (SimpleNamespace,), {})(image_processor=image_processor)


# Counts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("keep", [70, 200, Ratio(0.25), Ratio(0.9)], ids=str)
def test_the_processor_makes_exactly_what_is_announced(name: str, keep: int | Ratio) -> None:
    processor = PROCESSORS[name]
    for size in SIZES:
        image = noise(*size)
        dense = counted([image], processor)[0]
        k = keep.of(dense) if isinstance(keep, Ratio) else keep
        if k * side(processor) ** 2 < processor.size["shortest_edge"]:
            with pytest.raises(ValueError, match="the least is"):
                downscale(image, keep, processor)
            continue
        made = downscale(image, keep, processor)
        assert made.dense == [dense]
        assert counted(made.images, processor) == made.tokens
        assert made.tokens[0] <= k
        if k >= dense:
            assert made.images[0] is image


@pytest.mark.parametrize("size", [(448, 448), (640, 480), (1200, 300), (500, 1400)], ids=str)
def test_the_count_is_the_largest_whose_sides_are_the_exact_ones_rounded(size: tuple[int, int]) -> None:
    width, height = size
    dense = downscale(Image.new("RGB", size), 10**6, QWEN).dense[0]
    for k in range(4, min(dense, 90)):
        image = downscale(Image.new("RGB", size), k, QWEN).images[0]
        rows, columns = image.height // 28, image.width // 28
        exact = math.sqrt(k * height / width), math.sqrt(k * width / height)
        best = max(
            (h * w, -abs(math.log(h / w * width / height)))
            for h, w in product(range(1, k + 1), range(1, k + 1))
            if h * w <= k and abs(h - exact[0]) < 1 and abs(w - exact[1]) < 1
        )
        if best[0] >= 4:  # what this processor can make
            assert (rows * columns, abs(rows - exact[0]) < 1, abs(columns - exact[1]) < 1) == (best[0], True, True)
            assert -abs(math.log(rows / columns * width / height)) == pytest.approx(best[1])


@pytest.mark.parametrize(("k", "size"), [(16, (4, 4)), (17, (4, 4)), (12, (3, 4)), (64, (8, 8)), (255, (15, 16))])
def test_a_square_stays_about_square(k: int, size: tuple[int, int]) -> None:
    made = downscale(SQUARE, k, QWEN)
    assert sorted(side // 28 for side in made.images[0].size) == sorted(size)
    assert (made.tokens, made.dense) == ([size[0] * size[1]], [256])


def test_every_budget_from_the_least_to_the_dense_count_works() -> None:
    narrow = PROCESSORS["narrow"]
    for size in SIZES:
        image = Image.new("RGB", size)
        dense = downscale(image, 10**6, narrow).dense[0]
        done = []
        for k in range(dense + 1):
            try:
                done.append((k, downscale(image, k, narrow).tokens[0]))
            except ValueError as error:
                least = int(str(error).split("the least is ")[1].split(".")[0])
                assert k < least
                assert downscale(image, least, narrow).tokens[0] == least
        assert all(20 <= tokens <= k for k, tokens in done)
        assert [k for k, _ in done] == list(range(done[0][0], dense + 1))


def test_images_of_one_call_have_their_own_budgets() -> None:
    images = [noise(448, 448), noise(560, 280), noise(84, 84)]
    made = downscale(images, [64, Ratio(0.5), 100], QWEN)
    assert (made.tokens, made.dense) == ([64, 98, 9], [256, 200, 9])
    assert counted(made.images, QWEN) == made.tokens
    assert [image.size for image in images] == [(448, 448), (560, 280), (84, 84)]
    assert downscale([], 4, QWEN).tokens == []


def test_pixels_are_resampled_once_as_pillow_does() -> None:
    image = noise(448, 448)
    expected = image.resize((112, 112), Image.Resampling.BICUBIC)
    small = downscale(image, 16, QWEN).images[0]
    assert small.tobytes() == expected.tobytes()
    ready = QWEN(images=[expected], do_resize=False, return_tensors="np")["pixel_values"]
    assert (QWEN(images=[small], return_tensors="np")["pixel_values"] == ready).all()
    assert downscale(image, 16, QWEN, resample="lanczos").images[0].tobytes() != expected.tobytes()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_pictures_of_every_mode(mode: str) -> None:
    made = downscale(noise(300, 300, mode), 16, QWEN)
    assert counted(made.images, QWEN) == made.tokens == [16]


# Families -------------------------------------------------------------------------------------------------------------


def test_every_family_of_the_table_is_decided() -> None:
    by_size: dict[str, set[str]] = {}
    for name, made in FAMILIES.items():
        by_size.setdefault(made.sizes, set()).add(name)
        assert bool(made.cannot_downscale) == (made.sizes != "own"), name
    assert by_size.pop("own") == {name for name in FAMILIES if name.startswith("qwen") and name != "qwen2_audio"}
    assert by_size.pop("one") == {"vipllava", "fast_vlm", "gemma3", "paligemma"}
    assert by_size.pop("by tower") == {"llava"}
    assert by_size.pop("tiles") == {name for name, made in FAMILIES.items() if made.grid == "one tile"}
    assert set(by_size) == {"unknown"}


def test_a_llava_with_pixtrals_tower_takes_images_of_any_size() -> None:
    def config(kind: str, **more: int) -> Any:
        return SimpleNamespace(vision_config=SimpleNamespace(model_type=kind, **more))

    llava, sized = FAMILIES["llava"], {"image_size": 336, "patch_size": 14}
    assert llava.takes_one_size(config("clip_vision_model", **sized))
    assert not llava.takes_one_size(config("pixtral", **sized))
    assert not llava.takes_one_size(config("some_vision_model"))
    assert FAMILIES["gemma3"].takes_one_size(config("siglip_vision_model", **sized))
    assert not FAMILIES["qwen3_vl"].takes_one_size(config("qwen3_vl_vision", **sized))


@pytest.mark.parametrize("name", ["Qwen2_5_VLProcessor", "Qwen3VLProcessor", "Qwen2VLProcessor"])
def test_a_whole_processor_is_taken_too(name: str) -> None:
    assert downscale(SQUARE, 16, family(name)).tokens == [16]


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("LlavaProcessor", "llava"),
        ("SmolVLMProcessor", "smolvlm"),
        ("Idefics3Processor", "idefics3"),
        ("InternVLProcessor", "internvl"),
    ],
)
def test_families_of_fixed_size_are_refused_by_name(name: str, model_type: str) -> None:
    with pytest.raises(ValueError, match=rf"'{model_type}' model cannot be scaled down.*one size.*AveragePool\(\)"):
        downscale(SQUARE, 16, family(name))


def test_the_bundled_model_is_refused_by_name() -> None:
    from transformers import AutoProcessor

    from greedyprune.testbed import FOLDERS

    with pytest.raises(ValueError, match="'llava' model cannot be scaled down"):
        downscale(SQUARE, 16, AutoProcessor.from_pretrained(FOLDERS["llava"]))


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "keep", "message"),
    [
        (SQUARE, 3, r"448 x 448 pixels has 256 visual tokens.*cannot make 3 or fewer of it: the least is 4.*3136"),
        (SQUARE, 0, "the least is 4"),
        (SQUARE, Ratio(0), "the least is 4"),
        (SQUARE, Ratio(0.004), "the least is 4"),
        (SQUARE, 0.25, r"keep=0.25 is ambiguous: write Ratio\(0.25\)"),
        (SQUARE, -1, "cannot be negative"),
        (SQUARE, PerLayer({2: 8}), "is for layers"),
        (SQUARE, [8, 8], "2 budgets for 1 images"),
        (Image.new("RGB", (0, 5)), 8, r"images\[0\] has no pixels: it is 0 x 5"),
        ([SQUARE, np.zeros((8, 8, 3))], 8, r"images\[1\] is a ndarray: give PIL images"),
        ("photo.jpg", 8, r"images\[0\] is a str"),
        (Image.new("RGB", (5, 1100)), 8, "5 x 1100 pixels: absolute aspect ratio"),
    ],
)
def test_bad_input(images: Any, keep: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        downscale(images, keep, QWEN)


def test_processors_and_filters_that_cannot_do_it() -> None:
    with pytest.raises(ValueError, match=r"CLIPImageProcessorPil does not keep .* qwen2_5_vl and qwen3_vl"):
        downscale(SQUARE, 8, CLIPImageProcessorPil())
    with pytest.raises(ValueError, match="NoneType does not keep"):
        downscale(SQUARE, 8, None)
    with pytest.raises(ValueError, match="do_resize=False"):
        downscale(SQUARE, 8, Qwen2VLImageProcessorPil(do_resize=False))
    with pytest.raises(ValueError, match="resample='nearest' is unknown: choose one of bicubic, lanczos"):
        downscale(SQUARE, 8, QWEN, resample="nearest")  # type: ignore[arg-type]


def test_without_pillow_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\nfrom types import SimpleNamespace as N\n"
        "from greedyprune.preprocessing.transforms import downscale\n"
        "size = {'shortest_edge': 784, 'longest_edge': 10**6}\n"
        "worker = N(size=size, patch_size=14, merge_size=2, get_number_of_image_patches=lambda h, w, k: 16)\n"
        "downscale([], 4, worker)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: greedyprune.downscale needs Pillow" in out.stderr
    assert "pip install 'greedyprune[plots]'" in out.stderr
