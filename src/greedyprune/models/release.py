"""The names and arguments of transformers that this library relies on, in one place. `prune()` checks them.

Pruning relies on signatures and attributes that a release may rename. Each of them is a `Seam`. If a seam is missing,
`prune()` raises an error that names it, before it attaches anything. If a release is not tested, `prune()` warns.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import transformers
from transformers import GenerationMixin
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling

from greedyprune.selection import PruneWarning

if TYPE_CHECKING:
    from greedyprune.models.parts import Parts

TESTED = ("5.16", "5.24")
"""The oldest and the newest release of transformers on which every test passes."""

CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""The names of the KV cache in arguments and outputs: `cache` from release 5.24 on, `past_key_values` before."""


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """Find the KV cache among keyword arguments; None if there is none.

    cache = cache_in(kwargs)  # kwargs["cache"] or kwargs["past_key_values"]
    """
    for name in CACHE_NAMES:
        if (cache := arguments.get(name)) is not None:
            return cache
    return None


def cache_of(output: Any) -> Any:
    """Find the KV cache that a model returned in a `ModelOutput` or in a tuple; None if there is none.

    cache = cache_of(model(**inputs))
    """
    if isinstance(output, Mapping):
        return cache_in(cast("Mapping[str, Any]", output))
    values = cast("Sequence[object]", output) if isinstance(output, (tuple, list)) else ()
    return next((value for value in values if isinstance(value, Cache)), None)


def cache_name(model: Any) -> str:
    """Return the name of the KV cache among the arguments of this model's forward."""
    owner = cast("type[object]", type(model))
    return next((name for name in CACHE_NAMES if name in _arguments(owner, "forward")), CACHE_NAMES[1])


