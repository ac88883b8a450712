"""Clips for Qwen types without torchvision: their frames go through the family's own image processor.

The video processors of transformers need torchvision, and the one of the package index loads only beside the torch that
it was built for. The image processors need Pillow alone, and make the same patches: a picture is repeated until it
fills the T frames of a patch, so the patches of a clip are those of T frames with one slice taken from each.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers.image_processing_utils import BatchFeature
from transformers.utils.hub import cached_file
from transformers.video_utils import make_batched_metadata, make_batched_videos

PER_FRAME = ("qwen2_vl", "qwen2_5_vl")
"""The types whose bounds of `size` count the pixels of a frame."""
PER_CLIP = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
"""The types whose bounds count the pixels of all frames of a clip."""
SETTINGS = (
    "do_convert_rgb",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "max_pixels",
    "merge_size",
    "min_pixels",
    "patch_size",
    "resample",
    "rescale_factor",
    "size",
    "temporal_patch_size",
)
"""What a video processor's settings share with those of an image processor."""
NEEDED = ("image_mean", "image_std", "merge_size", "patch_size", "temporal_patch_size")
"""The settings that must be written in the checkpoint, since the defaults of videos are not those of pictures."""
UNSAID = ("device", "input_data_format", "return_mm_token_type_ids")
"""Options that processors hand on to every part. They change nothing here."""


class FramesAsPictures:
    """The part for videos of a Qwen type's processor: it reads every frame of a clip as a picture.

    For clips with an even number of frames, grids and numbers of tokens are those of the stock video processor. Pixels
    differ where frames are resized, since Pillow does it here, as it does for pictures. The last frame is repeated if
    the frames do not fill the last patch. Frames are taken as they are: it samples none.
    """

    model_input_names = ("pixel_values_videos", "video_grid_thw")

    def __init__(self, pictures: Any, whole: bool) -> None:
        """`pictures`: an image processor with the settings for videos. `whole`: its bounds are those of a clip."""
        self.pictures = pictures
        self.whole = whole
        self.merge_size: int = pictures.merge_size
        self.temporal_patch_size: int = pictures.temporal_patch_size

    def __call__(
        self,
        videos: Any,
        video_metadata: Any = None,
        do_sample_frames: bool | None = None,
        return_metadata: bool = False,
        return_tensors: str | None = None,
        **others: Any,
    ) -> BatchFeature:
        """Patches and grids of clips, each a list of pictures or a 4-D array, with what processors ask of their times.

        Raises ValueError for an option that it does not know, and for a clip whose frames differ in size.
        """
        unknown = [name for name, value in others.items() if value is not None and name not in UNSAID]
        unknown += ["do_sample_frames"] if do_sample_frames else []
        if unknown:
            raise ValueError(
                f"without torchvision, clips are read without {', '.join(unknown)}: give the frames that the model "
                "shall see and leave it out, or install torchvision."
            )
        for clip in videos:
            if isinstance(clip, (list, tuple)) and len({_shape(frame) for frame in clip}) > 1:
                raise ValueError("the frames of a clip differ in size: scale them to one size.")
        clips: list[Any] = make_batched_videos(videos)
        done = [self._patches(list(clip)) for clip in clips]
        data = {
            "pixel_values_videos": torch.cat([patches for patches, _ in done]),
            "video_grid_thw": torch.tensor([grid for _, grid in done]),
        }
        found = BatchFeature(data, tensor_type=return_tensors)
        if return_metadata:
            found["video_metadata"] = make_batched_metadata(clips, video_metadata)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The settings, as the processor writes them."""
        return {**self.pictures.to_dict(), "video_processor_type": type(self).__name__}

    def _patches(self, frames: list[Any]) -> tuple[torch.Tensor, list[int]]:
        """The patches of one clip. -> (t * h * w, channels * T * patch * patch), [t, h, w]"""
        deep = self.temporal_patch_size
        bounds = {}
        if self.whole:
            least, most = self.pictures.size["shortest_edge"], self.pictures.size["longest_edge"]
            bounds = {"size": {"shortest_edge": -(-least // len(frames)), "longest_edge": most // len(frames)}}
        frames += [frames[-1]] * (-len(frames) % deep)
        read = self.pictures(images=frames, return_tensors="pt", **bounds)
        high, wide = (int(side) for side in read["image_grid_thw"][0, 1:])
        steps, area = len(frames) // deep, self.pictures.patch_size**2
        # step, frame of the step, patch, channel, slice of the patch, pixels
        apart = read["pixel_values"].view(steps, deep, high * wide, -1, deep, area)
        joined = torch.stack([apart[:, at, :, :, at] for at in range(deep)], dim=3)
        return joined.reshape(steps * high * wide, -1), [steps, high, wide]


def frames_as_pictures(where: str, model_type: str, pictures: type) -> FramesAsPictures | None:
    """The part for videos of a checkpoint, made of the class of its image processor.

    Returns None if the type is not known here, or if the checkpoint's settings for videos are incomplete or ask for
    what pictures do not have.
    """
    if model_type not in (*PER_FRAME, *PER_CLIP):
        return None
    written = _settings(where)
    sized = "size" in written or ("min_pixels" in written and "max_pixels" in written)
    if not sized or written.get("cap_pixels_per_frame") or any(name not in written for name in NEEDED):
        return None
    made = pictures(**{name: written[name] for name in SETTINGS if name in written})
    return FramesAsPictures(made, model_type in PER_CLIP)


def _shape(frame: Any) -> tuple[int, ...]:
    """The shape of an array, or the size of a picture."""
    return tuple(frame.shape if hasattr(frame, "shape") else frame.size)


def _settings(where: str) -> dict[str, Any]:
    """The settings for videos of a checkpoint, from the first file that has them, as transformers reads them."""
    local = os.path.isdir(where)
    for name in ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json"):
        found = cached_file(where, name, local_files_only=local, _raise_exceptions_for_missing_entries=False)
        held: Any = json.loads(Path(found).read_text(encoding="utf-8")) if found else {}
        held = held.get("video_processor", {}) if name == "processor_config.json" else held
        if held:
            return held
    return {}
