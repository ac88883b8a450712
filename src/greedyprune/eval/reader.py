"""Saliencies: what every cue says of every visual token, at every decoder layer, from one forward of all tokens.

    batch = engine.prepare(0, items)
    for question in saliencies(engine, batch):
        question[2, "cosine last"]      # (n,) of the states that enter decoder layer 2

Hooks read a layer while it runs and keep one value per visual token, so no attention map outlives its layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from greedyprune.eval.engine import Batch, Engine, few_logits
from greedyprune.models.parts import Parts
from greedyprune.models.prompt import Prompt
from greedyprune.models.reads import layers_of
from greedyprune.models.release import argument_names, cache_of
from greedyprune.ops.channels import by_channels
from greedyprune.ops.cosine import unit64
from greedyprune.ops.preprocess import mean_row
from greedyprune.ops.relevance import cosines_with
from greedyprune.ops.unit_centre import centred_cosines

COSINES = ("cosine last", "cosine mean", "cosine max")
CENTRED = tuple(f"{name} centred" for name in COSINES)
SCALED = tuple(f"{name} scaled" for name in COSINES)
ATTENTIONS = ("attention last", "attention question")
CHANGE = "change"
NORMS = ("key norm", "value norm")
SALIENCIES = (*COSINES, *CENTRED, *SCALED, *ATTENTIONS, *NORMS, CHANGE)
"""The names of all saliencies."""

Found = dict[tuple[int, str], Tensor]
"""The saliencies of one question's visual tokens, (n,) float32 on the CPU, by decoder layer and name."""


def saliencies(engine: Engine, batch: Batch) -> list[Found]:
    """Compute every saliency of every visual token at every decoder layer. -> one `Found` per question

        (found,) = saliencies(engine, engine.prepare(0, [item]))
        found[0, "attention last"].topk(16)

    h_i^l is the state of token i that enters layer l, t the last prompt token, T the question's tokens (as in
    `Cues.question`).

    - cosine last, mean, max: cos(h_i, h_t), cos(h_i, mean_j h_j), max_j cos(h_i, h_j), j in T.
    - the same centred: cos(u_i - m, v - m), u = h / |h|, m the mean of the u_i of all visual tokens, and v = u_t; for
      the mean, v is the mean of the u_j at length 1; for the max, the largest value of v = u_j, j in T.
    - the same scaled: every coordinate is first divided by its root mean square over the visual tokens, then centred.
    - attention last, question: the attention that the token gets in layer l from t, or from the tokens of T; the mean
      over the heads, and over T.
    - key norm, value norm: the length of its key (as it is cached), or value, over all heads of layer l.
    - change: |h_i^l - h_i^(l-1)|, not at layer 0.

    The model runs eager attention meanwhile and is left as it was. What a layer does not show (attention weights,
    cached keys of all tokens) is missing from the result. Values are float32: the states are no more exact, and equal
    tokens tie. Raises ValueError if states are not finite, or if the model is pruned.
    """
    reader = _Reader(engine.parts, _prompt(engine, batch), batch.inputs["input_ids"].cpu())
    with torch.inference_mode(), eager(engine.model), reader.attached():
        output = engine.model(**batch.inputs, **few_logits(engine.model, engine.parts), use_cache=True)
        reader.read_cache(cache_of(output))
    return reader.found


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """Inside, the model computes attention weights and returns them, if it can. Afterwards it is as it was."""
    before = [(config, config._attn_implementation) for config in _configs(model)]
    try:
        with suppress(ValueError, NotImplementedError):
            model.set_attn_implementation("eager")
        yield
    finally:
        for config, name in before:
            config._attn_implementation_internal = name  # the property would set the configs inside it, too


def _configs(model: Any) -> list[Any]:
    """The configs that name an attention implementation: those of all modules, and all configs inside them."""
    found: dict[int, Any] = {}
    todo = [module.config for module in model.modules() if hasattr(module, "config")]
    while todo:
        config = todo.pop()
        if id(config) not in found and hasattr(config, "_attn_implementation_internal"):
            found[id(config)] = config
            todo += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())


def _prompt(engine: Engine, batch: Batch) -> Prompt:
    """The places of images and text in a prepared batch."""
    ids, valid = batch.inputs["input_ids"].cpu(), batch.inputs["attention_mask"].bool().cpu()
    media = torch.tensor([token for _, token in engine.parts.media])
    return Prompt(torch.isin(ids, media) & valid, valid, batch.spans)


