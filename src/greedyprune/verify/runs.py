"""Runs: generations of a model, pruned or not, kept for all properties; and how far two runs may be apart."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import greedyprune as gp
from greedyprune.models.release import cache_of, cached
from greedyprune.verify.cases import Case, Untold
from greedyprune.verify.reference import reference
from greedyprune.verify.subject import Subject
from greedyprune.verify.traces import Fingerprint, fingerprint, without_weights

if TYPE_CHECKING:
    from greedyprune.selection import Selection

NEAR = 1e-4 / 6.5
"""The allowed difference of float32 logits, as a share of the largest: shapes and summation orders differ.

The largest error measured on tiny models is a sixth of it; a mistake in positions, masks or cache is 100 times more.
"""
ROUNDING = 4.0
"""The allowed multiple of the plain model's own rounding error in float32; deep models round more than tiny ones."""
MOST = 20 * NEAR
"""If a plain float32 model differs from itself by more, it has a fault of its own and nothing can be proven."""
ROUGH = 3.0
"""The same in 16 bits, on average over the logits, since the largest of many is a matter of luck."""


@dataclass(frozen=True, eq=False)
class Run:
    """One generation."""

    sequences: Tensor
    """(b, L + steps) prompt and answer."""
    tokens: Tensor
    """(b, steps) the answer."""
    logits: Tensor
    """(b, steps, v)"""
    selections: list[Selection] = field(default_factory=list)
    images: int = 0
    """The number of images of the pruned call."""


