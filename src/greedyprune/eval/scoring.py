"""Metrics: how right an answer is, from 0 to 1, by rules that public benchmarks use.

score("contains", "The cross is red.", ("red",))     # 1.0
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

TOLERANCE = 0.05
"""The share by which a number may differ under `relaxed`."""
NEAREST = 0.5
"""The largest normalised edit distance that earns anything under `anls`."""
AGREEING = 3
"""The number of equal human answers that make an answer wholly right under `vqa`."""
_NUMBER = re.compile(r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_ARTICLES = ("a", "an", "the")
_COUNTS = dict(
    zip(
        ("none", *["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]),
        map(str, (0, *range(11))),
        strict=True,
    )
)


def words(text: str) -> list[str]:
    """The words of an answer, as they are compared."""
    return re.findall(r"\w+", text.casefold())


def exact(told: str, answers: Sequence[str]) -> float:
    """1 if it is one of the answers, word for word. Case and punctuation do not count."""
    return float(words(told) in [words(answer) for answer in answers])


def contains(told: str, answers: Sequence[str]) -> float:
    """1 if the words of an answer stand in it, one behind the other: "The cross is red." contains "red"."""
    said = words(told)

    def inside(mine: list[str]) -> bool:
        return bool(mine) and any(said[at : at + len(mine)] == mine for at in range(len(said) - len(mine) + 1))

    return float(any(inside(words(answer)) for answer in answers))


def yes_no(told: str, answers: Sequence[str]) -> float:
    """1 if the first of the words yes, no and not is that of an answer; "not" is a no. POPE is scored like this."""
    said = next((word for word in words(told) if word in ("yes", "no", "not")), "")
    return exact("no" if said == "not" else said, answers) if said else 0.0


def number(told: str, answers: Sequence[str]) -> float:
    """1 if the first number in it equals that of an answer: "There are 1,200." is right for "1200"."""
    said = _number(told)
    return float(said is not None and any(said == _number(answer) for answer in answers))


def relaxed(told: str, answers: Sequence[str]) -> float:
    """1 if a number is at most 5 % away from that of an answer, or a text equal to it. ChartQA is scored like this."""

    def near(answer: str) -> bool:
        mine, said = _bare(answer), _bare(told)
        if mine is None:
            return exact(told, (answer,)) == 1
        return said is not None and abs(said - mine) <= TOLERANCE * abs(mine)

    return float(any(map(near, answers)))


def anls(told: str, answers: Sequence[str]) -> float:
    """The average normalised Levenshtein similarity: 1 - d / (longer length) to the nearest answer, 0 below 1/2.

    DocVQA is scored like this. Case, and spaces at the ends and in a row, do not count.
    """

    def near(answer: str) -> float:
        one, other = " ".join(told.casefold().split()), " ".join(answer.casefold().split())
        far = _distance(one, other) / max(len(one), len(other), 1)
        return 1 - far if far < NEAREST else 0.0

    return max(map(near, answers), default=0.0)


def vqa(told: str, answers: Sequence[str]) -> float:
    """min(equal human answers / 3, 1), averaged over leaving out one human each time. VQA and TextVQA are scored so.

    Case, punctuation and articles do not count, and "two" is "2". Of three answers or fewer, each alone is right.
    """
    said, given = _plain(told), [_plain(answer) for answer in answers]
    if len(given) <= AGREEING:
        return float(said in given)
    equal = sum(answer == said for answer in given)
    parts = [min((equal - (answer == said)) / AGREEING, 1.0) for answer in given]
    return sum(parts) / len(parts)


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    each.__name__: each for each in (exact, contains, yes_no, number, relaxed, anls, vqa)
}
"""By name. The first is the default."""


def score(metric: str, told: str, answers: Sequence[str]) -> float:
    """How right an answer is, by the metric of this name. -> 0 to 1"""
    return METRICS[metric](told, answers)


def check_metric(metric: object) -> str:
    """The name of a metric. Raises ValueError for any other value."""
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(f"there is no metric {metric!r}: choose one of {', '.join(METRICS)}.")
    return metric


def _number(text: str) -> float | None:
    """The first number in a text."""
    found = _NUMBER.search(text)
    if found is not None:
        return float(found[0].replace(",", ""))
    counted = next((_COUNTS[word] for word in words(text) if word in _COUNTS), None)
    return None if counted is None else float(counted)


def _bare(text: str) -> float | None:
    """A text that is one number, perhaps with a sign of money or a percent sign."""
    plain = text.strip().rstrip(".").strip("$€£ %").replace(",", "")
    return float(plain) if re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", plain) else None


def _plain(text: str) -> list[str]:
    """The words of a human answer without articles, numbers as digits."""
    return [_COUNTS.get(word, word) for word in words(text.replace("'", "")) if word not in _ARTICLES]


def _distance(one: str, other: str) -> int:
    """The edit distance of two texts: insertions, deletions and replacements."""
    row = list(range(len(other) + 1))
    for i, mine in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, theirs in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (mine != theirs))
    return row[-1]
