"""Packages that are missing, or that do not load: modules that are run by hand say it in one line."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec


def by_hand(main: Callable[[], int | None], extra: str) -> None:
    """Run the `main` of a module and end the program with its status.

    If a package is missing, the program ends with status 1 and one line on standard error, which names the package and
    the extra that brings it. `main` imports what is heavy, so that this is seen.
    """
    try:
        raise SystemExit(main())
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package == __name__.partition(".")[0]:
            raise
        raise SystemExit(
            f"error: this needs {package}, which is not installed: pip install 'greedyprune[{extra}]'"
        ) from missing
    except ImportError as missing:  # its message names the remedy
        raise SystemExit(f"error: {missing}") from missing


def unfit(package: str) -> str | None:
    """Why an installed package cannot be imported; None if it can, or is not installed.

    torchvision is built for one torch. Beside another one it fails as soon as transformers imports it, and transformers
    then names a class of its own.
    """
    if find_spec(package) is None:
        return None
    try:
        import_module(package)
    except Exception as error:  # whatever its native code raises
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None
