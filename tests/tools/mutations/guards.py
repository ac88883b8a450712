"""Mistakes of guards and of reports: what must be refused or said, and what was saved."""

from __future__ import annotations

from mutations.mutation import Mutation

FIELD_WRAPPED = "test_field_wrapped.py::"
FIELD_GENERATE = "test_field_generate.py::"
FIELD_PROMPTS = "test_field_prompts.py::"
TURNS = "test_questions_of_turns.py::"
FIELD_INTERRUPTS = "test_field_interrupts.py::"
RELEASE = "test_release.py::"
RENAMED = f"{RELEASE}test_whatever_a_release_renames_is_noticed_before_anything_is_attached"
LATER_CUTS = "test_places.py::test_every_cut_is_a_mask_from_its_layer_on"
FLOPS = "test_flops.py::"

GUARDS = [
    Mutation(
        "an argument that a release renamed is not missed",
        "models/release.py:Seam.there",
        "return not names or any(name in names for name in self.arguments)",
        "return True",
        f"{RENAMED}[LlamaModel.forward(inputs_embeds)]",
    ),
    Mutation(
        "a method that a release renamed is not missed",
        "models/release.py:Seam.there",
        'return self.name in getattr(self.owner, "__dataclass_fields__", {})',
        "return True",
        f"{RENAMED}[LlavaModel.get_image_features]",
    ),
    Mutation(
        "any release counts as tested",
        "models/release.py:is_tested",
        "return oldest <= _numbers(version) <= newest",
        "return True",
        f"{RELEASE}test_a_release_that_nobody_has_tested_is_met_with_a_word[5.25.0-False]",
    ),
    Mutation(
        "the cache goes by its old name alone",
        "models/release.py",
        'CACHE_NAMES = ("cache", "past_key_values", "cache_params")',
        'CACHE_NAMES = ("past_key_values", "cache_params")',
        f"{RELEASE}test_a_cache_is_found_under_any_name[cache]",
    ),
    Mutation(
        "the last token of a prompt may be dropped",
        "attach/forward/quotas.py:keep_last_tokens",
        "    for number in ends:",
        "    for number in ends[:0]:",
        f"{FIELD_PROMPTS}test_the_next_token_is_read_off_the_last_one_of_an_image[one-grid-input]",
    ),
    Mutation(
        "the newline that ends a prompt may be dropped",
        "attach/forward/decide.py:Decider.decide",
        " or at == last[span.row]",
        "",
        f"{FIELD_PROMPTS}test_a_newline_that_ends_a_prompt_stays",
    ),
    Mutation(
        "prompts packed in one row are one prompt",
        "attach/forward/refusals.py:refuse_packed",
        "if bool((back & valid[:, 1:] & valid[:, :-1]).any()):",
        "if False:",
        f"{FIELD_PROMPTS}test_two_prompts_in_one_row_are_refused[llava-input]",
    ),
    Mutation(
        "borders of packed prompts are handed on",
        "attach/forward/refusals.py:refuse_packed",
        "if named:",
        "if False:",
        f"{FIELD_PROMPTS}test_borders_of_packed_prompts_are_refused[seq_idx-input]",
    ),
    Mutation(
        "generation goes on behind padding",
        "attach/forward/refusals.py:refuse_right_padding",
        "and mask.shape[1] and not bool(mask[:, -1].all())",
        "and False",
        f"{FIELD_PROMPTS}test_generation_behind_padding_is_refused[llava-input]",
    ),
    Mutation(
        "a part is pruned behind its model's back",
        "attach/hooks/outer.py:OuterHooks._enter",
        "refusals.refuse_callers(self._parts, watched=generation is not None)",
        "pass",
        f"{FIELD_WRAPPED}test_a_part_is_not_pruned_behind_its_models_back",
    ),
    Mutation(
        "the answer so far is part of the question",
        "attach/forward/prefill.py:Prefill.begin",
        "drafts = text.total - generation.length if generation is not None and generated else 0",
        "drafts = 0",
        f"{FIELD_GENERATE}test_an_answer_without_a_cache_is_that_with_one[llava-last-input]",
    ),
    Mutation(
        "every step without a cache is reported as the prompt",
        "attach/forward/prefill.py:Prefill.finish",
        "if generation.recorded:",
        "if False:",
        f"{FIELD_GENERATE}test_an_answer_without_a_cache_is_that_with_one[llava-last-input]",
    ),
    Mutation(
        "an early cut goes without a cache",
        "attach/forward/prefill.py:Prefill.begin",
        "followed=bool(drafts) or uncached",
        "followed=bool(drafts)",
        f"{FIELD_GENERATE}test_an_early_cut_needs_a_cache",
    ),
    Mutation(
        "a call that was interrupted opens the door for any cache",
        "attach/forward/cache.py:ShortLayer.get_mask_sizes",
        "((forward := FORWARD.get()) is None or self not in layers_of(forward.cache))",
        "FORWARD.get() is None",
        f"{FIELD_INTERRUPTS}test_a_call_that_nobody_ended_opens_no_door_for_a_pruned_cache",
    ),
    Mutation(
        "what an interrupt left behind is kept for good",
        "attach/hooks/outer.py:OuterHooks._forward",
        "if forward is not None and forward.parts is self._parts:",
        "if False:",
        f"{FIELD_INTERRUPTS}test_an_interrupt_leaves_no_door_open_for_a_pruned_cache[llava-KeyboardInterrupt-layer:2]",
    ),
    Mutation(
        "padding of a later turn is seen",
        "attach/forward/decode.py:TextInputs.nothing_masked",
        "return mask is None or bool(mask[:, 0 if base is None else base.length :].all())",
        "return True",
        "test_attach_cache.py::test_padding_of_a_later_turn_is_seen_by_nobody[input]",
    ),
    Mutation(
        "a forward that somebody put back leaves a call behind",
        "attach/hooks/outer.py:OuterHooks.register",
        "(self._leave, always_call=True)",
        "(self._leave)",
        f"{FIELD_INTERRUPTS}test_a_forward_that_somebody_put_back_leaves_nothing_either[input]",
    ),
    Mutation(
        "half of the hooks stay where the others cannot be put on",
        "attach/handle.py:Pruned.__init__",
        "self.remove()",
        "pass",
        f"{FIELD_INTERRUPTS}test_what_cannot_be_put_on_whole_is_taken_off_again",
    ),
    Mutation(
        "a forward is pruned by halves while the pruning is removed",
        "attach/hooks/outer.py:OuterHooks._enter",
        "if self._closing:",
        "if False:",
        f"{FIELD_INTERRUPTS}test_a_forward_is_pruned_as_a_whole_or_not_at_all[input]",
    ),
    Mutation(
        "any forward inside generate reads its prompt",
        "attach/context.py:Generation.reads",
        "return torch.equal(ids[:, :unread], self.ids[:, -unread:].repeat_interleave(copies, 0))",
        "return True",
        f"{FIELD_GENERATE}test_a_forward_by_hand_inside_generate_is_a_prompt_of_its_own[layer:2]",
    ),
    Mutation(
        "padding that generate finds itself is taken",
        "attach/hooks/generate.py:_padding",
        "return pad if isinstance(pad, int) and pad not in ends else None",
        "return None",
        f"{FIELD_PROMPTS}test_padding_that_generate_finds_itself_is_refused_too",
    ),
    Mutation(
        "a second removal lifts another handle's guard",
        "attach/handle.py:Pruned.remove",
        "if self._requests.removed:",
        "if False:",
        f"{FIELD_WRAPPED}test_a_second_removal_lifts_no_other_handles_guard",
    ),
    Mutation(
        "a removed handle goes on without a word",
        "attach/request.py:Requests.check_attached",
        "if self.removed:",
        "if False:",
        f"{FIELD_WRAPPED}test_a_removed_handle_says_so",
    ),
    Mutation(
        "relevance that nobody weighs is not told",
        "attach/handle.py:_checked",
        "if any(each is not None for each in hints.relevance) and not method.weighs_relevance:",
        "if False:",
        f"{FIELD_WRAPPED}test_relevance_that_nobody_weighs_is_told",
    ),
    Mutation(
        "a budget of more than there is is not told",
        "attach/forward/decide.py:warn_if_nothing_pruned",
        "isinstance(s.budget, int) and s.budget > s.n for s",
        "False for s",
        "test_attach.py::test_any_budget_is_right[99-input]",
    ),
    Mutation(
        "the question of an image reaches into later turns",
        "models/prompt.py:Prompt.questions",
        "[[end] for end in ends]",
        "[]",
        f"{TURNS}test_a_question_is_that_of_the_images_own_turn[one-later text-input]",
    ),
    Mutation(
        "the question of a later turn is that of all images",
        "questions.py:questions_of",
        "if start > last), ids.shape[0])",
        "if start > ids.shape[0]), ids.shape[0])",
        f"{TURNS}test_a_question_is_that_of_the_images_own_turn[one-later image-input]",
    ),
    Mutation(
        "a method that reads the chat reads the question alone",
        "ops/preprocess.py:asked",
        "text[question.start :]",
        "text[question]",
        f"{TURNS}test_a_later_turn_changes_what_a_method_keeps_only_if_it_reads_the_chat[one-input]",
    ),
    Mutation(
        "crops of one picture are taken for pictures",
        "models/prompt.py:Prompt.row_of_crops",
        "if alike and gaps[1].numel() <= SEPARATOR and gaps[0].numel() > gaps[1].numel():",
        "if False:",
        f"{FIELD_PROMPTS}test_one_number_for_crops_of_one_picture_is_refused",
    ),
    Mutation(
        "a number of tokens is kept of every crop of one picture",
        "budget.py:counts_tokens",
        "isinstance(number, int) and number > 0",
        "isinstance(number, int) and False",
        f"{FIELD_PROMPTS}test_one_number_for_crops_of_one_picture_is_refused",
    ),
    Mutation(
        "a Pixtral tower has no rows",
        "models/layouts.py",
        'if config.vision_config.model_type == "pixtral":',
        "if False:",
        f"{FIELD_PROMPTS}test_a_llava_with_pixtrals_tower_has_images_of_any_size[((0,),)-input]",
    ),
    Mutation(
        "positions of logits beside images are taken by whoever holds the model",
        "attach/hooks/outer.py:OuterHooks._hold",
        "if refusals.asks_for_all(given) and refusals.brings_media(self._parts, given):",
        "if False:",
        f"{FIELD_WRAPPED}test_what_is_as_long_as_the_prompt_is_refused_whoever_is_called[positional-logits_to_keep-model]",
    ),
]

