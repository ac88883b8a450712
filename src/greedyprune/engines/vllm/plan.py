"""Plan: what is to be done with one image inside vLLM, as a value.

vLLM's front end knows the whole prompt and decides the plan of each image. Its workers have the image's rows and carry
the plan out. A plan travels beside the pixels as canonical bytes, and the digest of these bytes is in the image's
cache key. So whatever can change a selection changes the key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch

from greedyprune.budget import Budget, Budgets, LayerAverage, PerFrame, PerLayer, Ratio, Total, keep_of_detail
from greedyprune.choosing import kept_count
from greedyprune.cues import Grid, Seen
from greedyprune.method import Method
from greedyprune.models.layers import told
from greedyprune.naming import as_method, read_wish
from greedyprune.policy import Policy, Positions
from greedyprune.questions import questions_of
from greedyprune.registry import DEFAULT, METHODS, unknown
from greedyprune.shown import shown
from greedyprune.stages import Input

if TYPE_CHECKING:
    from torch import Tensor

    from greedyprune.engines.vllm.tower import Tower

FIELD = "greedyprune"
"""The name of the options in the model's config and in a request, and of the field beside the pixels."""
OPTIONS = ("method", "keep", "detail", "at", "positions")
"""What a server's options and those of a request may hold, besides the type and the version of a policy."""
TEXTS = frozenset({"text", "question", "chat"})
"""The words of `Method.reads` that are about text and that a worker can look up: rows of the embedding table."""
READABLE = TEXTS | {"tokens", "grid", "tiles", "protect", "relevance"}
"""The words of `Method.reads` that vLLM has an answer to, besides those of the vision tower.

Protection and relevance are optional, and there is none. No model whose tower is read has tiles.
"""


