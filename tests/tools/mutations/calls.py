"""Mistakes that could be made behind a cut: caches, steps of decoding, ways to generate, requests."""

from __future__ import annotations

from mutations.mutation import Mutation

PROOF = "test_families.py::test_a_dropped_token_is_a_masked_token"
TURN = "test_attach_cache.py::test_a_second_turn_of_text_continues_the_pruned_prompt"
IMAGE_TURN = "test_attach_cache.py::test_a_second_turn_may_bring_an_image"
LATER_CUTS = "test_places.py::test_every_cut_is_a_mask_from_its_layer_on"
COMPACT = "test_attach_short.py::test_compact_positions_number_the_kept_tokens"
SCHEDULE = "test_attach_short.py::test_every_layer_of_a_schedule_counts_for_itself"
EDITS = "test_layer_edits.py::"
TABLE = f"{EDITS}test_layers_are_edited_as_the_table_says"
REQUEST = "test_requests.py::"
THREAD = "test_threads.py::"

CACHES = [
    Mutation(
        "a short layer reports how many tokens it holds",
        "attach/forward/cache.py:ShortLayer.get_seq_length",
        "return physical + self.dropped if physical else physical",
        "return physical",
        f"{TURN}[one-input]",
    ),
    Mutation(
        "a short layer's mask begins at the first column",
        "attach/forward/cache.py:ShortLayer.get_mask_sizes",
        "return width, offset + self.dropped",
        "return width, offset",
        f"{PROOF}[llava-input-sdpa-ragged]",
    ),
    Mutation(
        "the cut stays while beams move",
        "attach/forward/cache.py:ShortLayer._follow",
        "self.cut = self.cut.of_rows(rows)",
        "pass",
        "test_attach_cache.py::test_the_cut_follows_the_rows_of_the_cache[original-reordered-unequal-layer:2]",
    ),
    Mutation(
        "a cache is cropped below its prompt",
        "attach/forward/cache.py:ShortLayer.crop",
        "if remove > length - self.prompt:",
        "if remove > length:",
        "test_attach_cache.py::test_a_cache_is_cropped_down_to_the_prompt_and_no_further[one-layer:2]",
    ),
    Mutation(
        "layers in front of the cut are cropped before the others refuse",
        "attach/forward/prefill.py:Prefill._shorten",
        "shorten(cache, index, None, place, length)",
        "shorten(cache, index, None, place, 0)",
        "test_attach_cache.py::test_a_refused_crop_leaves_the_cache_whole[layer:2]",
    ),
    Mutation(
        "an early cut takes other values than keys",
        "attach/forward/cache.py:shorten",
        "early.heads(layer.keys), early.heads(layer.values)",
        "early.heads(layer.keys), layer.values[:, :, -early.columns.shape[1] :]",
        f"{PROOF}[llava-layer:2:early-sdpa-one]",
    ),
    Mutation(
        "a later turn sees the padding that the first one's cut made",
        "attach/forward/prefill.py:Prefill._cut_input",
        "padding_mask(None, text.past)",
        "padding_mask(None, text.past) | 1",
        f"{IMAGE_TURN}[input-((0,), (0,))]",
    ),
    Mutation(
        "the cache behind two cuts counts like the first",
        "attach/forward/prefill.py:Prefill.step_at",
        "reversed(self.steps)",
        "self.steps",
        f"{LATER_CUTS}[one-sdpa-llava]",
    ),
    Mutation(
        "a hook is left behind",
        "attach/hooks/outer.py:OuterHooks.remove",
        "for handle in self._handles:",
        "for handle in self._handles[1:]:",
        "test_attach.py::test_a_handle_works_without_with_and_is_removed_once",
    ),
    Mutation(
        "the model's own methods stay wrapped",
        "models/_front.py:put_in_front",
        "del own[name]",
        "pass",
        "test_families.py::test_nothing_is_left_behind[llava-input-ragged]",
    ),
]

TABLES = [
    Mutation(
        "layers whose positions are wrong are left alone",
        "attach/forward/decode.py:LayerEdits.none",
        "self.masks_fit and self.numbered",
        "self.masks_fit",
        TABLE,
    ),
    Mutation(
        "layers whose masks are too wide are left alone",
        "attach/forward/decode.py:LayerEdits.none",
        "self.masks_fit and self.numbered",
        "self.numbered",
        TABLE,
    ),
    Mutation(
        "layers without a mask keep wrong positions",
        "attach/forward/decode.py:LayerEdits.only_masked",
        "self.numbered and (self.masks_fit or self.unmasked)",
        "self.masks_fit or self.unmasked",
        TABLE,
    ),
    Mutation(
        "layers whose kernel masks padding are left alone",
        "attach/forward/decode.py:LayerEdits.only_masked",
        "self.numbered and (self.masks_fit or self.unmasked)",
        "self.numbered",
        TABLE,
    ),
    Mutation(
        "layers without a mask are edited at every step",
        "attach/forward/decode.py:LayerEdits.only_masked",
        "(self.masks_fit or self.unmasked)",
        "self.masks_fit",
        TABLE,
    ),
    Mutation(
        "masks of the outer model fit a cache with padding",
        "attach/forward/decode.py:Decode.begin",
        " and not (text.outer_masks and is_padded)",
        "",
        f"{PROOF}[gemma3-input-sdpa-ragged]",
    ),
    Mutation(
        "layers behind a cut count as those in front of it",
        "attach/forward/decode.py:Decode.begin",
        "(first is not None and first.shift is not None) or not text.held.shifted",
        "True",
        f"{COMPACT}[llava-sdpa-one-layer:2]",
    ),
]

