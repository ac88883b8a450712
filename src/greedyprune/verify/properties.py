"""The properties that a pruned model has to have, and the loop that holds a model to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

import greedyprune as gp
from greedyprune.budget import count
from greedyprune.models.parts import find_parts
from greedyprune.models.release import cache_of
from greedyprune.verify.cases import Case, Untold, Verdict, cases, failed, held, not_applicable, untold, worst
from greedyprune.verify.ready import check_model, check_prompts
from greedyprune.verify.reference import dropped_columns, image_columns, is_early, start_of
from greedyprune.verify.runs import Lab
from greedyprune.verify.subject import Subject, attending, kinds_of
from greedyprune.verify.traces import changed, fingerprint, hooks_on, without_weights

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.models.parts import Parts

PLACES_ONLY = gp.Random()
"""A method whose choice depends on the number of tokens only, not on the text nor on rounding."""


def keeping_all_changes_nothing(lab: Lab, at: gp.Stage, case: Case) -> Verdict:
    """Logits and answer are those of the plain model."""
    everything = replace(case, keep=tuple(gp.Ratio(1.0) for _ in case.keep))
    error = lab.differ(lab.pruned(everything, gp.GreedyPrune(), at), lab.plain(case))
    return held(error, lab.bound(case), "logits differ from the plain model's")


def a_dropped_token_is_a_masked_token(lab: Lab, at: gp.Stage, case: Case) -> Verdict:
    """Logits are those of the full sequence in which no token attends to a dropped token."""
    bound, run = lab.bound(case), lab.pruned(case, gp.GreedyPrune(), at)
    dropped = _dropped(lab, case, run.selections)
    truth = lab.truth(case, run.sequences, dropped, at)
    whole = lab.truth(case, run.sequences, None, at)
    error = lab.apart(run.logits, truth)
    verdict = held(error, bound, "logits differ from the reference's")
    moved = lab.apart(truth, whole)
    if verdict.passed and moved <= 2 * bound:
        why = f"nothing can be told: what was dropped moves logits by {moved:.2g} only, rounding by {bound:.2g}"
        return untold(why, error, bound)
    return verdict


def a_cache_changes_nothing(lab: Lab, at: gp.Stage, case: Case) -> Verdict:
    """The answer is the same if it is read token by token in a loop, and if every step prunes the whole text again."""
    cached, skipped, found = lab.pruned(case, PLACES_ONLY, at), lab.why_not_by_hand(case), held(0.0, 0.0, "")
    if not skipped:
        error = lab.apart(lab.pruned_by_hand(case, PLACES_ONLY, at, cached.tokens), cached.logits)
        found = held(error, lab.bound(case), "logits of generate and of a loop by hand differ")
        if not found.passed:
            return found
    if is_early(at):
        return not_applicable("an early cut takes from later tokens what the prompt saw")
    try:
        fresh = lab.pruned(case, PLACES_ONLY, at, use_cache=False)
    except Exception:
        if lab.reads_without_cache(case):
            raise
        return not_applicable("the plain model cannot generate without a cache either")
    again = held(lab.differ(cached, fresh), lab.bound(case), "logits with and without a cache differ")
    if skipped or not again.passed:
        return replace(again, detail=again.detail or skipped)
    return again if again.error > found.error else found


def a_row_alone_is_the_row_in_its_batch(lab: Lab, at: gp.Stage, case: Case) -> Verdict:
    """A prompt gives the same answer and keeps the same tokens alone as padded in a batch."""
    batch = lab.pruned(case, PLACES_ONLY, at)
    error = 0.0
    for index in range(len(case.rows)):
        alone = lab.pruned(case.row(index), PLACES_ONLY, at)
        mine = [selection.rows.tolist() for selection in batch.selections if selection.row == index]
        if [selection.rows.tolist() for selection in alone.selections] != mine:
            return failed(f"prompt {index} keeps other tokens alone than in the batch")
        row = replace(batch, tokens=batch.tokens[index, None], logits=batch.logits[index, None])
        error = _larger(error, lab.differ(alone, row))
    return held(error, lab.bound(case), "logits alone and in the batch differ")


def every_image_gets_its_budget(lab: Lab, at: gp.Stage, case: Case) -> Verdict:
    """As many selections as images, each of its own prompt, its own tokens and its own count. Error: in tokens."""
    own = replace(case, keep=tuple(3 if number % 2 else budget for number, budget in enumerate(case.keep)))
    with gp.prune(lab.subject.model, gp.GreedyPrune(), own.asked(), at=at) as handle:
        lab.forward(own)
    selections, visual = handle.selections, lab.subject.visual(lab.subject.prompt(own.rows)["input_ids"])
    if [selection.row for selection in selections] != own.owners:
        told = f"{len(selections)} selections for {len(own.owners)} images, or not those of their prompts"
        return failed(told)
    lost = abs(int(visual.sum()) - sum(selection.n + len(selection.structure) for selection in selections))
    if not lost:
        for places, selection in zip(image_columns(visual, selections), selections, strict=True):
            lost += int((places[:, 0] != selection.row).sum())
            lost += len(set(selection.rows.tolist()) ^ set(selection.order.tolist()))
    wrong = [abs(s.k - count(budget, s.n)) for s, budget in zip(selections, own.keep, strict=True)]
    return held(lost + sum(wrong), 0, "tokens are miscounted")


def text_is_left_alone(lab: Lab, at: gp.Stage, case: Case) -> Verdict:
    """A prompt without images runs bit by bit as it does without pruning."""
    run = lab.pruned(case, gp.GreedyPrune(), at)
    if run.selections or run.images:
        return failed(f"{len(run.selections)} images were found in it")
    gap = (run.logits - lab.plain(case).logits).abs().max()
    return held(float(gap), 0, "logits differ from the plain model's")


def nothing_is_left_behind(lab: Lab, at: gp.Stage, case: Case) -> Verdict:
    """After the with block, also after an error in it or in the method, the model is bit by bit what it was."""
    model, few = lab.subject.model, {"max_new_tokens": 2}
    first, before = lab.untouched(), fingerprint(model)
    plain = lab.generate(case, **few)
    own = changed(before, fingerprint(model))  # what the model writes itself
    for what, method, error in (
        ("after the with block", PLACES_ONLY, None),
        ("after an error in the with block", PLACES_ONLY, _MethodError()),
        ("after an error in the method", _Failing(), None),
    ):
        with suppress(_MethodError), gp.prune(model, method, case.asked(), at=at):
            lab.generate(case, **few)
            if error is not None:
                raise error
        after = fingerprint(model)
        since = changed(before, after) | changed(first, without_weights(after))
        left = sorted(f"{module}.{key}" for module, key in since - own)
        if left or hooks_on(model):
            told = f"{what} {left[0] if left else 'a hook'} is not as it was"
            return failed(told)
        now = lab.generate(case, **few)
        if not torch.equal(now.logits, plain.logits):
            return held(float((now.logits - plain.logits).abs().max()), 0, f"{what} logits differ")
    return held(0, 0, "")


def the_cache_is_physically_short(lab: Lab, at: gp.Stage, case: Case) -> Verdict:
    """Keys and values behind the cut hold the kept tokens and no others. Error: in tokens."""
    inputs = lab.subject.prompt(case.rows)
    with gp.prune(lab.subject.model, PLACES_ONLY, case.asked(), at=at) as handle:
        cache = cache_of(lab.forward(case))
    dropped = _dropped(lab, case, handle.selections)
    length = inputs["input_ids"].shape[1]
    short = int((inputs["attention_mask"].bool() & ~dropped).sum(1).max())
    start, error = 0 if is_early(at) else start_of(at), 0
    for index, (layer, (_, window)) in enumerate(zip(cache.layers, kinds_of(lab.subject.model), strict=False)):
        if getattr(layer, "keys", None) is None:
            continue  # a state, not keys and values
        size = length if index < start else short
        size = min(size, window - 1) if window else size
        error = max(error, *(abs(kept.shape[-2] - size) for kept in (layer.keys, layer.values)))
    verdict = held(error, 0, f"keys of {length} tokens, {short} of which stayed, are too long or too short")
    return untold("the prompt is no shorter after the cut") if verdict.passed and short == length else verdict


@dataclass(frozen=True)
class Property:
    """A property and the cases it is held on, by their places in `cases`: one image, several, a batch, text."""

    check: Callable[[Lab, gp.Stage, Case], Verdict]
    on: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name as text."""
        return self.check.__name__.replace("_", " ")


