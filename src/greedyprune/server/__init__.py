"""An OpenAI-compatible server around a pruned model: `make_app` builds the application, `serve` runs it.

    from greedyprune.server import Settings, make_app

    app = make_app(model, processor, Settings(name="llava", keep="1/4"))    # a FastAPI application

It needs an extra, `pip install 'greedyprune[serve]'`. docs/server.md says what a request may hold.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greedyprune.server.app import make_app as make_app
    from greedyprune.server.run import serve as serve
    from greedyprune.server.settings import Settings as Settings

__all__ = ["Settings", "make_app", "serve"]

_HOMES = {"Settings": "settings", "make_app": "app", "serve": "run"}
_EXTRA = ("fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client", "PIL")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ImportError(
            f"the server needs {missing.name}, which is not installed: pip install 'greedyprune[serve]'"
        ) from missing
