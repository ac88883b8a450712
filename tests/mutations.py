"""Mistakes that the package could make, each as one changed line, with the proof that must notice it."""

from __future__ import annotations

from dataclasses import dataclass

PROOF = "test_families.py::test_a_dropped_token_is_a_masked_token"
UNCACHED = "test_families.py::test_a_cache_changes_nothing"
CUES = "test_families.py::test_a_method_is_shown_its_image_and_its_prompt"
TURN = "test_attach_cache.py::test_a_second_turn_of_text_continues_the_pruned_prompt"
IMAGE_TURN = "test_attach_cache.py::test_a_second_turn_may_bring_an_image"
LATER_CUTS = "test_places.py::test_every_cut_is_a_mask_from_its_layer_on"
COMPACT = "test_attach_short.py::test_compact_positions_number_the_kept_tokens"


@dataclass(frozen=True)
class Mutation:
    """One mistake."""

    name: str
    """What is wrong, as words."""
    file: str
    """Which file it is made in, of `attach/` or by its path in the package."""
    old: str
    """What stands there, exactly once."""
    new: str
    """What stands there instead."""
    check: str
    """The test that fails with it and passes without, as pytest names it."""

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


POSITIONS = [
    Mutation(
        "kept tokens stand one place too far",
        "hooks.py",
        'kwargs["position_ids"] = step.fresh.take(positions, -1)',
        'kwargs["position_ids"] = step.fresh.take(positions, -1) + 1',
        f"{PROOF}[llava-input-sdpa-one]",
    ),
    Mutation(
        "positions are compacted though nobody asked",
        "hooks.py",
        'kwargs["position_ids"] = step.fresh.take(positions, -1)',
        'kwargs["position_ids"] = positions[..., : step.fresh.columns.shape[1]]',
        f"{PROOF}[llava-input-sdpa-one]",
    ),
    Mutation(
        "all rows of multimodal positions are the last one",
        "hooks.py",
        'kwargs["position_ids"] = step.fresh.take(positions, -1)',
        'kwargs["position_ids"] = step.fresh.take(positions[-1:].expand_as(positions), -1)',
        f"{PROOF}[qwen2_5_vl-input-sdpa-one]",
    ),
    Mutation(
        "rotations in the decoder are those of the last tokens",
        "layers.py",
        "tuple(cut.take(x, -2) for x in pair)",
        "tuple(x[..., -cut.columns.shape[1] :, :] for x in pair)",
        f"{PROOF}[llava-layer:2-sdpa-one]",
    ),
    Mutation(
        "compact positions forget their lag while decoding",
        "call.py",
        "fresh = replace(fresh, shift=lost)",
        "fresh = replace(fresh, shift=0 * lost)",
        f"{COMPACT}[llava-sdpa-one-input]",
    ),
    Mutation(
        "a later turn forgets how far the earlier one lags",
        "call.py",
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
        "hooks.py",
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
        "masks.py",
        "if not held.ragged:",
        "if True:",
        f"{PROOF}[llava-layer:2-sdpa-unequal]",
    ),
    Mutation(
        "padding in front of a prompt is kept as if it were text",
        "decide.py",
        "keep, last = prompt.valid.clone(), prompt.last",
        "keep, last = torch.ones_like(prompt.valid), prompt.last",
        f"{PROOF}[llava-input-sdpa-ragged]",
    ),
    Mutation(
        "padding behind a prompt is kept as if it were text",
        "decide.py",
        "keep, last = prompt.valid.clone(), prompt.last",
        "keep, last = prompt.valid.int().cumsum(1) > 0, prompt.last",
        "test_attach_generation.py::test_direct_logits_are_those_of_the_kept_tokens[padded right-input]",
    ),
    Mutation(
        "a step's mask in layers behind the cut is that of the last columns",
        "masks.py",
        "return call.once(mask, cut, cut.mask_columns)",
        "return mask[..., -cut.columns.shape[1] :]",
        f"{PROOF}[llava-layer:2-eager-ragged]",
    ),
    Mutation(
        "an all-ones mask is left out, and gaps in the positions look like packed sequences",
        "hooks.py",
        'kwargs["attention_mask"] = torch.cat([past, step.fresh.valid.long()], 1)',
        'kwargs["attention_mask"] = torch.cat([past, step.fresh.valid.long()], 1) if step.fresh.ragged else None',
        f"{UNCACHED}[llava-input-sdpa-one]",
    ),
    Mutation(
        "what the outer model lets images see of themselves is lost",
        "masks.py",
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
        "masks.py",
        "return step.fresh.valid.long()",
        "return None",
        f"{PROOF}[qwen3_5-layer:2-sdpa-unequal]",
    ),
]

