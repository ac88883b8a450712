"""Videos in time: kept tokens, text and answers keep their positions, and layouts find a clip's frames by them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import greedyprune as gp
import proofs
from greedyprune.models._family import Visuals
from greedyprune.models.layouts import positioned_grids
from proofs import generate
from tiny import VIDEO, tiny

pytestmark = pytest.mark.usefixtures("untouched")

TWO = ((0, 1),)
FEW = {"max_new_tokens": 3}
QWEN = ("qwen2_5_vl video", "qwen3_vl video")

clips = pytest.mark.parametrize("name", [*QWEN, "llava_onevision video"])
places = pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)


def calls_of(module, work) -> list[dict[str, Any]]:
    """What a module is called with while something runs."""
    seen: list[dict[str, Any]] = []

    def look(module, args, kwargs) -> None:
        seen.append({**kwargs, **({"hidden_states": args[0]} if args else {})})

    with proofs.hooked(module.register_forward_pre_hook(look, with_kwargs=True)):
        work()
    return seen


@clips
@places
@pytest.mark.parametrize("keep", [5, gp.PerFrame(2)], ids=str)
def test_kept_tokens_text_and_answer_keep_their_positions(name, at, keep) -> None:
    made = tiny(name)
    inputs, decoder = made.prompt(TWO), made.model.get_decoder()
    attention = decoder.layers[3].self_attn

    def answer() -> None:
        generate(made.model, inputs, **FEW)

    plain, plain_text = calls_of(attention, answer), calls_of(decoder, answer)
    with gp.prune(made.model, "greedyprune", keep, at=at) as handle:
        pruned, pruned_text = calls_of(attention, answer), calls_of(decoder, answer)
    stay = ~proofs.dropped_columns(inputs["input_ids"], handle.selections)[0]
    assert bool(stay[~proofs.is_visual(inputs["input_ids"])[0]].all())
    assert 0 < int(stay.sum()) < len(stay)
    for mine, whole in zip(pruned[0]["position_embeddings"], plain[0]["position_embeddings"], strict=True):
        assert torch.equal(mine, whole[..., stay, :])
    for mine, whole in zip(pruned[1:], plain[1:], strict=True):  # of each generated token
        for one, other in zip(mine["position_embeddings"], whole["position_embeddings"], strict=True):
            assert torch.equal(one, other)
    if at == gp.Input():
        ids = pruned_text[0]["position_ids"]
        assert torch.equal(ids, plain_text[0]["position_ids"][..., stay])
        assert ids.shape[0] in (3, 4) or name.startswith("llava")
        assert torch.equal(pruned_text[0]["inputs_embeds"], plain_text[0]["inputs_embeds"][:, stay])


@pytest.mark.parametrize("name", QWEN)
def test_a_clip_stays_in_its_order_in_time(name) -> None:
    made = tiny(name)
    inputs = made.prompt(TWO)
    times = proofs.entering(made.model.get_decoder(), made.model, inputs)["position_ids"][-3, 0]
    with gp.prune(made.model, "greedyprune", gp.PerFrame(3), at=gp.Input()) as handle:
        proofs.forward(made.model, inputs)
    columns = proofs.image_columns(inputs["input_ids"], handle.selections)
    for selection, mine in zip(handle.selections, columns, strict=True):
        kept = times[mine[selection.rows, 1]].tolist()
        assert kept == sorted(kept)
        frames = [kept[place : place + 3] for place in range(0, len(kept), 3)]
        assert all(len(set(frame)) == 1 for frame in frames)
        fast = name.startswith("qwen2_5") and selection.index == 1
        steps = [after[0] - before[0] for before, after in itertools.pairwise(frames)]
        assert (min(steps) == 0) == fast  # so fast that frames share their time, and yet are three


# Finding the frames by the positions ----------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
films = st.lists(st.tuples(sizes, st.sampled_from([0.0, 0.125, 0.5, 1.0, 2.5])), min_size=1, max_size=3)


class Prompt:
    """Tokens and positions as a Qwen model counts them: text on, a clip's tokens by time, row and column."""

    def __init__(self) -> None:
        self.visual, self.positions = list[bool](), list[tuple[int, int, int]]()

    def text(self, count: int) -> None:
        """Words, or markers, or a time."""
        start = self.next
        self.visual += [False] * count
        self.positions += [(start + i,) * 3 for i in range(count)]

    @property
    def next(self) -> int:
        """The position behind everything so far."""
        return 1 + max((max(each) for each in self.positions), default=-1)

    def run(self, t: int, h: int, w: int, speed: float) -> None:
        """Frames without anything between them."""
        start = self.next
        cells = itertools.product(range(t), range(h), range(w))
        self.positions += [(start + int(speed * f), start + row, start + column) for f, row, column in cells]
        self.visual += [True] * (t * h * w)


def laid(prompts: list[Prompt], rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of these, padded on the left; Qwen has a fourth row of positions in front under generate()."""
    longest = max(len(prompt.visual) for prompt in prompts)
    visual = torch.zeros(len(prompts), longest, dtype=torch.bool)
    positions = torch.ones(rows, len(prompts), longest, dtype=torch.int64)
    for place, prompt in enumerate(prompts):
        first = longest - len(prompt.visual)
        visual[place, first:] = torch.tensor(prompt.visual)
        positions[-3:, place, first:] = torch.tensor(prompt.positions).T
    return visual, positions


@settings(deadline=None)
@given(batch=st.lists(films, min_size=1, max_size=3), apart=st.booleans(), rows=st.sampled_from([3, 4]))
def test_grids_are_read_off_the_positions(batch, apart: bool, rows: int) -> None:
    """Clips in one run (Qwen2-VL), as frames between times (Qwen3-VL), so fast that frames share a time, and images."""
    prompts, grids = [], []
    for clips in batch:
        prompt = Prompt()
        for (t, h, w), speed in clips:
            prompt.text(3)
            for _ in range(t if apart else 1):
                prompt.text(1)
                prompt.run(1 if apart else t, h, w, speed)
            grids.append((t, h, w))
        prompt.text(2)
        prompts.append(prompt)
    visual, positions = laid(prompts, rows)
    ids = torch.where(visual, VIDEO, 5)
    counts = [t * h * w for t, h, w in grids]
    found = positioned_grids(None, Visuals(ids, visual, counts, positions, kind="video"))
    assert [(one.n, one.grid) for one in found] == list(zip(counts, grids, strict=True))


def test_without_positions_no_grid_is_claimed() -> None:
    visual = torch.tensor([[False, True, True, False]])
    found = positioned_grids(None, Visuals(torch.where(visual, VIDEO, 5), visual, [2], None, kind="video"))
    assert [(one.n, one.grid) for one in found] == [(2, None)]
