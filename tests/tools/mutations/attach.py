"""Mistakes that pruning a model could make: positions, masks, budgets, images, caches, ways to generate, guards."""

from __future__ import annotations

from mutations.mutation import Mutation

PROOF = "test_families.py::test_a_dropped_token_is_a_masked_token"
UNCACHED = "test_families.py::test_a_cache_changes_nothing"
CUES = "test_families.py::test_a_method_is_shown_its_image_and_its_prompt"
TURN = "test_attach_cache.py::test_a_second_turn_of_text_continues_the_pruned_prompt"
IMAGE_TURN = "test_attach_cache.py::test_a_second_turn_may_bring_an_image"
LATER_CUTS = "test_places.py::test_every_cut_is_a_mask_from_its_layer_on"
COMPACT = "test_attach_short.py::test_compact_positions_number_the_kept_tokens"

POSITIONS = [
    Mutation(
        "kept tokens stand one place too far",
        "attach/hooks.py",
        'kwargs["position_ids"] = step.fresh.take(positions, -1)',
        'kwargs["position_ids"] = step.fresh.take(positions, -1) + 1',
        f"{PROOF}[llava-input-sdpa-one]",
    ),
    Mutation(
        "positions are compacted though nobody asked",
        "attach/hooks.py",
        'kwargs["position_ids"] = step.fresh.take(positions, -1)',
        'kwargs["position_ids"] = positions[..., : step.fresh.columns.shape[1]]',
        f"{PROOF}[llava-input-sdpa-one]",
    ),
    Mutation(
        "all rows of multimodal positions are the last one",
        "attach/hooks.py",
        'kwargs["position_ids"] = step.fresh.take(positions, -1)',
        'kwargs["position_ids"] = step.fresh.take(positions[-1:].expand_as(positions), -1)',
        f"{PROOF}[qwen2_5_vl-input-sdpa-one]",
    ),
    Mutation(
        "rotations in the decoder are those of the last tokens",
        "attach/layers.py",
        "tuple(cut.take(x, -2) for x in pair)",
        "tuple(x[..., -cut.columns.shape[1] :, :] for x in pair)",
        f"{PROOF}[llava-layer:2-sdpa-one]",
    ),
    Mutation(
        "compact positions forget their lag while decoding",
        "attach/call.py",
        "fresh = replace(fresh, shift=lost)",
        "fresh = replace(fresh, shift=0 * lost)",
        f"{COMPACT}[llava-sdpa-one-input]",
    ),
    Mutation(
        "a later turn forgets how far the earlier one lags",
        "attach/call.py",
        "return short if shift is None else short - shift",
        "return short",
        "test_attach_short.py::test_a_second_image_is_numbered_behind_the_first[one-layer:2]",
    ),
    Mutation(
        "the lags of two turns do not add up",
        "ops/cut.py",
        "else self.shift + other.shift,",
        "else other.shift,",
        "test_attach_short.py::test_a_second_image_is_numbered_behind_the_first[one-input]",
    ),
    Mutation(
        "layers in front of an early cut are numbered like those behind it",
        "attach/hooks.py",
        "whole = replace(call.steps[0].whole, shift=None)",
        "whole = call.steps[0].whole",
        f"{COMPACT}[llava-sdpa-one-layer:2:early]",
    ),
]