SHARED = [
    Mutation(
        "a layer of a schedule counts by the shift of another",
        "attach/forward/decode.py:Decode._renumber",
        '("shifted", held, ',
        '("shifted", ',
        f"{SCHEDULE}[one]",
    ),
    Mutation(
        "a shared value is taken for another source",
        "attach/forward/decode.py:TextInputs.made",
        " and found[0] is source",
        "",
        f"{EDITS}test_a_shared_value_is_that_of_its_source_and_its_name",
    ),
    Mutation(
        "all shared values of a source go by one name",
        "attach/forward/decode.py:TextInputs.made",
        "self.memo.get(key)",
        "next(iter(self.memo.values()), None)",
        f"{EDITS}test_a_shared_value_is_that_of_its_source_and_its_name",
    ),
]

WAYS = [
    Mutation(
        "FlashAttention takes the gaps for several prompts",
        "attach/forward/prefill.py:Prefill._without_gaps",
        'arguments["position_ids"] = None',
        "pass",
        "test_generation_flash.py::test_a_prompt_with_gaps_is_one_prompt[one-llava-layer:2]",
    ),
    Mutation(
        "an assistant's guesses are part of the question",
        "models/prompt.py:Prompt.is_prompt",
        "mine.shape[1] - self.drafts :",
        "mine.shape[1] :",
        "test_generation_decoding.py::test_prompt_lookup_changes_nothing[llava-layer:2]",
    ),
    Mutation(
        "a prompt in chunks is cut chunk by chunk",
        "attach/forward/refusals.py:refuse_unknown_inputs",
        'chunked=getattr(features, "last_hidden_state", None) is None',
        "chunked=False",
        "test_generation_caches.py::test_features_of_a_chunk_are_refused",
    ),
    Mutation(
        "no gradient reaches what stays",
        "attach/forward/decide.py:Decision.shorten",
        "self.cut.take(hidden, -2)",
        "self.cut.take(hidden, -2).detach().requires_grad_(hidden.requires_grad)",
        "test_generation_training.py::test_gradients_are_those_of_the_short_prompt[plain-llava-layer:2]",
    ),
    Mutation(
        "a compiled model is pruned without a word",
        "models/parts.py:find_parts",
        "_check_uncompiled([*_holders(model, outer), text, *layers])",
        "_check_uncompiled([])",
        "test_generation_training.py::test_a_model_that_was_compiled_before_is_refused[compile()]",
    ),
    Mutation(
        "every layer behind a cut makes its mask and positions anew",
        "attach/forward/prefill.py:Prefill._edits",
        "if last is not None and",
        "if False and last is not None and",
        "test_layer_edits.py::test_layers_behind_a_cut_dispatch_what_layers_do_without_one[one]",
    ),
    Mutation(
        "beams and returns read the mask of the first row",
        "attach/forward/cache.py:ShortLayer._follow",
        "self.cut.of_rows(rows)",
        "self.cut.of_rows(rows * 0)",
        "test_attach_generation.py::test_beams_and_samples_are_scored_right",
    ),
]

