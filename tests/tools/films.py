"""Films that tests write: small mp4 files, encoded by PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image


def film(path: Path, pictures: Sequence[Image.Image], rate: int = 4) -> Path:
    """Write pictures of one size as a film with so many of them a second. -> its path"""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = pictures[0].size
        stream.bit_rate = 4_000_000
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_image(picture)))
        file.mux(stream.encode())
    return path