MASKS = [
    Mutation(
        "the columns of a mask are the last ones, not the kept ones",
        "ops/cut.py",
        "return mask.gather(3, index).masked_fill(",
        "return mask[..., -index.shape[3] :].masked_fill(",
        f"{PROOF}[llava-layer:2-eager-ragged]",
    ),
    Mutation(
        "the rows of a mask are the last ones, not the kept ones",
        "ops/cut.py",
        "return mask.gather(2, index)",
        "return mask[:, :, -index.shape[2] :]",
        f"{PROOF}[llava-layer:2-eager-ragged]",
    ),
    Mutation(
        "the padding of shorter rows is seen in masks of four dimensions",
        "ops/cut.py",
        ".masked_fill(~self.valid.to(mask.device)[:, None, None, :], forbidden(mask.dtype))",
        "",
        f"{PROOF}[llava-layer:2-eager-unequal]",
    ),
    Mutation(
        "the padding of shorter rows is seen by the whole decoder",
        "ops/cut.py",
        "return cls.of(keep.shape[1], columns, keep.gather(1, columns))",
        "return cls.of(keep.shape[1], columns, torch.ones_like(columns, dtype=torch.bool))",
        f"{PROOF}[llava-input-sdpa-unequal]",
    ),
    Mutation(
        "the padding of shorter rows is seen while decoding",
        "ops/cut.py",
        "return torch.cat([self.valid.new_zeros(rows, self.dropped), self.valid, tail",
        "return torch.cat([self.valid.new_zeros(rows, self.dropped), self.valid | True, tail",
        f"{PROOF}[llava-input-sdpa-unequal]",
    ),
    Mutation(
        "the padding of shorter rows is seen by layers behind the cut where no mask came along",
        "attach/masks.py",
        "if not held.ragged:",
        "if True:",
        f"{PROOF}[llava-layer:2-sdpa-unequal]",
    ),
    Mutation(
        "padding in front of a prompt is kept as if it were text",
        "attach/decide.py",
        "keep, last = prompt.valid.clone(), prompt.last",
        "keep, last = torch.ones_like(prompt.valid), prompt.last",
        f"{PROOF}[llava-input-sdpa-ragged]",
    ),
    Mutation(
        "padding behind a prompt is kept as if it were text",
        "attach/decide.py",
        "keep, last = prompt.valid.clone(), prompt.last",
        "keep, last = prompt.valid.int().cumsum(1) > 0, prompt.last",
        "test_attach_generation.py::test_direct_logits_are_those_of_the_kept_tokens[padded right-input]",
    ),
    Mutation(
        "a step's mask in layers behind the cut is that of the last columns",
        "attach/masks.py",
        "return call.once(mask, cut, cut.mask_columns)",
        "return mask[..., -cut.columns.shape[1] :]",
        f"{PROOF}[llava-layer:2-eager-ragged]",
    ),
    Mutation(
        "an all-ones mask is left out, and gaps in the positions look like packed sequences",
        "attach/hooks.py",
        'kwargs["attention_mask"] = torch.cat([past, step.fresh.valid.long()], 1)',
        'kwargs["attention_mask"] = torch.cat([past, step.fresh.valid.long()], 1) if step.fresh.ragged else None',
        f"{UNCACHED}[llava-input-sdpa-one]",
    ),
    Mutation(
        "what the outer model lets images see of themselves is lost",
        "attach/masks.py",
        "allowed[..., -queries:] |= own if own.dtype == torch.bool else own == 0",
        "allowed[..., -queries:] &= own if own.dtype == torch.bool else own == 0",
        f"{PROOF}[paligemma-input-sdpa-ragged]",
    ),
    Mutation(
        "a window is one token too long",
        "ops/cut.py",
        "seen = seen.triu(width - queries - window + 1)",
        "seen = seen.triu(width - queries - window)",
        f"{PROOF}[gemma3 short window-input-sdpa-ragged]",
    ),
    Mutation(
        "a window counts the tokens that were dropped",
        "ops/cut.py",
        "seen = seen.triu(width - queries - window + 1)",
        "seen = seen & (self.columns[0, -queries:, None] - self.columns[0] < window)",
        f"{PROOF}[gemma3 short window-layer:2-sdpa-ragged]",
    ),
    Mutation(
        "a layer that carries a state is not told what is padding",
        "attach/masks.py",
        "return step.fresh.valid.long()",
        "return None",
        f"{PROOF}[qwen3_5-layer:2-sdpa-unequal]",
    ),
]

