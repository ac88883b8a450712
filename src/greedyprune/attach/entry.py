"""The door: what a call may not bring, refused by name before anything runs; and what it brought."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from greedyprune.attach.context import callers
from greedyprune.budget import Total
from greedyprune.models.parts import INPUTS
from greedyprune.selection import PruneWarning

if TYPE_CHECKING:
    from collections.abc import Iterable

    from greedyprune.attach.call import Call
    from greedyprune.models.parts import Parts
    from greedyprune.models.prompt import Prompt
    from greedyprune.policy import Policy

USUAL = ("inputs_embeds", "attention_mask", "position_ids")
"""The text model's arguments that have the sequence as an axis, in every family."""
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "max_length_q", "max_length_k", "seq_idx")
"""Arguments that say where prompts packed in one row begin and end."""


def brings_media(parts: Parts, kwargs: dict[str, Any]) -> bool:
    """Whether images, videos or sounds come with these arguments."""
    computed = kwargs.get("mm_encoder_outputs")
    if computed and any(value is not None for value in computed.values()):
        return True
    for name in parts.media_inputs:  # noqa: SIM110 - a loop, and no generator: every step of decoding asks
        if kwargs.get(name) is not None:
            return True
    return False


def refuse_shorter(kwargs: dict[str, Any]) -> None:
    """Raise for what is as long as a prompt with images, where logits are shorter."""
    if kwargs.get("labels") is not None:
        raise NotImplementedError(
            "labels cannot be used while pruned, since the logits are shorter: call remove() before training."
        )
    if isinstance(kwargs.get("logits_to_keep"), Tensor):
        raise NotImplementedError(
            "logits_to_keep as a tensor of positions would point at other tokens after pruning: pass an int."
        )


def refuse_callers(parts: Parts, *, watched: bool) -> None:
    """Raise where somebody calls the pruned model who knows of its prompt what the hooks are not told.

    A model that can generate and was not pruned itself sees labels, positions of logits and the length of a prompt; so
    does a `generate` that was fetched before the model was pruned. `watched`: whether one runs that is stood in front
    of.
    """
    met = False
    for method, module in callers("forward", "generate"):
        holds = any(module is holder for holder in parts.holders)
        met = met or (holds and method == "forward" and module is not parts.outer)  # it sees them, and its hook with it
        if method == "generate" and holds and not watched:
            raise NotImplementedError(
                f"this generate() of a {type(module).__name__} was fetched before the model was pruned, and does not "
                "tell how long the prompt is: call model.generate(...) itself."
            )
        stranger = method == "forward" and not holds and not met and hasattr(type(module), "generate")
        if stranger and any(part is parts.outer for part in module.modules()):
            raise NotImplementedError(
                f"a part of this {type(module).__name__} is pruned, and it alone sees labels, logits_to_keep and "
                f"what generate() does: prune the {type(module).__name__}."
            )


def refuse_right_padding(mask: Any, ids: Tensor | None = None, pad: int | None = None) -> None:
    """Raise for prompts that `generate` would continue behind padding, where transformers' own positions are wrong.

    Without a mask it takes tokens `pad` for padding.
    """
    ends = isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] and not bool(mask[:, -1].all())
    if mask is None and ids is not None and pad is not None:
        ends = bool((ids[:, -1] == pad).any())
    if ends:
        raise NotImplementedError(
            "generate() numbers the answers of prompts that are padded on the right wrongly: pad on the left, "
            'processor.tokenizer.padding_side = "left".'
        )


def refuse_packed(call: Call, kwargs: dict[str, Any], flash: bool) -> None:
    """Raise where several prompts stand in one row, so that one question would choose for all of them."""
    named = [name for name in PACKED if kwargs.get(name) is not None]
    if named:
        raise NotImplementedError(
            f"{named[0]} says where prompts packed in one row begin, and their images cannot be pruned: pass one "
            "prompt per row with an attention_mask, or call remove()."
        )
    if call.positions is None or (call.padding is not None and not flash):
        return
    steps = (call.positions[0] if call.positions.ndim == 3 else call.positions).diff(dim=-1)
    if call.padding is not None:
        valid = call.padding_now().to(steps.device)
        steps = steps * (valid[:, 1:] & valid[:, :-1])
    if bool((steps < 0).any()):
        raise NotImplementedError(
            "the position_ids of a row go back, as those of several prompts packed in one row do, and their images "
            "cannot be pruned: pass one prompt per row with an attention_mask, or call remove()."
        )


def refuse_unclear(ids: Tensor | None, mask: Any, *, cut: bool) -> None:
    """Raise where it cannot be told what is an image and what is padding, if anything is to be cut or was."""
    if ids is None:
        raise NotImplementedError(
            "inputs_embeds without input_ids does not say where the images are: pass input_ids and pixel_values."
        )
    if cut and mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise NotImplementedError(f"an attention mask of shape {shape} does not say what is padding: pass a 2-D mask.")


