"""The door: what a call may not bring, refused by name before anything runs; and what it brought."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from greedyprune.attach.call import Call
    from greedyprune.attach.parts import Parts

INPUTS = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}
"""The arguments that models take each kind of input by."""
USUAL = ("inputs_embeds", "attention_mask", "position_ids")
"""The text model's arguments that have the sequence as an axis, in every family."""


def refuse_shorter(kwargs: dict[str, Any]) -> None:
    """Raise for what is as long as the prompt, where logits are shorter."""
    if kwargs.get("labels") is not None:
        raise NotImplementedError(
            "labels cannot be used while pruned, since the logits are shorter: call remove() before training."
        )
    if isinstance(kwargs.get("logits_to_keep"), Tensor):
        raise NotImplementedError(
            "logits_to_keep as a tensor of positions would point at other tokens after pruning: pass an int."
        )


def guesses(kwargs: dict[str, Any]) -> int:
    """How many of the last tokens are an assistant's guesses and no prompt.

    Assisted decoding reads its first guesses along with the prompt, and wants the logits of all of them.
    """
    kept = kwargs.get("logits_to_keep") if kwargs.get("past_key_values") is not None else None
    return max((kept or 1) - 1, 0)


def refuse_unclear(ids: Tensor | None, mask: Any) -> None:
    """Raise where it cannot be told what is an image and what is padding."""
    if ids is None:
        raise NotImplementedError(
            "inputs_embeds without input_ids does not say where the images are: pass input_ids and pixel_values."
        )
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise NotImplementedError(f"an attention mask of shape {shape} does not say what is padding: pass a 2-D mask.")


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