PROPERTIES: tuple[Property, ...] = (
    Property(keeping_all_changes_nothing, (0, 1, 2, 3)),
    Property(a_dropped_token_is_a_masked_token, (0, 1, 2)),
    Property(a_cache_changes_nothing, (0, 1, 2)),
    Property(a_row_alone_is_the_row_in_its_batch, (2,)),
    Property(every_image_gets_its_budget, (0, 1, 2)),
    Property(text_is_left_alone, (3,)),
    Property(nothing_is_left_behind, (2,)),
    Property(the_cache_is_physically_short, (0, 1, 2)),
)


def stages_of(model: Any, more: Iterable[gp.Stage] = ()) -> list[gp.Stage]:
    """The stages at which a model is tested: its input, before layers 1 and 2, and `more`."""
    parts, more = find_parts(model), list(more)
    for stage in more:
        parts.check_stage(stage)
    usual: list[gp.Stage] = [gp.Input(), gp.Layer(1), gp.Layer(2)]
    return list(dict.fromkeys([*(stage for stage in usual if _can_be_cut(parts, stage)), *more]))


def _can_be_cut(parts: Parts, stage: gp.Stage) -> bool:
    """True if the library accepts a cut at this stage of this model."""
    try:
        parts.check_stage(stage)
    except (ValueError, NotImplementedError):
        return False
    return True