BUDGETS = [
    Mutation(
        "the budgets of two images are swapped",
        "attach/decide.py",
        "enumerate(zip(prompt.spans, asked, strict=True))",
        "enumerate(zip(prompt.spans, asked[::-1], strict=True))",
        "test_families.py::test_budgets_are_per_image[llava-input-two]",
    ),
    Mutation(
        "every image gets the whole of a total",
        "attach/policy.py",
        "iter(self.keep.share(each))",
        "iter([self.keep.tokens] * len(each))",
        "test_total.py::test_a_total_is_the_list_of_its_shares[llava-input]",
    ),
    Mutation(
        "a total is shared alike by small and large images",
        "attach/policy.py",
        "return [next(shares[row]) for row in rows]",
        "return [self.keep.tokens // len(mine[row]) for row in rows]",
        "test_total.py::test_a_total_is_the_list_of_its_shares[qwen2_5_vl-input]",
    ),
    Mutation(
        "every image of a prompt gets the budget of its first one",
        "attach/policy.py",
        "places.append(place[mine + image - first])",
        "places.append(place[mine])",
        "test_calls.py::test_budgets_go_to_the_images_in_order[{}-input]",
    ),
    Mutation(
        "a later cut takes its share of what is left",
        "attach/decide.py",
        "ask.count(earlier[index].n if earlier else image.n)",
        "ask.count(image.n)",
        "test_places.py::test_shares_are_of_all_tokens_at_every_layer[llava]",
    ),
    Mutation(
        "a later cut protects nothing",
        "attach/decide.py",
        "else torch.searchsorted(original.rows, rows)",
        "else rows[:0]",
        "test_protect.py::test_they_stay_through_every_cut_of_a_schedule",
    ),
    Mutation(
        "a budget per frame is one of the whole clip",
        "attach/decide.py",
        "select_frames(method, cues, budget) if isinstance(budget, PerFrame) else select(method, cues, k)",
        "select(method, cues, k)",
        "test_video.py::test_every_frame_is_pruned_by_itself[2-input-qwen2_5_vl video]",
    ),
    Mutation(
        "videos stand behind all images, wherever the prompt has them",
        "attach/decide.py",
        "spans.sort(key=lambda span: (span.row, int(span.columns[0])))",
        "pass",
        f"{PROOF}[qwen2_5_vl image and video-input-sdpa-ragged]",
    ),
]

