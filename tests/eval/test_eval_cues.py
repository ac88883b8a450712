"""What each saliency is worth: every value against plain loops in float64, planted cues, and models left untouched."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import greedyprune as gp
import tiny
from breadth import some
from greedyprune import testbed
from greedyprune.eval import Engine, Item
from greedyprune.eval import cues as of_cues
from greedyprune.eval import reader as of_layers
from greedyprune.eval.cues import ALL, OBJECTS, SHARES, cue_rows
from greedyprune.eval.engine import Batch
from greedyprune.eval.items import digest
from greedyprune.eval.reader import ATTENTIONS, CENTRED, CHANGE, COSINES, NORMS, SALIENCIES, SCALED, cosines, saliencies
from greedyprune.eval.scenes import Scenes
from greedyprune.models.locate import images
from greedyprune.models.parts import find_parts
from greedyprune.models.release import cache_of
from greedyprune.ops.grid import covered_cells
from greedyprune.saliencies import NEEDS, Weighing, read_saliency
from greedyprune.verify.traces import changed, fingerprint

for extra in ("sklearn", "skimage", "matplotlib"):
    pytest.importorskip(extra)

CLOSE = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture(scope="module", params=testbed.MODELS)
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine(*testbed.load(request.param))


@pytest.fixture(scope="module")
def llava() -> Engine:
    return Engine(*testbed.load("llava"))


@pytest.fixture(scope="module")
def items() -> list[Item]:
    """Four questions with boxes, of unequal length."""
    found = Scenes(2, seed=3, tasks=("ocr", "rel", "where", "color")).items()
    return [item for item in found if item.boxes and item.others][:4]


# The saliencies, by plain loops ---------------------------------------------------------------------------------------


def cos(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def unit(rows: list[Tensor]) -> list[Tensor]:
    return [row / math.sqrt(float(row @ row)) for row in rows]


def restated(model: Any, inputs: dict[str, Any], image_token: int) -> dict[tuple[int, str], list[float]]:
    """Every saliency of one prompt without padding, token by token, from what the model itself returns."""
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True, output_attentions=True, use_cache=True)
    ids = inputs["input_ids"][0].tolist()
    visual = [place for place, token in enumerate(ids) if token == image_token]
    end = model.generation_config.eos_token_id
    question = list(range(visual[-1] + 1, ids.index(end) if end in ids else len(ids)))
    found: dict[tuple[int, str], list[float]] = {}
    for layer, attention in enumerate(out.attentions):
        rows = list(out.hidden_states[layer][0].double())
        x, words, last = [rows[i] for i in visual], [rows[j] for j in question], rows[-1]
        mean = sum(words[1:], words[0]) / len(words)
        found[layer, "cosine last"] = [cos(row, last) for row in x]
        found[layer, "cosine mean"] = [cos(row, mean) for row in x]
        found[layer, "cosine max"] = [max(cos(row, word) for word in words) for row in x]
        root = torch.tensor([math.sqrt(sum(float(row[c]) ** 2 for row in x) / len(x)) for c in range(len(last))])
        for kind, by in (("centred", torch.ones_like(root)), ("scaled", root)):
            u, v, end = unit([row / by for row in x]), unit([word / by for word in words]), unit([last / by])[0]
            middle = sum(u[1:], u[0]) / len(u)
            turned = unit([sum(v[1:], v[0]) / len(v)])[0]
            found[layer, f"cosine last {kind}"] = [cos(row - middle, end - middle) for row in u]
            found[layer, f"cosine mean {kind}"] = [cos(row - middle, turned - middle) for row in u]
            found[layer, f"cosine max {kind}"] = [max(cos(row - middle, word - middle) for word in v) for row in u]
        weights = attention[0].double()
        heads = range(len(weights))
        found[layer, "attention last"] = [sum(float(weights[h, -1, i]) for h in heads) / len(heads) for i in visual]
        pairs = list(itertools.product(heads, question))
        means = [sum(float(weights[h, j, i]) for h, j in pairs) / len(pairs) for i in visual]
        found[layer, "attention question"] = means
        held = cache_of(out).layers[layer]
        for name, tensor in (("key norm", held.keys), ("value norm", held.values)):
            each = [torch.cat(list(tensor[0, :, i].double())) for i in visual]
            found[layer, name] = [math.sqrt(float(row @ row)) for row in each]
        if layer:
            before = list(out.hidden_states[layer - 1][0].double())
            gaps = [rows[i] - before[i] for i in visual]
            found[layer, "change"] = [math.sqrt(float(gap @ gap)) for gap in gaps]
    return found


@pytest.mark.parametrize("name", testbed.MODELS)
def test_every_saliency_is_that_of_plain_loops_in_any_batch(name: str, items: list[Item]) -> None:
    """The loops read one prompt without padding; here the prompts stand in one batch, and then in batches of one."""
    engine, plain = Engine(*testbed.load(name)), testbed.load(name, attn_implementation="eager")[0]
    together = engine.prepare(0, items)
    lengths = together.inputs["attention_mask"].sum(1).tolist()
    assert len(set(lengths)) > 1, "no prompt is padded"
    for item, found in zip(items, saliencies(engine, together), strict=True):
        alone = engine.prepare(0, [item])
        expected = restated(plain, alone.inputs, engine.parts.media[0][1])
        assert set(found) == set(expected)
        assert {key[1] for key in found} == set(SALIENCIES)
        (single,) = saliencies(engine, alone)
        for key, values in expected.items():
            given = torch.tensor(values, dtype=torch.float64).float()
            torch.testing.assert_close(found[key], given, **CLOSE, msg=f"{key}")
            torch.testing.assert_close(single[key], given, **CLOSE, msg=f"{key} alone")


def test_the_questions_tokens_are_those_of_the_cues(llava: Engine, items: list[Item]) -> None:
    batch = llava.prepare(0, items)
    seen: list[Tensor] = []

    class Looking(gp.Method):
        needs = (gp.Text(),)

        def select(self, cues: gp.Cues, k: int) -> gp.Keep:
            assert cues.text is not None
            seen.append(of_layers.cosines(cues.features, cues.text[cues.question], cues.text[-1])["cosine max centred"])
            return gp.Keep.from_order(torch.arange(k), torch.zeros(k), cues.n)

    with gp.prune(llava.model, Looking(), 20, at=gp.Layer(2)), torch.no_grad():
        llava.model(**batch.inputs)
    for found, mine in zip(saliencies(llava, batch), seen, strict=True):
        torch.testing.assert_close(found[2, "cosine max centred"], mine.float(), **CLOSE)


NAMED: dict[str, tuple[str, int]] = {
    "attention": ("attention last", 1),
    "question_attention": ("attention question", 1),
    "key_norm": ("key norm", 1),
    "value_norm": ("value norm", 1),
    "change": ("change", 0),
}
"""The names here of the words that methods know, and by how many layers a cut comes after what its saliency reads."""


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("name", testbed.MODELS)
def test_a_method_weighs_what_is_told_of_the_layer_before_its_cut(name: str, cut: int, items: list[Item]) -> None:
    """The method's probes compute it again under the model's usual attention; here the model's eager one returns it."""
    engine = Engine(*testbed.load(name))
    batch = engine.prepare(0, items)
    told = saliencies(engine, batch)
    assert set(NAMED) == set(NEEDS) - {"cosine", "tower"}
    seen: list[Tensor] = []

    class Looking(Weighing):
        def select(self, cues: gp.Cues, k: int) -> gp.Keep:
            worth = read_saliency(self.saliency, cues)
            assert worth is not None
            seen.append(worth)
            return gp.Keep.from_order(torch.arange(k), torch.zeros(k), cues.n)

    for word, (mine, before) in NAMED.items():
        seen.clear()
        with gp.prune(engine.model, Looking(saliency=word), 20, at=gp.Layer(cut)), torch.no_grad():
            engine.model(**batch.inputs)
        for found, worth in zip(told, seen, strict=True):
            torch.testing.assert_close(found[cut - before, mine], worth.float(), **CLOSE, msg=word)


