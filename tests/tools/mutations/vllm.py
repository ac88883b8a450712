"""Mistakes in pruning inside vLLM."""

from __future__ import annotations

from mutations.mutation import Mutation

PLAN, WORKER = "test_vllm_plan.py::", "test_vllm_worker.py::"

VLLM = [
    Mutation(
        "two questions about an image share a key",
        "engines/vllm/plan.py:Plan.to_bytes",
        '"text":[{text}]',
        '"text":[]',
        f"{PLAN}test_whatever_can_change_a_selection_changes_the_key",
    ),
    Mutation(
        "a stranger's request imports a module",
        "engines/vllm/plan.py:read_policy",
        "(asked, False)",
        "(asked, True)",
        f"{PLAN}test_what_cannot_be_carried_out_is_a_value_error_with_the_remedy",
    ),
    Mutation(
        "an image that measures memory is pruned",
        "engines/vllm/plan.py:Plan.count",
        "or self.measuring",
        "",
        f"{PLAN}test_an_image_that_measures_memory_keeps_everything",
    ),
    Mutation(
        "NaN goes on into the cache",
        "engines/vllm/worker.py:PrunesImages.embed_multimodal",
        "torch.nan_to_num(each, 0.0, 0.0, 0.0)",
        "each",
        f"{WORKER}test_rows_that_hold_nan_become_zeros",
    ),
    Mutation(
        "the encoder takes all images at once",
        "engines/vllm/worker.py:groups",
        "rows + size > most",
        "False",
        f"{WORKER}test_the_encoder_runs_on_no_more_rows_than_were_measured",
    ),
    Mutation(
        "rows and columns of kept tokens are swapped",
        "engines/vllm/mrope.py:PrunesMRoPE.carried",
        "[:, 1:]",
        "[:, [2, 1]]",
        f"{WORKER}test_kept_tokens_have_their_original_positions_whatever_the_chunks",
    ),
    Mutation(
        "text moves up behind a pruned image",
        "engines/vllm/mrope.py:PrunesMRoPE.get_mrope_input_positions",
        "lacking = t * h * w - place.length",
        "lacking = 0 * t * h * w",
        f"{WORKER}test_kept_tokens_have_their_original_positions_whatever_the_chunks",
    ),
]
