"""Tower: what methods can read in the vision tower of a model inside vLLM, as far as its config says.

The front end asks it which needs are lacking, and refuses them. The worker asks it where the others are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from greedyprune.cues import Attention, Keys, Seen
from greedyprune.models.layers import told, tower_layer
from greedyprune.models.table import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from greedyprune.method import Method

READ: dict[str, tuple[str, ...]] = {
    "llava": ("clip_vision_model", "siglip_vision_model"),
    "qwen2_5_vl": ("qwen2_5_vl_vision", "qwen2_5_vl"),
}
"""Model type -> the types of the towers that a worker reads for it. Releases of transformers name some in two ways."""


@dataclass(frozen=True)
class Tower:
    """The vision tower of a checkpoint.

    tower = Tower(config)
    tower.lacking(Attention("cls"))     # a reason, or None
    """

    config: Any
    """The model's config."""
    split: bool = False
    """True if each of several workers encodes a part of the images (`--mm-encoder-tp-mode data`)."""

    def lacking(self, need: Seen) -> str | None:
        """The reason why a worker cannot give a need; None if it can."""
        if not need.in_tower or (isinstance(need, Keys) and need.of == "text"):
            return f"it reads {told(need)}, and vLLM cuts before the decoder"
        kind, vision = str(getattr(self.config, "model_type", None)), getattr(self.config, "vision_config", None)
        tower = getattr(vision, "model_type", None)
        if tower not in READ.get(kind, ()):
            return f"it reads {told(need)}, and the tower of this model ({kind}, {tower}) cannot be read in vLLM"
        if self.split:
            return f"it reads {told(need)}, and with --mm-encoder-tp-mode data no worker sees all images: leave it out"
        if isinstance(need, Attention) and need.kind == "cls" and not self.class_token:
            return "the vision tower of this model has no class token that attends to patches"
        layer, problem = self._layer(need)
        if problem is None and layer is not None and layer >= self.loaded:
            problem = f"vLLM loads {self.loaded} of the tower's {self.count} layers, and not layer {layer}"
        return problem

    def placed(self, need: Seen) -> Seen:
        """A need that is not lacking, with the number of its layer. It is None for what the projector's norm reads."""
        if isinstance(need, Attention) and need.kind == "tower":
            need = replace(need, kind="cls" if self.class_token else "received")
        return replace(need, layer=self._layer(need)[0])

    def wanted(self, method: Method) -> dict[Seen, Seen]:
        """What a method reads in the tower: each need as the method declares it -> as `placed` says."""
        return {need: self.placed(need) for need in method.needs if isinstance(need, Seen) and need.in_tower}

    def by_token(self, need: Seen, rows: Tensor, grids: Tensor | None) -> Tensor:
        """Combine the patches of each token, as the family's tower does. -> (n, ...)

        `grids`: the images' grids of patches, (images, 3), if the model has them.
        """
        family = FAMILIES[self.config.model_type].tower
        assert family is not None, "READ names families with a tower"
        return family.by_token(self.config, need, rows, grids)

    def borders(self, layer: int, grids: Sequence[Sequence[int]]) -> list[int]:
        """The borders between which the packed patches of images attend to each other in a layer. -> (stretches + 1)

        `grids`: the images' grids of patches. They are frames, or windows of frames where the layer has windows.
        """
        vision, lengths = self.config.vision_config, list[int]()
        merge = vision.spatial_merge_size
        whole = getattr(vision, "fullatt_block_indexes", None)
        side = None if whole is None or layer in whole else vision.window_size // vision.patch_size // merge
        for t, h, w in grids:
            rows, columns = _cut(h // merge, side), _cut(w // merge, side)
            lengths += [a * b * merge**2 for a in rows for b in columns] * t
        found = [0]
        for length in lengths:
            found.append(found[-1] + length)
        return found

    @property
    def class_token(self) -> bool:
        """True if a class token comes before the patches."""
        return self.config.vision_config.model_type == "clip_vision_model"

    @property
    def count(self) -> int:
        """The number of the tower's layers in the checkpoint."""
        vision = self.config.vision_config
        return vision.depth if hasattr(vision, "depth") else vision.num_hidden_layers

    @property
    def loaded(self) -> int:
        """The number of layers that vLLM loads: up to the one that the projector reads."""
        feature = getattr(self.config, "vision_feature_layer", -1)
        deepest = [each + self.count + 1 if each < 0 else each for each in _listed(feature)]
        return max(deepest, default=self.count)

    def _layer(self, need: Seen) -> tuple[int | None, str | None]:
        family = FAMILIES[self.config.model_type].tower
        return tower_layer(need, self.config, self.count, normed=family is not None and family.normed)


def _cut(length: int, side: int | None) -> list[int]:
    """Cut a length into sides; the last may be shorter. None: into one."""
    return [length] if side is None else [min(side, length - start) for start in range(0, length, side)]


def _listed(feature: Any) -> list[int]:
    return list(feature) if isinstance(feature, (list, tuple)) else [feature]