def argument_names(module: Any) -> list[str]:
    """Return the names of a forward's arguments by position, without `self`, from the first class that names them."""
    kind = cast("type[object]", type(module))
    for owner in kind.__mro__:
        forward: Any = getattr(owner, "forward", None)
        parameters = inspect.signature(forward).parameters if forward is not None else dict[str, inspect.Parameter]()
        names = [name for name, each in parameters.items() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        if len(names) > 1:
            return names[1:]
    return []


def cached(model: Any, cache: Any) -> dict[str, Any]:
    """Return the keyword argument that passes a cache to this model's forward.

    model(input_ids=ids, **cached(model, cache))
    """
    return {cache_name(model): cache}


def without_cache(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same arguments for a run without a KV cache.

    model(**without_cache(inputs))
    """
    return {**{name: each for name, each in arguments.items() if name not in CACHE_NAMES}, "use_cache": False}


@dataclass(frozen=True)
class Seam:
    """One name that transformers must have: an attribute of a class, module or object, or an argument of a method.

    Seam(DynamicLayer, "crop", ("tokens_to_remove",)).there
    """

    owner: Any
    name: str
    """The name of the attribute or method."""
    arguments: tuple[str, ...] = ()
    """The method must have one of these arguments; empty if only the attribute must exist."""

    @property
    def there(self) -> bool:
        """True if this release has it. A method that takes only *args and **kwargs passes, since it names nothing."""
        if not hasattr(self.owner, self.name):
            return self.name in getattr(self.owner, "__dataclass_fields__", {})
        if not self.arguments:
            return True
        names = _arguments(self.owner, self.name)
        return not names or any(name in names for name in self.arguments)

    def __str__(self) -> str:
        where = f"{getattr(self.owner, '__name__', type(self.owner).__name__)}.{self.name}"
        return f"{where}({' or '.join(self.arguments)})" if self.arguments else where


def _arguments(owner: type, name: str) -> frozenset[str]:
    """Return the named arguments of a class's method, without `self`. Wrappers on instances have no signature."""
    return _named(getattr(owner, name))


@cache
def _named(method: Any) -> frozenset[str]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    every = [key for key, parameter in inspect.signature(method).parameters.items() if parameter.kind in named]
    return frozenset(every) - {"self"}


COMMON = (
    Seam(Cache, "get_seq_length"),
    Seam(DynamicCache, "get_mask_sizes", ("query_length",)),
    *(Seam(DynamicLayer, name) for name in ("update", "get_seq_length", "reset", "batch_repeat_interleave")),
    Seam(DynamicLayer, "get_mask_sizes", ("query_length",)),
    Seam(DynamicLayer, "crop", ("tokens_to_remove",)),
    Seam(DynamicLayer, "reorder_cache", ("beam_idx",)),
    Seam(DynamicLayer, "batch_select_indices", ("indices",)),
    Seam(BaseModelOutputWithPast, "last_hidden_state"),
    Seam(BaseModelOutputWithPooling, "last_hidden_state"),
    Seam(BaseModelOutputWithPooling, "pooler_output"),
    Seam(GenerationMixin, "generate", ("inputs",)),
    Seam(GenerationMixin, "_supports_logits_to_keep"),
)
"""The seams that all models need: the cache layers that `cache.py` shortens, the outputs, and `generate`."""


def seams(parts: Parts) -> Iterator[Seam]:
    """Yield every seam that pruning this model relies on."""
    yield from COMMON
    outer, text, layer = type(parts.outer), type(parts.text), type(parts.layers[0])
    for argument in (("input_ids",), ("attention_mask",), CACHE_NAMES):
        yield Seam(outer, "forward", argument)
    if not parts.media:
        yield from (Seam(type(parts.config), medium.token) for medium in parts.family.media[:1])
    for medium, _ in parts.media:
        if medium.features and parts.family.proven:
            yield Seam(outer, medium.features)
        yield Seam(outer, "forward", medium.inputs)
    for argument in (("inputs_embeds",), ("attention_mask",), ("position_ids",), CACHE_NAMES):
        yield Seam(text, "forward", argument)
    for argument in ("hidden_states", "attention_mask", "position_embeddings"):
        yield Seam(layer, "forward", (argument,))
    if parts.family.tower is not None and parts.family.tower.packs:
        yield Seam(outer, "pack_image_features", ("image_newline",))
    for name in parts.family.deepstack or ():
        yield Seam(text, "forward", (name,))


ROTATIONS = ("apply_rotary_pos_emb", "apply_multimodal_rotary_pos_emb")
"""The functions that turn queries and keys to their positions; Qwen2-VL's decoders had the second in old releases."""
NORMS = ("input_layernorm", "operator_norm")
"""The norm in front of a decoder layer's attention; LFM2 has the second."""
LATENT = ("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "expand_kv", "qk_head_dim", "scaling")
"""The attributes of an attention module with latent attention."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "head_dim", "scaling")
"""The attributes of every other attention module."""


def probe_seams(parts: Parts) -> Iterator[Seam]:
    """Yield the further seams that decoder probes rely on. Methods that read attention, keys or values need them."""
    layer = parts.layers[parts.first]
    yield Seam(layer, _first_of(layer, NORMS))
    yield Seam(layer, "self_attn")
    attention = getattr(layer, "self_attn", None)
    if attention is not None:
        yield from (Seam(attention, name) for name in (LATENT if hasattr(attention, LATENT[0]) else PROJECTIONS))
    home = sys.modules[type(attention or layer).__module__]
    yield Seam(home, _first_of(home, ROTATIONS))


def _first_of(owner: object, names: tuple[str, ...]) -> str:
    """Return the first name that the owner has an attribute of; the first of all if it has none."""
    return next((name for name in names if hasattr(owner, name)), names[0])


def missing(parts: Parts) -> list[Seam]:
    """Return the seams that this release of transformers lacks."""
    return [seam for seam in dict.fromkeys(seams(parts)) if not seam.there]


def missing_attributes() -> list[str]:
    """Return the attributes that cache objects lack. Their classes do not name these, so no `Seam` finds them."""
    layer, cache = DynamicLayer(), DynamicCache()
    lacking = [f"DynamicLayer().{name}" for name in ("keys", "values", "is_initialized") if not hasattr(layer, name)]
    lacking += [] if isinstance(getattr(cache, "layers", None), list) else ["DynamicCache().layers"]
    return lacking + (
        [] if issubclass(cast("type", DynamicLayer), CacheLayerMixin) else ["DynamicLayer as a CacheLayerMixin"]
    )


def check_release(parts: Parts) -> None:
    """Raise NotImplementedError if a seam is missing. Warn once if the release is not tested.

    check_release(find_parts(model))
    """
    lacking = [*map(str, missing(parts)), *missing_attributes()]
    if lacking:
        raise NotImplementedError(
            f"transformers {transformers.__version__} lacks what pruning this {parts.family.model_type!r} model relies "
            f"on: {', '.join(lacking)}. Install transformers >= {TESTED[0]}, <= {TESTED[1]}, and please report it."
        )
    _warn_of(transformers.__version__)


def is_tested(version: str) -> bool:
    """True if this release is between the oldest and the newest tested release.

    is_tested(transformers.__version__)
    """
    oldest, newest = (_numbers(each) for each in TESTED)
    return oldest <= _numbers(version) <= newest


def _numbers(version: str) -> tuple[int, int]:
    """Return the major and the minor number of a release."""
    major, minor, *_ = version.split(".")
    return int(major), int("".join(c for c in minor if c.isdecimal()) or 0)


@cache
def leave_untraced() -> None:
    """Tell torch.compile not to trace this library. `prune()` calls it.

    Hooks read context variables, at which a trace ends. A trace into them would end several times in each hook, and
    leave a graph for every piece; without it a graph ends once per hook. What the hooks do is the same.
    """
    rules: Any = importlib.import_module("torch._dynamo.trace_rules")  # transformers has imported it
    if hasattr(rules, "add"):
        rules.add("greedyprune")


@cache
def _warn_of(version: str) -> None:
    if not is_tested(version):
        warnings.warn(
            f"transformers {version} was not tested with this version of greedyprune, only {TESTED[0]} to {TESTED[1]}. "
            "All names that it relies on are there. Run `greedyprune verify MODEL` to prove that it prunes correctly.",
            PruneWarning,
            stacklevel=4,
        )