def warn_if_unbrought(parts: Parts, kwargs: dict[str, Any], ids: Tensor, brought: Iterable[str]) -> None:
    """Warn if images seem to have come by a way that is not known, so that none of them would be pruned.

    They do if the prompt holds placeholders and some argument holds values that are no ids. `brought`: the kinds that
    came by a way that is known.
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
                f"the prompt holds {medium.kind} placeholders, none of "
                f"{', '.join((*medium.inputs, 'mm_encoder_outputs'))} came with it, but {', '.join(strange)} did: if "
                f"that brings {medium.kind}s, they were not pruned.",
                PruneWarning,
                stacklevel=2,
            )


SEPARATOR = 5
"""How many tokens stand between two crops at most, the markers of their borders included."""


def warn_if_crops(parts: Parts, prompt: Prompt, ids: Tensor, policy: Policy) -> None:
    """Warn where pictures seem to be crops of one: the budget of an image is then that of each. `ids` on the CPU.

    A crop is told by nothing but text: a few words behind the whole view, and one short separator between all crops.
    """
    if not parts.family.crops or isinstance(policy.keep, Total):
        return
    for row in range(ids.shape[0]):
        mine = [span.columns for span in prompt.spans if span.row == row]
        between = [ids[row, int(a[-1]) + 1 : int(b[0])].tolist() for a, b in pairwise(mine)]
        if len(between) < 2 or any(gap != between[1] for gap in between[1:]):
            continue
        if len(between[1]) <= SEPARATOR and len(between[0]) > len(between[1]):
            warnings.warn(
                f"prompt {row} seems to hold crops of one picture (pan and scan), and keep={policy.keep} is the budget "
                f"of each of its {len(mine)} pictures: write keep=Total({policy.keep}) for all of them together, or "
                "leave out do_pan_and_scan.",
                PruneWarning,
                stacklevel=2,
            )
            return


def refuse_unknown(parts: Parts, kwargs: dict[str, Any], computed: dict[str, Any]) -> None:
    """Raise for inputs that the family does not list, and for parts of features."""
    for kind, name in INPUTS.items():
        came = kwargs.get(name) is not None or kind in computed
        if came and all(medium.kind != kind for medium, _ in parts.media):
            why = dict(parts.family.without).get(kind)
            raise NotImplementedError(
                f"{kind}s of a {parts.family.model_type!r} model are not supported"
                f"{f', since {why}' if why else ''}: call remove() for prompts with {kind}s."
            )
    for features in computed.values():
        if getattr(features, "last_hidden_state", None) is None:
            raise NotImplementedError(
                "a prompt prefilled in chunks cannot be pruned, since no chunk sees the whole question: "
                "leave out prefill_chunk_size."
            )


def refuse_recomputation(parts: Parts) -> None:
    """Raise where gradient checkpointing runs layers again without this call, hooks and all (old releases)."""
    inside = (layer for layer in parts.layers if type(layer).__call__ is not nn.Module.__call__)
    if any(layer.training and getattr(layer, "gradient_checkpointing", False) for layer in inside):
        raise NotImplementedError(
            "gradient checkpointing of this release of transformers runs decoder layers again without the cut: "
            "use at=Input(), or call model.gradient_checkpointing_disable()."
        )


def check_arguments(parts: Parts, call: Call, kwargs: dict[str, Any]) -> None:
    """Raise for an argument of the text model with a value per token that nobody said how to cut."""
    batch, length = kwargs["inputs_embeds"].shape[:2]
    known = (*USUAL, *parts.family.along, *(parts.family.deepstack or ()))
    for name, value in kwargs.items():
        if name not in known and isinstance(value, Tensor) and value.shape[:2] == (batch, length):
            raise NotImplementedError(
                f"the text model of this {parts.family.model_type!r} model gets {name!r} with a value for "
                "every token, which is not known here: this release of transformers is not supported, please "
                "report it."
            )
    if call.input_ids.shape[1] != call.length:
        raise NotImplementedError(
            f"the model made {call.length} tokens of a prompt of {call.input_ids.shape[1]}: build text, images and "
            "sounds with the model's own processor, which writes a placeholder for every token."
        )


def newlines(parts: Parts, embeds: Tensor, places: Tensor) -> Tensor | None:
    """Which placeholders carry the row that ends a row of patches. -> (placeholders,) bool"""
    row = getattr(parts.outer, parts.family.newline or "", None)
    if row is None:
        return None
    tokens = embeds[places.to(embeds.device)]
    return (tokens == row.detach().to(tokens)).all(-1).cpu()
