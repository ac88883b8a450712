"""Checks before any property: the prompts can be made, and the model answers them without pruning.

Whatever is wrong there is named once. It is no failure of pruning, so it is not counted as one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greedyprune.verify.cases import Case
    from greedyprune.verify.runs import Lab
    from greedyprune.verify.subject import Subject


class Unready(ValueError):
    """Raised if nothing can be proven with these prompts or on this model, pruned or not. The message says why."""


def check_prompts(subject: Subject, given: Iterable[Case]) -> None:
    """Write the prompts of all cases, once. Raises Unready for one that cannot be written or lacks its images."""
    for case in given:
        try:
            ids = subject.prompt(case.rows)["input_ids"]
        except Unready:
            raise
        except Exception as error:  # a processor may break in any way
            raise Unready(f"the prompt {str(case)!r} cannot be made ({said(error)}): {subject.source}") from error
        for row, places in zip(case.rows, subject.visual(ids), strict=True):
            found = int(places.sum())
            if found < len(row) or (found and not row):
                tokens = "no placeholder" if not found else f"{found} placeholders"
                raise Unready(
                    f"a prompt with {images(row)} holds {tokens} of them. It was made by {subject.source}: mend "
                    "its chat template, which has to write one placeholder for each image."
                )


def check_model(lab: Lab, given: Iterable[Case]) -> None:
    """Let the model answer the prompts of all cases as it is. Raises Unready if it cannot, or if it says NaN."""
    for case in given:
        try:
            run = lab.plain(case)
        except Exception as error:  # a model may break in any way
            raise Unready(
                f"the model cannot answer the prompt {str(case)!r} while it is not pruned ({said(error)})"
                f"{_too_long(lab, case)}"
            ) from error
        if not bool(run.logits.isfinite().all()):
            raise Unready(
                f"the model answers the prompt {str(case)!r} with logits that are NaN or infinite while it is not "
                f"pruned: check its weights, or compute in another type than {lab.subject.model.dtype}."
            )


def images(row: tuple[int, ...]) -> str:
    """The number of images of a prompt, in words."""
    return f"{len(row)} image{'' if len(row) == 1 else 's'}"


def said(error: BaseException) -> str:
    """An error's type and text in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(". ")


def _too_long(lab: Lab, case: Case) -> str:
    """A remedy if the prompt may be longer than the model reads; empty if it is not."""
    most = getattr(lab.subject.model.get_decoder().config, "max_position_embeddings", None)
    length = lab.subject.prompt(case.rows)["input_ids"].shape[1] + lab.steps
    if most is None or length <= most:
        return ""
    return f": prompt and answer have {length} tokens, and its config takes {most}. Use fewer or smaller images."
