"""The three that are compared, on one model: dense, pruned, and the oracle, which never had the dropped tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from greedyprune.attach.forward.cache import Held
from greedyprune.attach.handle import Pruned, prune
from greedyprune.bench.calls import FEATURES, Call, Unmeasurable, check_release, encoder
from greedyprune.bench.hooks import same_weights
from greedyprune.bench.oracle import check_stage, oracle
from greedyprune.models._front import own_hooks
from greedyprune.models.parts import find_parts
from greedyprune.models.release import cache_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from greedyprune.ops.cut import Cut
    from greedyprune.policy import Policy


class HookClock:
    """Adds up the time inside this library's hooks on a model, as long as they stay attached."""

    def __init__(self, model: Any) -> None:
        self.seconds = 0.0
        # Tensor operations of several threads count together; of one, other threads of the process do not count.
        alone = model.device.type == "cuda" or torch.get_num_threads() == 1
        now = time.thread_time if alone else time.process_time
        for hooks, key in list(own_hooks(model)):
            hooks[key] = self._watched(hooks[key], now)

    def _watched(self, hook: Callable[..., Any], now: Callable[[], float]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            begun = now()
            try:
                return hook(*args, **kwargs)
            finally:
                self.seconds += now() - begun

        return watched


@dataclass(frozen=True, eq=False)
class Trio:
    """The three calls, and what is measured beside them."""

    calls: Mapping[str, Call]
    encode: Callable[[], Any]
    handle: Pruned
    clock: HookClock


@contextmanager
def trio(
    model: Any,
    inputs: Mapping[str, Tensor],
    policy: Policy,
    *,
    features: Callable[[Any], Any] = lambda encoded: encoded,
    tried: bool = True,
) -> Iterator[Trio]:
    """Inside, the model is pruned, and the other two run on its weights. `inputs`: a batch without padding.

    `features` may put other vision features in the place of the encoder's. `tried=False`: the oracle is not run with
    all tokens, since another policy's has been.

    Raises Unmeasurable if this cannot be measured, and the errors of `prune`.
    """
    parts = find_parts(model)
    check_release(parts)
    if not bool(inputs["attention_mask"].all()):
        raise Unmeasurable("the prompts of the batch have different lengths: give prompts of one length.")
    bare = same_weights(model)
    with prune(model, policy) as handle:
        check_stage(parts, policy.on(len(parts.layers)).at)
        encode, rest = encoder(parts, inputs)  # while the model is pruned: methods may look into the vision tower
        given = {**rest, FEATURES: {"image": features(encode())}}
        length = inputs["input_ids"].shape[1]
        dense, pruned = Call(bare, given, length), Call(model, given, length)
        cut = _cut(pruned.prefill())
        ideal = oracle(bare, dense, cut, policy.on(len(parts.layers)).at, tried=tried)
        calls = {"dense": dense, "pruned": pruned, "oracle": ideal}
        yield Trio(calls, encoder(find_parts(bare), inputs)[0], handle, HookClock(model))


def _cut(output: Any) -> Cut:
    """The cut that a pruned prefill made."""
    cut = Held.by(cache := cache_of(output)).cut_at(len(cache.layers) - 1)
    if cut is None or not cut.dropped:
        raise Unmeasurable("nothing is dropped, so there is nothing to compare: lower --keep.")
    return cut