def read(name: str) -> tuple[Any, Batch, list[of_layers.Found]]:
    """A tiny model of a family, a batch of two of its prompts, and their saliencies."""
    made = tiny.tiny(name)
    inputs = made.prompt(((0,), (1,)))
    engine: Any = SimpleNamespace(model=made.model, parts=find_parts(made.model))
    batch = Batch(0, [], [], inputs, images(made.model, inputs))
    return engine, batch, saliencies(engine, batch)


FEW = ("qwen3_vl", "paligemma", "gemma4 shared keys", "lfm2_vl", "llava qwen2 mixed window", "llava_next")
STILL = [name for name in tiny.NAMES if "video" not in name and "pixtral" not in name]
"""Models whose images `images` finds on every release."""


@pytest.mark.parametrize("name", some(STILL, *FEW))
def test_eager_attention_reads_the_states_of_the_usual_one(name: str, untouched: None) -> None:
    """A mask that another attention made would let tokens see what is behind them. What is missing is named."""
    made = tiny.tiny(name)
    with torch.no_grad():
        made.model(**made.prompt(((0,), (1,))))  # transformers keeps hooks of its own from the first forward on
    before = fingerprint(made.model)
    engine, batch, found = read(name)
    assert changed(before, fingerprint(made.model)) == set()
    states: list[Tensor] = []

    def note(_: Any, given: Any, named: Any) -> None:
        states.append(given[0] if given else named["hidden_states"])

    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in engine.parts.layers]
    try:
        with torch.no_grad():
            made.model(**batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    for number, (span, each) in enumerate(zip(batch.spans, found, strict=True)):
        for layer, whole in enumerate(states):
            x = whole[span.row][span.columns].double()
            last = whole[span.row][batch.inputs["attention_mask"][span.row].nonzero()[-1, 0]].double()
            given = torch.nn.functional.cosine_similarity(x, last[None])
            torch.testing.assert_close(each[layer, "cosine last"], given.float(), atol=1e-4, rtol=1e-4)
        recurrent = {layer for layer, kind in enumerate(engine.parts.kinds) if kind.recurrent}
        lacking = {(layer, one) for layer in range(len(states)) for one in SALIENCIES if (layer, one) not in each}
        lacking.discard((0, CHANGE))
        assert {key for key in lacking if key[1] in ATTENTIONS} == set(itertools.product(recurrent, ATTENTIONS))
        assert {key for key in lacking if key[1] in (*COSINES, *CENTRED, *SCALED, CHANGE)} == set()
        short = {layer for layer, kind in enumerate(engine.parts.kinds) if kind.window is not None}
        shared = name == "gemma4 shared keys"
        assert {key[0] for key in lacking if key[1] in NORMS} <= recurrent | short | ({4, 5} if shared else set())
        assert number == span.row


class Break(RuntimeError):
    """A forward that fails."""


@pytest.mark.parametrize("at", [None, 0, 3])
def test_a_model_is_left_as_it_was_also_after_an_error(at: int | None, items: list[Item]) -> None:
    engine = Engine(*testbed.load("llava"))
    engine.model.config.vision_config._attn_implementation = "eager"  # not that of the decoder

    def fail(*_: Any) -> None:
        raise Break

    handle = engine.parts.layers[at].register_forward_hook(fail) if at is not None else None
    batch = engine.prepare(0, items[:1])
    with pytest.raises(Break) if handle else nullcontext(), torch.no_grad():
        engine.model(**batch.inputs)  # transformers keeps hooks of its own from the first forward on
    before = fingerprint(engine.model)
    configs = [(config, dict(vars(config))) for config in of_layers._configs(engine.model)]
    assert len(configs) == 3
    with pytest.raises(Break) if handle else nullcontext():
        saliencies(engine, batch)
    assert changed(before, fingerprint(engine.model)) == set()
    assert [dict(vars(config)) for config, _ in configs] == [held for _, held in configs]
    assert engine.parts.attention == "sdpa"


def test_what_is_not_shown_is_left_out_with_one_warning(
    llava: Engine, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_layers, "eager", lambda model: nullcontext())  # as if the model had no eager attention
    with pytest.warns(gp.PruneWarning, match="left out on this 'llava' .*attention last at input, layer:1") as told:
        rows = cue_rows(llava, items)
    assert len(told) == 1
    assert {row["saliency"] for row in rows} == set(SALIENCIES) - set(ATTENTIONS)


def test_a_pruned_model_and_states_that_overflow_are_refused(items: list[Item]) -> None:
    engine = Engine(*testbed.load("llava"))
    batch = engine.prepare(0, items[:1])
    with gp.prune(engine.model, "random", 16, at=gp.Input()), pytest.raises(ValueError, match="undo it first"):
        saliencies(engine, batch)
    with torch.no_grad():
        engine.parts.layers[1].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(ValueError, match="holds NaN or infinity at decoder layer 2: check"):
        saliencies(engine, batch)


# What they are worth --------------------------------------------------------------------------------------------------


def plain_auc(mine: list[float], others: list[float]) -> float:
    return sum((a > b) + 0.5 * (a == b) for a, b in itertools.product(mine, others)) / (len(mine) * len(others))


def test_rows_are_means_over_the_questions_of_a_task(engine: Engine) -> None:
    tasks = ("where", "exist", "coverage")
    native = not engine.parts.family.takes_one_size(engine.parts.config)
    asked = [item for item in Scenes(5, seed=1, tasks=tasks, native=native).items() if item.boxes]
    made = cue_rows(engine, asked, per_task=3, batch=2)
    rows = {(row["task"], row["layer"], row["saliency"], row["against"]): row for row in made}
    assert len(rows) == len(made)
    assert not any(key[0] == "coverage" and key[3] == OBJECTS for key in rows)  # all shapes carry the answer
    chosen = [item for item in asked if item.task == "where"][:3]
    key, name = (2, "attention question"), ("where", "layer:2", "attention question")
    aucs: dict[str, list[float]] = {OBJECTS: [], ALL: []}
    recalls: list[list[float]] = []
    for item in chosen:
        batch = engine.prepare(0, [item])
        (found,) = saliencies(engine, batch)
        values, grid = found[key].tolist(), batch.spans[0].grid
        assert grid is not None
        part = 0.0, 0.0, *map(float, item.open().size)
        region = covered_cells(item.boxes, grid[1:], part).tolist()
        things = set(covered_cells(item.others, grid[1:], part).tolist()) - set(region)
        rest = set(range(len(values))) - set(region)
        for against, others in ((OBJECTS, things), (ALL, rest)):
            aucs[against].append(plain_auc([values[i] for i in region], [values[i] for i in others]))
        order = sorted(range(len(values)), key=lambda i: -values[i])
        kept = [order[: max(1, math.floor(len(values) / share + 0.5))] for share in SHARES]
        recalls.append([len(set(region) & set(some)) / len(region) for some in kept])
    for against, each in aucs.items():
        row = rows[*name, against]
        assert row["n"] == 3
        assert row["auc"] == pytest.approx(sum(each) / 3, abs=1e-3)
        assert min(each) - 1e-3 <= row["auc_low"] <= row["auc"] <= row["auc_high"] <= max(each) + 1e-3
        given = [row[f"recall_{share}"] for share in SHARES]
        assert given == pytest.approx([sum(some) / 3 for some in zip(*recalls, strict=True)], abs=1e-3)
    assert not any(math.isnan(value) for row in made for value in row.values() if isinstance(value, float))
    assert [key[1] for key in rows if key[0] == "where" and key[2:] == ("change", ALL)] == [
        f"layer:{layer}" for layer in range(1, len(engine.parts.layers))
    ]


def test_a_perfect_cue_gives_one_and_a_blind_one_a_half(
    llava: Engine, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(engine: Engine, batch: Batch) -> list[of_layers.Found]:
        found: list[of_layers.Found] = []
        for span, region in zip(batch.spans, batch.regions, strict=True):
            right = torch.zeros(span.n)
            right[region] = 1
            of = {"cosine last": right, "cosine mean": -right, "key norm": torch.full((span.n,), 0.3)}
            found.append({(layer, name): of.get(name, of["key norm"]) for layer in range(5) for name in SALIENCIES})
        return found

    monkeypatch.setattr(of_cues, "saliencies", planted)
    for row in cue_rows(llava, items):
        worth = {"cosine last": 1.0, "cosine mean": 0.0}.get(str(row["saliency"]), 0.5)
        assert (row["auc"], row["auc_low"], row["auc_high"]) == (worth,) * 3
        if row["saliency"] == "key norm":  # blind: as much as is kept
            assert [row[f"recall_{share}"] for share in SHARES] == [0.5, 0.25, round(16 / 144, 4), round(8 / 144, 4)]
        if row["saliency"] == "cosine last":
            assert row["recall_4"] == 1


def test_cosines_of_equal_tokens_tell_nothing_and_planted_ones_all() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(6, 32, generator=generator)
    alike = torch.randn(32, generator=generator).expand(144, 32)
    lengths = torch.linspace(0.5, 2, 144, dtype=torch.float64)[:, None]  # rounding alone tells their directions apart
    for name, values in (
        *cosines(alike, words, words[-1]).items(),
        *cosines(alike * lengths, words, words[-1]).items(),
    ):
        assert len(values.float().unique()) == 1, name
        assert bool((values.abs() <= 1).all()), name
    asked = alike.clone()
    asked[:9] += 3 * words[-1]
    for name, values in cosines(asked, words[-1:], words[-1]).items():
        assert float(values[:9].min()) > float(values[9:].max()), name
    assert float(cosines(torch.zeros(3, 32), words, words[-1])["cosine last centred"].abs().max()) == 0


def test_questions_without_boxes_or_without_a_grid_are_refused(
    llava: Engine, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="no question has boxes that say where its answer is: give a folder"):
        cue_rows(llava, [replace(item, boxes=()) for item in items])
    outside = replace(items[0], boxes=((900.0, 900.0, 910.0, 910.0),))
    with pytest.raises(ValueError, match="no box of 1 questions covers a visual token: the images of this 'llava'"):
        cue_rows(llava, [outside])
    real = Engine._prepare

    def gridless(self: Engine, number: int, some: list[Item]) -> Batch:
        batch = real(self, number, some)
        batch.spans = [replace(span, image=replace(span.image, grid=None)) for span in batch.spans]
        batch.regions = self.tokens_of(batch, [item.boxes for item in some])
        return batch

    monkeypatch.setattr(Engine, "_prepare", gridless)
    with pytest.raises(ValueError, match="lie on no grid"):
        cue_rows(llava, items)


def test_a_folder_of_ones_own_has_rows_against_all_tokens_alone(llava: Engine, items: list[Item]) -> None:
    rows = cue_rows(llava, [replace(item, others=()) for item in items])
    assert {row["against"] for row in rows} == {ALL}


def test_what_else_is_in_the_picture_is_no_part_of_a_question(items: list[Item]) -> None:
    assert digest(items) == digest([replace(item, others=()) for item in items])