@dataclass(frozen=True)
class Plan:
    """What is to be done with one image. Without a policy every token stays, as in vLLM itself.

    plan = Plan(Policy("divprune", 64, "input"))
    plan.count(576)         # 64
    """

    policy: Policy | None = None
    """The method, and a budget of one image."""
    text: tuple[int, ...] = ()
    """The token ids of the text that the method reads; empty if it reads none."""
    measuring: bool = False
    """True: choose, and keep every token all the same. vLLM measures its memory with such images."""
    image: str = ""
    """vLLM's own key of the image; empty if its rows need not be stored for other questions."""

    def count(self, n: int, grid: tuple[int, int, int] | None = None) -> int:
        """The number of an image's n tokens that stay, 1 or more. It is known before anything is computed."""
        if self.policy is None or self.measuring:
            return n
        known = kept_count(self.policy.method, self.policy.keep, n, grid)
        assert known is not None, "read_policy() lets only such methods through"
        return max(1, known)

    def to_bytes(self) -> bytes:
        """The plan as canonical JSON in UTF-8: equal plans have equal bytes in every process."""
        policy = "null" if self.policy is None else self.policy.to_bytes().decode()
        text = ",".join(map(str, self.text))
        first = f'"image":{json.dumps(self.image)},"measuring":{json.dumps(self.measuring)}'
        return f'{{{first},"policy":{policy},"text":[{text}]}}'.encode()

    @classmethod
    def from_bytes(cls, written: bytes) -> Plan:
        """Read the plan that `to_bytes` wrote. The bytes come from a front end of the same server."""
        plain = json.loads(written)
        policy = None if plain["policy"] is None else Policy.from_dict(plain["policy"])
        return cls(policy, tuple(plain["text"]), plain["measuring"], plain["image"])

    @property
    def digest(self) -> str:
        """What goes into the image's cache key; empty if every token stays, as in vLLM itself."""
        return "" if self.policy is None else hashlib.sha256(self.to_bytes()).hexdigest()

    def to_tensor(self) -> Tensor:
        """The bytes as vLLM carries them beside the pixels. -> (bytes,) uint8"""
        return torch.frombuffer(bytearray(self.to_bytes()), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> Plan:
        """Read what `to_tensor` wrote. (bytes,) uint8 -> Plan"""
        return cls.from_bytes(bytes(tensor.cpu().numpy().tobytes()))


def read_policy(
    server: Mapping[str, Any] | None,
    asked: Mapping[str, Any] | None,
    positions: Positions,
    tower: Tower | None = None,
) -> Policy | None:
    """Read a server's options, and those of a request in front of them. None keeps every token.

        read_policy({"method": "divprune", "keep": "25%"}, {"keep": 64}, "compact")

    `positions` are those that the model's family has in vLLM. `tower` is its vision tower; without one, methods that
    look into it are refused. A request may name registered methods alone, since the
    name of another one would import a module. Raises ValueError, which names the option and the remedy, for
    everything that cannot be carried out.
    """
    given: dict[str, Any] = {}
    try:
        for layer, own in ((server, True), (asked, False)):
            given |= _read_layer(layer, own, positions)
        if not given:
            return None
        if "keep" not in given:
            raise ValueError('keep is missing: write how many tokens stay, such as {"keep": 64} or {"keep": "25%"}.')
        method = given.get("method") or as_method(DEFAULT)
        _check_method(method, tower)
        _check_budgets(given["keep"])
        # The method's own stage means nothing here, so it must not tell two equal plans apart.
        policy = Policy(replace(method, at=Input()), given["keep"], Input(), positions)
        policy.check_stages()
    except (TypeError, NotImplementedError, RecursionError) as error:
        raise ValueError(f"greedyprune: {error}") from error
    except ValueError as error:
        raise ValueError(f"greedyprune: {error}") from None
    return None if policy.keep == Ratio(1.0) else policy


def plans_of(
    policy: Policy | None, texts: Sequence[tuple[int, ...]], sizes: Callable[[], list[int]] | None = None
) -> list[Plan]:
    """The plan of each image of one prompt.

    - `texts`: for each image the token ids that the method reads.
    - `sizes`: called for a `Total`: the number of tokens of each image. None if they are not known before the images
      are processed.

    Raises ValueError if the budgets do not fit the images.
    """
    if policy is None:
        return [Plan()] * len(texts)
    keep, images = policy.keep, len(texts)
    if isinstance(keep, Total):
        if sizes is None:
            raise ValueError(
                f"greedyprune: keep={shown(keep)} is shared between images whose sizes this model's family does not "
                "tell before they are processed: write a budget for each image, such as [64, 32]."
            )
        try:
            parts: list[Budgets] = [*keep.share(sizes())]
        except ValueError as error:
            raise ValueError(f"greedyprune: {error}") from None
        if 0 in parts:
            raise ValueError(f"greedyprune: keep={shown(keep)} leaves nothing of an image: raise it, or set a floor.")
    elif isinstance(keep, tuple):
        parts = [*keep]
        if len(parts) != images:
            raise ValueError(
                f"greedyprune: keep holds {len(parts)} budgets, and this prompt has {images} images: write one budget "
                "for each image, or one for all."
            )
    else:
        parts = [keep] * images
    found: list[Plan] = []
    for budget, text in zip(parts, texts, strict=True):
        found.append(Plan() if budget == Ratio(1.0) else Plan(replace(policy, keep=budget), text))
    return found


def texts_of(
    method: Method, ids: Sequence[int], images: Sequence[int], ends: Sequence[Sequence[int]]
) -> list[tuple[int, ...]]:
    """For each image of one prompt the token ids of the text that a method reads. (q,), (q,) -> (images)

    - `images`: the number of the image that each token stands for; -1 for text.
    - `ends`: the sequences of ids that end a turn.

    A method that reads its question gets the text behind the image up to the end of that user turn. So later turns of
    a chat change neither the plan nor the key. A method that reads the chat gets the text from there to the prompt's
    end, and one that reads the whole text all of it.
    """
    number = torch.tensor(list(images), dtype=torch.int64)
    count = int(number.max()) + 1 if number.numel() else 0
    reads = method.reads & TEXTS
    if not reads or not count:
        return [()] * count
    row = torch.tensor(list(ids), dtype=torch.int64)
    whole = (number < 0).nonzero()[:, 0]
    if not whole.numel():
        raise ValueError(
            f"greedyprune: {type(method).__name__} reads the question, and this prompt has no text: write one, or "
            'choose a method without it, such as "divprune".'
        )
    if "text" in reads:
        return [tuple(cast("list[int]", cast("Any", row[whole]).tolist()))] * count
    padding = torch.zeros_like(number, dtype=torch.bool)
    columns = [each if each.numel() else whole for each in questions_of(row, number, padding, ends)]
    if "chat" in reads:
        columns = [whole[whole >= each[0]] for each in columns]
    return [tuple(cast("list[int]", cast("Any", row[each]).tolist())) for each in columns]


def check_grid(method: Method, grid: tuple[int, int, int] | None) -> None:
    """Raise ValueError if a method needs the grid of an image's tokens, and they form none."""
    if grid is None and any(isinstance(need, Grid) for need in method.needs):
        raise ValueError(
            f"greedyprune: {type(method).__name__} needs the grid of an image's tokens, and an image of several tiles "
            'has none: choose a method without it, such as "divprune".'
        )


def able(tower: Tower | None = None) -> list[str]:
    """The names of the methods that run in vLLM as they are, without options, on a model with this vision tower."""
    return [name for name in METHODS if _refusal(as_method(name), tower) is None]


def _read_layer(layer: Mapping[str, Any] | None, own: bool, positions: Positions) -> dict[str, Any]:
    """Read the options of a server, or of a request: a method and budgets, as far as they are given."""
    if layer is None:
        return {}
    if not isinstance(layer, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f'{shown(layer)} are no options: write a dict such as {{"method": "divprune", "keep": 64}}.')
    options = dict(layer)
    if "type" in options or "version" in options:
        whole = Policy.from_dict(options, own=own)
        if whole.restore != "none":
            raise ValueError(f"restore={whole.restore!r}: vLLM's attention takes no scores from us. Leave out restore.")
        options = {"method": whole.method, "keep": whole.keep, "at": whole.at, "positions": whole.positions}
    for name in options:
        if name not in OPTIONS:
            raise unknown("option", str(name), OPTIONS)
    if "keep" in options and "detail" in options:
        raise ValueError("keep and detail both say how many tokens stay: write one of them.")
    found = read_wish({name: value for name, value in options.items() if name != "detail"}, own=own)
    if found.pop("at", Input()) != Input():
        raise ValueError(f"at={shown(options['at'])}: vLLM can cut before the decoder alone. Leave out at.")
    if found.pop("positions", positions) != positions:
        raise ValueError(
            f"positions={shown(options['positions'])}: this model has {positions} positions in vLLM. "
            "Leave out positions."
        )
    if "detail" in options:
        detail = options["detail"]
        listed = isinstance(detail, (list, tuple))
        found["keep"] = tuple(map(keep_of_detail, cast("list[str]", detail))) if listed else keep_of_detail(detail)
    return found


def _check_method(method: Method, tower: Tower | None) -> None:
    """Raise ValueError unless vLLM can give a method all that it reads, and can know how many tokens stay."""
    why = _refusal(method, tower)
    if why is not None:
        raise ValueError(f"{type(method).__name__} cannot run in vLLM: {why}. These can: {', '.join(able(tower))}.")


def _refusal(method: Method, tower: Tower | None) -> str | None:
    """Why a method cannot run in vLLM on a model with this vision tower; None if it can."""
    if Input not in method.stages:
        return "it cuts behind decoder layers, and vLLM can cut before the decoder alone"
    if "last_text" in method.reads:
        other = (
            '; write {"type": ..., "text": "question_max"}, which reads the question' if hasattr(method, "text") else ""
        )
        return (
            "it reads the last prompt token, which before the decoder is a token of the template and knows nothing of "
            f"the question{other}"
        )
    needs = [need for need in method.needs if isinstance(need, Seen)]
    for need in needs:
        problem = f"it reads {told(need)}" if tower is None else tower.lacking(need)
        if problem is not None:
            return problem
    missing = sorted(method.reads - READABLE - {need.word for need in needs})
    if missing:
        return f"it reads {', '.join(missing)}, which vLLM does not hand out"
    if not method.exact and method.kept(4, 16, (1, 4, 4)) is None:
        return "it may keep fewer tokens than asked for, and vLLM must know how many before it runs"
    return None


def _check_budgets(keep: Budgets) -> None:
    """Raise ValueError unless budgets are those of whole images, and leave something of each."""
    for budget in keep if isinstance(keep, tuple) else (keep,):
        if isinstance(budget, (LayerAverage, PerLayer)):
            raise ValueError(
                f"keep={shown(budget)} is about decoder layers, and vLLM cuts before all of them: write an int or 25%."
            )
        if _leaves_nothing(budget):
            raise ValueError(f"keep={shown(budget)} leaves nothing of an image: vLLM needs one token or more of each.")


def _leaves_nothing(budget: Budget | Total) -> bool:
    """True if a budget keeps no token of any image."""
    number = budget.tokens if isinstance(budget, (PerFrame, Total)) else budget
    return (number.share if isinstance(number, Ratio) else number) == 0