BUDGETS = [
    Mutation(
        "the budgets of two images are swapped",
        "decide.py",
        "enumerate(zip(prompt.spans, asked, strict=True))",
        "enumerate(zip(prompt.spans, asked[::-1], strict=True))",
        "test_families.py::test_budgets_are_per_image[llava-input-two]",
    ),
    Mutation(
        "every image gets the whole of a total",
        "policy.py",
        "iter(self.keep.share(each))",
        "iter([self.keep.tokens] * len(each))",
        "test_total.py::test_a_total_is_the_list_of_its_shares[llava-input]",
    ),
    Mutation(
        "a total is shared alike by small and large images",
        "policy.py",
        "return [next(shares[row]) for row in rows]",
        "return [self.keep.tokens // len(mine[row]) for row in rows]",
        "test_total.py::test_a_total_is_the_list_of_its_shares[qwen2_5_vl-input]",
    ),
    Mutation(
        "every image of a prompt gets the budget of its first one",
        "policy.py",
        "places.append(place[mine + image - first])",
        "places.append(place[mine])",
        "test_calls.py::test_budgets_go_to_the_images_in_order[{}-input]",
    ),
    Mutation(
        "a later cut takes its share of what is left",
        "decide.py",
        "ask.count(earlier[index].n if earlier else image.n)",
        "ask.count(image.n)",
        "test_places.py::test_shares_are_of_all_tokens_at_every_layer[llava]",
    ),
    Mutation(
        "a later cut protects nothing",
        "decide.py",
        "else torch.searchsorted(original.rows, rows)",
        "else rows[:0]",
        "test_protect.py::test_they_stay_through_every_cut_of_a_schedule",
    ),
    Mutation(
        "a budget per frame is one of the whole clip",
        "decide.py",
        "select_frames(method, cues, budget) if isinstance(budget, PerFrame) else select(method, cues, k)",
        "select(method, cues, k)",
        "test_video.py::test_every_frame_is_pruned_by_itself[2-input-qwen2_5_vl video]",
    ),
    Mutation(
        "videos stand behind all images, wherever the prompt has them",
        "decide.py",
        "spans.sort(key=lambda span: (span.row, int(span.columns[0])))",
        "pass",
        f"{PROOF}[qwen2_5_vl image and video-input-sdpa-ragged]",
    ),
]

IMAGES = [
    Mutation(
        "a newline stays though its row is gone",
        "decide.py",
        "keep[row, at] = bool(keep[row, closed].any())",
        "keep[row, at] = True",
        "test_gaps.py::test_a_newline_stays_while_a_token_of_its_row_stays[llava_next-input]",
    ),
    Mutation(
        "a newline goes though some of its row stays",
        "decide.py",
        "keep[row, at] = bool(keep[row, closed].any())",
        "keep[row, at] = bool(keep[row, closed].all())",
        "test_gaps.py::test_a_newline_stays_while_a_token_of_its_row_stays[llava_next-input]",
    ),
    Mutation(
        "the text that a method sees has padding in it",
        "decide.py",
        "is_text = prompt.asked[row] & ~prompt.visual[row]",
        "is_text = ~prompt.visual[row]",
        f"{CUES}[llava-input-ragged]",
    ),
    Mutation(
        "a later cut finds images where they stood without padding",
        "decide.py",
        'now[left] = torch.arange(cut.columns.shape[1], device="cpu")[cut.valid[self.row]]',
        "now[left] = torch.arange(left.numel())",
        f"{LATER_CUTS}[ragged-sdpa-llava]",
    ),
    Mutation(
        "a later cut reports the numbers of what the earlier one left",
        "decide.py",
        "keep=chosen.of(first.keep)",
        "keep=chosen",
        f"{LATER_CUTS}[ragged-sdpa-llava]",
    ),
    Mutation(
        "DeepStack features are those of an image's first tokens",
        "call.py",
        "parts.append(keep.merge(plane[start : start + keep.n]))",
        "parts.append(plane[start : start + keep.k])",
        f"{PROOF}[qwen3_vl-input-sdpa-one]",
    ),
    Mutation(
        "DeepStack features of a second image are taken from the first",
        "call.py",
        "start += keep.n",
        "start += 0",
        f"{PROOF}[qwen3_vl-layer:2-sdpa-two]",
    ),
    Mutation(
        "a merged token is the one that stands for it",
        "call.py",
        "= keep.merge(hidden[row, columns])",
        "= keep(hidden[row, columns])",
        "test_attach_short.py::test_a_merged_token_is_the_mean_of_its_cell[one-input-sdpa-llava]",
    ),
    Mutation(
        "what the tower saw goes to the images backwards",
        "tower.py",
        "return [parts[place] for place in places]",
        "return [parts[place] for place in reversed(places)]",
        "test_tower_probes.py::test_what_a_token_receives_is_that_of_the_eager_tower[0-generate-llava]",
    ),
    Mutation(
        "the last column looks at an image, though padding stands there",
        "look.py",
        "last = self.prompt.asked.int().cumsum(1).argmax(1, keepdim=True)",
        "last = torch.full((self.prompt.valid.shape[0], 1), self.prompt.valid.shape[1] - 1)",
        "test_probes.py::test_prompts_padded_on_the_right_look_from_their_own_last_token",
    ),
    Mutation(
        "arguments with a value per token are those of the last tokens",
        "hooks.py",
        "kwargs[name] = step.fresh.take(kwargs[name], 1 - kwargs[name].ndim)",
        "kwargs[name] = kwargs[name][:, -step.fresh.columns.shape[1] :]",
        f"{PROOF}[gemma4 inputs per layer-input-sdpa-ragged]",
    ),
]

