"""Mistakes around pruning: evaluations, `greedyprune verify`, pictures, and what is printed."""

from __future__ import annotations

from mutations.mutation import Mutation

GUARDS = "test_eval_guards.py::"
SETTINGS = f"{GUARDS}test_a_run_folder_notices_every_setting_that_answers_depend_on"
STATS = "test_eval_stats.py::"
FAULTS = "test_verify_faults.py::"
CUES = "test_eval_cues.py::"
PERTURBED = "test_perturbed.py::"
FURTHER = "test_further_tasks.py::"

EVALUATION = [
    Mutation(
        "a layer's run is given to any inputs",
        "eval/prefix.py:_in_front.forward",
        "ran is not None and _same(ran.given, given)",
        "ran is not None",
        "test_prefix.py::test_other_inputs_run_and_the_model_is_left_as_it_was[llava]",
    ),
    Mutation(
        "layers behind the cut are remembered too",
        "eval/engine.py:Engine._layers_before",
        "min(self._starts(config), default=0)",
        "len(self.parts.layers)",
        "test_prefix.py::test_a_layer_before_the_cut_runs_once_for_a_batch[llava]",
    ),
    Mutation(
        "an image outside the folder is read",
        "eval/folder.py",
        "if not real.is_relative_to(root):",
        "if False:",
        "test_foreign_files.py::test_images_outside_the_folder_are_refused",
    ),
    Mutation(
        "a line of too many words is taken",
        "eval/folder.py",
        "if len(question) > LONGEST_QUESTION:",
        "if False:",
        "test_foreign_files.py::test_a_malformed_line_is_named_shortly[question too long]",
    ),
    Mutation(
        "the best other method may have been cut elsewhere",
        "eval/answers.py:Answers.rivals",
        "and other.at != config.at:",
        "and False:",
        f"{GUARDS}test_the_best_other_and_random_choice_are_those_of_the_same_stage",
    ),
    Mutation(
        "random choice may have been made elsewhere",
        "eval/answers.py:Answers.draws_of",
        "[one for one in draws if one.place == config.place] or draws",
        "draws",
        f"{GUARDS}test_the_best_other_and_random_choice_are_those_of_the_same_stage",
    ),
    *(
        Mutation(
            f"a run folder does not know its {name}",
            "eval/store.py:settings",
            old,
            f'"{name}": "",',
            f"{SETTINGS}[{name}-other{number}]",
        )
        for number, (name, old) in enumerate(
            {
                "weights": '"weights": weights_digest(engine.model),',
                "dtype": '"dtype": str(engine.model.dtype).removeprefix("torch."),',
                "device": '"device": engine.model.device.type,',
                "attention": '"attention": engine.parts.attention,',
                "max_new_tokens": '"max_new_tokens": engine.longest,',
            }.items()
        )
    ),
    Mutation(
        "other values in the same shapes are the same weights",
        "eval/store.py:weights_digest",
        "{some.double().tolist()}",
        "",
        f"{SETTINGS}[weights-other0]",
    ),
    Mutation(
        "what a crop hides is a region",
        "eval/engine.py:Engine.tokens_of",
        "seen(picture, self.processor)",
        "(0.0, 0.0, float(picture.width), float(picture.height))",
        f"{GUARDS}test_what_a_centre_crop_hides_is_no_region",
    ),
    Mutation(
        "answers go on behind padding",
        "preprocessing/inputs.py:padded_left",
        'tokenizer.padding_side = "left"',
        "pass",
        f"{GUARDS}test_questions_of_unequal_length_are_padded_on_the_left",
    ),
    Mutation(
        "accuracy is not stretched to its range above chance",
        "eval/stats.py:centred",
        "/ (1 - chance)",
        "/ 1",
        f"{STATS}test_accuracy_is_centred_on_chance",
    ),
    Mutation(
        "all pictures get one draw",
        "eval/engine.py:Engine._pruned",
        "picture_number(item.picture, n)",
        'picture_number("", n)',
        f"{PERTURBED}test_a_method_chooses_by_what_it_is_shown",
    ),
    Mutation(
        "a copy may be one of a copy",
        "eval/perturbed.py:_duplicated",
        'others = torch.arange(cues.n, device="cpu"), rows[count:]',
        'others = torch.arange(cues.n, device="cpu"), rows',
        f"{PERTURBED}test_duplicates_are_whole_copies_of_tokens_that_stay_as_they_are",
    ),
    Mutation(
        "constant saliency leaves the attention",
        "eval/perturbed.py:_constant",
        "isinstance(need, (Attention, Values, Change))",
        "isinstance(need, (Values, Change))",
        f"{PERTURBED}test_constant_saliency_leaves_diversity_alone",
    ),
    Mutation(
        "a perturbed method stands beside those as they are",
        "eval/answers.py:Answers._beside",
        "if not one.perturbation and one not in touched",
        "if not one.perturbation",
        f"{PERTURBED}test_rivals_stand_under_the_same_perturbation_or_are_left_alone_by_it",
    ),
    Mutation(
        "a second turn may ask about the thing of the first",
        "testbed/questions.py:_multiturn",
        "if first.boxes != second.boxes",
        "",
        f"{FURTHER}test_a_second_turn_asks_about_another_thing_and_both_answers_are_right",
    ),
    Mutation(
        "a second turn is packed without what opens it",
        "testbed/train/packing.py:_prompt",
        ", *wording.again]",
        "]",
        f"{FURTHER}test_a_packed_second_turn_is_answered_as_one_prompt_of_both_turns[llava]",
    ),
    Mutation(
        "the turns before a question are no setting of a run folder",
        "eval/items.py:digest",
        "(*item.before, item.text) if item.before else item.text",
        "item.text",
        f"{FURTHER}test_items_hold_the_turns_and_a_run_folder_tells_them_apart",
    ),
    Mutation(
        "an interval holds nine tenths",
        "eval/stats.py:interval",
        "[0.025, 0.975]",
        "[0.05, 0.95]",
        f"{STATS}test_the_bootstrap_is_that_of_a_plain_loop",
    ),
    Mutation(
        "questions are resampled one by one",
        "eval/stats.py:Bootstrap.__init__",
        "torch.tensor([names[name] for name in pictures])",
        "torch.arange(len(pictures)) % len(names)",
        f"{STATS}test_the_bootstrap_is_that_of_a_plain_loop",
    ),
    Mutation(
        "questions that the control answers are hard too",
        "eval/stats.py:hard",
        "dense & ~control",
        "dense",
        f"{STATS}test_the_hard_subset_is_what_dense_knows_and_the_control_does_not",
    ),
    Mutation(
        "ties count as won",
        "eval/stats.py:auc",
        "counts.cumsum(0).double() - (counts.double() - 1) / 2",
        "counts.cumsum(0).double()",
        f"{STATS}test_auc_counts_pairs",
    ),
    Mutation(
        "a word in an answer is enough",
        "eval/scoring.py:exact",
        "words(told) in [words(answer) for answer in answers]",
        "any(words(answer)[0] in words(told) for answer in answers)",
        "test_eval_tasks.py::test_answers_are_compared_word_for_word",
    ),
    Mutation(
        "tuning goes on behind a budget that may lose too much",
        "eval/tune.py:tuned",
        "if not holds:",
        "if False:",
        "test_tune.py::test_the_search_stops_behind_the_first_budget_that_may_lose_more",
    ),
    Mutation(
        "an interval of no differences has no width",
        "eval/tune.py:tuned",
        'min(mine[-1]["dense_low"], -least)',
        'mine[-1]["dense_low"]',
        "test_tune.py::test_an_interval_is_no_narrower_than_so_many_pictures_show",
    ),
    Mutation(
        "a preset's place stays where another method is written",
        "cli/_options.py:cut_of",
        "if base is not None and method is None:",
        "if base is not None:",
        "test_cli_plan.py::test_a_preset_gives_what_is_not_written[options3-policy3-qwen]",
    ),
    Mutation(
        "the best other is the worst",
        "eval/table.py:_row",
        "best = max(rivals",
        "best = min(rivals",
        f"{STATS}test_rows_say_what_was_counted",
    ),
    Mutation(
        "tokens of merged images count as found",
        "eval/table.py:_recall",
        '(seen["region"] > 0) & (seen["found"] >= 0)',
        '(seen["region"] > 0)',
        f"{STATS}test_rows_say_what_was_counted",
    ),
    Mutation(
        "objects are told from the background too",
        "eval/cues.py:_measured",
        "OBJECTS: wanted | rivals",
        "OBJECTS: torch.ones(n, dtype=torch.bool)",
        f"{CUES}test_rows_are_means_over_the_questions_of_a_task",
    ),
    Mutation(
        "other things are of any sort",
        "testbed/questions.py:_others",
        "thing.sort in sorts and ",
        "",
        "test_testbed.py::test_others_are_the_rest_of_the_sort_that_is_asked_about",
    ),
    Mutation(
        "the template in front of the image asks too",
        "eval/reader.py:_Reader.__init__",
        "prompt.text_of(span.row)[rows]",
        "prompt.text_of(span.row)",
        f"{CUES}test_every_saliency_is_that_of_plain_loops_in_any_batch",
    ),
    Mutation(
        "rows are not scaled before they lose their mean",
        "ops/unit_centre.py:centred_cosines",
        "apart(unit64(words), mean)",
        "apart(words.double(), mean)",
        f"{CUES}test_every_saliency_is_that_of_plain_loops_in_any_batch",
    ),
    Mutation(
        "eager attention stays",
        "eval/reader.py:eager",
        "config._attn_implementation_internal = name",
        "pass",
        f"{CUES}test_a_model_is_left_as_it_was_also_after_an_error",
    ),
    Mutation(
        "the readers of layers stay",
        "eval/reader.py:_Reader.attached",
        "handle.remove()",
        "pass",
        f"{CUES}test_a_model_is_left_as_it_was_also_after_an_error",
    ),
    Mutation(
        "all ties at the edge are recalled",
        "eval/stats.py:recall",
        "share = (k - int(above.sum())) / int(tied.sum())",
        "share = 1.0",
        f"{STATS}test_recall_is_the_mean_over_the_orders_of_ties",
    ),
]

