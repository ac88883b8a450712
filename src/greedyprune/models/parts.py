"""The parts of a model that pruning needs, found on the model itself, and every reason to refuse a model."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch

from greedyprune.models.readable import READABLE_TOWERS
from greedyprune.models.table import IMPOSSIBLE, family_of
from greedyprune.stages import Layer, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from greedyprune.models._family import Family, Medium

RECURRENT = ("linear_attention", "conv")
"""The kinds of layers that keep a recurrent state."""


INPUTS = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}
"""The argument of a model that holds each kind of input."""
COMPUTED = "mm_encoder_outputs"
"""The argument that holds their features instead."""


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of decoder layer: full attention, a sliding window, or a recurrent state."""

    name: str
    """The name in the config's layer_types."""
    first: int
    """Its first decoder layer. transformers sizes the mask of all its layers by the KV cache of this layer."""
    window: int | None = None
    """The width of the sliding window in tokens, the query included; None if there is no window."""
    recurrent: bool = False
    """True if it keeps a recurrent state and has no keys. Its mask is a padding mask."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of one model. Fields named after a part hold the module itself."""

    holders: tuple[nn.Module, ...]
    """The user's model and the modules inside it down to `outer`, which is the last.

    A caller may pass labels to any of them, and may call `generate` on any of them that has it."""
    outer: nn.Module
    """The module whose forward gets input_ids and images (or sounds) and calls the text model."""
    text: nn.Module
    """The decoder. It gets the merged embeddings and calls the layers."""
    layers: nn.ModuleList
    family: Family
    config: Any
    kinds: list[Kind]
    """The kind of each decoder layer."""
    media: list[tuple[Medium, int]]
    """The kinds of input that the model reads apart from text, each with its placeholder's token id."""
    tower: nn.Module | None
    """The vision tower; None if methods cannot read attention and keys in it."""
    tower_layers: list[tuple[nn.Module, nn.Module]]
    """The tower's layers, each with its attention module."""
    class_token: bool
    """True if a class token comes before the tower's patches."""

    @cached_property
    def first(self) -> int:
        """The first decoder layer that has keys."""
        return next(kind.first for kind in self.kinds if not kind.recurrent)

    @cached_property
    def full(self) -> int:
        """The first decoder layer with full attention; if there is none, the first that has keys."""
        every = (kind.first for kind in self.kinds if not kind.recurrent and kind.window is None)
        return next(every, self.first)

    @cached_property
    def plain(self) -> bool:
        """True if all decoder layers have full attention."""
        return all(kind.window is None and not kind.recurrent for kind in self.kinds)

    @cached_property
    def media_inputs(self) -> tuple[str, ...]:
        """The arguments that hold images, videos and sounds or their features, also for kinds that are not listed."""
        listed = (name for medium, _ in self.media for name in medium.inputs)
        return tuple({*INPUTS.values(), *listed, COMPUTED})

    @property
    def attention(self) -> str:
        """The decoder's attention implementation, which a user may change at any time."""
        return str(getattr(self.text.config, "_attn_implementation", ""))

    @cached_property
    def counts(self) -> bool:
        """True if the decoder's attention uses position ids themselves, not only their rotary embeddings."""
        kinds: set[Any] = {type(layer.self_attn) for layer in self.layers if hasattr(layer, "self_attn")}
        asked = [inspect.signature(kind.forward).parameters.get("position_ids") for kind in kinds]
        return any(name is not None and name.default is name.empty for name in asked)

    @property
    def decoder_type(self) -> str:
        """The model type of the decoder."""
        return str(getattr(self.text.config, "model_type", ""))

    @property
    def tower_type(self) -> str:
        """The model type of the vision tower."""
        return str(getattr(getattr(self.config, "vision_config", None), "model_type", ""))

    @property
    def norm(self) -> Tensor | None:
        """The factors that the decoder's final norm puts on coordinates; None if it has none or is offloaded. -> (d,)

        They are its weight in most families, and 1 + its weight in Gemma's, so the module is asked.
        """
        module: Any = getattr(self.text, self.family.norm, None)
        weight: Tensor | None = getattr(module, "weight", None)
        if weight is None or weight.is_meta:
            return None
        signs = torch.ones_like(weight, dtype=torch.float32)
        signs[1::2] = -1.0  # a mean of 0 and a mean square of 1, which no norm changes
        kind = cast("Any", type(module))  # its forward, past the hooks of this module
        with torch.no_grad():
            up, down = cast("Tensor", kind.forward(module, torch.stack([signs, -signs])[:, None]))[:, 0]
        return (up - down) / 2 * signs

    @property
    def ends(self) -> list[int]:
        """The tokens that end a turn: those that end an answer, which in most chat formats end a user's turn too.

        They are the generation config's, which a user may change at any time, or else the text config's.
        """
        rules = [getattr(holder, "generation_config", None) for holder in self.holders]
        named = [getattr(each, "eos_token_id", None) for each in (*rules, self.text.config)]
        end = next((each for each in named if each is not None), None)
        return [end] if isinstance(end, int) else list(cast("list[int]", end or []))

    def check_stage(self, stage: Stage) -> None:
        """Raise ValueError or NotImplementedError if this model cannot be cut at the stage."""
        if not isinstance(stage, self.family.stages):
            places = ", ".join(place.__name__ for place in self.family.stages)
            raise ValueError(f"a {self.family.model_type!r} model cannot be cut at {stage!r}: it can be at {places}.")
        if isinstance(stage, Layer):
            self.check_layer(stage.index)
            if getattr(self.text.config, "num_kv_shared_layers", 0):
                raise NotImplementedError(
                    f"late layers of this {self.family.model_type!r} decoder use the keys of early ones, so all layers "
                    "must be cut at one place: use at=Input()."
                )
            if stage.early and not self.plain:
                names = ", ".join(sorted({kind.name for kind in self.kinds} - {"full_attention"}))
                raise NotImplementedError(
                    f"decoder layers of type {names} cannot give back tokens that they have read: "
                    f"use Layer({stage.index}) without early=True."
                )

    def check_layer(self, index: int) -> None:
        """Raise ValueError if decoder layer `index` does not exist."""
        if index >= len(self.layers):
            raise ValueError(
                f"Layer({index}) does not exist: this model has {len(self.layers)} decoder layers, "
                f"so the last place is Layer({len(self.layers) - 1})."
            )

    def rotate(self, hidden: Tensor, positions: Tensor, index: int) -> Any:
        """Compute the rotary embeddings that decoder layer `index` takes. `positions` (b, q) -> cosines and sines"""
        rotary: Any = getattr(self.text, "rotary_emb", None)
        if rotary is None:
            raise NotImplementedError('this model has no rotary_emb for new position ids: use positions="original".')
        kind: Any = cast("object", type(rotary))
        by_kind = "layer_type" in inspect.signature(kind.forward).parameters
        return rotary(hidden, positions, layer_type=self.kinds[index].name) if by_kind else rotary(hidden, positions)


