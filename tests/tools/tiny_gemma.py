"""A tiny Gemma 3 text model drawn at random, and a tokenizer of single characters, in place of the real packages."""

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from greedyprune.testbed.train.gemma.wording import IMAGE

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", IMAGE)
CHARACTERS = "\n▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789?:,."


def tokenizer() -> PreTrainedTokenizerFast:
    """Each character is a token; a space is "▁", as in Gemma's."""
    table = {token: i for i, token in enumerate((*SPECIAL, *CHARACTERS))}
    characters = Tokenizer(models.BPE(vocab=table, merges=[], unk_token="<unk>"))
    characters.normalizer = normalizers.Replace(" ", "▁")
    characters.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    characters.decoder = decoders.Replace("▁", " ")
    return PreTrainedTokenizerFast(
        tokenizer_object=characters, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def text_model(seed: int = 0) -> Gemma3ForCausalLM:
    """Three layers, the last one with full attention."""
    torch.manual_seed(seed)
    config = Gemma3TextConfig(
        vocab_size=len(SPECIAL) + len(CHARACTERS),
        hidden_size=128,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=24,
        query_pre_attn_scalar=24,
        sliding_window=512,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return Gemma3ForCausalLM(config)
