"""Checks on a call's arguments. Unsupported arguments raise or warn here, before the model runs.

Each reason to refuse a call is one function. An error says what is wrong, names the value, and says what to do.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor, nn
from transformers.cache_utils import StaticLayer

from greedyprune.budget import counts_tokens
from greedyprune.cues import Text
from greedyprune.models.parts import COMPUTED, INPUTS
from greedyprune.models.reads import layers_of
from greedyprune.selection import PruneWarning

if TYPE_CHECKING:
    from collections.abc import Iterable

    from greedyprune.hints import Hints
    from greedyprune.method import Method
    from greedyprune.models.parts import Parts
    from greedyprune.models.prompt import Prompt
    from greedyprune.policy import Policy

USUAL = ("inputs_embeds", "attention_mask", "position_ids")
"""The text model's arguments that have the sequence as an axis, in every family."""
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "max_length_q", "max_length_k", "seq_idx")
"""The arguments that give the borders of prompts packed in one row."""


def brings_media(parts: Parts, kwargs: dict[str, Any]) -> bool:
    """True if images, videos or sounds come with these arguments."""
    for name in parts.media_inputs:  # a loop and no generator, since every decoding step runs this
        given: Any = kwargs.get(name)
        if given is not None and (name != COMPUTED or any(value is not None for value in given.values())):
            return True
    return False


def is_cut(cache: Any) -> bool:
    """True if a KV cache holds a pruned prompt: its layers store the end of the prompt (`ShortLayer.prompt`)."""
    return any(getattr(layer, "prompt", 0) for layer in layers_of(cache))


def asks_for_all(kwargs: dict[str, Any]) -> bool:
    """True if labels or positions of logits are given, which are about all tokens."""
    return kwargs.get("labels") is not None or isinstance(kwargs.get("logits_to_keep"), Tensor)


def refuse_labels(kwargs: dict[str, Any]) -> None:
    """Raise if labels or positions of logits are given, since a pruned prompt has fewer logits."""
    if kwargs.get("labels") is not None:
        raise NotImplementedError(
            "labels cannot be used while the model is pruned, since it has fewer logits: call remove() before training."
        )
    if isinstance(kwargs.get("logits_to_keep"), Tensor):
        raise NotImplementedError(
            "logits_to_keep as a tensor of positions would point at other tokens after pruning: pass an int."
        )


def refuse_callers(parts: Parts, *, watched: bool) -> None:
    """Raise if a caller of the pruned model gets arguments that the hooks do not see.

    A model around it that can generate, but is not pruned itself, gets labels, positions of logits and the length of a
    prompt. So does a `generate` fetched before `prune()`. `watched`: True if a `generate` runs that our hooks see.
    """
    met = False
    for method, module in callers("forward", "generate"):
        holds = any(module is holder for holder in parts.holders)
        met = met or (holds and method == "forward" and module is not parts.outer)  # its hook sees the arguments too
        if method == "generate" and holds and not watched:
            raise NotImplementedError(
                f"this generate() of a {type(module).__name__} was fetched before the model was pruned, so the length "
                "of the prompt is not known: call model.generate(...) itself."
            )
        stranger = method == "forward" and not holds and not met and hasattr(type(module), "generate")
        if stranger and any(part is parts.outer for part in module.modules()):
            raise NotImplementedError(
                f"a part of this {type(module).__name__} is pruned, and that part does not see labels, logits_to_keep "
                f"and generate(): prune the {type(module).__name__}."
            )


def refuse_right_padding(mask: Any, ids: Tensor | None = None, pad: int | None = None) -> None:
    """Raise if prompts are padded on the right, since `generate` then gives wrong positions to their answers.

    Without a mask, `generate` treats every token `pad` as padding.
    """
    ends = isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] and not bool(mask[:, -1].all())
    if mask is None and ids is not None and pad is not None:
        ends = bool((ids[:, -1] == pad).any())
    if ends:
        raise NotImplementedError(
            "generate() gives wrong positions to the answers of prompts that are padded on the right: pad on the left, "
            'processor.tokenizer.padding_side = "left".'
        )


def refuse_packed(kwargs: Mapping[str, Any], positions: Tensor | None, valid: Tensor) -> None:
    """Raise if several prompts are packed in one row, since one question would choose the tokens of all of them.

    `kwargs`: the text model's arguments, which may give their borders. `positions` (b, q) or (3, b, q), None if they
    cannot show it. `valid` (b, q) bool: True for tokens that are not padding. Both are on the CPU.
    """
    named = [name for name in PACKED if kwargs.get(name) is not None]
    if named:
        raise NotImplementedError(
            f"{named[0]} gives the borders of prompts packed in one row, whose images cannot be pruned: pass one "
            "prompt per row with an attention_mask, or call remove()."
        )
    if positions is None:
        return
    back = (positions[0] if positions.ndim == 3 else positions).diff(dim=-1) < 0
    if bool((back & valid[:, 1:] & valid[:, :-1]).any()):
        raise NotImplementedError(
            "the position_ids of a row go back, as those of several prompts packed in one row do, and their images "
            "cannot be pruned: pass one prompt per row with an attention_mask, or call remove()."
        )