def find_parts(model: Any) -> Parts:
    """Find the parts of a model. It does not change the model.

        parts = find_parts(model)
        print(parts.family.model_type, len(parts.layers), parts.decoder_type)

    Raises TypeError if it is no transformers model; ValueError if it reads no images or its type is not known;
    NotImplementedError if a part is missing or cannot be pruned.
    """
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if config is None or model_type is None or not callable(getattr(model, "get_decoder", None)):
        inside: object = getattr(model, "model", None)  # of a pipeline
        remedy = "pass its model, as .model" if callable(getattr(inside, "get_decoder", None)) else ""
        raise TypeError(
            f"a {type(model).__name__} is no transformers model: {remedy or 'pass one loaded with from_pretrained()'}."
        )
    sees = any(hasattr(config, name) for name in ("vision_config", "audio_config")) or any(
        hasattr(module, f"get_{kind}_features") for module in model.modules() for kind in ("image", "video", "audio")
    )
    if not sees and model_type not in IMPOSSIBLE:
        raise ValueError(f"a {model_type!r} model reads no images, so there are no visual tokens to prune.")
    family = family_of(model_type, config)
    text = model.get_decoder()
    layers = getattr(text, "layers", None)
    media = [medium for medium in family.media if getattr(config, medium.token, None) is not None]
    holders = [m for m in model.modules() if any(c is text or getattr(c, "model", None) is text for c in m.children())]
    able = [m for m in holders if any(hasattr(m, medium.features or "forward") for medium in media)]
    outer = next(iter(able or holders), None)
    if layers is None or outer is None:
        raise NotImplementedError(f"this {type(model).__name__} is built unlike the {model_type!r} models known here.")
    _check_uncompiled([*_holders(model, outer), text, *layers])
    known = [(medium, int(getattr(config, medium.token))) for medium in media]
    kinds = _kinds(text.config, len(layers))
    return Parts(
        _holders(model, outer), outer, text, layers, family, config, kinds, known, *_tower(outer, config, family)
    )


