"""Mistakes in the greedy engines and the numbers they go by."""

from __future__ import annotations

from mutations.mutation import Mutation

BRUTE = "test_greedyprune.py::test_equals_brute_force_order_included"
RELEASED = "test_released.py::test_ours_keeps_what_the_released_code_kept"

ENGINES = [
    Mutation(
        "the last hit passes a row over, not the first",
        "ops/suppression.py:suppress",
        "hits[blocked].to(torch.uint8).argmax(1)",
        "hits[blocked].shape[1] - 1 - hits[blocked].flip(1).to(torch.uint8).argmax(1)",
        "test_engines.py::test_who_is_passed_over_names_the_first_row_taken_that_is_too_similar",
    ),
    Mutation(
        "float32 decides near the threshold",
        "ops/cosine.py:exceeds",
        "if bool(doubtful.any()):",
        "if False:",
        "test_greedyprune.py::test_decides_in_float64_where_float32_cannot",
    ),
    Mutation(
        "a cosine at the threshold is above it",
        "ops/cosine.py:exceeds",
        "tau + SLACK",
        "tau - SLACK",
        f"{BRUTE}[integers]",
    ),
    Mutation(
        "a large image is judged by its most salient tokens alone",
        "ops/ranking.py:strided",
        "(2 * torch.arange(size, device=ranking.device) + 1) * n // (2 * max(size, 1))",
        "torch.arange(size, device=ranking.device)",
        "test_threshold.py::test_a_large_image_is_judged_by_equal_steps_down_its_ranking[iid]",
    ),
    Mutation(
        "float32 decides in a scan",
        "ops/suppression.py:_Pairs._pass_over",
        "if doubtful.size:",
        "if False:",
        "test_threshold.py::test_a_scan_decides_in_float64_where_float32_cannot",
    ),
    Mutation(
        "ties go to the last row",
        "ops/ranking.py:ranked",
        "tie * index.shape[-1] + index",
        "tie * index.shape[-1] - index",
        "test_matching.py::test_ranking_puts_ties_in_order_whatever_their_size",
    ),
    Mutation(
        "values that rounding tells apart are no tie",
        "ops/ranking.py:ranked",
        "> SLACK * size",
        "> 0 * size",
        "test_matching.py::test_ranking_puts_ties_in_order_whatever_their_size",
    ),
    Mutation(
        "a remainder goes to the part that is owed least",
        "ops/split.py:split",
        "(math.floor(exact[i]) - exact[i], i)",
        "(exact[i] - math.floor(exact[i]), i)",
        "test_split.py::test_examples",
    ),
    Mutation(
        "short rests are not cleared of the basis again",
        "ops/determinantal.py:_Residual._extend",
        "for _ in range(2):",
        "for _ in range(1):",
        "test_engines.py::test_directions_stay_orthogonal_where_little_is_left_of_a_vector",
    ),
    Mutation(
        "float32 decides beside the barrier",
        "ops/barrier.py:_Barrier.errors",
        "(0.7 * DOUBT)",
        "(1e-9 * DOUBT)",
        "test_soft_greedyprune.py::test_a_float32_cosine_does_not_decide",
    ),
    Mutation(
        "a copy of a kept token is known better than float32 knows it",
        "ops/barrier.py:_Barrier.keys",
        "torch.where(distance < CLOSE, COPY,",
        "torch.where(distance < CLOSE, math.log(SLACK),",
        "test_soft_greedyprune.py::test_rows_that_float32_takes_for_copies_are_told_apart",
    ),
    Mutation(
        "float32 decides which scores are left",
        "ops/subtraction.py:_Lowered._shares",
        "shares * gap * (self.gamma * DOUBT) + self.gamma * DOUBT**2 / 4",
        "0 * shares",
        "test_score_idselection.py::test_a_float32_cosine_decides_neither_the_best_score_nor_which_is_0",
    ),
    Mutation(
        "a kept token lowers others by its first score",
        "ops/subtraction.py:_Lowered._settle_taken",
        "score[place + 1 :] -= gain * among[place, place + 1 :]",
        "pass",
        "test_score_idselection.py::test_idselection_is_a_float64_brute_force[iid]",
    ),
    Mutation(
        "the text of a saliency is not centred",
        "ops/unit_centre.py:centred_cosines",
        "unit64(apart(unit64(words), mean))",
        "unit64(words)",
        "test_soft_greedyprune.py::test_saliency_is_blind_to_what_all_tokens_share",
    ),
    Mutation(
        "rows are centred by their mean and never scaled",
        "ops/unit_centre.py:unit_centred",
        "apart(unit64(some), mean)",
        "apart(some.double(), mean)",
        "test_cdpruner_scope_mmtok_fastv.py::test_unit_centring_is_the_same_as_unit_centred_rows[last-mmr]",
    ),
    Mutation(
        "VisPruner ranks its others again after a round",
        "ops/matching.py:thin",
        "torch.cat([rest, left[1::2]]) if mixed",
        "torch.cat([rest, left[1::2]]).sort().values if mixed",
        f"{RELEASED}[vispruner]",
    ),
    Mutation(
        "one more goes to the run with the largest remainder",
        "ops/runs.py:run_budgets",
        "key=lambda run: -shares[run]",
        "key=lambda run: math.floor(k * shares[run]) - k * shares[run]",
        f"{RELEASED}[holov]",
    ),
    Mutation(
        "a row's weight in a component grows with its variance",
        "ops/spectrum.py:principal_groups",
        "centred @ vectors * scale",
        "centred @ vectors",
        f"{RELEASED}[prunesid]",
    ),
    Mutation(
        "anchors are counted from the first frame of a scene",
        "ops/scenes.py:anchored",
        "(len(quotas) - 1 - frame) % every",
        "frame % every",
        f"{RELEASED}[fastvid]",
    ),
    Mutation(
        "every frame is compared with the first of its group",
        "methods/dycoke.py:DyCoke.select",
        "(1 if p % 2 else p)",
        "p",
        f"{RELEASED}[dycoke]",
    ),
    Mutation(
        "a device tells ties apart by rounding",
        "ops/kernels/loops.py:falling",
        "lowest(free + error >= (free - error).amax(1, keepdim=True))",
        "free.argmax(1, keepdim=True)",
        "test_kernels.py::test_ties_on_a_device_go_to_the_lowest_row",
    ),
    Mutation(
        "a device suppresses at the threshold",
        "ops/kernels/suppression.py:suppress",
        "tau + SLACK",
        "tau - SLACK",
        "test_kernels.py::test_a_cosine_at_the_threshold_is_not_above_it_on_a_device",
    ),
    Mutation(
        "a device looks behind the last token of a full selection",
        "ops/kernels/suppression.py:suppress",
        "rule[:, -1:] & (rank > rank.gather(1, order[:, -1:]))",
        "torch.zeros_like(by, dtype=torch.bool)",
        "test_kernels.py::test_a_cosine_at_the_threshold_is_not_above_it_on_a_device",
    ),
    Mutation(
        "the host asks before a device's engine begins",
        "choosing.py:_decided",
        "if not late:",
        "if True:",
        "test_kernels.py::test_images_of_several_sizes_are_read_together_too",
    ),
]