REPORT = [
    Mutation(
        "a batch costs what one prompt costs",
        "attach/forward/record.py:report_of",
        "prefill_flops=batch * ",
        "prefill_flops=",
        f"{FLOPS}test_a_batch_costs_what_all_its_prompts_cost[input]",
    ),
    Mutation(
        "a later turn sees nothing of the first",
        "attach/forward/record.py:report_of",
        "[total - new for total, new in zip(held, now, strict=True)]",
        "[0 for _ in now]",
        f"{FLOPS}test_a_later_turn_costs_what_its_layers_see_of_the_first_one_too[input]",
    ),
    Mutation(
        "what is left of the cache is printed as what is saved",
        "selection.py:Report.__str__",
        "saved = 1 - self.cache_bytes / self.cache_bytes_full",
        "saved = self.cache_bytes / self.cache_bytes_full",
        f"{FLOPS}test_the_printed_shares_are_those_that_are_saved[2]",
    ),
    Mutation(
        "an early cut leaves layers in front of it as they were",
        "attach/forward/record.py:report_of",
        "if policy.early:",
        "if False:",
        f"{FLOPS}test_a_batch_costs_what_all_its_prompts_cost[layer:2:early]",
    ),
    Mutation(
        "what is left of the FLOPs is printed as what is saved",
        "selection.py:Report.__str__",
        "1 - self.prefill_flops / max(self.prefill_flops_full, 1)",
        "self.prefill_flops / max(self.prefill_flops_full, 1)",
        f"{FLOPS}test_the_printed_shares_are_those_that_are_saved[2]",
    ),
    Mutation(
        "a model may be wrong by a tenth in its self-test",
        "attach/hooks/selftest.py:_bound",
        "1e-3 if",
        "1e-1 if",
        "test_unknown_families.py::test_a_type_whose_states_are_off_by_a_hundredth_is_refused[half is dropped-input]",
    ),
]

COUNTS = [
    Mutation(
        "a step costs what the prompt's tokens cost",
        "attach/forward/record.py:report_of",
        "(config, held)",
        "(config, now)",
        f"{FLOPS}test_a_later_turn_costs_what_its_layers_see_of_the_first_one_too[input]",
    ),
    Mutation(
        "a later turn without pruning sees nothing of the first",
        "attach/forward/record.py:report_of",
        "[lengths.past] * layers",
        "[0] * layers",
        f"{FLOPS}test_a_later_turn_costs_what_its_layers_see_of_the_first_one_too[input]",
    ),
    Mutation(
        "the length behind the cut is that in front of it",
        "attach/forward/record.py:report_of",
        "now[-1]",
        "now[0]",
        f"{LATER_CUTS}[one-sdpa-llava]",
    ),
    Mutation(
        "layers in front of the cut count as those behind it",
        "attach/forward/prefill.py:Prefill._report",
        "[tokens if step is None else",
        "[sum(s.k for s in self.selections) if step is None else",
        f"{FLOPS}test_a_pruned_prompt_costs_what_its_layers_see[layer:2-2]",
    ),
]

REFUSALS = [*GUARDS, *REPORT, *COUNTS]
