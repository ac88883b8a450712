"""Ray Serve: replicas of a server behind one address, each with a model of its own, as many as the load needs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from greedyprune.checks import is_count
from greedyprune.shown import shown


def application(
    build: Callable[[], Any],
    replicas: int | tuple[int, int] = 1,
    *,
    cpus: float = 1,
    gpus: float = 0,
    target: float = 8,
    most: int = 64,
    name: str = "greedyprune",
) -> Any:
    """Make an application of Ray Serve around an ASGI server, such as that of `greedyprune serve`.

        def build():
            from greedyprune.server.app import make_app
            from greedyprune.server.settings import Settings
            return make_app(*gp.testbed.load("llava"), Settings(name="llava", keep=64))

        ray.serve.run(application(build, (1, 4), gpus=1))

    `build`: makes the model and its server; every replica calls it once, and clients send the requests of that server.
    `replicas`: how many, or the least and the most of them: Ray starts and stops replicas so that each has `target`
    requests. `cpus`, `gpus`: what each replica gets. `most`: requests that one replica takes; others wait.

    Raises ImportError, which names the extra, if Ray Serve is not installed, and ValueError if there are no replicas.
    """
    low, high = replicas if isinstance(replicas, tuple) else (replicas, replicas)
    if not (is_count(low, 1) and is_count(high, low)):
        raise ValueError(f"replicas={shown(replicas)}: write a number of 1 or more, or the least and the most.")
    try:
        serve: Any = import_module("ray.serve")
    except ModuleNotFoundError as missing:
        raise ImportError(
            f"Ray Serve needs {missing.name}, which is not installed: pip install 'greedyprune[ray]'"
        ) from missing

    def built() -> Any:  # Ray asks for a function, which a partial is not
        return build()

    deployment = serve.deployment(
        serve.ingress(built)(),
        name=name,
        autoscaling_config={"min_replicas": low, "max_replicas": high, "target_ongoing_requests": target},
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        max_ongoing_requests=most,
    )
    return deployment.bind()
