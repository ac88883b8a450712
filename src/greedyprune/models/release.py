"""What this library relies on in transformers: names, arguments and releases, in one place, checked at `prune()`.

Pruning hangs on signatures and attributes that a release may rename. Each of them is a `Seam`. A seam that is missing
is an error that names it, before anything is attached; a release that nobody has tested is met with a warning.
"""

from __future__ import annotations

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
"""The oldest and the newest release of transformers whose every test passes."""

CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""What releases call the KV cache, as an argument and in outputs: `cache` from 5.24 on, `past_key_values` before."""


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The cache among keyword arguments, under whichever name it comes; None if there is none."""
    for name in CACHE_NAMES:
        if (cache := arguments.get(name)) is not None:
            return cache
    return None


def cache_of(output: Any) -> Any:
    """The cache that a model returned, in a `ModelOutput` or in a tuple; None if there is none."""
    if isinstance(output, Mapping):
        return cache_in(cast("Mapping[str, Any]", output))
    values = cast("Sequence[object]", output) if isinstance(output, (tuple, list)) else ()
    return next((value for value in values if isinstance(value, Cache)), None)


def cache_name(model: Any) -> str:
    """What this model's forward calls its cache."""
    owner = cast("type[object]", type(model))
    return next((name for name in CACHE_NAMES if name in _arguments(owner, "forward")), CACHE_NAMES[1])


def argument_names(module: Any) -> list[str]:
    """The arguments of a module's forward by position, `self` aside, of the first class that names them."""
    kind = cast("type[object]", type(module))
    for owner in kind.__mro__:
        forward: Any = getattr(owner, "forward", None)
        parameters = inspect.signature(forward).parameters if forward is not None else dict[str, inspect.Parameter]()
        names = [name for name, each in parameters.items() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        if len(names) > 1:
            return names[1:]
    return []


def cached(model: Any, cache: Any) -> dict[str, Any]:
    """What hands a cache to this model's forward: `model(input_ids=ids, **cached(model, cache))`."""
    return {cache_name(model): cache}


def without_cache(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments for a run that fills no cache."""
    return {**{name: each for name, each in arguments.items() if name not in CACHE_NAMES}, "use_cache": False}


@dataclass(frozen=True)
class Seam:
    """One thing that must be there: an attribute of a class, module or object, or an argument of a class's method."""

    owner: Any
    name: str
    """The attribute or method."""
    arguments: tuple[str, ...] = ()
    """One of these must be an argument of the method; empty if the attribute alone matters."""

    @property
    def there(self) -> bool:
        """Whether this release has it. A method that takes nothing but *args and **kwargs says nothing: it passes."""
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
    """The named arguments of a method, `self` aside. Read off the class: wrappers on instances have no signature."""
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
"""What all models have in common: the cache layers that `cache.py` makes short, outputs, and generation."""


def seams(parts: Parts) -> Iterator[Seam]:
    """Everything that pruning this model relies on."""
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
    for name in parts.family.deepstack or ():
        yield Seam(text, "forward", (name,))


def probe_seams(parts: Parts) -> Iterator[Seam]:
    """What the probes of a decoder layer rely on beside that, for methods that ask for its attention or its keys."""
    for layer in parts.layers[:1]:
        yield Seam(layer, "input_layernorm")
        yield Seam(layer, "self_attn")
        attention = getattr(layer, "self_attn", None)
        for name in ("q_proj", "k_proj", "head_dim", "scaling") if attention is not None else ():
            yield Seam(attention, name)
        yield Seam(sys.modules[type(attention or layer).__module__], "apply_rotary_pos_emb")


def missing(parts: Parts) -> list[Seam]:
    """The seams that this release of transformers lacks."""
    return [seam for seam in dict.fromkeys(seams(parts)) if not seam.there]


def missing_attributes() -> list[str]:
    """What objects of a cache lack: attributes that their classes do not name."""
    layer, cache = DynamicLayer(), DynamicCache()
    lacking = [f"DynamicLayer().{name}" for name in ("keys", "values", "is_initialized") if not hasattr(layer, name)]
    lacking += [] if isinstance(getattr(cache, "layers", None), list) else ["DynamicCache().layers"]
    return lacking + (
        [] if issubclass(cast("type", DynamicLayer), CacheLayerMixin) else ["DynamicLayer as a CacheLayerMixin"]
    )


def check_release(parts: Parts) -> None:
    """Raise if something that pruning relies on is missing; warn once about a release that nobody has tested."""
    lacking = [*map(str, missing(parts)), *missing_attributes()]
    if lacking:
        raise NotImplementedError(
            f"transformers {transformers.__version__} lacks what pruning this {parts.family.model_type!r} model relies "
            f"on: {', '.join(lacking)}. Install transformers >= {TESTED[0]}, <= {TESTED[1]}, and please report it."
        )
    _warn_of(transformers.__version__)


def is_tested(version: str) -> bool:
    """Whether this release lies between the oldest and the newest that were tested."""
    oldest, newest = (_numbers(each) for each in TESTED)
    return oldest <= _numbers(version) <= newest


def _numbers(version: str) -> tuple[int, int]:
    """The major and the minor number."""
    major, minor, *_ = version.split(".")
    return int(major), int("".join(c for c in minor if c.isdecimal()) or 0)


@cache
def _warn_of(version: str) -> None:
    if not is_tested(version):
        warnings.warn(
            f"transformers {version} was not tested with this version of greedyprune, only {TESTED[0]} to {TESTED[1]}. "
            "All names that it relies on are there; `greedyprune verify MODEL` proves that it prunes rightly.",
            PruneWarning,
            stacklevel=4,
        )
