"""The wish of a request: its method, the place of its cut, and a budget for each of its images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from greedyprune.attach.forward.quotas import quotas
from greedyprune.budget import LayerAverage, PerFrame, PerLayer, Ratio, Total, keep_of_detail
from greedyprune.choosing import kept_count
from greedyprune.hints import Hints
from greedyprune.naming import WISHES, WishError, read_wish
from greedyprune.server.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greedyprune.attach.handle import Pruned
    from greedyprune.budget import Budgets
    from greedyprune.models.prompt import Span
    from greedyprune.policy import Policy
    from greedyprune.server.settings import Settings
    from greedyprune.server.wire import Pruning


@dataclass(frozen=True, eq=False)
class Wish:
    """What a request wants of its images."""

    policy: Policy
    """Its `keep` has one budget per image, unless it is a `PerLayer` or there are no images."""
    kept: list[int]
    """Per image the number of tokens behind the last cut, at most."""
    exact: bool
    """False if the method may keep fewer, which only a run can say."""


def wish_of(
    pruned: Pruned,
    depth: int,
    asked: Pruning | None,
    details: Sequence[str | None],
    ages: Sequence[int],
    spans: list[Span],
    settings: Settings,
) -> Wish:
    """Make the wish of a request out of its own words, the `detail` of its images and the server's settings.

    An image's budget is what the request's `keep` says, else what its `detail` says, else what the server keeps. Then
    `decay` shrinks it. `depth`: the number of decoder layers. Raises Refused if any of them is wrong or does not fit.
    """
    policy = _policy(pruned, asked)
    own = asked is not None and asked.keep is not None
    if own:
        _check_own_keep(policy.keep, spans)
    named = [detail for detail in details if detail in ("low", "high")]
    if own and named:
        raise invalid(
            f"an image has detail {named[0]!r} and the request has keep: both name its budget, leave one of them out.",
            "greedyprune.keep",
        )
    if not spans:
        return Wish(policy, [], True)
    if not own and any(details):
        policy = _with_details(policy, details)
    counts = _counts(policy, depth, spans)
    decay = settings.decay if asked is None or asked.decay is None else asked.decay
    if decay is not None and any(ages):
        policy = _decayed(policy, counts, ages, decay, settings.decay_floor)
        counts = _counts(policy, depth, spans)
    if not isinstance(policy.keep, (PerLayer, tuple)):
        each = counts if isinstance(policy.keep, Total) else [policy.keep] * len(spans)
        policy = replace(policy, keep=tuple(each))
    with _told("greedyprune.keep"):
        known = [kept_count(policy.method, k, span.n, span.grid) for k, span in zip(counts, spans, strict=True)]
    kept = [k if found is None else found for k, found in zip(counts, known, strict=True)]
    return Wish(policy, kept, None not in known)


def _policy(pruned: Pruned, asked: Pruning | None) -> Policy:
    """The policy of a request before its images are looked at, checked against the model."""
    if asked is None:
        return pruned.request().policy
    try:
        wish = read_wish({name: getattr(asked, name) for name in WISHES}, own=False)
    except WishError as error:
        raise invalid(error, f"greedyprune.{error.field}") from error
    with _told("greedyprune"):
        return pruned.request(**wish).policy


def _check_own_keep(keep: Budgets, spans: list[Span]) -> None:
    """Raise Refused if a request asks to keep nothing, or more tokens than its image has."""
    per_layer = isinstance(keep, PerLayer)
    parts = list(keep.schedule.values()) if per_layer else list(keep) if isinstance(keep, tuple) else [keep]
    for part in parts:
        amount = part.tokens if isinstance(part, (Total, LayerAverage, PerFrame)) else part
        share = amount.share if isinstance(amount, Ratio) else amount
        if not share:
            raise invalid(
                "keep=0 leaves nothing of an image: write 1 or more, or leave the image out.", "greedyprune.keep"
            )
    if isinstance(keep, tuple) and len(keep) != len(spans):
        raise invalid(
            f"keep has {len(keep)} budgets, and the request has {len(spans)} images: give one for each.",
            "greedyprune.keep",
        )
    for number, span in enumerate(spans):
        mine = parts[number] if isinstance(keep, tuple) else parts[0] if not per_layer else 0
        if isinstance(mine, int) and mine > span.n:
            raise invalid(
                f"keep={mine} is more than image {number} has, {span.n} visual tokens: write {span.n} or less, or a "
                'share such as "100%".',
                "greedyprune.keep",
            )


def _with_details(policy: Policy, details: Sequence[str | None]) -> Policy:
    """The policy with the budgets that the `detail` of images names."""
    if isinstance(policy.keep, (PerLayer, Total)):
        raise invalid(
            f"detail names the budget of one image, and this server keeps {policy.keep}: leave out detail, or send "
            "greedyprune.keep.",
            "messages",
        )
    base = policy.keep if isinstance(policy.keep, tuple) else (policy.keep,) * len(details)
    if len(base) != len(details):
        raise invalid(f"this server keeps {len(base)} budgets: send as many images, or greedyprune.keep.", "messages")
    named = [keep if detail is None else keep_of_detail(detail) for keep, detail in zip(base, details, strict=True)]
    return replace(policy, keep=tuple(named))


def _decayed(policy: Policy, counts: list[int], ages: Sequence[int], decay: float, floor: int) -> Policy:
    """The policy in which an image of k tokens, a turns ago, keeps max(k * decay^a, floor), and never more than k."""
    if isinstance(policy.keep, PerLayer):
        raise invalid(
            f"decay is for one budget per image, and keep is {policy.keep}: leave out one of them.", "greedyprune.decay"
        )
    base = policy.keep if isinstance(policy.keep, tuple) else (policy.keep,) * len(counts)
    shrunk = [
        max(round(k * decay**age), min(k, max(floor, 1))) if age else budget
        for k, age, budget in zip(counts, ages, counts if isinstance(policy.keep, Total) else base, strict=True)
    ]
    return replace(policy, keep=tuple(shrunk))


def _counts(policy: Policy, depth: int, spans: list[Span]) -> list[int]:
    """Per image the number of tokens that the budget leaves behind the last cut."""
    with _told("greedyprune.keep"):
        found = quotas(policy, Hints(), depth, spans, torch.empty(0))
    return [quota.k for quota in found[max(found)]]


@contextmanager
def _told(param: str) -> Iterator[None]:
    """Inside, what pruning refuses is an error of the request that names the field."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError) as error:
        raise invalid(error, param) from error
