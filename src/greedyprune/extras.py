"""Modules that are run by hand, `python -m greedyprune...`: a package that is missing is one line, not a traceback."""

from __future__ import annotations

from collections.abc import Callable


def by_hand(main: Callable[[], int | None], extra: str) -> None:
    """Run the `main` of a module and end the program with its status.

        if __name__ == "__main__":
            by_hand(main, "testbed")

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
