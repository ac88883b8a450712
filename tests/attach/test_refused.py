"""What cannot be pruned is refused by name, with the reason, and the model stays as it was."""

from __future__ import annotations

import pytest

import greedyprune as gp
import proofs
from proofs import generate, same
from tinies.newest import llama4
from tinies.videos import compressed_videos
from tinies.words import Tiny
from tiny import tiny

places = pytest.mark.parametrize("at", [gp.Input(), gp.Layer(2)], ids=str)


def ready(made: Tiny) -> Tiny:
    """A model of one test that may generate."""
    made.model.eval().generation_config.eos_token_id = None
    made.model.generation_config.pad_token_id = 0
    return made


@places
@pytest.mark.parametrize("call", [generate, proofs.forward])
def test_videos_that_are_compressed_on_the_way(at, call) -> None:
    """VideoLLaMA 3 drops features itself, so a clip's tokens are fewer and its frames differ in length."""
    made = ready(compressed_videos())
    inputs = made.prompt(((0,),))
    before = generate(made.model, inputs)
    with (
        gp.prune(made.model, "greedyprune", 5, at=at),
        pytest.raises(NotImplementedError, match=r"a 'video_llama_3' model .* since it leaves out .*: call remove"),
    ):
        call(made.model, inputs)
    assert proofs.hooks_on(made.model) == 0
    assert same(generate(made.model, inputs), before)


@places
def test_images_of_that_model_are_pruned(at) -> None:
    made = tiny("video_llama_3")
    with gp.prune(made.model, "greedyprune", 5, at=at) as handle:
        generate(made.model, made.prompt(((0,),)))
    assert [(s.kind, s.k) for s in handle.selections] == [("image", 5)]


def test_a_decoder_of_moving_chunks() -> None:
    made = ready(llama4())
    before = proofs.fingerprint(made.model)
    with pytest.raises(ValueError, match="'llama4' model cannot be pruned: its decoder attends to fixed chunks"):
        gp.prune(made.model, "greedyprune", 5)
    assert proofs.fingerprint(made.model) == before  # 5.24 itself cannot run these models, so no answers are compared
    assert proofs.hooks_on(made.model) == 0
