"""Settings: what a server answers with, and the limits of a request. They are fixed when the server starts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from greedyprune.checks import is_count
from greedyprune.registry import DEFAULT
from greedyprune.shown import shown


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a server. `greedyprune serve` has an option for each.

        Settings(name="llava", keep="1/4", queue=16)

    Raises ValueError, with the name, if a value is out of range.
    """

    name: str
    """The name of the model in requests and in `/v1/models`."""
    method: Any = DEFAULT
    """The method of a request that names none, in any form that `prune` takes."""
    keep: Any = "25%"
    """The budget of an image whose request names none."""
    at: Any = None
    """The place of the cut; None for the method's own."""
    decay: float | None = None
    """The share of its budget that an image keeps with every later turn of the user; None keeps all of it."""
    decay_floor: int = 16
    """The number of tokens that `decay` leaves of an image, if its budget is not smaller."""
    api_key: str | None = None
    """The key that requests must bring; None if they need none."""
    allow_https: bool = False
    """True to fetch images from https addresses, never from private ones."""
    queue: int = 64
    """The largest number of requests that wait or run. Further ones are refused with status 429."""
    batch: int = 8
    """The largest number of requests that run together."""
    window_ms: int = 5
    """How long a request waits for others that may share its batch, in milliseconds."""
    timeout: float = 120.0
    """The longest time from the first byte of a request to the end of its answer, in seconds."""
    grace: float = 60.0
    """How long requests may go on after the server is told to stop, in seconds."""
    body_bytes: int = 32 * 2**20
    """The largest body of a request."""
    images: int = 16
    """The largest number of images in a request."""
    pixels: int = 20_000_000
    """The largest number of pixels of all images of a request together."""
    new_tokens: int = 1024
    """The longest answer, in tokens."""
    prompt_tokens: int | None = None
    """The longest prompt before pruning, in tokens; None for as long as the model's positions reach."""

    def __post_init__(self) -> None:
        for name in ("queue", "batch", "body_bytes", "images", "pixels", "new_tokens"):
            if not is_count(getattr(self, name), 1):
                raise ValueError(f"{name}={shown(getattr(self, name))} is no limit: write a whole number, 1 or more.")
        for name in ("window_ms", "decay_floor"):
            if not is_count(getattr(self, name), 0):
                raise ValueError(f"{name}={shown(getattr(self, name))}: write a whole number, 0 or more.")
        for name in ("timeout", "grace"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={shown(getattr(self, name))}: write a number of seconds above 0.")
        if self.prompt_tokens is not None and not is_count(self.prompt_tokens, 1):
            raise ValueError(f"prompt_tokens={shown(self.prompt_tokens)} is no limit: write a whole number, or None.")
        if self.decay is not None and not 0 < self.decay <= 1:
            raise ValueError(f"decay={shown(self.decay)}: write a share above 0 and up to 1, such as 0.5.")
        if not self.name.strip():
            raise ValueError("name is empty: write the name that requests give as their model.")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip() == self.api_key != ""):
            raise ValueError("api_key must be ASCII text without spaces around it: write one, or leave it out.")

    def __repr__(self) -> str:
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        told["api_key"] = None if self.api_key is None else "..."
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in told.items())})"