IMAGES = [
    Mutation(
        "a newline stays though its row is gone",
        "attach/decide.py",
        "keep[row, at] = bool(keep[row, closed].any())",
        "keep[row, at] = True",
        "test_gaps.py::test_a_newline_stays_while_a_token_of_its_row_stays[llava_next-input]",
    ),
    Mutation(
        "a newline goes though some of its row stays",
        "attach/decide.py",
        "keep[row, at] = bool(keep[row, closed].any())",
        "keep[row, at] = bool(keep[row, closed].all())",
        "test_gaps.py::test_a_newline_stays_while_a_token_of_its_row_stays[llava_next-input]",
    ),
    Mutation(
        "the text that a method sees has padding in it",
        "attach/decide.py",
        "is_text = prompt.asked[row] & ~prompt.visual[row]",
        "is_text = ~prompt.visual[row]",
        f"{CUES}[llava-input-ragged]",
    ),
    Mutation(
        "a later cut finds images where they stood without padding",
        "attach/decide.py",
        'now[left] = torch.arange(cut.columns.shape[1], device="cpu")[cut.valid[self.row]]',
        "now[left] = torch.arange(left.numel())",
        f"{LATER_CUTS}[ragged-sdpa-llava]",
    ),
    Mutation(
        "a later cut reports the numbers of what the earlier one left",
        "attach/decide.py",
        "keep=chosen.of(first.keep)",
        "keep=chosen",
        f"{LATER_CUTS}[ragged-sdpa-llava]",
    ),
    Mutation(
        "DeepStack features are those of an image's first tokens",
        "attach/call.py",
        "parts.append(keep.merge(plane[start : start + keep.n]))",
        "parts.append(plane[start : start + keep.k])",
        f"{PROOF}[qwen3_vl-input-sdpa-one]",
    ),
    Mutation(
        "DeepStack features of a second image are taken from the first",
        "attach/call.py",
        "start += keep.n",
        "start += 0",
        f"{PROOF}[qwen3_vl-layer:2-sdpa-two]",
    ),
    Mutation(
        "a merged token is the one that stands for it",
        "attach/call.py",
        "= keep.merge(hidden[row, columns])",
        "= keep(hidden[row, columns])",
        "test_attach_short.py::test_a_merged_token_is_the_mean_of_its_cell[one-input-sdpa-llava]",
    ),
    Mutation(
        "what the tower saw goes to the images backwards",
        "attach/tower.py",
        "return [parts[place] for place in places]",
        "return [parts[place] for place in reversed(places)]",
        "test_tower_probes.py::test_what_a_token_receives_is_that_of_the_eager_tower[0-generate-llava]",
    ),
    Mutation(
        "the last column looks at an image, though padding stands there",
        "attach/look.py",
        "last = self.prompt.asked.int().cumsum(1).argmax(1, keepdim=True)",
        "last = torch.full((self.prompt.valid.shape[0], 1), self.prompt.valid.shape[1] - 1)",
        "test_probes.py::test_prompts_padded_on_the_right_look_from_their_own_last_token",
    ),
    Mutation(
        "arguments with a value per token are those of the last tokens",
        "attach/hooks.py",
        "kwargs[name] = step.fresh.take(kwargs[name], 1 - kwargs[name].ndim)",
        "kwargs[name] = kwargs[name][:, -step.fresh.columns.shape[1] :]",
        f"{PROOF}[gemma4 inputs per layer-input-sdpa-ragged]",
    ),
]

CACHES = [
    Mutation(
        "a short layer reports how many tokens it holds",
        "attach/cache.py",
        "return physical + self.dropped if physical else physical",
        "return physical",
        f"{TURN}[one-input]",
    ),
    Mutation(
        "a short layer's mask begins at the first column",
        "attach/cache.py",
        "return width, offset + dropped",
        "return width, offset",
        f"{PROOF}[llava-input-sdpa-ragged]",
    ),
    Mutation(
        "the cut stays while beams move",
        "attach/cache.py",
        "self.cut = self.cut.of_rows(rows)",
        "pass",
        "test_attach_cache.py::test_the_cut_follows_the_rows_of_the_cache[original-reordered-unequal-layer:2]",
    ),
    Mutation(
        "a cache is cropped below its prompt",
        "attach/cache.py",
        "if remove > length - self.prompt:",
        "if remove > length:",
        "test_attach_cache.py::test_a_cache_is_cropped_down_to_the_prompt_and_no_further[one-layer:2]",
    ),
    Mutation(
        "layers in front of the cut are cropped before the others refuse",
        "attach/hooks.py",
        "shorten(call.cache, index, None, place, prompt)",
        "shorten(call.cache, index, None, place, 0)",
        "test_attach_cache.py::test_a_refused_crop_leaves_the_cache_whole[layer:2]",
    ),
    Mutation(
        "an early cut takes other values than keys",
        "attach/cache.py",
        "early.heads(layer.keys), early.heads(layer.values)",
        "early.heads(layer.keys), layer.values[:, :, -early.columns.shape[1] :]",
        f"{PROOF}[llava-layer:2:early-sdpa-one]",
    ),
    Mutation(
        "a later turn sees the padding that the first one's cut made",
        "attach/hooks.py",
        "past = call.so_far(0, embeds.device).padding_mask(None, call.past)",
        "past = call.so_far(0, embeds.device).padding_mask(None, call.past) | 1",
        f"{IMAGE_TURN}[input-((0,), (0,))]",
    ),
    Mutation(
        "the cache behind two cuts counts like the first",
        "attach/call.py",
        "next((step for step in reversed(self.steps) if step.start <= index), None)",
        "next((step for step in self.steps if step.start <= index), None)",
        f"{LATER_CUTS}[one-sdpa-llava]",
    ),
    Mutation(
        "a hook is left behind",
        "attach/hooks.py",
        "for handle in self._handles:",
        "for handle in self._handles[1:]:",
        "test_attach.py::test_a_handle_works_without_with_and_is_removed_once",
    ),
    Mutation(
        "the model's own methods stay wrapped",
        "attach/features.py",
        "del own[name]",
        "pass",
        "test_families.py::test_nothing_is_left_behind[llava-input-ragged]",
    ),
]

