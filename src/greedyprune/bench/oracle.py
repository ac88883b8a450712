"""The oracle: the same model, without this library, given a prompt that really is as short as the pruned one.

Nothing that drops these tokens can be faster, since the oracle neither chooses nor drops: it never had them.

`Input()`: the stock model gets shortened ids, the features of the kept tokens, and their original position ids.
`Layer(l)`: the stock model, whose text model is a plain loop over its decoder layers that takes the kept columns of the
states and of the rotary embeddings before layer l.

Both are first run with all tokens. If the logits are not the stock model's then, there is no oracle, which is said.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from greedyprune.bench.calls import FEATURES, Call, Unmeasurable
from greedyprune.bench.hooks import same_weights
from greedyprune.models.parts import find_parts
from greedyprune.models.release import cache_in, cached
from greedyprune.stages import Input, Layer

if TYPE_CHECKING:
    from greedyprune.models.parts import Parts
    from greedyprune.ops.cut import Cut
    from greedyprune.stages import Stage

NEAR, ROUGH = 1e-4, 3e-2
"""The largest difference of logits as a share of the largest one, in float32 and in 16 bits, between the stock model
and the oracle with all tokens. They are equal where kernels are deterministic."""


def check_stage(parts: Parts, at: Stage) -> None:
    """Raise Unmeasurable if there is no oracle of a cut at this stage of this model."""
    kind = parts.family.model_type
    if not isinstance(at, (Input, Layer)):
        raise Unmeasurable(f"a method that cuts several times ({at}) has no oracle: name one place, input or layer:L.")
    if isinstance(at, Input):
        return
    if at.early:
        raise Unmeasurable(f"{at} has no oracle, since it shortens caches afterwards: measure layer:{at.index}.")
    if not parts.plain or parts.family.along or parts.attention == "eager":
        raise Unmeasurable(
            f"a {kind!r} model with {parts.attention or 'this'} attention has no oracle at {at}: its decoder layers "
            "need masks of their own. Measure it at input."
        )


def oracle(bare: Any, dense: Call, cut: Cut, at: Stage, *, tried: bool = True) -> Call:
    """The oracle of a pruned prompt. `bare` is the stock model, `dense` its call with all tokens.

    `tried`: first run it with all tokens, which has to give the stock model's logits.

    Raises Unmeasurable if prompts of the batch keep different numbers of tokens, or if this model has no oracle.
    """
    if cut.ragged:
        raise Unmeasurable("the prompts of the batch keep different numbers of tokens, which has no oracle: --batch 1.")
    if not tried:
        return _call(bare, dense, cut.columns, at)
    everything = torch.arange(cut.length, device=cut.columns.device).expand(cut.columns.shape[0], -1)
    kind = find_parts(bare).family.model_type
    try:
        gap, largest = _difference(_call(bare, dense, everything, at), dense)
    except Exception as error:  # a family may be built in any way
        raise Unmeasurable(f"a {kind!r} model has no oracle at {at}: {type(error).__name__}: {error}") from error
    bits = torch.finfo(bare.dtype).bits
    if not gap <= (NEAR if bits >= 32 else ROUGH) * largest:
        raise Unmeasurable(
            f"a {kind!r} model has no oracle at {at}: with all tokens its logits differ from the model's by {gap:.2g}."
        )
    return _call(bare, dense, cut.columns, at)


def _difference(ours: Call, theirs: Call) -> tuple[float, float]:
    """The largest difference of their logits, and the largest logit."""
    a, b = ours.prefill().logits.float(), theirs.prefill().logits.float()
    return float((a - b).abs().max()), float(b.abs().max())


def _call(bare: Any, dense: Call, columns: Tensor, at: Stage) -> Call:
    """The oracle that keeps these columns. (b, l)"""
    if isinstance(at, Layer) and at.index:
        model = same_weights(bare)
        text = find_parts(model).text
        text.forward = Loop(find_parts(model), at.index, columns)  # pyright: ignore[reportAttributeAccessIssue]
        return Call(model, dense.inputs, dense.length)
    return Call(bare, shortened(bare, dense, columns), dense.length)


def shortened(bare: Any, dense: Call, columns: Tensor) -> dict[str, Any]:
    """The inputs of a prompt that holds these columns alone, in their original positions. (b, l)"""
    ids = dense.inputs["input_ids"]
    made = {
        name: taken(value, columns, -1) if isinstance(value, Tensor) and value.shape == ids.shape else value
        for name, value in dense.inputs.items()
    }
    parts = find_parts(bare)
    features: dict[str, Any] = {}
    for medium, token in parts.media:
        if (given := dense.inputs[FEATURES].get(medium.kind)) is not None:
            stays = torch.zeros_like(ids, dtype=torch.bool).scatter(1, columns, value=True)[ids == token]
            features[medium.kind] = _rows(given, stays)
    return {**made, FEATURES: features, "position_ids": taken(positions_of(parts, dense), columns, -1)}


def positions_of(parts: Parts, call: Call) -> Tensor:
    """The position ids that the text model gets in a call, or those that it makes itself. -> (..., b, L)"""
    seen: list[Tensor | None] = []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs.get("position_ids"))

    handle = parts.text.register_forward_pre_hook(look, with_kwargs=True)
    try:
        call.prefill()
    finally:
        handle.remove()
    ids = call.inputs["input_ids"]
    return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape) if seen[0] is None else seen[0]


def _rows(features: Any, stays: Tensor) -> Any:
    """The features of the tokens that stay. `stays` (n,) over all images of the call."""
    made = copy.copy(features)
    made.pooler_output = _joined(features.pooler_output, stays)
    if (levels := getattr(features, "deepstack_features", None)) is not None:
        made.deepstack_features = [_joined(level, stays) for level in levels]
    return made


def _joined(rows: Any, stays: Tensor) -> Any:
    """The rows that stay, in the form that was given: a tensor, or one tensor per image. (n, d) -> (k, d)"""
    if isinstance(rows, Tensor):
        return rows.flatten(0, -2)[stays]
    return [torch.cat([each.flatten(0, -2) for each in rows])[stays]]


def taken(x: Tensor, columns: Tensor, dim: int) -> Tensor:
    """Take columns along a negative `dim`; the batch axis precedes it. (..., b, L, ...), (b, l) -> (..., b, l, ...)"""
    if columns.shape[0] == 1:
        return x.index_select(dim, columns[0])
    batch = x.ndim + dim - 1
    shape = list(x.shape)
    shape[batch], shape[batch + 1] = columns.shape
    at = columns.view(*[1] * batch, *columns.shape, *[1] * (-dim - 1)).expand(shape)
    wide = [columns.shape[0] if axis == batch else size for axis, size in enumerate(x.shape)]
    return x.expand(wide).gather(dim, at)


@dataclass(frozen=True, eq=False)
class Loop:
    """The forward of a text model as a plain loop over its layers, which drops columns before layer `start`."""

    parts: Parts
    start: int
    columns: Tensor
    """(b, l) those that stay."""

    def __call__(self, **given: Any) -> BaseModelOutputWithPast:
        """Read a prompt without padding into a new cache, or a token behind it."""
        text: Any = self.parts.text
        hidden, positions, held = given["inputs_embeds"], given.get("position_ids"), cache_in(given)
        if positions is None:
            positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        if positions.ndim == 2 and "mrope_section" in (getattr(text.config, "rope_parameters", None) or {}):
            positions = positions.expand(3, *positions.shape)
        cache, rotary = held or DynamicCache(config=text.config), text.rotary_emb(hidden, positions)
        marked, planes = self._deepstack(given)
        for index, layer in enumerate(text.layers):
            if index == self.start and held is None:
                hidden = taken(hidden, self.columns, -2)
                rotary = tuple(taken(x, self.columns, -2) for x in rotary)
                marked, planes = self._short(marked, planes)
            hidden = layer(
                hidden,
                attention_mask=None,  # causal, since nothing is padding
                position_embeddings=rotary,
                position_ids=None,
                use_cache=True,
                **cached(layer, cache),
            )
            if index < len(planes):
                hidden = hidden.clone()
                hidden[marked] = hidden[marked] + planes[index].to(hidden)
        norm: Callable[[Tensor], Tensor] = getattr(text, self.parts.family.norm)
        return BaseModelOutputWithPast(last_hidden_state=norm(hidden), **cached(text, cache))

    def _deepstack(self, given: Mapping[str, Any]) -> tuple[Any, list[Tensor]]:
        """The mask and the features that early layers add to visual tokens. -> (b, L) bool, [(n, d)]"""
        names = self.parts.family.deepstack
        return (None, []) if names is None else (given.get(names[0]), list(given.get(names[1]) or ()))

    def _short(self, marked: Any, planes: list[Tensor]) -> tuple[Any, list[Tensor]]:
        """The same for the columns that stay."""
        if not planes:
            return marked, planes
        stays = torch.zeros_like(marked).scatter(1, self.columns, value=True)[marked]
        return taken(marked, self.columns, -1), [plane[stays] for plane in planes]
