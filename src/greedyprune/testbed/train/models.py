"""The two architectures: how they are built, where their parts are, and how they see pictures and count positions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from greedyprune.testbed.layout import PATCH, SIZES
from greedyprune.testbed.train.codebook import WIDTH
from greedyprune.testbed.train.packing import Packed, Wording, Words, visible
from greedyprune.testbed.train.vocabulary import IDS, SIZE, encode

MEAN, STD = 0.5, 0.25  # of pixels between 0 and 1, for all three colours
DECODER: dict[str, Any] = {
    "vocab_size": SIZE,
    "hidden_size": WIDTH,
    "intermediate_size": 3 * WIDTH,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,  # of width 32
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.04,
    "pad_token_id": IDS["<pad>"],
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Architecture:
    """The facts of a family that training needs; one subclass each."""

    sizes: tuple[tuple[int, int], ...]  # of pictures, width and height
    before: tuple[int, ...]  # token ids in front of the picture ...
    after: tuple[int, ...]  # ... and right behind it
    ask: tuple[int, ...]  # between question and answer
    end: int  # behind the answer
    again: tuple[int, ...]  # in front of a further question about the same picture

    @property
    def wording(self) -> Wording:
        """How it is asked, and how it answers."""
        return Words(self.ask, self.end, self.again)

    def build(self) -> Any:
        raise NotImplementedError

    def tower(self, model: Any) -> nn.Module:
        raise NotImplementedError

    def projector(self, model: Any) -> nn.Module:
        raise NotImplementedError

    def see(self, model: Any, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        """The CLS state, where the tower has one, and the visual tokens. (b, 3, h, w) -> (b, c), (b, n, d)"""
        raise NotImplementedError

    def image_places(self, grid: tuple[int, int]) -> tuple[Tensor, int]:
        """Position ids of visual tokens, and the first one after them. -> (rows of positions, n)"""
        raise NotImplementedError

    def decoder(self, model: Any) -> nn.Module:
        return model.model.language_model

    def decoder_weights(self, model: Any) -> Iterator[nn.Parameter]:
        """All that is trained in the decoder: the word embeddings are not."""
        for name, weight in [*self.decoder(model).named_parameters(), *model.lm_head.named_parameters()]:
            if "embed_tokens" not in name:
                yield weight

    def logits(self, model: Any, tokens: Tensor, rows: Tensor | None, grid: tuple[int, int], packed: Packed) -> Tensor:
        """The logits of the turns. (b, k, d) visual tokens, (b, k) places or None for all -> (b, length, words)"""
        return model.lm_head(self.states(model, tokens, rows, grid, packed))

    def states(self, model: Any, tokens: Tensor, rows: Tensor | None, grid: tuple[int, int], packed: Packed) -> Tensor:
        """The decoder's last states of the turns. (b, k, d), (b, k) or None -> (b, length, d)"""
        device = tokens.device
        b, k, _ = tokens.shape
        embed = model.get_input_embeddings()
        first, last = (torch.tensor(ids, dtype=torch.long, device=device) for ids in (self.before, self.after))
        shared = [embed(first).expand(b, -1, -1), tokens.to(embed.weight.dtype), embed(last).expand(b, -1, -1)]
        before = len(self.before) + k + len(self.after)
        positions = self._positions(grid, rows, packed.offset.to(device), b)
        states = self.decoder(model)(
            inputs_embeds=torch.cat([*shared, embed(packed.ids.to(device))], 1),
            attention_mask=self.masks(visible(packed.turn.to(device), before)),
            position_ids=positions[0] if len(positions) == 1 else positions,
            use_cache=False,
        ).last_hidden_state
        return states[:, before:]

    def masks(self, visible: Tensor) -> Any:
        """The mask in the form that the decoder takes. (b, 1, length, length), True where a token is seen"""
        return visible

    def _positions(self, grid: tuple[int, int], rows: Tensor | None, offset: Tensor, b: int) -> Tensor:
        image, behind = self.image_places(grid)
        image = image.to(offset.device)[:, None].expand(-1, b, -1)
        if rows is not None:
            image = image.gather(2, rows.expand(len(image), -1, -1))
        front = torch.arange(len(self.before), device=offset.device).expand(len(image), b, -1)
        back = (behind + torch.arange(len(self.after), device=offset.device)).expand(len(image), b, -1)
        text = (behind + len(self.after) + offset).expand(len(image), -1, -1)
        return torch.cat([front, image, back, text], 2)