WAYS = [
    Mutation(
        "FlashAttention takes the gaps for several prompts",
        "attach/layers.py",
        'return {**kwargs, "position_ids": None}',
        "return kwargs",
        "test_generation_flash.py::test_a_prompt_with_gaps_is_one_prompt[one-llava-layer:2]",
    ),
    Mutation(
        "an assistant's guesses are part of the question",
        "attach/decide.py",
        "asked[:, asked.shape[1] - self.drafts :] = False",
        "asked[:, asked.shape[1] :] = False",
        "test_generation_decoding.py::test_prompt_lookup_changes_nothing[llava-layer:2]",
    ),
    Mutation(
        "a prompt in chunks is cut chunk by chunk",
        "attach/entry.py",
        'if getattr(features, "last_hidden_state", None) is None:',
        'if getattr(features, "pooler_output", None) is None:',
        "test_generation_caches.py::test_images_in_chunks_are_refused_or_right[last-llava-layer:2]",
    ),
    Mutation(
        "no gradient reaches what stays",
        "attach/call.py",
        "short = made.cut.take(hidden, -2)",
        "short = made.cut.take(hidden, -2).detach().requires_grad_(hidden.requires_grad)",
        "test_generation_training.py::test_gradients_are_those_of_the_short_prompt[plain-llava-layer:2]",
    ),
    Mutation(
        "a compiled model is pruned without a word",
        "models/parts.py",
        "_check_uncompiled([*_holders(model, outer), text, *layers])",
        "_check_uncompiled([])",
        "test_generation_training.py::test_a_model_that_was_compiled_before_is_refused[compile()]",
    ),
    Mutation(
        "beams and returns read the mask of the first row",
        "attach/cache.py",
        "self.cut = self.cut.of_rows(rows)",
        "self.cut = self.cut.of_rows(rows * 0)",
        "test_attach_generation.py::test_beams_and_samples_are_scored_right",
    ),
]

FIELD_WRAPPED = "test_field_wrapped.py::"
FIELD_GENERATE = "test_field_generate.py::"
FIELD_PROMPTS = "test_field_prompts.py::"
FIELD_INTERRUPTS = "test_field_interrupts.py::"
RELEASE = "test_release.py::"
RENAMED = f"{RELEASE}test_whatever_a_release_renames_is_noticed_before_anything_is_attached"

