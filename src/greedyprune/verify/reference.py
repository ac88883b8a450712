"""The references: the right logits of a pruned model, computed by the same model without any pruning code.

They share nothing with a pruned run but the answer's tokens. The model reads prompt and answer at once, with eager
attention, without a cache and in the original positions.

`masked`: the full sequence stays, and in the layers behind the cut no token attends to a dropped token.
`gathered`: only the kept columns continue at the cut, one prompt at a time. It is for decoders whose layers hold a
state, since no mask keeps a token out of a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from greedyprune.models.parts import find_parts
from greedyprune.stages import Layer
from greedyprune.verify.cases import Rows
from greedyprune.verify.subject import FULL, SLIDING, Subject, attending, exactly, is_recurrent, kinds_of

if TYPE_CHECKING:
    from greedyprune.selection import Selection
    from greedyprune.stages import Stage


def start_of(at: Stage) -> int:
    """The decoder layer before which this cuts."""
    return at.index if isinstance(at, Layer) else 0


def is_early(at: Stage) -> bool:
    """True if the caches of layers before the cut are cut after the prompt."""
    return isinstance(at, Layer) and at.early


def image_columns(visual: Tensor, selections: Sequence[Selection]) -> list[Tensor]:
    """The placeholders of every selection, newlines included. -> [(n, 2)] rows and columns"""
    return list(visual.nonzero().split([selection.n + len(selection.structure) for selection in selections]))


def dropped_columns(visual: Tensor, selections: Sequence[Selection]) -> Tensor:
    """True for tokens of a prompt that were dropped. (b, L) -> (b, L) bool"""
    dropped = torch.zeros_like(visual)
    for places, selection in zip(image_columns(visual, selections), selections, strict=True):
        gone = torch.ones(len(places), dtype=torch.bool, device=visual.device)
        gone[selection.places.to(visual.device)] = False
        dropped[places[gone, 0], places[gone, 1]] = True
    return dropped


def reference(subject: Subject, rows: Rows, sequences: Tensor, dropped: Tensor, at: Stage) -> Tensor:
    """The logits of an answer in float32 when these tokens of its prompt do not exist behind the cut. -> (b, s, v)"""
    with attending(subject.model, "eager"), exactly(subject.model):
        if is_recurrent(subject.model):
            return gathered(subject, rows, sequences, dropped, at)
        return masked(subject, subject.prompt(rows), sequences, dropped, at)


@dataclass(frozen=True, eq=False)
class Sight:
    """The masks of a sequence in which tokens are gone. b rows, t tokens of prompt and answer."""

    prompt: int
    """The number of tokens of the prompt."""
    valid: Tensor
    """(b, t) bool: True for tokens that are not padding."""
    gone: Tensor
    """(b, t) bool: True for dropped tokens."""

    @classmethod
    def of(cls, full: dict[str, Tensor], dropped: Tensor) -> Sight:
        """Make it from the inputs of prompt and answer, and the dropped tokens of the prompt."""
        gone = nn.functional.pad(dropped, (0, full["input_ids"].shape[1] - dropped.shape[1]))
        return cls(dropped.shape[1], full["attention_mask"].bool(), gone)

    def hide(self, mask: Tensor, window: int, behind: bool, early: bool) -> Tensor:
        """A layer's mask without what is gone: behind the cut, or for those after the prompt. (b, 1, t, t)"""
        assert mask.ndim == 4, "the references need eager attention with an explicit mask"
        low = torch.finfo(mask.dtype).min if mask.is_floating_point() else False
        columns = torch.arange(mask.shape[-1], device=mask.device)
        late, causal = columns[:, None] >= self.prompt, columns <= columns[:, None]
        # A mask that lets a prompt look ahead must not let it see the answer, which was not there yet.
        seen = (mask if mask.dtype == torch.bool else mask > low / 2) & (causal | ~(late | late.T))
        short = seen
        if window:  # counts the tokens that are left, which is what a cache holds
            count = (self.valid & ~self.gone).cumsum(1)
            near = causal & (count[:, :, None] - count[:, None, :] < window) & self.valid[:, None, :]
            short = seen | near[:, None]
        short = short & ~self.gone[:, None, None, :]
        seen = short if behind else torch.where(late, short, seen) if early else seen
        if mask.dtype == torch.bool:
            return seen
        return torch.zeros_like(mask).expand(seen.shape).masked_fill(~seen, low)