def _holders(model: nn.Module, outer: nn.Module) -> tuple[nn.Module, ...]:
    """Return the modules on the path from a model to its outer model, both included (PEFT adds two)."""
    named = cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
    path = next(name for name, module in named if module is outer).split(".")
    steps = [".".join(path[:number]) for number in range(len(path))] if path != [""] else []
    return (*(model.get_submodule(step) for step in steps), outer)


def _check_uncompiled(modules: list[Any]) -> None:
    """Raise NotImplementedError if a module is compiled: its graphs would silently skip hooks that come later."""
    for module in modules:
        own = cast("dict[str, object]", vars(module))
        forward = own.get("forward")
        compiled = hasattr(forward, "_torchdynamo_orig_callable") or hasattr(module, "_orig_mod")
        if compiled or getattr(module, "_compiled_call_impl", None) is not None:
            raise NotImplementedError(
                f"this {type(module).__name__} is compiled, and its graphs would skip the cut: prune the model "
                "first, and call torch.compile() then."
            )


def _tower(
    outer: nn.Module, config: Any, family: Family
) -> tuple[nn.Module | None, list[tuple[nn.Module, nn.Module]], bool]:
    """Find the vision tower and its layers with their attention modules. The last value is True for a class token."""
    kind = getattr(getattr(config, "vision_config", None), "model_type", None)
    tower: Any = None if family.tower is None else getattr(outer, family.tower.place, None)
    if family.tower is None or tower is None or kind not in READABLE_TOWERS:
        return None, [], False
    layers = [
        (tower.get_submodule(name.rpartition(".")[0]), module)
        for name, module in tower.named_modules()
        if hasattr(module, "qkv") or hasattr(module, "k_proj")
    ]
    token = any(name.rpartition(".")[2] == family.tower.class_token for name, _ in tower.named_parameters())
    return tower, layers, token


def _kinds(config: Any, depth: int) -> list[Kind]:
    """Find the kind of each decoder layer. Raises if a kind is not known or its masks cannot be cut."""
    if config._attn_implementation == "flex_attention":
        raise NotImplementedError(
            "flex_attention masks cannot be cut: call model.set_attn_implementation('sdpa') before pruning."
        )
    window = getattr(config, "sliding_window", None)
    everywhere = "sliding_attention" if window and getattr(config, "use_sliding_window", True) else "full_attention"
    names: list[str] = list(getattr(config, "layer_types", None) or [everywhere] * depth)
    unknown = set(names) - {"full_attention", "sliding_attention", *RECURRENT}
    if unknown or all(name in RECURRENT for name in names):
        known = ", ".join(["full_attention", "sliding_attention", *RECURRENT])
        raise NotImplementedError(
            f"decoder layers of type {', '.join(sorted(unknown or names))} are not supported, "
            f"only {known}, and not the last ones alone."
        )
    kinds = {
        name: Kind(name, names.index(name), window if name == "sliding_attention" else None, name in RECURRENT)
        for name in names
    }
    return [kinds[name] for name in names]
