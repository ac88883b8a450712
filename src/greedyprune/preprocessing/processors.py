"""Load a checkpoint's processor. Without torchvision, which only videos need, it handles only images and text."""

import os
from typing import Any

import transformers
from transformers.models.auto import processing_auto


def load_processor(where: str) -> Any:
    """Load the processor from a folder or from the hub. Without torchvision, it handles only images and text.

    The processors of the Qwen-VL families hold a video processor, which transformers has only for torchvision. Without
    torchvision, the same class is built without that part. Images and text use its own code, and a video raises
    ImportError.
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
    auto: Any = transformers  # type checkers do not know the content of its lazy modules
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
    # Not AutoImageProcessor: older releases require torchvision before they read which class to load.
    written, _ = auto.ImageProcessingMixin.get_image_processor_dict(where, local_files_only=local)
    name = written["image_processor_type"].removesuffix("Fast").removesuffix("Pil") + "Pil"
    images = getattr(auto, name).from_pretrained(where, local_files_only=local)
    return ImagesOnly(images, tokenizer, None, chat_template=tokenizer.chat_template)