@torch.no_grad()
def masked(subject: Subject, inputs: dict[str, Tensor], sequences: Tensor, dropped: Tensor, at: Stage) -> Tensor:
    """The logits of an answer when dropped tokens are only masked, never removed. -> (b, s, v)"""
    full = _positioned(subject.model, subject.continued(inputs, sequences[:, :-1]))
    sight = Sight.of(full, dropped)

    def hook(index: int, window: int) -> Any:
        def look(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            mask = sight.hide(kwargs["attention_mask"], window, index >= start_of(at), is_early(at))
            return args, {**kwargs, "attention_mask": mask}

        return look

    with _hooked(
        subject.model, [hook(index, window) for index, (_, window) in enumerate(_kinds_to_mask(subject.model))]
    ):
        return _answer(subject.model, full, sequences.shape[1] - inputs["input_ids"].shape[1])


@torch.no_grad()
def gathered(subject: Subject, rows: Rows, sequences: Tensor, dropped: Tensor, at: Stage) -> Tensor:
    """The logits of an answer when the kept tokens alone go on at the cut, every prompt by itself. -> (b, s, v)"""
    if is_early(at):
        raise NotImplementedError("an early cut of a decoder whose layers hold a state has no reference yet")
    if find_parts(subject.model).family.deepstack:
        raise NotImplementedError("visual features that are added between layers which hold a state have none yet")
    inputs = subject.prompt(rows)
    steps = sequences.shape[1] - inputs["input_ids"].shape[1]
    logits: list[Tensor] = []
    for place, row in enumerate(rows):
        first = int(inputs["attention_mask"][place].argmax())
        full = subject.continued(subject.prompt((row,)), sequences[place : place + 1, first:-1])
        logits.append(gathered_row(subject.model, full, dropped[place : place + 1, first:], steps, start_of(at)))
    return torch.cat(logits)


def gathered_row(model: Any, full: dict[str, Tensor], dropped: Tensor, steps: int, start: int) -> Tensor:
    """The same for one prompt. -> (1, s, v)"""
    sight = Sight.of(full, dropped)
    stay = (~sight.gone[0]).nonzero()[:, 0]

    def cut(x: Any, *axes: int) -> Any:
        for axis in axes:
            x = x.index_select(axis, stay.to(x.device))
        return x

    def hook(index: int, kind: str, window: int) -> Any:
        def look(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            if index < start:
                return None
            kwargs = {**kwargs, **({"hidden_states": args[0]} if args else {})}
            if index == start:
                kwargs["hidden_states"] = cut(kwargs["hidden_states"], 1)
            mask = kwargs.get("attention_mask")
            if mask is not None and mask.ndim == 2:
                kwargs["attention_mask"] = cut(mask, 1)
            elif mask is not None:
                assert kind in (FULL, SLIDING)
                kwargs["attention_mask"] = cut(sight.hide(mask, window, True, False), 2, 3)
            if kwargs.get("position_embeddings") is not None:
                kwargs["position_embeddings"] = tuple(cut(x, -2) for x in kwargs["position_embeddings"])
            if kwargs.get("position_ids") is not None:
                kwargs["position_ids"] = cut(kwargs["position_ids"], -1)
            return (kwargs.pop("hidden_states"), *args[1:]), kwargs

        return look

    kinds = kinds_of(model)
    with _hooked(model, [hook(index, kind, window) for index, (kind, window) in enumerate(kinds)]):
        return _answer(model, full, steps)


def _kinds_to_mask(model: Any) -> list[tuple[str, int]]:
    """The kinds of its decoder layers, if a mask can hide tokens in all of them."""
    kinds = kinds_of(model)
    strange = sorted({kind for kind, _ in kinds} - {FULL, SLIDING})
    if strange:
        raise NotImplementedError(f"decoder layers of type {', '.join(strange)} have no reference yet")
    return kinds


@contextmanager
def _hooked(model: Any, hooks: Iterable[Any]) -> Iterator[None]:
    """Inside, the decoder layers carry these pre-hooks."""
    layers = model.get_decoder().layers
    handles = [
        layer.register_forward_pre_hook(hook, with_kwargs=True) for layer, hook in zip(layers, hooks, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _positioned(model: Any, full: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a padded batch, with positions that count from each prompt's first token as `generate` makes them.

    Most decoders see distances alone. Models that number images by their grids count from the mask by themselves.
    """
    if bool(full["attention_mask"].all()) or hasattr(find_parts(model).outer, "get_rope_index"):
        return full
    return {**full, "position_ids": (full["attention_mask"].cumsum(1) - 1).clamp(min=0)}


def _answer(model: Any, full: dict[str, Tensor], steps: int) -> Tensor:
    """The logits of the last tokens, in float32. -> (b, s, v)"""
    # Decoders whose late layers borrow keys run them for the last tokens alone then, and make other masks for them.
    borrows = getattr(model.get_decoder().config, "num_kv_shared_layers", 0)
    few = {} if borrows else {"logits_to_keep": steps}
    return model(**full, use_cache=False, **few).logits[:, -steps:].float()
