"""Models with M-RoPE: kept tokens keep their original 3-D positions.

vLLM computes the positions of a prompt when the request arrives, before anybody knows which tokens stay. Text, though,
has its final positions at once: they depend on the images' grids alone. So does everything of an image but the rows
and columns of its kept tokens. These travel as further channels of the image's rows, by the protocol that vLLM has for
pruned videos (`recompute_mrope_positions`), and are written down when the rows are used. A prompt whose images lie in
the prefix cache never asks for them, and needs none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch

from greedyprune.engines.vllm.choosing import Grid
from greedyprune.engines.vllm.worker import PrunesImages, grids_of
from greedyprune.ops.grid import grid_positions

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.keep import Keep

CHANNELS, BASE = 4, 128
"""A row and a column, as two digits each: bfloat16 holds whole numbers up to 256 only."""
AWAKE = 1e-17
"""A pruning rate for videos that switches vLLM's protocol on and drops nothing: 1 - 1e-17 is 1."""


class PrunesMRoPE(PrunesImages):
    """A mixin in front of a model class whose images have a field `image_grid_thw`, and whose tokens have 3 positions.

    The template of such a model writes a token behind every image, so the largest position of a prompt is always that
    of text.
    """

    supports_multimodal_pruning = True

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        # The runner reads this once the model is made; the model itself read it before, and leaves videos alone.
        vllm_config.model_config.get_multimodal_config().video_pruning_rate = AWAKE
        _wake_cpu_runner()

    @property
    def merge(self) -> int:
        """The number of patches along a token's side."""
        return cast("Any", self).config.vision_config.spatial_merge_size

    def flat(self, fields: Mapping[str, Any]) -> dict[str, list[int]]:
        patches: list[int] = fields["image_grid_thw"].prod(-1).tolist()
        return {"pixel_values": patches, "image_embeds": [each // self.merge**2 for each in patches]}

    def sizes(self, fields: Mapping[str, Any], images: int) -> list[int]:
        return [t * h * w for t, h, w in grids_of(fields["image_grid_thw"], self.merge)]

    def grids(self, fields: Mapping[str, Any], sizes: Sequence[int]) -> Sequence[Grid | None]:
        return grids_of(fields["image_grid_thw"], self.merge)

    def carried(self, rows: Tensor, keep: Keep, grid: Grid | None) -> Tensor:
        assert grid is not None
        at = grid_positions(grid, keep.rows)[:, 1:]
        digits = torch.stack([at // BASE, at % BASE], 2).flatten(1)
        return torch.cat([keep.merge(rows), digits.to(rows)], 1)

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """The rows of each item, with `CHANNELS` further columns. Those of videos, which all stay, hold -1."""
        found = super().embed_multimodal(**kwargs)
        if "image_grid_thw" in kwargs:
            return found
        return [torch.cat([rows, rows.new_full((rows.shape[0], CHANNELS), -1)], 1) for rows in found]

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """The positions of a prompt, final but for the rows and columns of pruned images. -> (3, tokens), delta

        They are those of the prompt with every token of its images, at the tokens that are there.
        """
        tokens, features, spans, added = list[int](), list[Any](), list[tuple[int, int, int]](), 0
        end = 0
        for feature in sorted(mm_features, key=lambda each: each.mm_position.offset):
            place = feature.mm_position
            tokens += input_tokens[end : place.offset]
            end = place.offset + place.length
            item, lacking = input_tokens[place.offset : end], 0
            if feature.modality == "image":
                ((t, h, w),) = grids_of(feature.data["image_grid_thw"].data, self.merge)
                lacking = t * h * w - place.length
                spans.append((place.offset, place.length, lacking))
            whole = replace(place, offset=place.offset + added, length=place.length + lacking)
            features.append(replace(feature, mm_position=whole))
            tokens += item + item[-1:] * lacking
            added += lacking
        tokens += input_tokens[end:]
        there, _ = cast("Any", super()).get_mrope_input_positions(tokens, features)
        stays = torch.ones(len(tokens), dtype=torch.bool)
        shift = 0
        for offset, length, lacking in spans:
            first = offset + shift
            if lacking:  # for now, the rows and columns are the last ones
                there[1:, first : first + length] = there[1:, first : first + length + lacking].max()
            stays[first + length : first + length + lacking] = False
            shift += lacking
        positions = there[:, stays]
        return positions, int(positions.max()) + 1 - len(input_tokens)

    def recompute_mrope_positions(
        self, input_ids: Any, multimodal_embeddings: Any, mrope_positions: Tensor, num_computed_tokens: int
    ) -> tuple[Any, Tensor, int]:
        """Write down the rows and columns of the tokens that this step uses, and take them off their rows."""
        positions = mrope_positions.clone()
        if len(multimodal_embeddings):
            config = cast("Any", self).config
            ids = torch.as_tensor(input_ids, device=positions.device)
            media = (ids == config.image_token_id) | (ids == config.video_token_id)
            media[:num_computed_tokens] = False
            digits = torch.cat([rows[:, -CHANNELS:] for rows in multimodal_embeddings]).to(positions)
            columns = media.nonzero()[: digits.shape[0], 0]  # rows come in the order of their placeholders
            pruned = digits[:, 0] >= 0
            columns, digits = columns[pruned], digits[pruned]
            base = positions[0, columns]
            positions[1, columns] = base + digits[:, 0] * BASE + digits[:, 1]
            positions[2, columns] = base + digits[:, 2] * BASE + digits[:, 3]
        plain = [rows[:, :-CHANNELS] for rows in multimodal_embeddings]
        return plain, positions, int(positions.max()) + 1 - len(input_ids)


def _wake_cpu_runner() -> None:
    """Ask vLLM's runner for CPUs, which never asks itself, whether positions travel with the rows (0.32, 0.33)."""
    from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]

    if not current_platform.is_cpu():
        return
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner  # pyright: ignore[reportMissingImports]

    def enabled(runner: Any) -> bool:
        own = runner.model_config.multimodal_config
        awake = own is not None and own.is_multimodal_pruning_enabled()
        return awake and getattr(getattr(runner, "model", None), "supports_multimodal_pruning", False)

    CPUModelRunner.is_multimodal_pruning_enabled = property(enabled, lambda runner, value: None)