def refuse_unclear(ids: Tensor | None, mask: Any, cache: Any, *, images: bool) -> None:
    """Raise if the call does not tell which tokens are images and padding. `images`: some come with the call."""
    if ids is None:
        raise NotImplementedError(
            "inputs_embeds without input_ids does not show the images in it: pass input_ids and pixel_values."
        )
    odd = mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2)
    if odd and (images or is_cut(cache)):
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise NotImplementedError(f"an attention mask of shape {shape} does not show the padding: pass a 2-D mask.")


def warn_if_unbrought(parts: Parts, kwargs: dict[str, Any], ids: Tensor, brought: Iterable[str]) -> None:
    """Warn if images seem to come in an unknown argument, since then none of them is pruned.

    They seem to if the prompt holds placeholders and an unknown argument holds floating-point values or a mapping.
    `brought`: the kinds of input that came in known arguments.
    """
    strange = [
        name
        for name, value in kwargs.items()
        if name not in USUAL
        and (isinstance(value, Mapping) or (isinstance(value, Tensor) and value.is_floating_point()))
    ]
    known = {token for medium, token in parts.media if medium.kind in brought}
    for medium, token in parts.media if strange else []:
        if medium.kind in brought or token in known:
            continue
        if bool((ids == token).any()):
            warnings.warn(
                f"the prompt holds {medium.kind} placeholders. None of "
                f"{', '.join((*medium.inputs, 'mm_encoder_outputs'))} came with it, but {', '.join(strange)} did. If "
                f"that holds {medium.kind}s, they are not pruned.",
                PruneWarning,
                stacklevel=2,
            )


def refuse_crops(parts: Parts, prompt: Prompt, ids: Tensor, policy: Policy) -> None:
    """Raise if pictures seem to be crops of one picture, and the budget is one number of tokens for every picture.

    The number would be kept of every crop. A share means the same of a crop as of a picture; a list and `Total` say
    what they mean. `ids` (b, q) on the CPU.
    """
    row = prompt.row_of_crops(ids) if parts.family.crops and counts_tokens(policy.keep) else None
    if row is None:
        return
    keep, many = policy.keep, sum(span.row == row for span in prompt.spans)
    remedy = "write its numbers as shares, such as Ratio(0.25)"
    if isinstance(keep, int):
        floor = "" if keep >= many else ", floor=0"
        every = ", ".join([str(keep)] * len(prompt.spans))
        remedy = f"write keep=Total({keep}{floor}) for all of them together, or keep=[{every}] for that many of each"
    raise ValueError(
        f"prompt {row} seems to hold crops of one picture (pan and scan), and keep={keep} would be kept of each of "
        f"its {many} pictures: {remedy}, or leave out do_pan_and_scan."
    )


def refuse_unknown_inputs(parts: Parts, kwargs: dict[str, Any], computed: dict[str, Any]) -> None:
    """Raise if the call brings a kind of input that the family does not list, or features of a part of the prompt."""
    for kind, name in INPUTS.items():
        came = kwargs.get(name) is not None or kind in computed
        if came and all(medium.kind != kind for medium, _ in parts.media):
            why = dict(parts.family.without).get(kind)
            raise NotImplementedError(
                f"{kind}s of a {parts.family.model_type!r} model are not supported"
                f"{f', since {why}' if why else ''}: call remove() for prompts with {kind}s."
            )
    for features in computed.values():
        refuse_chunks(chunked=getattr(features, "last_hidden_state", None) is None)


def refuse_chunks(*, chunked: bool) -> None:
    """Raise if a prompt with images is prefilled in chunks."""
    if chunked:
        raise NotImplementedError(
            "a prompt prefilled in chunks cannot be pruned, since no chunk sees the whole question: "
            "leave out prefill_chunk_size."
        )


def refuse_checkpointing(parts: Parts) -> None:
    """Raise if gradient checkpointing would later run layers again without the cut (old releases)."""
    inside = (layer for layer in parts.layers if type(layer).__call__ is not nn.Module.__call__)
    if any(layer.training and getattr(layer, "gradient_checkpointing", False) for layer in inside):
        raise NotImplementedError(
            "gradient checkpointing of this release of transformers runs decoder layers again without the cut: "
            "use at=Input(), or call model.gradient_checkpointing_disable()."
        )