CACHES = [
    Mutation(
        "a short layer reports how many tokens it holds",
        "cache.py",
        "return physical + self.dropped if physical else physical",
        "return physical",
        f"{TURN}[one-input]",
    ),
    Mutation(
        "a short layer's mask begins at the first column",
        "cache.py",
        "return width, offset + dropped",
        "return width, offset",
        f"{PROOF}[llava-input-sdpa-ragged]",
    ),
    Mutation(
        "the cut stays while beams move",
        "cache.py",
        "self.cut = self.cut.of_rows(rows)",
        "pass",
        "test_attach_cache.py::test_the_cut_follows_the_rows_of_the_cache[original-reordered-unequal-layer:2]",
    ),
    Mutation(
        "a cache is cropped below its prompt",
        "cache.py",
        "if remove > length - self.prompt:",
        "if remove > length:",
        "test_attach_cache.py::test_a_cache_is_cropped_down_to_the_prompt_and_no_further[one-layer:2]",
    ),
    Mutation(
        "layers in front of the cut are cropped before the others refuse",
        "hooks.py",
        "shorten(call.cache, index, None, place, prompt)",
        "shorten(call.cache, index, None, place, 0)",
        "test_attach_cache.py::test_a_refused_crop_leaves_the_cache_whole[layer:2]",
    ),
    Mutation(
        "an early cut takes other values than keys",
        "cache.py",
        "early.heads(layer.keys), early.heads(layer.values)",
        "early.heads(layer.keys), layer.values[:, :, -early.columns.shape[1] :]",
        f"{PROOF}[llava-layer:2:early-sdpa-one]",
    ),
    Mutation(
        "a later turn sees the padding that the first one's cut made",
        "hooks.py",
        "past = call.so_far(0, embeds.device).padding_mask(None, call.past)",
        "past = call.so_far(0, embeds.device).padding_mask(None, call.past) | 1",
        f"{IMAGE_TURN}[input-((0,), (0,))]",
    ),
    Mutation(
        "the cache behind two cuts counts like the first",
        "call.py",
        "next((step for step in reversed(self.steps) if step.start <= index), None)",
        "next((step for step in self.steps if step.start <= index), None)",
        f"{LATER_CUTS}[one-sdpa-llava]",
    ),
    Mutation(
        "a hook is left behind",
        "hooks.py",
        "for handle in self._handles:",
        "for handle in self._handles[1:]:",
        "test_attach.py::test_a_handle_works_without_with_and_is_removed_once",
    ),
    Mutation(
        "the model's own methods stay wrapped",
        "features.py",
        "del own[name]",
        "pass",
        "test_families.py::test_nothing_is_left_behind[llava-input-ragged]",
    ),
]

WAYS = [
    Mutation(
        "FlashAttention takes the gaps for several prompts",
        "layers.py",
        'return {**kwargs, "position_ids": None}',
        "return kwargs",
        "test_generation_flash.py::test_a_prompt_with_gaps_is_one_prompt[one-llava-layer:2]",
    ),
    Mutation(
        "an assistant's guesses are part of the question",
        "decide.py",
        "asked[:, asked.shape[1] - self.drafts :] = False",
        "asked[:, asked.shape[1] :] = False",
        "test_generation_decoding.py::test_prompt_lookup_changes_nothing[llava-layer:2]",
    ),
    Mutation(
        "a prompt in chunks is cut chunk by chunk",
        "entry.py",
        'if getattr(features, "last_hidden_state", None) is None:',
        'if getattr(features, "pooler_output", None) is None:',
        "test_generation_caches.py::test_images_in_chunks_are_refused_or_right[last-llava-layer:2]",
    ),
    Mutation(
        "no gradient reaches what stays",
        "call.py",
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
        "cache.py",
        "self.cut = self.cut.of_rows(rows)",
        "self.cut = self.cut.of_rows(rows * 0)",
        "test_attach_generation.py::test_beams_and_samples_are_scored_right",
    ),
]

