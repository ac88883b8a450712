"""The proofs' tools: cases, runs of a model with and without pruning, and the reference a pruned run is held to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import greedyprune as gp
from greedyprune.models._front import _home as home_of
from greedyprune.models.parts import find_parts
from greedyprune.models.release import cache_name, cache_of
from greedyprune.models.table import FAMILIES
from greedyprune.selection import Report, Selection
from greedyprune.verify.reference import gathered
from greedyprune.verify.subject import Subject
from greedyprune.verify.traces import fingerprint as fingerprint
from greedyprune.verify.traces import hooks_on as hooks_on
from tiny import AUDIO, IMAGE, NAMES, SPECIAL, VIDEO, Rows, Tiny, built, tiny

MEDIA = [IMAGE, VIDEO, AUDIO]
STEPS = 20
"""Tokens that a run generates."""
FEW = 10
"""The same for the many cells of the matrix, where a mistake of any later step shows in these already."""

NEAR = {"rtol": 0.0, "atol": 1e-4}
"""Two ways to compute the same float32 logits (which reach 6.5 here): other shapes, other summation orders.

The largest error measured is 1.7e-5; a mistake in positions, masks or cache moves logits by 0.01 to 6.
"""

ATTENTIONS = ("sdpa", "eager")
CORE = ("llava", "qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3", "internvl")
"""Families that stand for all others in tests of one thing."""
FIRST = ("llava", "qwen2_5_vl", "smolvlm")
"""Of these, one with images of one size, one with images of any size, and one with tiles: they always run."""
REPRESENTATIVE = (
    "llava",
    "qwen2_5_vl",  # three rows of positions
    "qwen3_vl",  # DeepStack
    "smolvlm",  # tiles with text between them
    "internvl",  # tiles in one run
    "gemma3",  # images whose tokens see each other
    "gemma3 short window",
    "llava qwen2 mixed window",
    "gemma4 shared keys",
    "paligemma",  # a prompt that is read in both directions
    "qwen3_5",  # layers that carry a state
    "lfm2_vl",  # layers with short convolutions
    "llava_next",  # newlines
    "qwen2_5_vl image and video",
    "qwen3_vl video",
    "voxtral",  # sounds
)
"""A model for every mechanism: each property of the matrix always runs on all of them."""
EARLY = gp.Layer(2, early=True)
"""Before layer 2; after the prompt the caches of layers 0 and 1 are cut, too."""

PLACES: dict[type[gp.Stage], list[gp.Stage]] = {
    gp.Input: [gp.Input()],
    gp.Layer: [gp.Layer(1), gp.Layer(2), EARLY],
}
"""Where a family that lists a kind of stage is cut in the proofs."""


@dataclass(frozen=True)
class Case:
    """A batch of prompts, and what is kept of its images."""

    name: str
    rows: Rows
    keep: Any

    def __str__(self) -> str:
        return self.name

    def budgets(self) -> list[Any]:
        """One budget per image."""
        images = sum(map(len, self.rows))
        return list(self.keep) if isinstance(self.keep, tuple) else [self.keep] * images

    def row(self, index: int) -> Case:
        """One of its prompts alone."""
        first = sum(map(len, self.rows[:index]))
        mine = self.budgets()[first : first + len(self.rows[index])]
        return Case(f"{self.name}[{index}]", (self.rows[index],), tuple(mine) or self.keep)


CASES = [
    Case("one", ((0,),), 6),
    Case("two", ((0, 1),), (5, gp.Ratio(0.5))),
    Case("ragged", ((0,), (1, 2)), gp.Ratio(0.4)),  # one prompt has one image, the next two: padded on the left
    Case("unequal", ((0,), (0,)), (4, 11)),  # rows of equal length become ragged by the cut
    Case("mixed", ((), (2,)), 5),  # a prompt without an image beside one with an image
]
TEXT = Case("text", ((),), 4)


@dataclass(frozen=True, eq=False)
class Run:
    """What a model generated, and what pruning said about it."""

    sequences: Tensor
    """(b, L + steps) prompt and answer."""
    tokens: Tensor
    """(b, steps) the answer."""
    logits: Tensor
    """(b, steps, v)"""
    cache: Any
    selections: list[Selection] = field(default_factory=list)
    report: Report | None = None


def type_of(name: str) -> str:
    """The model type of a tiny model."""
    return name.split()[0]


@cache
def can_be_cut(name: str, at: gp.Stage) -> bool:
    """Whether the library says that this model can be cut there."""
    try:
        find_parts(tiny(name).model).check_stage(at)
    except NotImplementedError:
        return False
    return True


def cells(names: Iterable[str] = NAMES) -> list[tuple[str, gp.Stage]]:
    """Every pair of tiny model and place that the table of families promises."""
    promised = [(name, at) for name in names for kind in FAMILIES[type_of(name)].stages for at in PLACES[kind]]
    return [(name, at) for name, at in promised if can_be_cut(name, at)]


def combinations(
    *,
    attention: bool = False,
    cases: Sequence[Case] = (),
    names: Sequence[str] = NAMES,
    early: bool = True,
    everywhere: bool = False,
) -> Any:
    """Mark a test to run over the matrix: every tiny model, place, attention and case.

    What shows most always runs, and the rest has the mark `wide`. `everywhere`: every model is in what always runs.
    """
    runs: list[Any] = []
    for name, at in cells(names):
        for kind in ATTENTIONS if attention else ATTENTIONS[:1]:
            for case in cases or CASES[2:3]:
                mark = _marked(name, at, kind, case, everywhere)
                if mark is None or (is_early(at) and not early):
                    continue
                values = [name, at, *([kind] if attention else []), *([case] if cases else [])]
                runs.append(pytest.param(*values, id="-".join(map(str, values)), marks=mark))
    columns = ["family", "at", *(["attention"] if attention else []), *(["case"] if cases else [])]
    return pytest.mark.parametrize(columns, runs)


def _marked(name: str, at: gp.Stage, attention: str, case: Case, everywhere: bool) -> Any:
    """The marks of one run, None if it is left out."""
    ragged, usual = case.name == "ragged", at in (gp.Input(), gp.Layer(2))
    if _shows_most(name, at, attention, case, everywhere):
        return ()
    if name in CORE or (ragged and usual and attention == "sdpa"):
        return pytest.mark.wide
    # "one" is a part of "ragged"; an early cut and eager attention are shown by what shows most.
    shown = ragged if attention == "eager" or not usual else case.name != "one"
    return pytest.mark.wide if shown and at != gp.Layer(1) else None


def _shows_most(name: str, at: gp.Stage, attention: str, case: Case, everywhere: bool) -> bool:
    """Whether no other run shows what this one shows."""
    ragged, usual = case.name == "ragged", at in (gp.Input(), gp.Layer(2))
    if name == "llava":
        return at != gp.Layer(1) and (attention == "sdpa" or case.name in ("ragged", "unequal"))
    if name in REPRESENTATIVE:
        if attention == "eager":
            return everywhere and ragged and at == gp.Layer(2)
        early = at == EARLY and name in ("qwen3_vl", "gemma3 short window")
        return (usual or early) and (ragged or name == "qwen2_5_vl")
    last = at == gp.Layer(2) or (usual and not can_be_cut(name, gp.Layer(2)))
    return everywhere and ragged and attention == "sdpa" and last


def start_of(at: gp.Stage) -> int:
    """The decoder layer before which this cuts."""
    return at.index if isinstance(at, gp.Layer) else 0


def is_early(at: gp.Stage) -> bool:
    """Whether the caches of layers before the cut are cut after the prompt."""
    return isinstance(at, gp.Layer) and at.early


def methods(family: str) -> list[gp.Method]:
    """The methods whose decisions the proofs follow: one that looks at the states, one that looks at places alone."""
    return [gp.GreedyPrune(), places_only(family)]


def places_only(family: str) -> gp.Method:
    """A method whose selection does not change when text is added to a prompt."""
    return gp.UniformGrid() if tiny(family).has_grid else gp.Random()


def generate(model: Any, inputs: dict[str, Any], **options: Any) -> Run:
    """Generate greedily. The model gets copies, so that nothing it does can reach the next run."""
    copies = {name: value.clone() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    options = {"max_new_tokens": STEPS, "do_sample": False, "suppress_tokens": SPECIAL, **options}
    copies, options = renamed(model, copies), renamed(model, options)
    out = model.generate(**copies, return_dict_in_generate=True, output_logits=True, **options)
    tokens = out.sequences[:, inputs["input_ids"].shape[1] :]
    return Run(out.sequences, tokens, torch.stack(out.logits, 1), cache_of(out))


def renamed(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with `past_key_values` under the name that this release gives it."""
    name = cache_name(model)
    return {name if key == "past_key_values" else key: value for key, value in arguments.items()}


