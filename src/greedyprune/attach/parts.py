"""The parts of a model that pruning needs, found on the model itself, and every reason to refuse one."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greedyprune.models.table import IMPOSSIBLE, READABLE_TOWERS, family_of
from greedyprune.stages import Layer, Stage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from greedyprune.models._family import Family


@dataclass(frozen=True, eq=False)
class Parts:
    """Where things are in one model."""

    top: nn.Module
    """The model the user holds; its forward sees labels."""
    outer: nn.Module
    """The module whose forward sees input_ids and images and calls the text model."""
    text: nn.Module
    """The decoder: gets merged embeddings, calls the layers."""
    layers: nn.ModuleList
    family: Family
    config: Any
    image_token: int
    tower: nn.Module | None
    """The vision tower, where methods can be told what is seen in there."""
    tower_layers: list[tuple[nn.Module, nn.Module]]
    """Its layers, each with its attention module."""
    class_token: bool
    """Whether a class token stands in front of its patches."""

    @property
    def attention(self) -> str:
        """The decoder's attention implementation, which a user may change at any time."""
        return str(getattr(self.text.config, "_attn_implementation", ""))

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
        """The weight of the decoder's final norm, where it is at hand: not while it is offloaded."""
        weight = getattr(getattr(self.text, self.family.norm, None), "weight", None)
        return None if weight is None or weight.is_meta else weight.detach()

    def check_stage(self, stage: Stage) -> None:
        """Raise unless this model can be cut there."""
        if not isinstance(stage, self.family.stages):
            places = ", ".join(place.__name__ for place in self.family.stages)
            raise ValueError(f"a {self.family.model_type!r} model cannot be cut at {stage!r}: it can be at {places}.")
        if isinstance(stage, Layer):
            self.check_layer(stage.index)

    def check_layer(self, index: int) -> None:
        """Raise unless there is a decoder layer to cut before."""
        if index >= len(self.layers):
            raise ValueError(
                f"Layer({index}) does not exist: this model has {len(self.layers)} decoder layers, "
                f"so the last place is Layer({len(self.layers) - 1})."
            )

    def rotate(self, hidden: Tensor, positions: Tensor) -> Any:
        """The rotary embeddings of positions. (b, q) -> what the decoder layers take"""
        rotary = getattr(self.text, "rotary_emb", None)
        if rotary is None:
            raise NotImplementedError('this model has no rotary_emb to number tokens anew: use positions="original".')
        return rotary(hidden, positions)


def find_parts(model: Any) -> Parts:
    """The parts of a model, or an error that says what it lacks. Touches nothing."""
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if config is None or model_type is None or not callable(getattr(model, "get_decoder", None)):
        raise TypeError(f"a {type(model).__name__} is no transformers model: pass one loaded with from_pretrained().")
    sees = hasattr(config, "vision_config") or any(hasattr(module, "get_image_features") for module in model.modules())
    if not sees and model_type not in IMPOSSIBLE:
        raise ValueError(f"a {model_type!r} model reads no images, so there are no visual tokens to prune.")
    family = family_of(model_type)
    text = model.get_decoder()
    layers = getattr(text, "layers", None)
    outer = next(
        (m for m in model.modules() if hasattr(m, "get_image_features") and any(c is text for c in m.children())), None
    )
    if layers is None or outer is None:
        raise NotImplementedError(f"this {type(model).__name__} is built unlike the {model_type!r} models known here.")
    # Read off the class: accelerate replaces an instance's forward by a wrapper without a signature.
    names = inspect.signature(type(layers[0]).forward).parameters
    missing = {"hidden_states", "attention_mask", "position_embeddings"} - set(names)
    if missing:
        raise NotImplementedError(
            f"the decoder layers of this {type(model).__name__} take no {', '.join(sorted(missing))}: "
            "this release of transformers is not supported, please report it."
        )
    _check_attention(text.config)
    token = getattr(config, family.image_token)
    return Parts(model, outer, text, layers, family, config, token, *_tower(outer, config, family))


def _tower(
    outer: nn.Module, config: Any, family: Family
) -> tuple[nn.Module | None, list[tuple[nn.Module, nn.Module]], bool]:
    """The vision tower, its layers with their attention modules, and whether it has a class token."""
    kind = getattr(getattr(config, "vision_config", None), "model_type", None)
    tower: Any = None if family.tower is None else getattr(outer, family.tower.place, None)
    if family.tower is None or tower is None or kind not in READABLE_TOWERS:
        return None, [], False
    layers = [
        (tower.get_submodule(name.rpartition(".")[0]), module)
        for name, module in tower.named_modules()
        if hasattr(module, "num_heads") and (hasattr(module, "qkv") or hasattr(module, "k_proj"))
    ]
    token = any(name.rpartition(".")[2] == family.tower.class_token for name, _ in tower.named_parameters())
    return tower, layers, token


def _check_attention(config: Any) -> None:
    """Raise for decoders whose layers do not all see the whole prompt, or whose masks cannot be cut."""
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if not kinds and window and getattr(config, "use_sliding_window", True):
        kinds = {"sliding_attention"}
    if "sliding_attention" in kinds:
        raise NotImplementedError(
            f"decoder layers with a sliding window of {window} tokens are not supported: the window would count "
            "dropped tokens differently in the prompt and while decoding. Where all prompts are shorter than the "
            "window, load the model with sliding_window=None in its text config."
        )
    if kinds - {"full_attention"}:
        raise NotImplementedError(f"decoder layers of type {sorted(kinds)} are not supported: only full attention is.")
    if config._attn_implementation == "flex_attention":
        raise NotImplementedError(
            "flex_attention masks cannot be cut: call model.set_attn_implementation('sdpa') before pruning."
        )