@dataclass(eq=False)
class Lab:
    """One subject with one kind of attention. Every run is kept and never repeated."""

    subject: Subject
    steps: int = 8
    """Tokens that a run generates."""
    memo: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value of this key; `make` is called only once."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]

    def forget(self) -> None:
        """Drop the pruned runs to free memory. Runs of the plain model are kept."""
        self.memo = {key: value for key, value in self.memo.items() if key[0] != "pruned"}

    def untouched(self) -> Fingerprint:
        """A fingerprint of the model before it was pruned, without its weights."""
        return self.once(("untouched",), lambda: without_weights(fingerprint(self.subject.model)))

    def generate(self, case: Case, **options: Any) -> Run:
        """Generate greedily, as the model is now."""
        inputs = self.subject.prompt(case.rows)
        length = inputs["input_ids"].shape[1]
        out = self.subject.model.generate(
            **inputs,
            **{"max_new_tokens": self.steps, **options},
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            suppress_tokens=list(self.subject.banned) or None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        return Run(out.sequences, out.sequences[:, length:], torch.stack(out.logits, 1).float())

    @torch.no_grad()
    def forward(self, case: Case) -> Any:
        """One forward over the prompt, with a cache."""
        return self.subject.model(**self.subject.prompt(case.rows), use_cache=True, **self._last_logits_only())

    def _last_logits_only(self) -> dict[str, int]:
        """The keyword that asks for the logits of the last token alone, if the model knows it."""
        known = inspect.signature(type(self.subject.model).forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    def plain(self, case: Case) -> Run:
        """Generate with the model while it is not pruned."""
        return self.once(("plain", case), lambda: self.generate(case))

    def by_hand(self, case: Case, tokens: Tensor) -> Tensor:
        """The logits of an answer that is read token by token, as the model is now. -> (b, steps, v)

        A loop of forwards with a cache: without positions, and with a mask only if the batch is padded. So everything
        that the model counts, it counts from its cache.
        """
        model, inputs = self.subject.model, self.subject.prompt(case.rows)
        mask = inputs.pop("attention_mask")
        padded, few, found = not bool(mask.all()), self._last_logits_only(), list[Tensor]()
        with torch.no_grad():
            out = model(**inputs, **({"attention_mask": mask} if padded else {}), use_cache=True, **few)
            found.append(out.logits[:, -1:].float())
            for token in tokens[:, :-1].split(1, 1):
                mask = torch.nn.functional.pad(mask, (0, 1), value=1)
                more = {**cached(model, cache_of(out)), **({"attention_mask": mask} if padded else {})}
                out = model(input_ids=token, **more, use_cache=True)
                found.append(out.logits[:, -1:].float())
        return torch.cat(found, 1)

    def why_not_by_hand(self, case: Case) -> str:
        """The reason why the plain model cannot be decoded in a loop; empty if the loop agrees with `generate`."""

        def tried() -> str:
            run = self.plain(case)
            try:
                error = self.apart(self.by_hand(case, run.tokens), run.logits)
            except Exception as broken:  # some models want more than tokens and a cache
                return f"the plain model cannot be decoded by hand: {type(broken).__name__}"
            same = error <= self.bound(case)
            return "" if same else f"the plain model decoded by hand differs from its own generate by {error:.2g}"

        return self.once(("why not by hand", case), tried)

    def reads_without_cache(self, case: Case) -> bool:
        """True if the plain model can generate without a cache. Some releases of some models cannot."""
        try:
            self.generate(case, use_cache=False)
        except Exception:
            return False
        return True

    def pruned(self, case: Case, method: gp.Method, at: gp.Stage, **options: Any) -> Run:
        """Generate with the model while it is pruned."""

        def run() -> Run:
            with gp.prune(self.subject.model, method, case.asked(), at=at) as handle:
                found = self.generate(case, **options)
                return Run(found.sequences, found.tokens, found.logits, handle.selections, handle.report().images)

        return self.once(("pruned", case, method, at, *options.items()), run)

    def pruned_by_hand(self, case: Case, method: gp.Method, at: gp.Stage, tokens: Tensor) -> Tensor:
        """The logits of an answer that the pruned model reads token by token. -> (b, steps, v)"""
        with gp.prune(self.subject.model, method, case.asked(), at=at):
            return self.by_hand(case, tokens)

    def truth(self, case: Case, sequences: Tensor, dropped: Tensor | None, at: gp.Stage) -> Tensor:
        """The reference's logits of an answer, in float32. None drops nothing. -> (b, steps, v)"""
        if dropped is None:
            dropped = torch.zeros_like(self.subject.prompt(case.rows)["input_ids"], dtype=torch.bool)
        return reference(self.subject, case.rows, sequences, dropped, at)

    @property
    def exact(self) -> bool:
        """True if the model computes in float32 or better."""
        return torch.finfo(self.subject.model.dtype).bits >= 32

    def apart(self, a: Tensor, b: Tensor) -> float:
        """The distance of logits: the largest difference in float32, the mean in 16 bits. NaN if either holds one."""
        gap = (a - b).abs()
        return float(gap.max() if self.exact else gap.mean()) if gap.numel() else 0.0

    def differ(self, a: Run, b: Run) -> float:
        """The same for two runs, row by row up to where their tokens part: from there on they read other texts.

        Tokens part where the best two are as close as the logits are apart, so nothing is hidden by stopping there.
        """
        same = (a.tokens == b.tokens).int().cumprod(1).bool()
        read = torch.cat([torch.ones_like(same[:, :1]), same[:, :-1]], 1)
        return self.apart(a.logits[read], b.logits[read])

    def bound(self, case: Case) -> float:
        """The largest distance that the logits of this case may have."""
        return self.once(("bound", case), lambda: self._bound(case))

    def _bound(self, case: Case) -> float:
        run = self.plain(case)
        try:
            truth = self.truth(case, run.sequences, None, gp.Input())
        except NotImplementedError:
            raise
        except Exception as broken:  # nothing was pruned yet
            told = f"{type(broken).__name__}: {' '.join(str(broken).split())}"
            raise Untold(f"the plain model cannot read its own answer to {case} without a cache ({told})") from broken
        noise, largest = self.apart(run.logits, truth), float(run.logits.abs().max())
        if not noise <= (MOST * largest if self.exact else largest):
            raise Untold(
                f"the plain model's own answer to {case} differs by {noise:.2g} from what it says without a cache"
            )
        return max(NEAR * largest, ROUNDING * noise) if self.exact else ROUGH * noise