@torch.no_grad()
def forward(model: Any, inputs: dict[str, Any], **options: Any) -> Any:
    """One forward without gradients."""
    return model(**renamed(model, {**inputs, **options}))


@cache
def plain(family: str, attention: str, case: Case) -> Run:
    """What the model says when it was never pruned."""
    made = tiny(family, attention)
    return generate(made.model, made.prompt(case.rows))


@cache
def pruned(family: str, attention: str, at: gp.Stage, case: Case, method: gp.Method) -> Run:
    """What it says while pruned."""
    made = tiny(family, attention)
    with gp.prune(made.model, method, keep_of(case), at=at) as handle:
        run = generate(made.model, made.prompt(case.rows), max_new_tokens=FEW)
        return Run(run.sequences, run.tokens, run.logits, run.cache, handle.selections, handle.report())


def keep_of(case: Case) -> Any:
    """The budget as a user writes it."""
    return list(case.keep) if isinstance(case.keep, tuple) else case.keep


def is_visual(ids: Tensor) -> Tensor:
    """Which tokens stand for images, videos or sounds. (b, L) -> (b, L) bool"""
    return torch.isin(ids, torch.tensor(MEDIA))


def placeholders(ids: Tensor, selections: Sequence[Selection]) -> list[Tensor]:
    """Where the tokens of every selection stand, newlines included. -> [(length, 2)] rows and columns"""
    return list(is_visual(ids).nonzero().split([s.n + len(s.structure) for s in selections]))


