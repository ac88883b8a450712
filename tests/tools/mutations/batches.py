"""Mistakes around batches: what is done, what a stranger's row may name, and who shares a call."""

from mutations.mutation import Mutation

RUN, ROWS = "test_batch_run.py::", "test_batch_rows.py::"

BATCHES = [
    Mutation(
        "half a record stays in the output",
        "batch/journal.py:Journal._read",
        "os.truncate(self._lines, whole)",
        "pass",
        f"{RUN}test_a_killed_run_goes_on_behind_what_is_done[2-out.jsonl]",
    ),
    Mutation(
        "a picture may lie anywhere",
        "batch/rows.py:_below",
        "if not real.is_relative_to(top):",
        "if False:",
        f"{ROWS}test_a_wrong_row_is_refused_by_name[more4-is not below]",
    ),
    Mutation(
        "a row may import a module",
        "batch/rows.py:_wish",
        """'field of "greedyprune"', own=False)""",
        """'field of "greedyprune"')""",
        f"{ROWS}test_a_wrong_row_is_refused_by_name[more14-would import a module]",
    ),
    Mutation(
        "rows with another budget share a call",
        "batch/answerer.py:_share",
        "policy == other.request.policy",
        "True",
        f"{RUN}test_an_answer_is_that_of_generate_and_a_bad_row_costs_no_other",
    ),
    Mutation(
        "a part of a file begins at the place that is remembered",
        "batch/sources.py:Lines.read",
        "if row >= start:",
        "if row >= start // _STEP * _STEP:",
        f"{ROWS}test_any_part_of_a_source_is_what_the_whole_holds_there[lines-9]",
    ),
]