class Llava(Architecture):
    """CLIP tower with CLS, two-layer projector, Llama decoder; pictures of one size."""

    def build(self) -> LlavaForConditionalGeneration:
        width, height = self.sizes[0]
        vision = CLIPVisionConfig(
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=width,
            patch_size=PATCH,
            projection_dim=192,
            hidden_act="gelu",
        )
        rope = {"rope_type": "default", "rope_theta": 1e6}
        text = LlamaConfig(**DECODER, bos_token_id=IDS["<s>"], eos_token_id=self.end, rope_parameters=rope)
        config = LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=IDS["<image>"],
            image_seq_length=(width // PATCH) * (height // PATCH),
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            projector_hidden_act="gelu",
        )
        model = LlavaForConditionalGeneration(config)
        for layer in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
            nn.init.normal_(layer.weight, 0, layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        return model

    def tower(self, model: Any) -> nn.Module:
        return model.model.vision_tower

    def projector(self, model: Any) -> nn.Module:
        return model.model.multi_modal_projector

    def see(self, model: Any, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        states = model.model.vision_tower(pixels).last_hidden_state
        return states[:, 0], model.model.multi_modal_projector(states[:, 1:])

    def image_places(self, grid: tuple[int, int]) -> tuple[Tensor, int]:
        n, start = grid[0] * grid[1], len(self.before)
        return torch.arange(start, start + n)[None], start + n


class Qwen(Architecture):
    """Windowed tower with rotary positions, patch merger, three rows of decoder positions; pictures of any size."""

    fold = 2  # patches that become one visual token, both ways

    def build(self) -> Qwen2_5_VLForConditionalGeneration:
        vision = {
            "depth": 4,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 4,
            "patch_size": PATCH // self.fold,
            "spatial_merge_size": self.fold,
            "temporal_patch_size": 2,
            "window_size": 4 * PATCH,
            "fullatt_block_indexes": [2],
            "out_hidden_size": WIDTH,
        }
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
        ends = {"bos_token_id": IDS["<|im_start|>"], "eos_token_id": self.end}
        config = Qwen2_5_VLConfig(
            text_config={**DECODER, **ends, "rope_parameters": rope},
            vision_config=vision,
            image_token_id=IDS["<|image_pad|>"],
            video_token_id=IDS["<|video_pad|>"],
            vision_start_token_id=IDS["<|vision_start|>"],
            vision_end_token_id=IDS["<|vision_end|>"],
            tie_word_embeddings=False,
        )
        model = Qwen2_5_VLForConditionalGeneration(config)
        for layer in model.modules():
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for layer in model.model.visual.merger.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, layer.in_features**-0.5)
        return model

    def tower(self, model: Any) -> nn.Module:
        return nn.ModuleList([model.model.visual.patch_embed, model.model.visual.blocks])

    def projector(self, model: Any) -> nn.Module:
        return model.model.visual.merger

    def see(self, model: Any, pixels: Tensor) -> tuple[Tensor | None, Tensor]:
        b, _, height, width = pixels.shape
        patch = PATCH // self.fold
        rows, columns = height // patch, width // patch
        blocks = pixels.reshape(b, 3, rows // self.fold, self.fold, patch, columns // self.fold, self.fold, patch)
        # The processor's order: blocks row by row, the patches of a block in turn, a still picture twice in time.
        patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(b * rows * columns, 3, 1, patch, patch)
        grids = torch.tensor([[1, rows, columns]] * b, device=pixels.device)
        tokens = model.model.visual(patches.expand(-1, -1, 2, -1, -1).flatten(1), grids).pooler_output
        return None, tokens.reshape(b, -1, WIDTH)

    def image_places(self, grid: tuple[int, int]) -> tuple[Tensor, int]:
        rows, columns = grid
        start = len(self.before)
        y, x = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
        return start + torch.stack([torch.zeros_like(x), y, x]), start + max(grid)


ARCHITECTURES = {
    "llava": Llava(
        sizes=SIZES[:1],
        before=tuple(encode("<s> USER:")),
        after=(),
        ask=tuple(encode("ASSISTANT:")),
        end=IDS["</s>"],
        again=tuple(encode("USER:")),
    ),
    "qwen": Qwen(
        sizes=SIZES,
        before=tuple(encode("<|im_start|> user <|vision_start|>")),
        after=tuple(encode("<|vision_end|>")),
        ask=tuple(encode("<|im_end|> <|im_start|> assistant")),
        end=IDS["<|im_end|>"],
        again=tuple(encode("<|im_start|> user")),
    ),
}