FIELD = "test_field_faults.py::"
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
        "policy.py",
        "    for number in ends:",
        "    for number in ends[:0]:",
        f"{FIELD}test_the_next_token_is_read_off_the_last_one_of_an_image[one-grid-input]",
    ),
    Mutation(
        "the newline that ends a prompt may be dropped",
        "decide.py",
        " or at == last[row]",
        "",
        f"{FIELD}test_a_newline_that_ends_a_prompt_stays",
    ),
    Mutation(
        "prompts packed in one row are one prompt",
        "entry.py",
        "    if bool((steps < 0).any()):",
        "    if False:",
        f"{FIELD}test_two_prompts_in_one_row_are_refused[llava-input]",
    ),
    Mutation(
        "borders of packed prompts are handed on",
        "entry.py",
        "    if named:",
        "    if False:",
        f"{FIELD}test_borders_of_packed_prompts_are_refused[seq_idx-input]",
    ),
    Mutation(
        "generation goes on behind padding",
        "entry.py",
        "and mask.shape[1] and not bool(mask[:, -1].all())",
        "and False",
        f"{FIELD}test_generation_behind_padding_is_refused[llava-input]",
    ),
    Mutation(
        "a part is pruned behind its model's back",
        "hooks.py",
        "            refuse_callers(self.parts, watched=generation(self) is not None)",
        "            pass",
        f"{FIELD}test_a_part_is_not_pruned_behind_its_models_back",
    ),
    Mutation(
        "the answer so far is part of the question",
        "hooks.py",
        "drafts = 0 if call.generation is None else call.past + call.length - call.generation.length",
        "drafts = 0",
        f"{FIELD}test_an_answer_without_a_cache_is_that_with_one[llava-last-input]",
    ),
    Mutation(
        "every step without a cache is reported as the prompt",
        "hooks.py",
        "            if call.generation.told:",
        "            if False:",
        f"{FIELD}test_an_answer_without_a_cache_is_that_with_one[llava-last-input]",
    ),
    Mutation(
        "an early cut goes without a cache",
        "hooks.py",
        "if call.policy.early and (call.prompt.drafts or uncached):",
        "if call.policy.early and call.prompt.drafts:",
        f"{FIELD}test_an_early_cut_needs_a_cache",
    ),
    Mutation(
        "a call that was interrupted opens the door for any cache",
        "cache.py",
        "((call := CALL.get()) is None or not call.holds(self))",
        "(CALL.get() is None)",
        f"{FIELD}test_a_call_that_nobody_ended_opens_no_door_for_a_pruned_cache",
    ),
    Mutation(
        "what an interrupt left behind is kept for good",
        "hooks.py",
        "        finally:\n            if (call := self._call()) is not None:",
        "        finally:\n            if False:",
        f"{FIELD}test_an_interrupt_leaves_no_door_open_for_a_pruned_cache[llava-KeyboardInterrupt-layer:2]",
    ),
    Mutation(
        "padding of a later turn is seen",
        "masks.py",
        "return mask is None or bool(mask[:, 0 if base is None else base.length :].all())",
        "return True",
        "test_attach_cache.py::test_padding_of_a_later_turn_is_seen_by_nobody[input]",
    ),
    Mutation(
        "a forward that somebody put back leaves a call behind",
        "hooks.py",
        "parts.outer.register_forward_hook(self._leave, always_call=True)",
        "parts.outer.register_forward_hook(self._leave)",
        f"{FIELD}test_a_forward_that_somebody_put_back_leaves_nothing_either[input]",
    ),
    Mutation(
        "half of the hooks stay where the others cannot be put on",
        "hooks.py",
        "        except BaseException:\n            self.remove()",
        "        except BaseException:\n            pass",
        f"{FIELD}test_what_cannot_be_put_on_whole_is_taken_off_again",
    ),
    Mutation(
        "a forward is pruned by halves while the pruning is removed",
        "hooks.py",
        "            if self._closing:\n                return",
        "            if False:\n                return",
        f"{FIELD}test_a_forward_is_pruned_as_a_whole_or_not_at_all[input]",
    ),
    Mutation(
        "any forward inside generate reads its prompt",
        "generating.py",
        "return torch.equal(ids[:, :count], self.ids[:, -count:].repeat_interleave(times, 0))",
        "return True",
        f"{FIELD}test_a_forward_by_hand_inside_generate_is_a_prompt_of_its_own[layer:2]",
    ),
    Mutation(
        "padding that generate finds itself is taken",
        "generating.py",
        "return pad if isinstance(pad, int) and pad not in ends else None",
        "return None",
        f"{FIELD}test_padding_that_generate_finds_itself_is_refused_too",
    ),
    Mutation(
        "a second removal lifts another handle's guard",
        "handle.py",
        "        if self._removed:  # the model may carry the hooks of another handle by now",
        "        if False:",
        f"{FIELD}test_a_second_removal_lifts_no_other_handles_guard",
    ),
    Mutation(
        "a removed handle goes on without a word",
        "handle.py",
        "        if self._removed:\n            raise RuntimeError",
        "        if False:\n            raise RuntimeError",
        f"{FIELD}test_a_removed_handle_says_so",
    ),
    Mutation(
        "relevance that nobody weighs is not told",
        "handle.py",
        "if any(each is not None for each in relevance) and not method.weighs_relevance:",
        "if False:",
        f"{FIELD}test_relevance_that_nobody_weighs_is_told",
    ),
    Mutation(
        "a budget of more than there is is not told",
        "decide.py",
        "isinstance(s.budget, int) and s.budget > s.n for s",
        "False for s",
        "test_attach.py::test_any_budget_is_right[99-input]",
    ),
    Mutation(
        "crops of one picture are not told",
        "entry.py",
        "if len(between[1]) <= SEPARATOR and len(between[0]) > len(between[1]):",
        "if False:",
        f"{FIELD}test_crops_that_count_as_pictures_are_told",
    ),
    Mutation(
        "a Pixtral tower has no rows",
        "models/layouts.py",
        'if config.vision_config.model_type == "pixtral":',
        "if False:",
        f"{FIELD}test_a_llava_with_pixtrals_tower_has_images_of_any_size[((0,),)-input]",
    ),
    Mutation(
        "positions of logits beside images are taken by whoever holds the model",
        "hooks.py",
        "        if brings_media(self.parts, given):",
        "        if False:",
        f"{FIELD}test_what_is_as_long_as_the_prompt_is_refused_whoever_is_called[positional-logits_to_keep-model]",
    ),
]

