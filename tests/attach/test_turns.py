"""Later turns on the cache of a pruned prompt, for decoders and layouts of every kind, with and without new images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import greedyprune as gp
import proofs
from breadth import some
from greedyprune.models.parts import find_parts
from greedyprune.verify.reference import gathered_row
from proofs import WORDS, Run, can_be_cut, generate, near, start_of
from tiny import NAMES, Rows, Tiny, tiny

pytestmark = pytest.mark.usefixtures("untouched")

FEW = {"max_new_tokens": 5}
KEEP = gp.Ratio(0.4)
KINDS = [
    "llava",
    "llava mistral short window",
    "llava qwen2 mixed window",
    "mistral3 short window",
    "gemma3",
    "gemma3 short window",
    "gemma4 shared keys",
    "qwen3_5",
    "lfm2_vl",
    "minicpmv4_6 slices",
    "llava_next",
    "llava_onevision",
    "smolvlm",
    "aya_vision",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl video",
    "voxtral",
    "molmo2",
]
"""Windows, states, masks of the outer model, lent keys, newlines, tiles, M-RoPE, DeepStack, videos, sounds."""
SICK = {"gemma3", "gemma3 short window", "molmo2"}
"""Whose later turns are wrong without pruning, too: Gemma 3 in old releases; and in Molmo 2 images see all images, but
one that is in the cache already cannot see a later one."""
CELLS = [(name, at) for name in KINDS if name in NAMES for at in (gp.Input(), gp.Layer(2)) if can_be_cut(name, at)]
QUICK = [
    *(("llava", at) for at in (gp.Input(), gp.Layer(2))),
    *((name, gp.Layer(2)) for name in ("llava qwen2 mixed window", "gemma3 short window", "llava_next", "qwen2_5_vl")),
    *((name, gp.Input()) for name in ("qwen3_5", "qwen3_vl", "gemma4 shared keys", "voxtral")),
]
kinds = pytest.mark.parametrize(("name", "at"), some(CELLS, *QUICK, spread=True), ids=str)


@dataclass(frozen=True, eq=False)
class Talk:
    """A conversation of two turns: in the first the prompts show the pictures `rows`, in the second those of `new`."""

    name: str
    rows: Rows
    new: Rows = ()

    @property
    def made(self) -> Tiny:
        """The model."""
        return tiny(self.name)

    @property
    def shown(self) -> Rows:
        """The pictures of both turns."""
        return tuple(old + new for old, new in zip(self.rows, self.new or ((),) * len(self.rows), strict=True))

    def later(self, first: Run) -> dict[str, Any]:
        """The inputs of the second turn, in which every prompt says something, and may show a picture and say more."""
        vision, pieces = self.made.images(self.new) if self.new else ({}, [[]] * len(self.rows))
        words = WORDS.expand(len(self.rows), -1)
        after = words if self.new else words[:, :0]  # little, so that short windows still reach the first picture
        ids = torch.cat([first.sequences, words[:, :3], torch.tensor(pieces).long(), after], 1)
        mask = self.made.prompt(self.rows)["attention_mask"]
        more = {
            "input_ids": ids,
            "attention_mask": torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1),
        }
        extras = self.made.extras(ids)
        if vision and "mm_token_type_ids" in extras and hasattr(self.made.model.model, "get_rope_index"):
            return {**more, **vision, "position_ids": self._positions({**more, **extras})}
        return {**more, **vision, **extras}

    def _positions(self, more: dict[str, Tensor]) -> Tensor:
        """Multimodal positions. generate() cannot count those of a later picture without the sizes of earlier ones."""
        sizes = {k: v for k, v in self.made.images(self.shown)[0].items() if k.endswith(("_thw", "_ts"))}
        places, _ = self.made.model.model.get_rope_index(**more, **sizes)
        text = (more["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return torch.cat([text[None], places])

    def truth(self, more: dict[str, Any], sequences: Tensor, dropped: Tensor, at: gp.Stage) -> Tensor:
        """The logits of the second answer by the reference that fits the decoder, which reads all turns at once."""
        eager, end = tiny(self.name, "eager"), more["input_ids"].shape[1]
        plain = {name: more[name] for name in ("input_ids", "attention_mask")}
        if not any(kind.recurrent for kind in find_parts(eager.model).kinds):
            whole = {**eager.continued(plain, plain["input_ids"]), **eager.images(self.shown)[0]}
            ends = [eager.prompt(self.rows)["input_ids"].shape[1], end]
            return proofs.masked(eager, whole, sequences, dropped, at, prompts=ends)
        logits: list[Tensor] = []
        for row, numbers in enumerate(self.shown):
            start = int(plain["attention_mask"][row].argmax())
            alone = {name: value[row : row + 1, start:] for name, value in plain.items()}
            full = {**eager.continued(alone, sequences[row : row + 1, start:-1]), **eager.images((numbers,))[0]}
            gone, steps = dropped[row : row + 1, start:], sequences.shape[1] - end
            logits.append(gathered_row(eager.model, full, gone, steps, start_of(at)))
        return torch.cat(logits)

    def skip_if_sick(self) -> None:
        """Skip where this release of transformers gets such a turn wrong by itself."""
        if self.name not in SICK:
            return
        first = generate(self.made.model, self.made.prompt(self.rows), **FEW)
        more = self.later(first)
        try:
            second = generate(self.made.model, more, past_key_values=first.cache, **FEW)
            truth = self.truth(more, second.sequences, torch.zeros_like(more["input_ids"]).bool(), gp.Input())
            torch.testing.assert_close(second.logits, truth, **proofs.NEAR)
        except (RuntimeError, AssertionError):
            pytest.skip(f"this release of transformers gets such a turn of {self.name} wrong without pruning, too")

    def in_order(self, first: list[Any], second: list[Any]) -> list[Any]:
        """The selections of both turns in the order of their placeholders: prompt by prompt."""
        return [one for row in range(len(self.rows)) for one in (*first, *second) if one.row == row]


def hold(talk: Talk, at: gp.Stage, later_keep: Any = KEEP) -> None:
    """Hold a pruned conversation to its reference, and the reference to one that drops nothing."""
    model = talk.made.model
    with gp.prune(model, gp.GreedyPrune(), KEEP, at=at) as handle:
        first = generate(model, talk.made.prompt(talk.rows), **FEW)
        seen, more = handle.selections, talk.later(first)
        with handle.using(keep=later_keep):
            second = generate(model, more, past_key_values=first.cache, **FEW)
        if talk.new:
            seen = talk.in_order(seen, handle.selections)
    assert len(seen) == sum(map(len, talk.shown))
    dropped = proofs.dropped_columns(more["input_ids"], seen)
    truth = talk.truth(more, second.sequences, dropped, at)
    near(second.logits, truth)
    assert (truth - talk.truth(more, second.sequences, torch.zeros_like(dropped), at)).abs().max() > 0.01


@kinds
@pytest.mark.parametrize("rows", some([((0,),), ((0,), (1, 2))], ((0,), (1, 2))), ids=str)
def test_a_later_turn_of_text_goes_on(name, at, rows) -> None:
    talk = Talk(name, rows)
    talk.skip_if_sick()
    hold(talk, at)


@pytest.mark.parametrize("at", [gp.Layers((1, 3)), gp.Layer(1)], ids=str)
@pytest.mark.parametrize("rows", some([((0,),), ((0,), (1, 2))], ((0,), (1, 2))), ids=str)
@pytest.mark.parametrize("name", ["llava", "llava qwen2 mixed window", "gemma3", "qwen3_5", "lfm2_vl", "llava_next"])
def test_two_turns_are_the_same_prompt_read_at_once(name, at, rows) -> None:
    talk = Talk(name, rows)
    talk.skip_if_sick()
    model, vision = talk.made.model, talk.made.images(rows)[0]
    with gp.prune(model, gp.Random(), KEEP, at=at):
        first = generate(model, talk.made.prompt(rows), **FEW)
        more = talk.later(first)
        second = generate(model, more, past_key_values=first.cache, **FEW)
        near(second.logits, generate(model, {**more, **vision}, **FEW).logits)


@kinds
@pytest.mark.parametrize("number", some([0, 2], 2))
def test_a_later_turn_may_bring_a_picture_the_same_or_another(name, at, number) -> None:
    talk = Talk(name, ((0,),), ((number,),))
    talk.skip_if_sick()
    hold(talk, at)


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
@pytest.mark.parametrize("name", ["llava_next", "smolvlm", "qwen2_5_vl", "voxtral"])
def test_prompts_may_keep_differently_many_tokens_of_a_later_turn(name, at) -> None:
    hold(Talk(name, ((0,), (1,)), ((1,), (1,))), at, [3, 6])


@pytest.mark.parametrize(
    "at", some([gp.Input(), gp.Layer(2), gp.Layers((1, 3))], gp.Input(), gp.Layers((1, 3))), ids=str
)
@pytest.mark.parametrize(
    "name",
    some(
        ["llava mistral short window", "llava qwen2 mixed window", "qwen3_5", "lfm2_vl", "gemma3"],
        "llava qwen2 mixed window",
        "qwen3_5",
    ),
)
def test_windows_and_states_refuse_that_and_the_cache_stays_as_it_was(name, at) -> None:
    talk, text = Talk(name, ((0,), (0,)), ((1,), (1,))), Talk(name, ((0,), (0,)))
    model = talk.made.model
    text.skip_if_sick()
    runs = []
    for failing in (True, False):
        with gp.prune(model, gp.GreedyPrune(), KEEP, at=at) as handle:
            first = generate(model, talk.made.prompt(talk.rows), **FEW)
            if failing:
                refused = pytest.raises(NotImplementedError, match="keep equally many tokens in every prompt")
                with refused, handle.using(keep=[3, 6]):
                    generate(model, talk.later(first), past_key_values=first.cache, **FEW)
                partial = gp.GreedyPrune(tau=0.3, fallback="none")  # which may or may not keep equally many
                if at != gp.Input():
                    with refused, handle.using(partial, at=at):
                        generate(model, talk.later(first), past_key_values=first.cache, **FEW)
            runs.append(generate(model, text.later(first), past_key_values=first.cache, **FEW))
    near(runs[0].logits, runs[1].logits)
    assert torch.equal(runs[0].tokens, runs[1].tokens)


@pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_5", "qwen3_vl"])
def test_positions_that_the_model_counts_itself_are_its_own(name, at) -> None:
    """Without positions of ours, generate() numbers a later picture in its own way: keeping all changes nothing."""
    talk = Talk(name, ((0,),), ((2,),))
    model, logits = talk.made.model, []
    for keep in (None, gp.Ratio(1.0)):
        handle = None if keep is None else gp.prune(model, gp.GreedyPrune(), keep, at=at)
        try:
            first = generate(model, talk.made.prompt(talk.rows), **FEW)
            more = talk.later(first)
            more.pop("position_ids")
            types = talk.made.extras(more["input_ids"])["mm_token_type_ids"]
            types[:, : first.sequences.shape[1]] = 0
            second = generate(model, {**more, "mm_token_type_ids": types}, past_key_values=first.cache, **FEW)
        finally:
            if handle is not None:
                handle.remove()
        logits.append(second.logits)
    near(*logits)