class _Reader:
    """Reads one forward, layer by layer."""

    def __init__(self, parts: Parts, prompt: Prompt, ids: Tensor) -> None:
        self._parts, self._spans = parts, prompt.spans
        self._length = prompt.valid.shape[1]
        asked = prompt.questions(ids, parts.ends)
        self._questions = [prompt.text_of(span.row)[rows] for span, rows in zip(prompt.spans, asked, strict=True)]
        self._last = [prompt.last[span.row] for span in prompt.spans]
        self._before: dict[int, Tensor] = {}
        self.found: list[Found] = [{} for _ in prompt.spans]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside, hooks read the decoder layers."""
        handles: list[Any] = []
        try:
            for index, layer in enumerate(self._parts.layers):
                handles.append(layer.register_forward_pre_hook(partial(self._states, index), with_kwargs=True))
                attention = getattr(layer, "self_attn", None)
                if attention is not None:
                    handles.append(attention.register_forward_hook(partial(self._attention, index)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _states(self, index: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the states that enter layer `index`, (b, q, d)."""
        states = entering(layer, args, kwargs)
        if states.shape[1] != self._length:
            raise ValueError(
                f"decoder layer {index} gets {states.shape[1]} of the prompt's {self._length} tokens: "
                "a pruned model does not show what all tokens say, so undo it first (greedyprune.remove(model))."
            )
        for number, span in enumerate(self._spans):
            rows = states[span.row].detach()
            visual = rows[span.columns.to(rows.device)].double()
            question = rows[self._questions[number].to(rows.device)]
            for name, values in cosines(visual, question, rows[self._last[number]]).items():
                self._keep(number, index, name, values)
            if index:
                self._keep(number, index, CHANGE, (visual - self._before[number].to(visual)).square().sum(-1).sqrt())
            self._before[number] = visual

    def _attention(self, index: int, module: Any, args: Any, output: Any) -> None:
        """Read the attention weights of layer `index`, (b, h, q, q), if it returns them."""
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4 or weights.shape[-2:] != (self._length, self._length):
            return
        for number, span in enumerate(self._spans):
            own, columns = weights[span.row].detach(), span.columns.to(weights.device)
            question = own[:, self._questions[number].to(own.device)][..., columns]
            self._keep(number, index, ATTENTIONS[0], own[:, self._last[number]][:, columns].double().mean(0))
            self._keep(number, index, ATTENTIONS[1], question.double().mean((0, 1)))

    def read_cache(self, cache: Any) -> None:
        """Read keys and values, (b, g, q, c), of the cache layers that hold those of all tokens."""
        for index, layer in zip(range(len(self._parts.layers)), layers_of(cache), strict=False):
            for name, held in zip(NORMS, (getattr(layer, "keys", None), getattr(layer, "values", None)), strict=True):
                if not isinstance(held, Tensor) or held.ndim != 4 or held.shape[2] != self._length:
                    continue
                for number, span in enumerate(self._spans):
                    own = held[span.row][:, span.columns.to(held.device)].double()
                    self._keep(number, index, name, own.square().sum((0, 2)).sqrt())

    def _keep(self, number: int, index: int, name: str, values: Tensor) -> None:
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"{name} holds NaN or infinity at decoder layer {index}: check the model's inputs and its precision "
                "(float16 overflows where bfloat16 does not)."
            )
        self.found[number][index, name] = values.float().cpu()


def entering(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The states among the arguments that a decoder layer is called with. -> (b, q, d)"""
    return {**kwargs, **dict(zip(argument_names(layer), args, strict=False))}["hidden_states"]


def cosines(visual: Tensor, question: Tensor, last: Tensor) -> dict[str, Tensor]:
    """The saliencies that are cosines, see `saliencies`. (n, d), (m, d), (d,) -> (n,) each, in float64"""
    plain = last[None], mean_row(question)[None], question
    centred = last[None], unit64(question).mean(0, keepdim=True), question
    rows, words = by_channels(visual, torch.cat([last[None], question]))
    scaled = words[:1], unit64(words[1:]).mean(0, keepdim=True), words[1:]
    return {
        **{name: cosines_with(visual, text).amax(1) for name, text in zip(COSINES, plain, strict=True)},
        **{name: centred_cosines(visual, text).amax(1) for name, text in zip(CENTRED, centred, strict=True)},
        **{name: centred_cosines(rows, text).amax(1) for name, text in zip(SCALED, scaled, strict=True)},
    }
