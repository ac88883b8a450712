"""Initial weights that let these small models learn in minutes on a CPU. None of it is needed in principle.

None of it is needed in principle. From the usual random start, nine attempts stayed on a plateau where answers were
guessed among the values present, because binding a colour to its shape takes attention that compares and copies.
"""

from typing import Any

import torch
from torch import Tensor

from greedyprune.testbed.train.codebook import WIDTH, apart, codebook
from greedyprune.testbed.train.models import Architecture, Qwen


def start_tower(architecture: Architecture, model: Any) -> None:
    """The first layers of the tower begin by looking at the neighbours, as a convolution does."""
    with torch.no_grad():
        (_start_windows if isinstance(architecture, Qwen) else _start_clip)(model)


def _start_clip(model: Any) -> None:
    """Learned positions.

    Positions start as sines and cosines in dimensions of their own. In those, looking one patch to the right is a
    rotation, which W_q gets; the pictures' content does not disturb it. What then happens to it is learned.
    """
    embeddings, encoder = model.model.vision_tower.embeddings, model.model.vision_tower.encoder
    width, heads = embeddings.embed_dim, model.config.vision_config.num_attention_heads
    own = width // heads
    steps = torch.pi * torch.arange(1, own // 4 + 1) / (own // 4 + 1)  # up to half a turn from patch to patch
    side = round((embeddings.num_positions - 1) ** 0.5)
    embeddings.patch_embedding.weight[:own] = 0
    embeddings.position_embedding.weight.zero_()
    embeddings.position_embedding.weight[1:, :own] = 0.7 * _waves(side, steps)
    for layer, moves in zip(encoder.layers, _MOVES, strict=False):
        attention = layer.self_attn
        attention.q_proj.weight.zero_()
        attention.k_proj.weight.zero_()
        for head, move in enumerate(moves):
            rows = slice(head * own, (head + 1) * own)
            attention.q_proj.weight[rows, :own] = _SHARP * _shift(steps, *move)
            attention.k_proj.weight[rows, :own] = _SHARP * torch.eye(own)
        attention.v_proj.weight.copy_(0.5 * _orthogonal(width))
        attention.out_proj.weight.copy_(0.5 * _orthogonal(width))


def _start_windows(model: Any) -> None:
    """Rotary positions: what a head looks at is a matter of its constant query and key, that is of its biases."""
    tower = model.model.visual
    width, heads = tower.config.hidden_size, tower.config.num_heads
    own = width // heads
    quarter = own // 4  # frequencies of y, then as many of x; cosine parts first, then sine parts
    frequencies = 10_000.0 ** (-torch.arange(quarter) / quarter)
    loud = _LOUD * (torch.arange(quarter) < 2)  # the fast ones tell neighbours apart
    for layer, moves in zip(tower.blocks, _MOVES, strict=False):
        bias, weight = layer.attn.qkv.bias.view(3, heads, own), layer.attn.qkv.weight
        bias.zero_()
        weight[: 2 * width] *= 0.2
        for head, (right, down) in enumerate(moves):
            angles = torch.cat([down * frequencies, right * frequencies])
            bias[0, head] = torch.cat([angles.cos(), angles.sin()]) * loud.repeat(4)
            bias[1, head] = torch.cat([torch.ones(2 * quarter), torch.zeros(2 * quarter)]) * loud.repeat(4)
        weight[2 * width :] = 0.5 * _orthogonal(width)
        layer.attn.proj.weight.copy_(0.5 * _orthogonal(width))


_MOVES = (((1, 0), (-1, 0), (0, 1), (0, -1)), ((1, 1), (-1, 1), (1, -1), (-1, -1)), ((2, 0), (-2, 0), (0, 2), (0, -2)))
_SHARP, _LOUD = 1.2, 4.5


def _waves(side: int, steps: Tensor) -> Tensor:
    """Sine and cosine of x, then of y, at each step. -> (side * side, 4 * steps)"""
    y, x = torch.arange(side).repeat_interleave(side)[:, None], torch.arange(side).repeat(side)[:, None]
    return torch.cat([torch.sin(x * steps), torch.cos(x * steps), torch.sin(y * steps), torch.cos(y * steps)], 1)


def _shift(steps: Tensor, right: int, down: int) -> Tensor:
    """The matrix that turns the waves at a place into those some patches further. -> (4 * steps, 4 * steps)"""
    blocks = []
    for move in (right, down):
        cosine, sine = torch.diag(torch.cos(move * steps)), torch.diag(torch.sin(move * steps))
        blocks.append(torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)]))
    return torch.block_diag(*blocks)


def start_decoder(architecture: Architecture, model: Any, structured: bool = True, separate: bool = False) -> None:
    """Word embeddings from the codebook; attention that compares and copies, unless an ordinary start is asked for.

    `separate`: the words are turned by a random rotation, so that they share no basis with visual tokens, and a word is
    no more similar to what it names than to anything else until the decoder learns the connection.

    Structured: W_q = W_k is orthogonal, so like finds like, and W_o W_v is close to a multiple of the identity, so what
    is found is copied unchanged. Without it the same decoder learned to bind a colour to its shape many times slower.
    """
    book = codebook()
    with torch.no_grad():
        words = book.words @ apart() if separate else book.words
        model.get_input_embeddings().weight.copy_(words)
        model.lm_head.weight.copy_(0.15 * words)
        layers: Any = architecture.decoder(model).layers
        for layer in layers if structured else ():
            same = _orthogonal(WIDTH)
            layer.self_attn.q_proj.weight.copy_(same + 0.01 * torch.randn(WIDTH, WIDTH))
            layer.self_attn.k_proj.weight.copy_(same)
            copied = 0.6 * _orthogonal(WIDTH)
            layer.self_attn.v_proj.weight.copy_(copied)
            layer.self_attn.o_proj.weight.copy_(copied.T)
    model.get_input_embeddings().weight.requires_grad_(False)


def _orthogonal(n: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n))[0]