AROUND = [
    Mutation(
        "a batch costs what one prompt costs",
        "call.py",
        "prefill_flops=batch * prefill_flops(config, now, past)",
        "prefill_flops=prefill_flops(config, now, past)",
        "test_flops.py::test_a_batch_costs_what_all_its_prompts_cost[input]",
    ),
    Mutation(
        "a later turn sees nothing of the first",
        "call.py",
        "past = [total - new for total, new in zip(left, now, strict=True)]",
        "past = [0 for _ in now]",
        "test_flops.py::test_a_later_turn_costs_what_its_layers_see_of_the_first_one_too[input]",
    ),
    Mutation(
        "what is left is printed as what is saved",
        "selection.py",
        "saved = 1 - self.cache_bytes / self.cache_bytes_full",
        "saved = self.cache_bytes / self.cache_bytes_full",
        "test_flops.py::test_the_printed_shares_are_those_that_are_saved[2]",
    ),
    Mutation(
        "a loop by hand is not read",
        "verify/properties.py",
        "    if not skipped:",
        "    if False:",
        "test_verify_faults.py::test_a_small_fault_is_found_by_the_property_that_it_breaks[a_long_cache]",
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
        "a formula reaches the spreadsheet",
        "outputs.py",
        "if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):",
        "if False:",
        "test_outputs.py::test_no_cell_is_run_by_a_spreadsheet_and_numbers_stay_numbers",
    ),
    Mutation(
        "the best other method may have been cut elsewhere",
        "eval/answers.py",
        "and other.at != config.at:",
        "and False:",
        "test_eval_guards.py::test_the_best_other_and_random_choice_are_those_of_the_same_stage",
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
        "method.py",
        "        cues.require_weights(method.needs)",
        "        pass",
        "test_cues.py::test_attention_below_0_is_refused_where_it_is_read",
    ),
    Mutation(
        "a row may be kept twice",
        "keep.py",
        '((self.order.sort().values.diff() > 0).all(), "it holds a row twice"),',
        "",
        "test_own_methods.py::test_what_a_method_returns_is_checked_in_words",
    ),
]

MUTATIONS = [*POSITIONS, *MASKS, *BUDGETS, *IMAGES, *CACHES, *WAYS, *GUARDS, *AROUND]