REQUESTS = [
    Mutation(
        "the last context wins over the function that runs",
        "attach/request.py:Requests.in_force",
        "(stack and not mine.entered_while(stack[0]))",
        "False",
        f"{REQUEST}test_a_stream_that_goes_on_inside_another_block_keeps_its_request",
    ),
    Mutation(
        "functions that hold a block open are not looked for",
        "attach/request.py:Requests.in_force",
        "self.on_stack()",
        "[]",
        f"{REQUEST}test_a_generator_resumed_in_copied_contexts_keeps_its_request",
    ),
    Mutation(
        "a generator that waits lends its request to its caller",
        "attach/request.py:Request.is_suspended",
        "if not self._in_generator or",
        "if True or",
        f"{REQUEST}test_a_stream_does_not_lend_its_wish_to_its_caller",
    ),
    Mutation(
        "a request inside a block gives way to the block",
        "attach/request.py:Requests.in_force",
        " and not mine.entered_while(stack[0])",
        "",
        f"{REQUEST}test_a_request_inside_a_block_is_the_inner_one",
    ),
    Mutation(
        "the outermost request is in force",
        "attach/request.py:Requests.in_force",
        "reversed(REQUESTS.get())",
        "REQUESTS.get()",
        f"{REQUEST}test_a_block_entered_by_a_context_manager_is_the_inner_one",
    ),
    Mutation(
        "a request of one handle is in force for another",
        "attach/request.py:Requests.in_force",
        " and r.belongs_to(self)",
        "",
        f"{REQUEST}test_two_handles_do_not_meet",
    ),
    Mutation(
        "a request that is over is in force where its context is copied",
        "attach/request.py:Requests.in_force",
        "r.is_open and ",
        "",
        f"{REQUEST}test_a_context_that_outlives_its_block_is_pruned_as_the_handle_says",
    ),
    Mutation(
        "a block stays in force behind its end",
        "attach/request.py:Request.__exit__",
        "self._frame = None\n        self._end()",
        "pass",
        f"{REQUEST}test_a_request_that_failed_leaves_nothing_in_force",
    ),
    Mutation(
        "a block stays in its context behind its end",
        "attach/request.py:Request.__exit__",
        "REQUESTS.set(tuple(each for each in REQUESTS.get() if each is not self))",
        "pass",
        f"{REQUEST}test_a_request_inside_a_block_is_the_inner_one",
    ),
    Mutation(
        "a request runs twice",
        "attach/request.py:Request._begin",
        "if self._number >= 0 and not self._uses:",
        "if False:",
        f"{REQUEST}test_a_request_runs_once",
    ),
    Mutation(
        "a request that ran knows no result",
        "attach/request.py:Request.record",
        "self._result = self._requests.last =",
        "self._requests.last =",
        f"{REQUEST}test_a_request_reads_its_own_prompt_and_nobody_elses",
    ),
    Mutation(
        "the handle does not know what its requests did",
        "attach/request.py:Request.record",
        "self._result = self._requests.last =",
        "self._result =",
        f"{REQUEST}test_a_request_reads_its_own_prompt_and_nobody_elses",
    ),
    Mutation(
        "threads that do not know the block around are not told",
        "attach/request.py:Requests._adopted",
        "warnings.warn(told, PruneWarning, stacklevel=3)",
        "pass",
        f"{THREAD}test_a_thread_between_two_blocks_is_pruned_as_the_handle_says",
    ),
    Mutation(
        "a thread takes one of two blocks",
        "attach/request.py:Requests._adopted",
        "len(blocks) == 1 and ",
        "",
        f"{THREAD}test_a_thread_between_two_blocks_is_pruned_as_the_handle_says",
    ),
    Mutation(
        "a thread that is older than a block belongs to it",
        "attach/request.py:Request.is_unseen_by",
        "thread not in self._threads",
        "True",
        f"{THREAD}test_a_thread_older_than_a_block_is_not_touched",
    ),
    Mutation(
        "a context that was handed on is taken for that of a new thread",
        "attach/request.py:Requests._adopted",
        "REQUESTS.get(None) is None and ",
        "",
        f"{THREAD}test_a_task_beside_a_block_does_not_belong_to_it",
    ),
    Mutation(
        "a prompt is pruned otherwise than its generate began",
        "attach/request.py:Requests.wish",
        "self.in_force() or self._of_generation()",
        "self.in_force()",
        f"{THREAD}test_a_generate_keeps_the_wish_that_it_began_with[inputs]",
    ),
    Mutation(
        "hints for images that are not there are taken",
        "attach/forward/refusals.py:refuse_hints",
        "if given:",
        "if False:",
        f"{REQUEST}test_hints_for_images_that_are_not_there_are_an_error",
    ),
    Mutation(
        "decoder layers carry their hooks twice",
        "models/_front.py:LateHooks.ensure",
        "if self._handles or self._removed:",
        "if self._removed:",
        "test_calls.py::test_decoder_layers_carry_their_hooks_once",
    ),
    Mutation(
        "a run of the tower that outlives the pruning leaves hooks behind",
        "models/_front.py:LateHooks.ensure",
        "if self._handles or self._removed:",
        "if self._handles:",
        "test_calls.py::test_a_tower_that_runs_while_the_pruning_is_removed_keeps_no_hook",
    ),
    Mutation(
        "layers of the tower carry hooks that read nothing",
        "attach/hooks/encoders.py:TowerHooks._begin",
        "if wanted:",
        "if True:",
        "test_calls.py::test_layers_of_the_tower_carry_their_hooks_once_and_only_for_a_method_that_reads_them",
    ),
    Mutation(
        "a text prompt of one token is taken for a step of decoding",
        "attach/hooks/outer.py:OuterHooks._enter",
        "if places or ids.shape[1] > 1 or not past:",
        "if places or ids.shape[1] > 1:",
        f"{REQUEST}test_a_text_prompt_of_one_token_clears_the_result_as_a_longer_one_does[forward]",
    ),
    Mutation(
        "a step of decoding is taken for a text prompt of one token",
        "models/reads.py:length_of",
        'int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 1',
        "0",
        f"{REQUEST}test_a_step_of_decoding_leaves_the_result[input]",
    ),
    Mutation(
        "a prompt in chunks is refused once the tower has run",
        "attach/hooks/generate.py:GenerateWatch._generate",
        'chunked=_rule(holder, given, "prefill_chunk_size") is not None',
        "chunked=False",
        "test_generation_caches.py::test_chunks_are_refused_before_anything_runs[argument-llava]",
    ),
]

CALLS = [*CACHES, *TABLES, *SHARED, *WAYS, *REQUESTS]
