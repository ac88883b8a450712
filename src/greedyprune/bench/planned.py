"""What a pruned prompt will cost, counted from the model's config and the processor's output. The decoder never runs.

    found = planned(model, processor(text=..., images=..., return_tensors="pt"), Policy("divprune", 64), torch.bfloat16)
    print(found.kept, found.cache_bytes, found.prefill_flops)

The model may lie on the meta device, without weights. For decoders of plain, sliding or linear attention the counts are
those of `pruned.report()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from greedyprune.attach.forward.quotas import quotas
from greedyprune.attach.handle import prune
from greedyprune.choosing import kept_count
from greedyprune.hints import Hints
from greedyprune.models.flops import Sizes, decode_flops, prefill_flops
from greedyprune.models.locate import images
from greedyprune.models.parts import find_parts
from greedyprune.policy import Policy

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.models.parts import Parts


@dataclass(frozen=True)
class Planned:
    """The counts of one prompt before it runs. `_full` names those without pruning."""

    method: str
    at: str
    images: int
    tokens: int
    """Visual tokens of all images."""
    kept: int
    """Visual tokens that will stay; at most so many if `known` is False."""
    known: bool
    """False if only a run can say the number: the method may keep fewer, or newlines may go with their tokens."""
    sequence: int
    """Tokens of the prompt, text included."""
    sequence_kept: int
    layers: int
    cache_bytes: int | None
    """Bytes of keys and values after the prompt; None if the config does not say how a layer stores them."""
    cache_bytes_full: int | None
    answer_bytes: int | None
    """Bytes that each token of the answer adds."""
    prefill_flops: int
    prefill_flops_full: int
    decode_flops: int
    """FLOPs of the first step behind the prompt."""
    decode_flops_full: int
    parameters: int
    weight_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def planned(model: Any, inputs: Mapping[str, Tensor], policy: Policy, dtype: torch.dtype) -> Planned:
    """Count one prompt, its ids (1, q). `dtype`: of weights and cache.

    Raises what `prune` raises for a model, a method or a place that cannot be pruned, and what `gp.images` raises.
    """
    prune(model, policy).remove()  # all that it refuses is refused here, in the same words
    parts = find_parts(model)
    depth, length = len(parts.layers), int(inputs["input_ids"].shape[1])
    policy, spans = policy.on(depth), images(model, inputs)
    embeds = torch.zeros(1, 1, 1, device="cpu")  # one prompt, so nothing is compared
    cuts = quotas(policy, Hints(), depth, spans, embeds)
    kept: dict[int, int] = {}
    known = not any(span.breaks for span in spans)
    for start, found in cuts.items():
        stay = [kept_count(policy.method, quota.budget, s.n, s.grid) for quota, s in zip(found, spans, strict=True)]
        known = known and None not in stay and (policy.method.exact or len(cuts) == 1)
        kept[start] = sum(quota.k if k is None else k for quota, k in zip(found, stay, strict=True))
    tokens = sum(span.n for span in spans)
    visual = [kept[max(past)] if (past := [s for s in kept if s <= layer]) else tokens for layer in range(depth)]
    now = [length - tokens + here for here in visual]
    held, full = [now[-1]] * depth if policy.early else now, [length] * depth
    parameters = sum(weight.numel() for weight in model.parameters())
    return Planned(
        method=type(policy.method).__name__,
        at=policy.place,
        images=len(spans),
        tokens=tokens,
        kept=visual[-1],
        known=known,
        sequence=length,
        sequence_kept=now[-1],
        layers=depth,
        cache_bytes=_cache_bytes(parts, held, dtype),
        cache_bytes_full=_cache_bytes(parts, full, dtype),
        answer_bytes=_cache_bytes(parts, [1] * depth, dtype),
        prefill_flops=prefill_flops(parts.config, now),
        prefill_flops_full=prefill_flops(parts.config, full),
        decode_flops=decode_flops(parts.config, held),
        decode_flops_full=decode_flops(parts.config, full),
        parameters=parameters,
        weight_bytes=parameters * dtype.itemsize,
    )


def _cache_bytes(parts: Parts, lengths: Sequence[int], dtype: torch.dtype) -> int | None:
    """Bytes of the KV cache that holds so many tokens per layer; None for layers that cache no heads (latents)."""
    config = parts.text.config
    if getattr(config, "kv_lora_rank", None):
        return None
    shared, depth = int(getattr(config, "num_kv_shared_layers", 0) or 0), len(lengths)
    many = bool(getattr(config, "is_heterogeneous", False))
    total = 0
    for layer, (kind, length) in enumerate(zip(parts.kinds, lengths, strict=True)):
        if kind.recurrent or layer >= depth - shared:
            continue
        sizes = Sizes.of(parts.config, layer if many else 0)
        total += 2 * sizes.groups * sizes.head * (length if kind.window is None else min(length, kind.window - 1))
    return total * dtype.itemsize