def chosen(n: int, rows: Any = ()) -> Any:
    """What stands for a selection: n tokens, of which these rows stay."""
    return SimpleNamespace(n=n, rows=rows, places=rows, structure=())


def image_columns(ids: Tensor, selections: Sequence[Selection]) -> list[Tensor]:
    """Where those stand that a method may choose. -> [(n, 2)] rows and columns"""
    columns: list[Tensor] = []
    for places, selection in zip(placeholders(ids, selections), selections, strict=True):
        plain = torch.ones(len(places), dtype=torch.bool)
        plain[list(selection.structure)] = False
        columns.append(places[plain])
    return columns


def dropped_columns(ids: Tensor, selections: Sequence[Selection]) -> Tensor:
    """Which tokens of a prompt were dropped. (b, L) -> (b, L) bool"""
    dropped = torch.zeros_like(ids, dtype=torch.bool)
    for places, selection in zip(placeholders(ids, selections), selections, strict=True):
        gone = torch.ones(len(places), dtype=torch.bool)
        gone[selection.places] = False
        dropped[places[gone, 0], places[gone, 1]] = True
    return dropped


@contextmanager
def hooked(*handles: Any) -> Iterator[None]:
    """Inside, these hooks are there."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def masked(
    made: Tiny,
    inputs: dict[str, Tensor],
    sequences: Tensor,
    dropped: Tensor | dict[int, Tensor],
    at: gp.Stage | None = None,
    *,
    everything: bool = False,
    compact: bool = False,
    prompts: Sequence[int] = (),
) -> Tensor:
    """The reference: logits of the answer when dropped tokens are only masked, never removed. -> (b, steps, v)

    It shares nothing with the pruned run but the answer's tokens: an unpatched, eager model reads prompt and answer at
    once, at full length, without a cache and in its own positions; in the layers behind the cut nobody looks at them.
    After an early cut, nobody who comes after the prompt looks at them in the layers before the cut either.

    `dropped`: (b, L) where `at` cuts, or for cuts before several layers what is gone behind each of them.
    `everything`: `sequences` is a prompt alone, and the logits of all its tokens are wanted.
    `compact`: layers behind a cut number the tokens that stay without gaps.
    `prompts`: where each prompt of a conversation ends, by default the one prompt there is.
    """
    length = inputs["input_ids"].shape[1]
    read = sequences if everything else sequences[:, :-1]
    width = read.shape[1]
    full, rotary = positioned(made.continued(inputs, read)), made.model.get_decoder().rotary_emb
    cuts = dropped if isinstance(dropped, dict) else {start_of(at): dropped}
    gone = {start: nn.functional.pad(flags, (0, width - length)) for start, flags in sorted(cuts.items())}
    late = _read_before(prompts or [length], width)
    valid = full["attention_mask"].bool()

    def hidden(index: int) -> Tensor | None:
        """What layer `index` must not look at. (b, 1, 1 or q, t)"""
        behind = [flags for start, flags in gone.items() if start <= index]
        if behind:
            return behind[-1][:, None, None, :]
        return next(iter(gone.values()))[:, None, None, :] & late if at is not None and is_early(at) else None

    def hide(index: int, window: int | None) -> Any:
        flags = hidden(index)

        def hook(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            mask = kwargs["attention_mask"]
            assert mask.ndim == 4, "the reference needs eager attention with an explicit mask"
            if window is not None:
                mask = torch.where(_near(valid & ~flags[:, 0, 0], valid, window), 0.0, mask)
            kwargs = {**kwargs, "attention_mask": torch.where(flags, torch.finfo(mask.dtype).min, mask)}
            if compact and any(start <= index for start in gone):
                stay = full["attention_mask"].bool() & ~flags[:, 0, 0]
                kwargs["position_embeddings"] = rotary(args[0], (stay.cumsum(1) - 1).clamp(min=0))
            return args, kwargs

        return hook

    kinds = find_parts(made.model).kinds
    layers = [(i, layer) for i, layer in enumerate(made.model.get_decoder().layers) if hidden(i) is not None]
    hooks = [layer.register_forward_pre_hook(hide(i, kinds[i].window), with_kwargs=True) for i, layer in layers]
    with hooked(*hooks):
        out = made.model(**full, use_cache=False)
    return out.logits if everything else out.logits[:, length - 1 :]


def positioned(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs with positions that count from each prompt's first token, as generate() makes them.

    Most models see only distances. Those with several rows of positions count themselves.
    """
    if "mm_token_type_ids" in inputs:
        return inputs
    return {**inputs, "position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)}


def _near(stay: Tensor, valid: Tensor, window: int) -> Tensor:
    """Who stands within a window of tokens that stay. (b, t), (b, t) -> (b, 1, t, t) bool"""
    count = stay.cumsum(1)
    distance = count[:, :, None] - count[:, None, :]
    causal = torch.ones(distance.shape[1:], dtype=torch.bool).tril()
    return (causal & (distance < window) & valid[:, None, :])[:, None]


def truth_of(family: str, case: Case, run: Run, dropped: Tensor, at: gp.Stage) -> Tensor:
    """The logits of a run's answer by the reference that fits the family's decoder. -> (b, steps, v)"""
    eager = tiny(family, "eager")
    inputs = eager.prompt(case.rows)
    if not any(kind.recurrent for kind in find_parts(eager.model).kinds):
        return masked(eager, inputs, run.sequences, dropped, at)
    subject = Subject(eager.model, eager.prompt, tuple(SPECIAL), eager.continued)
    return gathered(subject, case.rows, run.sequences, dropped, at)


def _read_before(prompts: Sequence[int], width: int) -> Tensor:
    """Whether column c belongs to a prompt that was read to its end before query q came. -> (q, c) bool"""
    columns = torch.arange(width)
    ends = torch.tensor([next((end for end in prompts if column < end), width) for column in range(width)])
    return columns[:, None] >= ends


@torch.no_grad()
def states_entering(model: Any, inputs: dict[str, Any], at: gp.Stage) -> Tensor:
    """The states at a stage of an unpatched model. A hook, since families differ in what output_hidden_states holds."""
    if isinstance(at, gp.Input):  # some decoders scale what they are given
        return entering(model.get_decoder(), model, positioned(inputs))["inputs_embeds"]
    return entering(model.get_decoder().layers[start_of(at)], model, positioned(inputs))["hidden_states"]


@torch.no_grad()
def entering(module: nn.Module, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What a part of an unpatched model is called with."""
    seen: list[dict[str, Any]] = []

    def look(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append({**kwargs, **({"hidden_states": args[0]} if args else {})})

    with hooked(module.register_forward_pre_hook(look, with_kwargs=True)):
        model(**inputs)
    return seen[0]


def at_once(work: Callable[..., None], jobs: Iterable[Sequence[Any]]) -> None:
    """Do each job in a thread of its own."""
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


_modules: dict[tuple[str, str], list[nn.Module]] = {}


def pruned_still() -> list[tuple[str, str]]:
    """The shared models that carry hooks of the library. Tests ask after each of them, so this looks at no more."""
    found: list[tuple[str, str]] = []
    for key, model in built.items():
        if key not in _modules:
            _modules[key] = list(model.modules())
        hooked = [module for module in _modules[key] if module._forward_pre_hooks or module._forward_hooks]
        if any(hooks_on_one(module) for module in hooked):
            found.append(key)
    return found


def hooks_on_one(module: nn.Module) -> bool:
    """Whether a module itself carries hooks of the library, its parts left out."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return any(home_of(hook).startswith("greedyprune") for hook in hooks)


def same(a: Run, b: Run) -> bool:
    """Whether two runs are equal bit by bit."""
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.logits, b.logits)


def assert_near(a: Run, b: Run) -> None:
    """Equal tokens, and logits equal but for rounding."""
    assert torch.equal(a.tokens, b.tokens)
    torch.testing.assert_close(a.logits, b.logits, **NEAR)


@dataclass(frozen=True, kw_only=True)
class Custom(gp.Method):
    """A method made of a function, for tests."""

    choose: Callable[[gp.Cues, int], gp.Keep]

    def select(self, cues: gp.Cues, k: int) -> gp.Keep:
        """What the function says."""
        return self.choose(cues, k)


# One family, for what holds for attaching as such ---------------------------------------------------------------------

MADE, EAGER = tiny("llava"), tiny("llava", "eager")
MODEL = MADE.model
ONE, TWO, RAGGED, UNEQUAL, MIXED = (MADE.prompt(case.rows) for case in CASES)
GRID = gp.UniformGrid()
WORDS = torch.tensor([[11, 12, 13, 14, 15, 16]])
IMAGE_PIECE = torch.tensor([[102, *[IMAGE] * 16, 103]])

places = pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2), EARLY], ids=str)
short_prompts = pytest.mark.parametrize("inputs", [ONE, RAGGED], ids=["one", "ragged"])


def near(a: Tensor, b: Tensor) -> None:
    """Equal but for rounding."""
    torch.testing.assert_close(a, b, **NEAR)


def truth(inputs: dict[str, Tensor], sequences: Tensor, selections: Sequence[Selection], at: gp.Stage) -> Tensor:
    """The logits of an answer when what the selections dropped is masked."""
    return masked(EAGER, inputs, sequences, dropped_columns(inputs["input_ids"], selections), at)


def turn(made: Tiny, inputs: dict[str, Tensor], answer: Run, *pieces: Tensor) -> dict[str, Tensor]:
    """The inputs of a second turn: all text so far and `pieces` after it, no picture yet."""
    ids = torch.cat([answer.sequences, *[piece.expand(len(answer.sequences), -1) for piece in pieces]], 1)
    return made.continued({name: inputs[name] for name in ("attention_mask", "input_ids")}, ids)