def prove(
    subject: Subject,
    stages: Iterable[gp.Stage] | None = None,
    attentions: Iterable[str] = ("sdpa",),
    *,
    steps: int = 8,
    images: int = 2,
) -> Iterator[Verdict]:
    """Test a model for every property at every stage, and yield each verdict as it is known.

    Raises Unready, a ValueError, before the first verdict if the prompts cannot be made or the model cannot answer
    them while it is not pruned.
    """
    places, given = list(stages_of(subject.model) if stages is None else stages), list(cases(images).values())
    check_prompts(subject, given)
    for attention in attentions:
        lab, refused = Lab(subject, steps), _refused(subject.model, attention)
        if not refused:
            with attending(subject.model, attention):
                check_model(lab, given)
                lab.untouched()
        for at in places:
            for each in PROPERTIES:
                with attending(subject.model, attention) if not refused else nullcontext():
                    found = [(case, _checked(each, lab, at, case, refused)) for case in map(given.__getitem__, each.on)]
                yield replace(worst(found), name=each.name, at=str(at), attention=attention)
            lab.forget()


def _refused(model: Any, attention: str) -> str:
    """The reason why a model cannot compute attention this way; empty if it can."""
    try:
        with attending(model, attention):
            return ""
    except (ValueError, ImportError) as error:
        return f"{attention}: {_short(error)}"


def _short(error: BaseException) -> str:
    """An error's first sentence."""
    return " ".join(str(error).split()).partition(". ")[0]


def _checked(each: Property, lab: Lab, at: gp.Stage, case: Case, refused: str) -> Verdict:
    """Test one property on one case. A case that is refused does not apply; one that breaks fails."""
    if refused:
        return not_applicable(refused)
    try:
        return each.check(lab, at, case)
    except Untold as missing:
        return untold(_short(missing))
    except NotImplementedError as missing:  # the library refuses such a call, or there is no reference for the family
        return not_applicable(_short(missing))
    except Exception as broken:  # a model may break in any way, and the other properties are to be told all the same
        return failed(f"{type(broken).__name__}: {_short(broken)}")


def _dropped(lab: Lab, case: Case, selections: list[Any]) -> Tensor:
    """True for tokens of the case's prompts that these selections drop. -> (b, L) bool"""
    return dropped_columns(lab.subject.visual(lab.subject.prompt(case.rows)["input_ids"]), selections)


def _larger(a: float, b: float) -> float:
    """The larger of two numbers; NaN if one of them is NaN."""
    return b if not b <= a else a


class _MethodError(Exception):
    """The exception of the failing method."""


@dataclass(frozen=True, kw_only=True)
class _Failing(gp.Method):
    """A method that breaks in the middle of a forward."""

    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        """Nothing."""
        raise _MethodError
