"""Eyes: the worker reads one layer of the vision tower while it runs, for methods that look at it.

The hooks are there for one run of the tower, and only if a method of its images needs them. They read the states that
enter a layer's attention, and compute its queries and keys once more, so vLLM's kernels for attention stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from greedyprune.cues import Attention, Encoded, Keys, Seen
from greedyprune.engines.vllm.tower import Tower
from greedyprune.models.layers import told
from greedyprune.probes.rows import attention_rows, received
from greedyprune.probes.tower import received_inside

log = logging.getLogger(__name__)
Place = tuple[Any, bool]
"""A module, and whether rows are its output (True) or its input (False)."""


@dataclass
class Eyes:
    """The layers of a vision tower inside vLLM."""

    tower: Tower
    attentions: Sequence[Any]
    """The attention module of each layer."""
    states: Callable[[int | None], Place]
    """Where the states behind a layer are; None: those that the norm before the projector reads."""

    @contextmanager
    def reading(self, needs: Iterable[Seen], grids: Tensor | None) -> Generator[dict[Seen, Tensor]]:
        """Read needs, as `Tower.placed` gives them, while the tower runs in the block. -> each need: (rows, ...)

            with eyes.reading({Attention("cls", 22)}, None) as seen:
                rows = model.embed_multimodal(pixel_values=pixels)

        Behind the block `seen` has one value for each visual token of all images. `grids`: as in `Tower.by_token`.
        What cannot be read is left out, and the log says so: an exception would end the engine.
        """
        found, handles = dict[Seen, Tensor](), list[Any]()
        try:
            for need in needs:
                if isinstance(need, Encoded):
                    module, behind = self.states(need.layer if isinstance(need.layer, int) else None)
                    look = _careful(partial(self._states, found, need), need)
                    handles.append((module.register_forward_hook if behind else module.register_forward_pre_hook)(look))
                else:
                    assert isinstance(need.layer, int)
                    look = _careful(partial(self._attention, found, need, grids), need)
                    module = self.attentions[need.layer]
                    handles.append(module.register_forward_pre_hook(look, with_kwargs=True))
            yield found
        finally:
            for handle in handles:
                handle.remove()
        for need in list(found):
            _careful(self._fold, need)(found, need, grids)

    def _fold(self, found: dict[Seen, Tensor], need: Seen, grids: Tensor | None) -> None:
        found[need] = self.tower.by_token(need, found.pop(need), grids)

    @torch.no_grad()
    def _states(self, found: dict[Seen, Tensor], need: Seen, module: Any, given: Any, output: Any = None) -> None:
        """Copy the states: a later kernel may write into them. Packed rows have an axis of length 1 in the middle."""
        states = given[0] if output is None else output[0] if isinstance(output, tuple) else output
        found[need] = _packed(states).clone()

    @torch.no_grad()
    def _attention(
        self, found: dict[Seen, Tensor], need: Seen, grids: Tensor | None, module: Any, args: Any, given: dict[str, Any]
    ) -> None:
        """Compute what a need says of a layer's attention from its input."""
        states = given["hidden_states"] if "hidden_states" in given else args[0]
        queries, keys = (_packed(each) for each in _heads(module, states))
        if isinstance(need, Keys):
            found[need] = keys
            return
        assert isinstance(need, Attention)
        assert isinstance(need.layer, int)
        one, scale = need.heads == "one", keys.shape[-1] ** -0.5
        if need.kind == "cls":
            rows = attention_rows(queries[:, :1].transpose(1, 2), keys.transpose(1, 2), scale, one=one)[:, 0]
        elif grids is None:
            rows = received(queries.transpose(1, 2), keys.transpose(1, 2), scale, one=one)
        else:
            cos, sin = given["rotary_pos_emb_cos"], given["rotary_pos_emb_sin"]
            queries, keys = module.apply_rotary_emb(torch.stack([queries, keys]).contiguous(), cos, sin)
            listed: Any = grids.tolist()
            rows = received_inside(queries, keys, self.tower.borders(need.layer, listed), scale, one=one)
        found[need] = rows.float()


def _careful(look: Callable[..., None], need: Seen) -> Callable[..., None]:
    """The same function, which logs an error and raises none."""

    def careful(*args: Any, **kwargs: Any) -> None:
        try:
            look(*args, **kwargs)
        except Exception as error:
            log.error("greedyprune cannot read %s in the tower: %s: %s", told(need), type(error).__name__, error)

    return careful


def _packed(states: Tensor) -> Tensor:
    """Rows of packed images without the axis that Qwen's towers put behind them. (rows, 1, ...) -> (rows, ...)"""
    return states.squeeze(1) if states.ndim > 2 and states.shape[1] == 1 else states


def _heads(attention: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    """The queries and the keys of all heads before any rotation. (..., d) -> (..., h, c), (..., h, c)

    With tensor parallelism a worker has a part of the heads, and gathers the others.
    """
    joint = attention.qkv_proj if hasattr(attention, "qkv_proj") else attention.qkv
    head = attention.head_dim if hasattr(attention, "head_dim") else attention.hidden_size_per_attention_head
    queries, keys, _ = (each.unflatten(-1, (-1, head)) for each in joint(states)[0].chunk(3, -1))
    if attention.tp_size == 1:
        return queries, keys
    from vllm.distributed import tensor_model_parallel_all_gather  # pyright: ignore[reportMissingImports]

    gather: Any = tensor_model_parallel_all_gather
    return gather(queries.contiguous(), -2), gather(keys.contiguous(), -2)
