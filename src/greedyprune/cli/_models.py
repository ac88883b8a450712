"""Work on one model after another: a model that fails costs nothing of what the others give."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, TypeVar

from greedyprune.cli import _suite
from greedyprune.cli._errors import Failure
from greedyprune.cli._show import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from greedyprune.cli._plan import Running
    from greedyprune.eval import Engine

Result = TypeVar("Result")


def engine(name: str, running: Running) -> Engine:
    """A model ready for questions. Raises Failure if it cannot be loaded."""
    from greedyprune.eval import Engine

    try:
        with progress(f"loading {name}"):
            load = _suite.loader(name, running.device, running.dtype)
            return Engine(*load(), max_new_tokens=running.max_new_tokens)
    except (OSError, ValueError, RuntimeError) as error:
        raise Failure(f"cannot load the model {name!r}: {error}") from error


def each(
    names: Sequence[str], measure: Callable[[str], Result], take: Callable[[Result], None]
) -> dict[str, Exception]:
    """Measure every model; `take` gets each result at once. -> the error of each model that failed

    A model that fails does not stop the others, and is not held in memory.
    """
    failed: dict[str, Exception] = {}
    for name in names:
        try:
            result = measure(name)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # which hold the model
            failed[name] = error
            continue
        take(result)
    return failed


def raise_problems(done: Sequence[str], failed: Mapping[str, Exception], unwritten: Sequence[Failure]) -> None:
    """Raise one Failure that names every model that failed and every file that is not written, if there are any."""
    said = [_reason(name, error) for name, error in failed.items()]
    if failed and done:
        said.append(f"The results of {', '.join(done)} are complete.")
    if said or unwritten:
        raise Failure(" ".join([*said, *map(str, unwritten)])) from next(iter(failed.values()), None)


def _reason(name: str, error: Exception) -> str:
    """The reason why a model failed, with the model's name in it."""
    text = str(error) if isinstance(error, (Failure, ImportError)) else repr(error)
    return (text if name in text else f"{name}: {text}").rstrip(".") + "."
