"""Mistakes in the words of the house: budgets, stages, cues, decisions, frames, files, and what a report prints."""

from __future__ import annotations

from mutations.mutation import Mutation

TOTAL = "test_total.py::"
FRAMES = "test_frames.py::"
SCHEDULES = "test_schedules.py::"

BUDGETS = [
    Mutation(
        "half a token is rounded down",
        "budget.py:Ratio.of",
        "self.share * n + 0.5",
        "self.share * n",
        "test_words.py::test_a_ratio_rounds_half_up_and_keeps_at_least_one",
    ),
    Mutation(
        "a small share of a small image keeps nothing",
        "budget.py:Ratio.of",
        "1 if self.share > 0 and n > 0 else 0",
        "0",
        "test_words.py::test_a_ratio_rounds_half_up_and_keeps_at_least_one",
    ),
    Mutation(
        "every frame gets the budget of the clip",
        "budget.py:PerFrame.of",
        "n // frames",
        "n",
        f"{FRAMES}test_how_many_stay",
    ),
    Mutation(
        "the rest of a total goes to those that are owed least",
        "budget.py:Total.share",
        "-(rest * sizes[i] % weight)",
        "rest * sizes[i] % weight",
        f"{TOTAL}test_shares_by_hand",
    ),
    Mutation(
        "an image is given more than it has",
        "budget.py:Total.share",
        "[i for i in open_to if rest * sizes[i] > (sizes[i] - least[i]) * weight]",
        "list[int]()",
        f"{TOTAL}test_shares_by_hand",
    ),
    Mutation(
        "an average over the layers is passed by a token",
        "budget.py:LayerAverage.solve",
        "if average(k) <= target",
        "if average(k - 1) <= target",
        f"{SCHEDULES}test_the_largest_count_whose_average_fits",
    ),
    Mutation(
        "layers in front of a cut cost nothing",
        "budget.py:LayerAverage.solve",
        "n * starts[0] + behind",
        "behind",
        f"{SCHEDULES}test_sixty_four_on_average_is_what_papers_make_of_it",
    ),
    Mutation(
        "the first of several cuts cuts nothing",
        "method.py:Method.counts",
        "(cut + 1) / cuts",
        "cut / cuts",
        f"{SCHEDULES}test_an_eighth_in_three_cuts_is_a_half_a_quarter_an_eighth",
    ),
    Mutation(
        "a depth is rounded down",
        "stages.py:Depths.of",
        "share * depth + 0.5",
        "share * depth",
        f"{SCHEDULES}test_depths_become_layers",
    ),
]

DECISIONS = [
    Mutation(
        "a row may be kept twice",
        "keep.py:rules_of",
        '((keep.order.sort().values.diff() > 0).all(), "it holds a row twice"),',
        "",
        "test_own_methods.py::test_what_a_method_returns_is_checked_in_words",
    ),
    Mutation(
        "a second decision keeps its own numbers",
        "keep.py:Keep.of",
        "rows=outer.rows[self.rows]",
        "rows=self.rows",
        "test_words.py::test_a_decision_about_what_a_decision_left_is_told_in_the_first_numbers",
    ),
    Mutation(
        "the order of a second decision keeps its own numbers",
        "keep.py:Keep.of",
        "order=outer.rows[self.order]",
        "order=self.order",
        "test_words.py::test_a_decision_about_what_a_decision_left_is_told_in_the_first_numbers",
    ),
    Mutation(
        "a merged row is the row that stands for it",
        "keep.py:Keep.merge",
        "if self.weights is None:",
        "if True:",
        "test_tome_dart.py::test_tome_merges_duplicates_first",
    ),
    Mutation(
        "a frame protects nothing",
        "frames.py:_frame",
        "protect[(protect >= rows.start) & (protect < rows.stop)] - rows.start",
        "protect[:0]",
        f"{FRAMES}test_protected_tokens_stay_in_their_frames",
    ),
    Mutation(
        "every frame has the order of the first",
        "frames.py:joined",
        "keep.order + start",
        "keep.order",
        f"{FRAMES}test_a_clip_is_its_frames_one_by_one[greedyprune]",
    ),
    Mutation(
        "who was passed over is told in the numbers of its frame",
        "frames.py:_suppressed",
        "by + start",
        "by",
        f"{FRAMES}test_who_was_passed_over_for_whom_is_told_in_the_numbers_of_the_clip",
    ),
    Mutation(
        "a stranger's policy imports what its method's options name",
        "plain.py:from_plain",
        "_frozen(from_plain(value, own=own))",
        "_frozen(from_plain(value))",
        "test_strangers_policies.py::test_a_class_is_refused_wherever_a_strangers_policy_names_it[option]",
    ),
    Mutation(
        "a stranger's policy inside a policy imports what it names",
        "plain.py:from_plain",
        "read(given, own=own) if name in VALUES",
        "read(given) if name in VALUES",
        "test_strangers_policies.py::test_a_class_is_refused_wherever_a_strangers_policy_names_it[policy in a policy]",
    ),
    Mutation(
        "a message repeats a value of any length",
        "shown.py:short",
        "return text if rest <= 0 else",
        "return text if True else",
        "test_long_values.py::test_an_error_is_short_whatever_the_value[keep]",
    ),
    Mutation(
        "a question of no rows is taken",
        "checks.py",
        "    if count and not chosen:",
        "    if False:",
        "test_cues.py::test_a_question_of_no_rows_is_refused",
    ),
    Mutation(
        "attention below zero is taken",
        "choosing.py:_require_sound",
        "each.require_weights(method.needs)",
        "pass",
        "test_cues.py::test_attention_below_0_is_refused_where_it_is_read",
    ),
    Mutation(
        "a method may drop a protected token",
        "choosing.py:_checked",
        "if not all(true[values:]):",
        "if False:",
        "test_own_methods.py::test_what_can_be_carried_out_is_taken_as_it_is",
    ),
]

SALIENCIES = [
    Mutation(
        "the length of a token's first key stands for all its keys",
        "saliencies.py:read_saliency",
        "values.flatten(1)",
        "values[:, 0]",
        "test_saliencies.py::test_each_method_weighs_what_it_is_given[key_norm]",
    ),
    Mutation(
        "keys stand for values",
        "probes/decoder.py:decoder_values",
        '"v"',
        '"k"',
        "test_decoder_probes.py::test_keys_and_values_are_those_of_the_cache_if_none_is_filled_too",
    ),
    Mutation(
        "a change is the states behind it",
        "attach/hooks/decoder.py:_complete_changes",
        "now - old.to(now)",
        "now",
        "test_decoder_probes.py::test_keys_values_and_changes_are_those_of_this_turn_alone",
    ),
    Mutation(
        "a text that nobody reads is taken",
        "saliencies.py:Weighing.__post_init__",
        'if self.saliency != "cosine" and self.text != type(self).text:',
        "if False:",
        "test_saliencies.py::test_a_word_that_is_none_or_a_text_that_nobody_reads_is_refused[mmr]",
    ),
]

FILES = [
    Mutation(
        "a formula reaches the spreadsheet",
        "outputs.py:guarded",
        "if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):",
        "if False:",
        "test_outputs.py::test_no_cell_is_run_by_a_spreadsheet_and_numbers_stay_numbers",
    ),
    Mutation(
        "half a file stays after an error",
        "outputs.py:replacing",
        "            fresh.unlink()",
        "            pass",
        "test_outputs.py::test_a_file_is_written_whole_or_stays_as_it_was",
    ),
]

WORDS = [*BUDGETS, *DECISIONS, *SALIENCIES, *FILES]
