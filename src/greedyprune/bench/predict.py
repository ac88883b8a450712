"""The prefill of a model that is deeper than what is run: a few layers measured, one layer alone, depth added up.

    T(D) = T(d) + (D - d) t(q)

d layers of the true width are run with and without pruning, and one layer alone at both lengths q: that of the whole
prompt, and that of the pruned one. The layers that are added lie behind the cut. Width is never extrapolated, since a
layer's rate depends on it. What the hooks cost in the added layers is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from greedyprune.bench.calls import FEATURES, Call, Unmeasurable, encoder
from greedyprune.bench.clock import interleaved
from greedyprune.bench.hooks import same_weights
from greedyprune.bench.prefill import ROUNDS, Row, measure
from greedyprune.models.parts import find_parts
from greedyprune.models.release import cached
from greedyprune.stages import Layer

if TYPE_CHECKING:
    from greedyprune.policy import Policy


@dataclass(frozen=True)
class Prediction:
    """A predicted prefill. Times are in milliseconds."""

    model: str
    layers: int
    """The depth that is predicted."""
    run_layers: int
    """The layers that were run."""
    layer_ms: float
    """One layer alone, on the whole prompt."""
    short_layer_ms: float
    """One layer alone, on the pruned prompt."""
    dense_ms: float
    pruned_ms: float
    oracle_ms: float
    speedup: float
    oracle_speedup: float

    @classmethod
    def of(cls, row: Row, layer_ms: float, short_layer_ms: float, depth: int) -> Prediction:
        """Add layers to a measured row until there are `depth`."""
        rest = depth - row.layers
        dense = row.dense_ms + rest * layer_ms
        pruned, ideal = (ms + rest * short_layer_ms for ms in (row.pruned_ms, row.oracle_ms))
        return cls(
            model=row.model,
            layers=depth,
            run_layers=row.layers,
            layer_ms=layer_ms,
            short_layer_ms=short_layer_ms,
            dense_ms=round(dense, 3),
            pruned_ms=round(pruned, 3),
            oracle_ms=round(ideal, 3),
            speedup=round(dense / pruned, 4),
            oracle_speedup=round(dense / ideal, 4),
        )

    def to_dict(self) -> dict[str, object]:
        """Plain values, whose names say that they are predicted."""
        return {f"predicted_{name}": value for name, value in asdict(self).items()}

    def errors(self, row: Row) -> dict[str, float]:
        """(predicted - measured) / measured, of a row of the whole depth."""
        if row.layers != self.layers:
            raise ValueError(f"a row of {row.layers} layers says nothing about a prediction of {self.layers}.")
        sides = ("dense", "pruned", "oracle")
        return {side: getattr(self, f"{side}_ms") / getattr(row, f"{side}_ms") - 1 for side in sides}


def layers_to_run(policy: Policy, depth: int) -> int:
    """The number of layers to run: those before the cut, and one behind it."""
    at = policy.on(depth).at
    return at.index + 1 if isinstance(at, Layer) else 1


def shallow(model: Any, layers: int) -> Any:
    """The model's first decoder layers with the rest of it, on the same weights."""
    found = same_weights(model)
    text: Any = find_parts(found).text
    text.layers = text.layers[:layers]
    text.config.num_hidden_layers = layers
    if (kinds := getattr(text.config, "layer_types", None)) is not None:
        text.config.layer_types = list(kinds)[:layers]
    return found


@torch.no_grad()
def predict(
    model: Any,
    inputs: Mapping[str, Tensor],
    policy: Policy,
    depth: int,
    *,
    name: str = "",
    rounds: int = ROUNDS,
    seed: int = 0,
) -> Prediction:
    """Predict the prefill of a model of `depth` layers. `model` has `layers_to_run` of them.

        few = shallow(model, layers_to_run(policy, 32))
        predict(few, inputs, policy, 32).speedup

    Raises Unmeasurable if the model has no oracle, or layers of several kinds.
    """
    parts = find_parts(model)
    if not parts.plain or parts.attention == "eager":
        raise Unmeasurable(
            f"a {parts.family.model_type!r} model with {parts.attention} attention cannot be predicted: its decoder "
            "layers need masks of their own, or are of several kinds."
        )
    row = measure(model, inputs, policy, name=name, rounds=rounds, seed=seed)
    hidden, rotary = _entering(model, inputs)
    alone = [_alone(parts.text, hidden, rotary, length) for length in (row.sequence, row.sequence_kept)]
    for work in alone:
        work()  # the first call is not counted
    times = interleaved(dict(zip(("long", "short"), alone, strict=True)), hidden.device, rounds, seed)
    long, short = (round(1e3 * float(times[name].quantile(0.5)), 4) for name in ("long", "short"))
    return Prediction.of(row, long, short, depth)


def _entering(model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The states and the rotary embeddings that enter the first decoder layer. -> (b, L, d), twice (..., L, e)"""
    parts = find_parts(model)
    seen: list[tuple[Tensor, tuple[Tensor, ...]]] = []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"], kwargs["position_embeddings"]))

    encode, rest = encoder(parts, inputs)
    handle = parts.layers[0].register_forward_pre_hook(look, with_kwargs=True)
    try:
        Call(model, {**rest, FEATURES: {"image": encode()}}, inputs["input_ids"].shape[1]).prefill()
    finally:
        handle.remove()
    return seen[0]


def _alone(text: Any, hidden: Tensor, rotary: tuple[Tensor, ...], length: int) -> Callable[[], Any]:
    """A run of the first decoder layer on so many tokens, into a new cache."""
    layer, states = text.layers[0], hidden[:, :length].contiguous()
    turned = tuple(x[..., :length, :].contiguous() for x in rotary)

    def work() -> Any:
        cache = cached(layer, DynamicCache(config=text.config))
        return layer(
            states, attention_mask=None, position_embeddings=turned, position_ids=None, use_cache=True, **cache
        )

    return work
