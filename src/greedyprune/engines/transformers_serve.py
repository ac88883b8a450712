"""`transformers serve` with fewer visual tokens: its own server, whose models are pruned as soon as they are loaded.

    python -m greedyprune.engines.transformers_serve ./llava --keep 64 --port 8000

`--method`, `--keep`, `--at` and `--positions` are ours; everything else is an option of `transformers serve`. All
requests are pruned alike; `greedyprune serve` prunes each as it wishes, and batches them. A model that cannot be pruned
is not served.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from greedyprune.attach.handle import prune
from greedyprune.extras import by_hand
from greedyprune.naming import parse_keep
from greedyprune.policy import Policy
from greedyprune.registry import DEFAULT

SEAM = "_load_model"
"""The method of transformers' `ModelManager` that loads a model."""


@contextmanager
def pruning(policy: Policy) -> Iterator[None]:
    """Inside, every model that `transformers serve` loads is pruned.

        with pruning(gp.Policy("soft_greedyprune", 64)):
            Serve("./llava")

    Raises RuntimeError if this release of transformers loads its models elsewhere.
    """
    manager: Any = import_module("transformers.cli.serving.model_manager").ModelManager
    stock: Any = vars(manager).get(SEAM)
    if stock is None:
        raise RuntimeError(
            f"transformers' ModelManager has no {SEAM}, so its models cannot be pruned: use `greedyprune serve`."
        )

    def load(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = stock(self, *args, **kwargs)
        prune(model, policy)
        return model

    setattr(manager, SEAM, load)
    try:
        yield
    finally:
        setattr(manager, SEAM, stock)


def main(given: Sequence[str] | None = None) -> None:
    """Read our options, and start `transformers serve` with the others."""
    parser = argparse.ArgumentParser(description="transformers serve with fewer visual tokens.", allow_abbrev=False)
    parser.add_argument("--method", default=DEFAULT)
    parser.add_argument("--keep", default="25%")
    parser.add_argument("--at")
    parser.add_argument("--positions", default="original", choices=("original", "compact"))
    ours, theirs = parser.parse_known_args(given)
    try:
        policy = Policy(ours.method, parse_keep(ours.keep), ours.at, ours.positions)
        policy.check_stages()
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    with pruning(policy):
        sys.argv = ["transformers", "serve", *theirs]
        import_module("transformers.cli.transformers").main()


if __name__ == "__main__":
    by_hand(main, "serve")
