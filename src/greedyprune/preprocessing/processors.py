"""A checkpoint's processor. Without torchvision, which only videos need, it is made for images alone."""

import os
from typing import Any

import transformers
from transformers.models.auto import processing_auto


def load_processor(where: str) -> Any:
    """Load the processor in a folder or under an id of the hub; without torchvision, one for images alone.

    The processors of the Qwen-VL families hold a video processor, which transformers writes for torchvision only.
    Without torchvision the very same class is made without that part: images and text go through its own code, and a
    video is refused.
    """
    local = os.path.isdir(where)
    stock: Any = transformers.AutoProcessor
    try:
        return stock.from_pretrained(where, local_files_only=local)
    except ImportError as missing:
        if "torchvision" not in str(missing).lower():
            raise
        return _images_only(where, local)


def _images_only(where: str, local: bool) -> Any:
    auto: Any = transformers  # what its lazy modules hold is unknown to type checkers
    names: dict[str, str] = vars(processing_auto)["PROCESSOR_MAPPING_NAMES"]
    stock: Any = getattr(auto, names[auto.AutoConfig.from_pretrained(where, local_files_only=local).model_type])

    class ImagesOnly(stock):
        """The family's own processor without its part for videos."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return argument_name == "video_processor" or stock.check_argument_for_proper_class(
                self, argument_name, argument
            )

        def __call__(self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> Any:
            if videos is not None:
                raise ImportError("videos need torchvision: pip install torchvision, then load the processor again.")
            return stock.__call__(self, images=images, text=text, **kwargs)

    tokenizer: Any = auto.AutoTokenizer.from_pretrained(where, local_files_only=local)
    # Not AutoImageProcessor: older releases want torchvision before they look what to load.
    written, _ = auto.ImageProcessingMixin.get_image_processor_dict(where, local_files_only=local)
    name = written["image_processor_type"].removesuffix("Fast").removesuffix("Pil") + "Pil"
    images = getattr(auto, name).from_pretrained(where, local_files_only=local)
    return ImagesOnly(images, tokenizer, None, chat_template=tokenizer.chat_template)