GUARDS = [
    Mutation(
        "an argument that a release renamed is not missed",
        "models/release.py",
        "return not names or any(name in names for name in self.arguments)",
        "return True",
        f"{RENAMED}[LlamaModel.forward(inputs_embeds)]",
    ),
    Mutation(
        "a method that a release renamed is not missed",
        "models/release.py",
        'return self.name in getattr(self.owner, "__dataclass_fields__", {})',
        "return True",
        f"{RENAMED}[LlavaModel.get_image_features]",
    ),
    Mutation(
        "any release counts as tested",
        "models/release.py",
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
        "attach/policy.py",
        "    for number in ends:",
        "    for number in ends[:0]:",
        f"{FIELD_PROMPTS}test_the_next_token_is_read_off_the_last_one_of_an_image[one-grid-input]",
    ),
    Mutation(
        "the newline that ends a prompt may be dropped",
        "attach/decide.py",
        " or at == last[row]",
        "",
        f"{FIELD_PROMPTS}test_a_newline_that_ends_a_prompt_stays",
    ),
    Mutation(
        "prompts packed in one row are one prompt",
        "attach/entry.py",
        "    if bool((steps < 0).any()):",
        "    if False:",
        f"{FIELD_PROMPTS}test_two_prompts_in_one_row_are_refused[llava-input]",
    ),
    Mutation(
        "borders of packed prompts are handed on",
        "attach/entry.py",
        "    if named:",
        "    if False:",
        f"{FIELD_PROMPTS}test_borders_of_packed_prompts_are_refused[seq_idx-input]",
    ),
    Mutation(
        "generation goes on behind padding",
        "attach/entry.py",
        "and mask.shape[1] and not bool(mask[:, -1].all())",
        "and False",
        f"{FIELD_PROMPTS}test_generation_behind_padding_is_refused[llava-input]",
    ),
    Mutation(
        "a part is pruned behind its model's back",
        "attach/hooks.py",
        "            refuse_callers(self.parts, watched=generation(self) is not None)",
        "            pass",
        f"{FIELD_WRAPPED}test_a_part_is_not_pruned_behind_its_models_back",
    ),
    Mutation(
        "the answer so far is part of the question",
        "attach/hooks.py",
        "drafts = 0 if call.generation is None else call.past + call.length - call.generation.length",
        "drafts = 0",
        f"{FIELD_GENERATE}test_an_answer_without_a_cache_is_that_with_one[llava-last-input]",
    ),
    Mutation(
        "every step without a cache is reported as the prompt",
        "attach/hooks.py",
        "            if call.generation.told:",
        "            if False:",
        f"{FIELD_GENERATE}test_an_answer_without_a_cache_is_that_with_one[llava-last-input]",
    ),
    Mutation(
        "an early cut goes without a cache",
        "attach/hooks.py",
        "if call.policy.early and (call.prompt.drafts or uncached):",
        "if call.policy.early and call.prompt.drafts:",
        f"{FIELD_GENERATE}test_an_early_cut_needs_a_cache",
    ),
    Mutation(
        "a call that was interrupted opens the door for any cache",
        "attach/cache.py",
        "((call := CALL.get()) is None or not call.holds(self))",
        "(CALL.get() is None)",
        f"{FIELD_INTERRUPTS}test_a_call_that_nobody_ended_opens_no_door_for_a_pruned_cache",
    ),
    Mutation(
        "what an interrupt left behind is kept for good",
        "attach/hooks.py",
        "        finally:\n            if (call := self._call()) is not None:",
        "        finally:\n            if False:",
        f"{FIELD_INTERRUPTS}test_an_interrupt_leaves_no_door_open_for_a_pruned_cache[llava-KeyboardInterrupt-layer:2]",
    ),
    Mutation(
        "padding of a later turn is seen",
        "attach/masks.py",
        "return mask is None or bool(mask[:, 0 if base is None else base.length :].all())",
        "return True",
        "test_attach_cache.py::test_padding_of_a_later_turn_is_seen_by_nobody[input]",
    ),
    Mutation(
        "a forward that somebody put back leaves a call behind",
        "attach/hooks.py",
        "parts.outer.register_forward_hook(self._leave, always_call=True)",
        "parts.outer.register_forward_hook(self._leave)",
        f"{FIELD_INTERRUPTS}test_a_forward_that_somebody_put_back_leaves_nothing_either[input]",
    ),
    Mutation(
        "half of the hooks stay where the others cannot be put on",
        "attach/hooks.py",
        "        except BaseException:\n            self.remove()",
        "        except BaseException:\n            pass",
        f"{FIELD_INTERRUPTS}test_what_cannot_be_put_on_whole_is_taken_off_again",
    ),
    Mutation(
        "a forward is pruned by halves while the pruning is removed",
        "attach/hooks.py",
        "            if self._closing:\n                return",
        "            if False:\n                return",
        f"{FIELD_INTERRUPTS}test_a_forward_is_pruned_as_a_whole_or_not_at_all[input]",
    ),
    Mutation(
        "any forward inside generate reads its prompt",
        "attach/generating.py",
        "return torch.equal(ids[:, :count], self.ids[:, -count:].repeat_interleave(times, 0))",
        "return True",
        f"{FIELD_GENERATE}test_a_forward_by_hand_inside_generate_is_a_prompt_of_its_own[layer:2]",
    ),
    Mutation(
        "padding that generate finds itself is taken",
        "attach/generating.py",
        "return pad if isinstance(pad, int) and pad not in ends else None",
        "return None",
        f"{FIELD_PROMPTS}test_padding_that_generate_finds_itself_is_refused_too",
    ),
    Mutation(
        "a second removal lifts another handle's guard",
        "attach/handle.py",
        "        if self._removed:  # the model may carry the hooks of another handle by now",
        "        if False:",
        f"{FIELD_WRAPPED}test_a_second_removal_lifts_no_other_handles_guard",
    ),
    Mutation(
        "a removed handle goes on without a word",
        "attach/handle.py",
        "        if self._removed:\n            raise RuntimeError",
        "        if False:\n            raise RuntimeError",
        f"{FIELD_WRAPPED}test_a_removed_handle_says_so",
    ),
    Mutation(
        "relevance that nobody weighs is not told",
        "attach/handle.py",
        "if any(each is not None for each in relevance) and not method.weighs_relevance:",
        "if False:",
        f"{FIELD_WRAPPED}test_relevance_that_nobody_weighs_is_told",
    ),
    Mutation(
        "a budget of more than there is is not told",
        "attach/decide.py",
        "isinstance(s.budget, int) and s.budget > s.n for s",
        "False for s",
        "test_attach.py::test_any_budget_is_right[99-input]",
    ),
    Mutation(
        "crops of one picture are not told",
        "attach/entry.py",
        "if len(between[1]) <= SEPARATOR and len(between[0]) > len(between[1]):",
        "if False:",
        f"{FIELD_PROMPTS}test_crops_that_count_as_pictures_are_told",
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
        "attach/hooks.py",
        "        if brings_media(self.parts, given):",
        "        if False:",
        f"{FIELD_WRAPPED}test_what_is_as_long_as_the_prompt_is_refused_whoever_is_called[positional-logits_to_keep-model]",
    ),
]

