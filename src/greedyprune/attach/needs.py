"""What a method needs beyond the states: whether a model can give it at a place, and getting it while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from greedyprune.cues import Attention
from greedyprune.method import as_method
from greedyprune.models.table import READABLE
from greedyprune.probes import class_row, decoder_row
from greedyprune.registry import METHODS

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from greedyprune.attach.call import Call
    from greedyprune.attach.parts import Parts
    from greedyprune.attach.policy import Policy
    from greedyprune.cues import Need
    from greedyprune.method import Method


def check_needs(parts: Parts, policy: Policy) -> None:
    """Raise where this model cannot give this method what it needs at this place, naming the methods that can run."""
    for need in policy.method.needs:
        problem = _lacking(parts, need, policy.starts)
        if problem:
            able = [name for name in METHODS if _can_run(parts, as_method(name), policy)]
            raise ValueError(
                f"{type(policy.method).__name__} cannot run at {policy.place!r} here: {problem}. "
                f"Methods that can: {', '.join(able)}."
            )


def _can_run(parts: Parts, method: Method, policy: Policy) -> bool:
    able = not any(_lacking(parts, need, policy.starts) for need in method.needs)
    return able and isinstance(policy.at, method.stages)


def _lacking(parts: Parts, need: Need, starts: list[int]) -> str | None:
    """Why this model cannot give what is needed for cuts before these decoder layers, None if it can."""
    if not isinstance(need, Attention):
        return None
    if need.kind == "cls":
        return _class_layer(parts, need)[1]
    kind = parts.decoder_type
    first = min(starts, default=0)
    if first < 1:
        return (
            "the last prompt token's attention comes from a decoder layer before the cut, so use at=Layer(1) or later"
        )
    if need.layer is not None and not 0 <= need.layer < first:
        return f"decoder layer {need.layer} does not run before the cut, layers 0 to {first - 1} do"
    if kind not in READABLE:
        return f"attention weights of a {kind!r} decoder are not known here, only of {', '.join(READABLE)}"
    return None


def _class_layer(parts: Parts, need: Attention) -> tuple[int, str | None]:
    """Which layer of the vision tower is meant, and why there is none."""
    if not parts.tower_attention:
        return (
            -1,
            f"the vision tower of this {parts.family.model_type!r} model has no class token that looks at patches",
        )
    count = len(parts.tower_attention)
    layer = need.layer
    if layer is None:
        # Entry i of a tower's hidden states is what layer i gets, so layer i - 1 made it; -1 is the last one's output.
        feature = parts.config.vision_feature_layer
        if not isinstance(feature, int) or feature == 0:
            return -1, f"the projector reads vision_feature_layer={feature!r}, so name one: Attention('cls', layer=-2)"
        layer = feature - 1 if feature > 0 else feature
    if not -count <= layer < count:
        return -1, f"the vision tower has {count} layers and no layer {layer}"
    return layer % count, None


# The vision tower ---------------------------------------------------------------------------------------------------

_ROWS: ContextVar[dict[int, Tensor] | None] = ContextVar("greedyprune_tower", default=None)
"""What was seen in the tower that runs now in this thread, by layer; None if nothing is looked for."""
CARRIED = "greedyprune_class_rows"
"""Under this key image features carry what was seen while they were computed, since generate() does so beforehand."""


class Tower:
    """Hooks on the vision tower that look at its class token, where the method of a call asks for it."""

    def __init__(self, parts: Parts, policy: Callable[[], Policy], call: Callable[[], Call | None]) -> None:
        self._parts, self._policy, self._call = parts, policy, call

    def register(self) -> list[RemovableHandle]:
        """Put the hooks on; there are none where no class token is."""
        if self._parts.tower is None:
            return []
        tower, layers = self._parts.tower, self._parts.tower_attention
        return [
            tower.register_forward_pre_hook(self._begin),
            tower.register_forward_hook(self._end, always_call=True),
            *(m.register_forward_pre_hook(partial(self._look, i), with_kwargs=True) for i, m in enumerate(layers)),
        ]

    def _begin(self, module: nn.Module, args: Any) -> None:
        _ROWS.set({layer: torch.empty(0) for layer in _class_needs(self._parts, self._policy()).values()} or None)

    def _look(self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows = _ROWS.get()
        if rows is not None and index in rows:
            rows[index] = class_row(module, kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        rows, call = _ROWS.get(), self._call()
        _ROWS.set(None)
        if rows is None:
            return
        if call is not None:
            call.class_rows = rows
        elif isinstance(output, dict):  # else it raised
            output[CARRIED] = rows  # an entry, no attribute: accelerate builds such outputs anew from their entries


def carried(features: Any) -> dict[int, Tensor]:
    """What image features carry, one row for each of them; beams repeat features, and their rows are repeated alike."""
    held, numbers = list(features.pooler_output), dict[int, int]()
    places = [numbers.setdefault(id(each), len(numbers)) for each in held]
    rows: dict[int, Tensor] = features.get(CARRIED, {}) if isinstance(features, dict) else {}
    return {layer: row[places] for layer, row in rows.items() if row.shape[0] == len(numbers)}


def _class_needs(parts: Parts, policy: Policy) -> dict[Attention, int]:
    """The attention of the class token that a method needs, and in which layer of the tower each is found."""
    needs = [need for need in policy.method.needs if isinstance(need, Attention) and need.kind == "cls"]
    return {need: _class_layer(parts, need)[0] for need in needs}


def look_at_class(call: Call) -> None:
    """Note for every image how much the class token looks at each of its tokens. Raises where nobody saw that."""
    assert call.prompt is not None
    images = call.prompt.images
    for need, layer in _class_needs(call.parts, call.policy).items():
        rows = call.class_rows.get(layer)
        if rows is None or rows.shape[0] != len(images) or any(rows.shape[1] - i.n not in (0, 1) for i in images):
            raise ValueError(
                f"{type(call.policy.method).__name__} needs the class token's attention, and the image features of "
                "this call came without it: pass pixel_values, or compute the features while the model is pruned."
            )
        # The projector's rows are the tower's, without the class token unless the model keeps it.
        call.probed[need] = [row[row.shape[0] - image.n :] for row, image in zip(rows, images, strict=True)]


# The decoder --------------------------------------------------------------------------------------------------------


def look_back(call: Call, index: int, layer: Any, kwargs: dict[str, Any]) -> None:
    """Note how much the last prompt token looks at each visual token in a decoder layer, called with these."""
    prompt, hidden = call.prompt, kwargs["hidden_states"]
    needs = _decoder_needs(call.policy, index)
    if prompt is None or not needs:
        return
    last = prompt.valid.int().cumsum(1).argmax(1).to(hidden.device)
    held = call.cache.layers[index].keys if call.past else None
    if held is not None and held.shape[2] != call.so_far(index, hidden.device).columns.shape[1]:
        kind, name = type(call.cache.layers[index]).__name__, type(call.policy.method).__name__
        raise NotImplementedError(f"{name} cannot look back at a {kind} in the cache: use the default dynamic cache.")
    row = decoder_row(
        layer.self_attn,
        layer.input_layernorm(hidden),
        kwargs["position_embeddings"],
        last,
        kwargs.get("attention_mask"),
        held,
    )[:, -hidden.shape[1] :]
    values = [row[batch, columns.to(row.device)] for batch, columns, _ in prompt.spans()]
    if call.selections:  # told in the image's own tokens, those that are gone get 0
        earlier = [selection.keep for selection in call.selections]
        values = [v.new_zeros(k.n).index_copy_(0, k.rows, v) for v, k in zip(values, earlier, strict=True)]
    call.probed.update(dict.fromkeys(needs, values))


def _decoder_needs(policy: Policy, index: int) -> list[Attention]:
    """The attention of the last prompt token that a method needs from decoder layer `index`."""
    needs = [need for need in policy.method.needs if isinstance(need, Attention) and need.kind == "last_text"]
    return [need for need in needs if (index + 1 in policy.starts if need.layer is None else index == need.layer)]
