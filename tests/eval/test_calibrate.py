"""Calibration: the mean attention of each place over images equals that of eager attention; what cannot be averaged."""

from __future__ import annotations

import pytest
import torch

import greedyprune as gp
from greedyprune.eval.calibrate import _mean
from looks import eager_rows
from proofs import CASES, forward
from tiny import tiny


def test_the_bias_is_the_mean_over_images_of_the_attention_before_the_cut() -> None:
    made, eager, rows = tiny("llava"), tiny("llava", "eager"), []
    prompts = [made.prompt(case.rows) for case in CASES[:3]]
    for inputs in prompts:
        weights = forward(eager.model, inputs, output_attentions=True).attentions[1]
        count = int((inputs["input_ids"] == eager.model.config.image_token_id).sum())
        n = count // inputs["pixel_values"].shape[0]
        rows += eager_rows(weights, inputs, [n] * (count // n))
    bias = gp.calibrate(made.model, iter(prompts), least=len(rows))
    assert bias.values == pytest.approx(torch.stack(rows).double().mean(0).tolist(), abs=1e-6)
    assert bias.grid is not None
    with gp.prune(made.model, gp.D2Pruner(bias=bias), 3) as pruned:
        forward(made.model, prompts[0])
    assert pruned.selections[0].k == 3
    with pytest.raises(ValueError, match=f"these prompts hold {len(rows)} images, too few .* pass {len(rows) + 1} or"):
        gp.calibrate(made.model, prompts, least=len(rows) + 1)
    with gp.prune(made.model, "grid", 3):
        pass  # a failed calibration leaves the model as it was


def test_few_images_are_refused_unless_the_user_says_how_few_will_do() -> None:
    made = tiny("llava")
    with pytest.raises(
        (ValueError, LookupError), match=r"hold 0 images, too few .* pass 50 or more .*, or least="
    ) as told:
        gp.calibrate(made.model, [])
    assert told.type is ValueError
    with pytest.raises(ValueError, match="least=0: write the number of images"):
        gp.calibrate(made.model, [], least=0)


def test_images_of_other_grids_are_read_off_with_their_whole_attention() -> None:
    ones = torch.ones(4, dtype=torch.float64)
    small, large = (ones / 4, (1, 2, 2)), (torch.ones(36, dtype=torch.float64) / 36, (1, 6, 6))
    assert _mean([small, large]).values == pytest.approx([0.25] * 4)
    assert _mean([large, small]).grid == (6, 6)
    assert _mean([(ones, None), (3 * ones, None)]) == gp.PositionBias((2.0,) * 4)
    with pytest.raises(ValueError, match="image 1 is a clip of 2 frames"):
        _mean([small, (ones, (2, 1, 2))])
    with pytest.raises(ValueError, match="image 1 has 2 visual tokens on the grid None, and the first has 4 on None"):
        _mean([(ones, None), (ones[:2], None)])
    with pytest.raises(ValueError, match=r"image 1 has 4 visual tokens on the grid None, and the first has 4 on \(1"):
        _mean([small, (ones, None)])
