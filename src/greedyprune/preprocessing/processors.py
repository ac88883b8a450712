"""Load a checkpoint's processor. Without torchvision, images and text work, and so do the clips of Qwen types."""

import os
from typing import Any

import transformers
from transformers.models.auto import processing_auto

from greedyprune.preprocessing.videos import frames_as_pictures


def load_processor(where: str) -> Any:
    """Load the processor from a folder or from the hub. It needs no torchvision, except for clips of some families.

    The processors of the Qwen-VL families hold a video processor, which transformers has only for torchvision. Without
    torchvision, the same class is built without that part. Images and text use its own code; clips go through
    `greedyprune.preprocessing.videos` if it knows the type, and raise ImportError if not.
    """
    local = os.path.isdir(where)
    stock: Any = transformers.AutoProcessor
    try:
        return stock.from_pretrained(where, local_files_only=local)
    except ImportError as missing:
        if "torchvision" not in str(missing).lower():
            raise
        return _without_torchvision(where, local)


def _without_torchvision(where: str, local: bool) -> Any:
    auto: Any = transformers  # type checkers do not know the content of its lazy modules
    names: dict[str, str] = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"]
    model_type: str = auto.AutoConfig.from_pretrained(where, local_files_only=local).model_type
    stock: Any = getattr(auto, names[model_type])

    class WithoutTorchvision(stock):
        """The family's own processor, with another part for clips, or none."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return argument_name == "video_processor" or stock.check_argument_for_proper_class(
                self, argument_name, argument
            )

        def __call__(self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> Any:
            if videos is not None and self.video_processor is None:
                raise ImportError(
                    f"clips of {model_type!r} models need torchvision, of the release that fits your torch: install "
                    "it, then load the processor again."
                )
            return stock.__call__(self, images=images, text=text, videos=videos, **kwargs)

    tokenizer: Any = auto.AutoTokenizer.from_pretrained(where, local_files_only=local)
    # Not AutoImageProcessor: older releases require torchvision before they read which class to load.
    written, _ = auto.ImageProcessingMixin.get_image_processor_dict(where, local_files_only=local)
    pictures = getattr(auto, written["image_processor_type"].removesuffix("Fast").removesuffix("Pil") + "Pil")
    images = pictures.from_pretrained(where, local_files_only=local)
    clips = frames_as_pictures(where, model_type, pictures)
    return WithoutTorchvision(images, tokenizer, clips, chat_template=tokenizer.chat_template)
