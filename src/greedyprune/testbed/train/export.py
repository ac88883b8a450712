"""The last stage: weights in half precision, tokenizer, processor and chat template in one folder."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from greedyprune.outputs import write_text
from greedyprune.testbed.layout import PATCH
from greedyprune.testbed.train.models import MEAN, STD, Architecture, Qwen
from greedyprune.testbed.train.vocabulary import IDS, SIZE

_TURN = "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% endif %}{% endfor %}"
_TEXT = "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}"
LLAVA_TEMPLATE = (
    "{{ '<s> ' }}{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' }}"
    + _TURN.replace("IMAGE", "{{ '<image> ' }}")
    + _TEXT
    + "{% else %}{{ ' ASSISTANT: ' }}"
    + _TEXT
    + "{{ ' </s> ' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|> ' + m['role'] + ' ' }}"
    + _TURN.replace("IMAGE", "{{ '<|vision_start|> <|image_pad|> <|vision_end|> ' }}").replace(
        "{% endif %}",
        "{% elif c['type'] == 'video' %}{{ '<|vision_start|> <|video_pad|> <|vision_end|> ' }}{% endif %}",
    )
    + _TEXT
    + "{{ ' <|im_end|> ' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|> assistant' }}{% endif %}"
)


def export(architecture: Architecture, model: Any, folder: Path) -> None:
    """Write what `from_pretrained` reads."""
    model.generation_config.eos_token_id = architecture.end
    model.generation_config.pad_token_id = IDS["<pad>"]
    model.generation_config.max_new_tokens = 6
    model.to(torch.float16).save_pretrained(folder)
    _drop_vision_rope(folder / "config.json")
    save = _save_qwen if isinstance(architecture, Qwen) else _save_llava
    save(architecture, folder)


def _drop_vision_rope(config: Path) -> None:
    """Leave the tower's rotary settings to its defaults, which they are: older releases warn about the type's name."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["vision_config"].pop("rope_parameters", None)
    write_text(config, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def tokenizer(**special: Any) -> PreTrainedTokenizerFast:
    """Whole words, split at spaces."""
    table = {**IDS, **{f"<unused{i}>": i for i in range(len(IDS), SIZE)}}
    words = Tokenizer(models.WordLevel(vocab=table, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        **special,
    )


def _save_llava(architecture: Architecture, folder: Path) -> None:
    width, height = architecture.sizes[0]
    size = {"height": height, "width": width}
    images = CLIPImageProcessorPil(
        size=size, crop_size=size, do_center_crop=False, image_mean=[MEAN] * 3, image_std=[STD] * 3
    )
    LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(bos_token="<s>", eos_token="</s>", extra_special_tokens={"image_token": "<image>"}),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    ).save_pretrained(folder)


def _save_qwen(architecture: Architecture, folder: Path) -> None:
    # The stock processor cannot be made without torchvision (its videos need it), so what it would write is
    # written here: the parts' settings in one file, then tokenizer and chat template.
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH // Qwen.fold,
        merge_size=Qwen.fold,
        temporal_patch_size=2,
        min_pixels=PATCH * PATCH * 4,
        max_pixels=224 * 224,
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    settings = json.loads(images.to_json_string())
    del settings["image_processor_type"]
    whole = {
        "processor_class": "Qwen2_5_VLProcessor",
        "image_processor": {**settings, "image_processor_type": "Qwen2VLImageProcessor"},
        "video_processor": {**settings, "video_processor_type": "Qwen2VLVideoProcessor"},
    }
    write_text(folder / "processor_config.json", json.dumps(whole, indent=2) + "\n")
    special = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }
    tokens = tokenizer(bos_token="<|im_start|>", eos_token="<|im_end|>", extra_special_tokens=special)
    tokens.chat_template = QWEN_TEMPLATE
    tokens.save_pretrained(folder)