def refuse_unknown_arguments(parts: Parts, ids: Tensor, kwargs: Mapping[str, Any]) -> None:
    """Raise if an argument of the text model has a value per token, and the family does not list it."""
    batch, length = kwargs["inputs_embeds"].shape[:2]
    known = (*USUAL, *parts.family.along, *(parts.family.deepstack or ()))
    for name, value in kwargs.items():
        if name not in known and isinstance(value, Tensor) and value.shape[:2] == (batch, length):
            raise NotImplementedError(
                f"the text model of this {parts.family.model_type!r} model gets {name!r} with a value for "
                "every token, and pruning does not know it: this release of transformers is not supported, please "
                "report it."
            )
    if ids.shape[1] != length:
        raise NotImplementedError(
            f"the model made {length} tokens of a prompt of {ids.shape[1]}: build text, images and "
            "sounds with the model's own processor, which writes a placeholder for every token."
        )


def refuse_cache(cache: Any, *, early: bool = False) -> None:
    """Raise if a cache's layers cannot become shorter. `early`: True if tokens are also removed from filled layers."""
    if cache is None:
        return
    layers = getattr(cache, "layers", None)
    if layers is None:
        raise NotImplementedError(
            f"a {type(cache).__name__} cannot be pruned: pass a DynamicCache, or no cache and let generate() make one."
        )
    for layer in layers:
        if isinstance(layer, StaticLayer):
            raise NotImplementedError(
                f"a static cache ({type(cache).__name__}) has a fixed length and cannot hold a pruned prompt: "
                'use the default dynamic cache (leave out cache_implementation="static").'
            )
        if early and _is_quantised(layer):
            raise NotImplementedError(
                f"an early cut removes keys from the cache, and a {type(layer).__name__} does not support that: "
                "leave out early=True, or use the default dynamic cache."
            )


def _is_quantised(layer: Any) -> bool:
    """True if the layer holds quantised keys and values."""
    return callable(getattr(layer, "_dequantize", None))


def refuse_no_text(prompt: Prompt, method: Method) -> None:
    """Raise if the method weighs an image's tokens by the prompt's text, and the prompt has none."""
    if not any(isinstance(need, Text) for need in method.needs):
        return
    for span in prompt.spans:
        if not bool(prompt.is_text[span.row].any()):
            raise ValueError(
                f"prompt {span.row} holds no text, and {type(method).__name__} weighs visual tokens by the text: add a "
                "question, or use a method that reads no text, such as DivPrune()."
            )


def refuse_other_place(held: str | None, place: str) -> None:
    """Raise if the cache holds a prompt that was cut at another place than `place`."""
    if held is not None and held != place:
        raise NotImplementedError(
            f"the prompt in this cache was cut at {held!r}, and the policy now cuts at {place!r}: "
            "keep the place of the cut through a conversation, or start with an empty cache."
        )


def refuse_early_cut(policy: Policy, *, followed: bool) -> None:
    """Raise if an early cut would read tokens together with the prompt. `followed`: True if there are such tokens."""
    if policy.early and followed:
        raise NotImplementedError(
            "an early cut cannot hide dropped tokens from tokens that are read together with the prompt: leave out "
            "early=True, or generate with a cache and without assistant_model and prompt_lookup_num_tokens."
        )


def refuse_uneven() -> NoReturn:
    """Raise: in a later turn, a batch keeps different numbers of tokens, and some layers would count the padding."""
    raise NotImplementedError(
        "a later turn's images must keep equally many tokens in every prompt of a batch, since this decoder has "
        "sliding windows or recurrent layers, and they would count the padding: use a batch of one prompt."
    )


def refuse_compact_multimodal(positions: Tensor) -> None:
    """Raise if position ids are multimodal, which have no compact form. `positions` (b, q) or (3, b, q)"""
    if positions.ndim != 2:
        raise NotImplementedError(
            'positions="compact" is not defined for multimodal position ids (M-RoPE): use positions="original".'
        )


def refuse_gaps(parts: Parts) -> NoReturn:
    """Raise: in a later turn, FlashAttention would take gaps in the positions for packed prompts."""
    raise NotImplementedError(
        f"FlashAttention would take the gaps in the positions of a later turn of this {parts.decoder_type!r} decoder "
        "for packed prompts: call model.set_attn_implementation('sdpa'), or use positions=\"compact\"."
    )


def refuse_look_back(layer: object, method: Method) -> NoReturn:
    """Raise: the method must read earlier keys, and the cache layer does not hold them in plain form."""
    raise NotImplementedError(
        f"{type(method).__name__} cannot read earlier keys in a {type(layer).__name__}: use the default dynamic cache."
    )


def refuse_hints(hints: Hints) -> None:
    """Raise if a request has hints for images, and its call brings no images."""
    for name, given in (("protect", hints.protect), ("relevance", hints.relevance)):
        if given:
            raise ValueError(
                f"{name} says something about {len(given)} images, and this call brings none: pass pixel_values, or "
                f"leave out {name}."
            )


def callers(*methods: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield (method, module) for methods of these names on this thread's stack, the innermost first."""
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name in methods and code.co_argcount:
            first = frame.f_locals.get(code.co_varnames[0])
            if isinstance(first, nn.Module):
                yield code.co_name, first
        frame = frame.f_back
