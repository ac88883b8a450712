"""Clips: evenly spaced frames of a video file, read by PyAV, or of an animated picture, read by Pillow.

clip = read_clip(Path("clip.mp4"), frames=8)
processor(videos=[clip.frames], text=..., video_metadata=[clip.metadata()], do_sample_frames=False)
"""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greedyprune.preprocessing.pictures import check_size, frames_of, header_of, rgb

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats in which several frames are an animation; in other formats they are thumbnails or pages."""
MOST_FRAMES = 200_000
"""The largest number of frames of a file: two hours of film."""
PACE = 10.0
"""Frames of a second in an animated picture that does not say."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Some frames of a clip, in RGB, in their order."""

    frames: list[Image.Image]
    indices: list[int]
    """The number of each in the whole clip, from 0."""
    total: int
    """The frames of the whole clip."""
    fps: float
    """Frames of a second of the whole clip."""

    def metadata(self) -> dict[str, Any]:
        """What the video processors of transformers ask for, so that they know when each frame was."""
        width, height = self.frames[0].size
        return {
            "total_num_frames": self.total,
            "fps": self.fps,
            "duration": self.total / self.fps,
            "width": width,
            "height": height,
            "frames_indices": self.indices,
            "video_backend": "pyav",
        }


def is_film(path: Path) -> bool:
    """True if a file's name is that of a video."""
    return (mimetypes.guess_type(path.name)[0] or "").startswith("video/")


def spread(total: int, frames: int) -> list[int]:
    """The numbers of frames in the middle of equal parts of a clip; all of them if it has no more."""
    frames = min(total, frames)
    return [(2 * part + 1) * total // (2 * frames) for part in range(frames)]


def read_clip(path: Path, frames: int) -> Clip:
    """Read so many evenly spaced frames of a video or of an animated picture.

    Raises ImportError if PyAV is missing, OSError or ValueError if the file cannot be read, holds no frame, or has more
    pixels or frames than are allowed.
    """
    return _film(path, frames) if is_film(path) else _animation(path, frames)


def _film(path: Path, frames: int) -> Clip:
    try:
        import av  # pyright: ignore[reportMissingImports] - of an extra
    except ModuleNotFoundError as missing:
        raise ImportError(
            "reading clips needs PyAV, which is not installed: pip install 'greedyprune[video]'"
        ) from missing
    library: Any = av
    try:
        with library.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("it holds no video")
            stream = container.streams.video[0]
            check_size(stream.codec_context.width, stream.codec_context.height, "the clip")
            total = sum(1 for packet in container.demux(stream) if packet.size)
            fps = float(stream.average_rate or PACE)
        if not 0 < total <= MOST_FRAMES:
            raise ValueError(f"it holds {total} frames, and 1 to {MOST_FRAMES} are read")
        wanted, found = spread(total, frames), list[Any]()
        with library.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if len(found) < len(wanted) and number == wanted[len(found)]:
                    found.append(frame.to_image().rotate(getattr(frame, "rotation", 0), expand=True))
                if len(found) == len(wanted):
                    break
    except library.FFmpegError as error:
        raise OSError(f"it is no clip that can be read: {error.strerror or error}") from error
    if len(found) < len(wanted):
        raise ValueError(f"only {len(found)} of {len(wanted)} frames can be read, it may be damaged")
    return Clip(found, wanted, total, fps)


def _animation(path: Path, frames: int) -> Clip:
    with header_of(path) as image:
        total = frames_of(image)
        if total > MOST_FRAMES:
            raise ValueError(f"it holds {total} frames, and at most {MOST_FRAMES} are read")
        wanted, found = spread(total, frames), list[Any]()
        for number in wanted:
            image.seek(number)
            found.append(rgb(image.copy()))
        pause = float(image.info.get("duration") or 1000 / PACE)
    return Clip(found, wanted, total, 1000 / pause)
