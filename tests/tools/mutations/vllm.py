"""Mistakes in pruning inside vLLM."""

from __future__ import annotations

from mutations.mutation import Mutation

PLAN, WORKER, TOWER = "test_vllm_plan.py::", "test_vllm_worker.py::", "test_vllm_tower.py::"
BETWEEN = "test_vllm_between.py::"

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
        "torch.nan_to_num(each.rows, 0.0, 0.0, 0.0)",
        "each.rows",
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
        "a tile's marker stands behind its first token",
        "engines/vllm/between.py:interleaved",
        "places, right=True",
        "places",
        f"{BETWEEN}test_rows_and_text_come_in_the_order_of_the_prompt",
    ),
    Mutation(
        "a method without its grid runs all the same",
        "engines/vllm/plan.py:check_grid",
        "grid is None and",
        "grid == 0 and",
        f"{PLAN}test_a_method_that_needs_a_grid_is_refused_if_there_is_none",
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
    Mutation(
        "a stored image stands in for one whose tower is read",
        "engines/vllm/worker.py:PrunesImages.encoded",
        " or not needs[i] <= image.seen.keys()",
        "",
        f"{TOWER}test_stored_rows_without_a_methods_cues_run_the_tower_again_and_then_no_more",
    ),
    Mutation(
        "packed images attend to each other",
        "engines/vllm/eyes.py:Eyes._attention",
        "self.tower.borders(need.layer, listed)",
        "[0, queries.shape[0]]",
        f"{TOWER}test_packed_images_attend_inside_their_windows_after_a_rotation",
    ),
    Mutation(
        "a layer that vLLM does not load is asked for",
        "engines/vllm/tower.py:Tower.lacking",
        "layer >= self.loaded",
        "layer >= self.count",
        f"{TOWER}test_a_need_names_a_layer_that_vllm_loads",
    ),
]
