"""Text between the tokens of an image, such as the marker in front of each tile.

Which of it stands where is known only when tokens are chosen, after vLLM has written the prompt. But how many
placeholders it takes is known: all text stays. So it travels as rows. The prompt gets a placeholder for each token that
stays and for each token of the text, and the worker puts the rows of the text, out of the embedding table, among those
of the image. The language model sees what it would see in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from greedyprune.engines.vllm.worker import PrunesImages

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.engines.vllm.plan import Plan
    from greedyprune.keep import Keep

BETWEEN, OWN = "greedyprune_between", -1
"""A field beside the pixels: the ids from an image's first token to its last, and what stands there for its own."""


def between(ids: Sequence[int], own: Sequence[bool]) -> Tensor:
    """The field of one image, from its placeholders and whether each is the image's own. (q,), (q,) -> (r,) int64

    between([7, 5, 5, 8, 5, 9], [False, True, True, False, True, False])    # [-1, -1, 8, -1]
    """
    first, last = own.index(True), len(own) - list(own)[::-1].index(True)
    both = zip(ids[first:last], own[first:last], strict=True)
    return torch.tensor([OWN if mine else number for number, mine in both])


def interleaved(rows: Tensor, places: Tensor, text: Tensor, before: Tensor) -> Tensor:
    """Rows of an image and rows of text in the order of the prompt. (k, d), (k,), (s, d), (s,) -> (k + s, d)

    - `places`: the place of each row among the image's own tokens, ascending.
    - `before`: how many of the image's own tokens stand in front of each row of text, ascending.

    The host does not wait for the device.
    """
    k, s = rows.shape[0], text.shape[0]
    found = rows.new_empty(k + s, rows.shape[1])
    found[torch.arange(k, device=rows.device) + torch.searchsorted(before, places, right=True)] = rows
    found[torch.arange(s, device=rows.device) + torch.searchsorted(places, before)] = text
    return found


class PrunesBetweenText(PrunesImages):
    """A mixin in front of a model class whose images have text between their tokens, in the field `BETWEEN`."""

    def written(
        self, rows: list[Tensor], keeps: Sequence[Keep], plans: Sequence[Plan], fields: Mapping[str, Any]
    ) -> list[Tensor]:
        every = zip(rows, keeps, plans, fields[BETWEEN], strict=True)
        return [
            each if plan.policy is None else self._with_text(each, keep.rows, ids.cpu())
            for each, keep, plan, ids in every
        ]

    def _with_text(self, rows: Tensor, places: Tensor, ids: Tensor) -> Tensor:
        """Put the rows of an image's text among those that stay. (k, d), (k,), (r,) -> (k + s, d)"""
        own = ids == OWN
        text, before = (each[~own].to(rows.device, non_blocking=True) for each in (ids, own.cumsum(0)))
        embedded = cast("Any", self).get_language_model().embed_input_ids(text)
        return interleaved(rows, places, embedded.to(rows.dtype), before)
