"""Tiny models that hear: sounds of several lengths, whose tokens stand in the sequence as those of images do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    GraniteSpeechConfig,
    GraniteSpeechForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
)

from tinies.words import AUDIO, BEGIN, END, Rows, Tiny, decoder, noise, tower

MELS = 16
"""Rows of a spectrogram."""
FRAMES = 64
"""Columns of a spectrogram of one window: a Whisper encoder takes no others and halves them, poolers halve again."""


def ears(**more: Any) -> dict[str, Any]:
    """The config of a tiny Whisper encoder."""
    return tower(num_mel_bins=MELS, max_source_positions=FRAMES // 2, **more)


def piece(tokens: int) -> list[int]:
    """What stands for a sound in the prompt."""
    return [BEGIN, *[AUDIO] * tokens, END]


WINDOWS = (2, 1, 3, 1)
"""How many windows a Voxtral sound has, of 8 tokens each."""


def chunks(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Sounds padded to whole windows, without a mask."""
    numbers = [number for row in rows for number in row]
    counts = [WINDOWS[number % len(WINDOWS)] for number in numbers]
    features = [noise(10 * n + c, MELS, FRAMES) for n, count in zip(numbers, counts, strict=True) for c in range(count)]
    return {"input_features": torch.stack(features)}, [piece(8 * count) for count in counts]


HEARD = ((60,), (37,), (64, 30), (42,))
"""Columns of each window of a sound that are no padding: the third sound is longer than a window."""


def masked(mask: str, windows: bool) -> Callable[[Rows], tuple[dict[str, Tensor], list[list[int]]]]:
    """Sounds padded to a window, with a mask of that name; longer ones are several windows, or one that is cut off."""

    def sounds(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
        numbers = [number for row in rows for number in row]
        heard = [HEARD[number % len(HEARD)] if windows else HEARD[number % len(HEARD)][:1] for number in numbers]
        lengths = torch.tensor([length for parts in heard for length in parts])
        valid = (torch.arange(FRAMES) < lengths[:, None]).long()
        features = [noise(10 * n + w, MELS, FRAMES) for n, p in zip(numbers, heard, strict=True) for w in range(len(p))]
        inputs = {"input_features": torch.stack(features) * valid[:, None], mask: valid}
        return inputs, [piece(sum(((length + 1) // 2 - 2) // 2 + 1 for length in parts)) for parts in heard]

    return sounds


BLOCKS = (8, 4, 6, 5)
"""How many blocks of 4 frames a Granite sound has: 2 tokens come of each."""


def blocks(rows: Rows) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Sounds padded to one length, with a mask of the tokens that stay.

    The model's processor pads to the longest sound of a call, and its encoder hears the padding; here all calls pad
    alike, so that a sound is the same in every batch.
    """
    numbers = [number for row in rows for number in row]
    counts = torch.tensor([BLOCKS[number % len(BLOCKS)] for number in numbers])
    frames = torch.arange(4 * max(BLOCKS)) < 4 * counts[:, None]
    features = torch.stack([noise(number, 4 * max(BLOCKS), MELS) for number in numbers]) * frames[:, :, None]
    kept = torch.arange(2 * max(BLOCKS)) < 2 * counts[:, None]
    return {"input_features": features, "input_features_mask": kept}, [piece(2 * count) for count in counts.tolist()]


def voxtral() -> Tiny:
    """Voxtral: windows of one length, four encoder states side by side per token."""
    config = VoxtralConfig(
        audio_config={**ears(), "intermediate_size": 128},
        text_config=decoder(model_type="llama", head_dim=8),
        audio_token_id=AUDIO,
    )
    return Tiny(VoxtralForConditionalGeneration(config), chunks, has_grid=False, media=(AUDIO,))


def qwen2_audio() -> Tiny:
    """Qwen2-Audio: one window per sound, its padding masked."""
    heads = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    config = Qwen2AudioConfig(
        audio_config={"num_mel_bins": MELS, "max_source_positions": FRAMES // 2, **heads},
        text_config=decoder(model_type="qwen2"),
        audio_token_index=AUDIO,
    )
    sounds = masked("feature_attention_mask", windows=False)
    return Tiny(Qwen2AudioForConditionalGeneration(config), sounds, has_grid=False, media=(AUDIO,))


def audioflamingo3() -> Tiny:
    """Audio Flamingo 3: the same encoder, and long sounds are several windows."""
    config = AudioFlamingo3Config(
        audio_config=ears(), text_config=decoder(model_type="qwen2"), audio_token_id=AUDIO, bos_token_id=1
    )
    sounds = masked("input_features_mask", windows=True)
    return Tiny(AudioFlamingo3ForConditionalGeneration(config), sounds, has_grid=False, media=(AUDIO,))


def granite_speech() -> Tiny:
    """Granite Speech: a conformer, queries that read it in blocks, and a decoder that scales what it gets."""
    scales = {"embedding_multiplier": 2.0, "attention_multiplier": 0.4, "residual_multiplier": 0.8}
    config = GraniteSpeechConfig(
        text_config=decoder(model_type="granite", **scales),
        encoder_config={
            "input_dim": MELS,
            "num_layers": 2,
            "hidden_dim": 32,
            "feedforward_mult": 2,
            "num_heads": 4,
            "output_dim": 8,
            "context_size": 8,
            "max_pos_emb": 16,
            "conv_kernel_size": 5,
        },
        projector_config=tower(encoder_hidden_size=32, model_type="blip_2_qformer"),
        audio_token_index=AUDIO,
        has_lora_adapter=False,
        tie_word_embeddings=False,
        downsample_rate=2,
        window_size=4,
    )
    return Tiny(GraniteSpeechForConditionalGeneration(config), blocks, has_grid=False, media=(AUDIO,))


BUILDERS: dict[str, Callable[[], Tiny]] = {
    "audioflamingo3": audioflamingo3,
    "granite_speech": granite_speech,
    "qwen2_audio": qwen2_audio,
    "voxtral": voxtral,
}