FLOPS = "test_flops.py::"

REPORT = [
    Mutation(
        "a batch costs what one prompt costs",
        "attach/call.py",
        "prefill_flops=batch * prefill_flops(config, now, past)",
        "prefill_flops=prefill_flops(config, now, past)",
        f"{FLOPS}test_a_batch_costs_what_all_its_prompts_cost[input]",
    ),
    Mutation(
        "a later turn sees nothing of the first",
        "attach/call.py",
        "past = [total - new for total, new in zip(left, now, strict=True)]",
        "past = [0 for _ in now]",
        f"{FLOPS}test_a_later_turn_costs_what_its_layers_see_of_the_first_one_too[input]",
    ),
    Mutation(
        "what is left of the cache is printed as what is saved",
        "selection.py",
        "saved = 1 - self.cache_bytes / self.cache_bytes_full",
        "saved = self.cache_bytes / self.cache_bytes_full",
        f"{FLOPS}test_the_printed_shares_are_those_that_are_saved[2]",
    ),
    Mutation(
        "an early cut leaves layers in front of it as they were",
        "attach/call.py",
        "if self.policy.early:  # caches",
        "if False:  # caches",
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
        "attach/selftest.py:_bound",
        "1e-3 if",
        "1e-1 if",
        "test_unknown_families.py::test_a_type_whose_states_are_off_by_a_hundredth_is_refused[half is dropped-input]",
    ),
]

ATTACH = [*POSITIONS, *MASKS, *BUDGETS, *IMAGES, *CACHES, *WAYS, *GUARDS, *REPORT]