VERIFY = [
    Mutation(
        "a loop by hand is not read",
        "verify/properties.py:a_cache_changes_nothing",
        "    if not skipped:",
        "    if False:",
        f"{FAULTS}test_a_small_fault_is_found_by_the_property_that_it_breaks[a_long_cache]",
    ),
    Mutation(
        "a hundred times the tolerance",
        "verify/runs.py",
        "NEAR = 1e-4 / 6.5",
        "NEAR = 1e-2 / 6.5",
        f"{FAULTS}test_a_small_fault_is_found_by_the_property_that_it_breaks[a_cut]",
    ),
    Mutation(
        "thirty times the tolerance",
        "verify/runs.py",
        "NEAR = 1e-4 / 6.5",
        "NEAR = 3e-3 / 6.5",
        f"{FAULTS}test_the_bound_is_near_a_fault_of_a_thousandth[keeping_all]",
    ),
    Mutation(
        "one token too many is no matter",
        "verify/properties.py:every_image_gets_its_budget",
        "held(lost + sum(wrong), 0,",
        "held(lost + sum(wrong), 9,",
        f"{FAULTS}test_a_small_fault_is_found_by_the_property_that_it_breaks[one_more]",
    ),
    Mutation(
        "text may change by rounding",
        "verify/properties.py:text_is_left_alone",
        "held(float(gap), 0,",
        "held(float(gap), 1e-3,",
        f"{FAULTS}test_a_small_fault_is_found_by_the_property_that_it_breaks[text_alone]",
    ),
]

SHOWN = [
    Mutation(
        "megabytes are printed as kilobytes",
        "cli/_show.py:size",
        "count /= 1000",
        "count /= 1024",
        "test_cli.py::test_sizes_are_those_of_the_decimal_units",
    ),
    Mutation(
        "the first prefill, which warms up, is timed too",
        "cli/_answer.py:_prefill",
        "median(seconds[1:] or seconds)",
        "median(seconds)",
        "test_cli.py::test_the_time_that_is_printed_leaves_the_warm_up_out",
    ),
]

AROUND = [*EVALUATION, *VERIFY, *SHOWN]
