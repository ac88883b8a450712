"""Mistakes that could be made of images: budgets, the tokens of each, and what belongs to them."""

from __future__ import annotations

from mutations.mutation import Mutation

PROOF = "test_families.py::test_a_dropped_token_is_a_masked_token"
CUES = "test_families.py::test_a_method_is_shown_its_image_and_its_prompt"
LATER_CUTS = "test_places.py::test_every_cut_is_a_mask_from_its_layer_on"

BUDGETS = [
    Mutation(
        "the budgets of two images are swapped",
        "attach/forward/decide.py:Decider._keeps",
        "self.quotas[start], strict=True",
        "self.quotas[start][::-1], strict=True",
        "test_families.py::test_budgets_are_per_image[llava-input-two]",
    ),
    Mutation(
        "every image gets the whole of a total",
        "attach/forward/quotas.py:_given",
        "iter(policy.keep.share(each))",
        "iter([policy.keep.tokens] * len(each))",
        "test_total.py::test_a_total_is_the_list_of_its_shares[llava-input]",
    ),
    Mutation(
        "a total is shared alike by small and large images",
        "attach/forward/quotas.py:_given",
        "next(shares[row]) for",
        "policy.keep.tokens // len(mine[row]) for",
        "test_total.py::test_a_total_is_the_list_of_its_shares[qwen2_5_vl-input]",
    ),
    Mutation(
        "every image of a prompt gets the budget of its first one",
        "attach/forward/quotas.py:_places",
        "places.append(place[mine + image - first])",
        "places.append(place[mine])",
        "test_calls.py::test_budgets_go_to_the_images_in_order[{}-input]",
    ),
    Mutation(
        "a later cut takes its share of what is left",
        "attach/forward/quotas.py:Quota.asked",
        "return self.k",
        "return self.budget",
        "test_places.py::test_shares_are_of_all_tokens_at_every_layer[llava]",
    ),
    Mutation(
        "a later cut protects nothing",
        "attach/forward/decide.py:_protected",
        "else torch.searchsorted(original.rows, rows)",
        "else rows[:0]",
        "test_protect.py::test_they_stay_through_every_cut_of_a_schedule",
    ),
    Mutation(
        "a budget per frame is one of the whole clip",
        "attach/forward/quotas.py:Quota.asked",
        "return self.budget",
        "return self.k",
        "test_video.py::test_every_frame_is_pruned_by_itself[2-input-qwen2_5_vl video]",
    ),
    Mutation(
        "videos stand behind all images, wherever the prompt has them",
        "models/prompt.py:Prompt.of",
        "spans.sort(key=lambda span: (span.row, int(span.columns[0])))",
        "pass",
        f"{PROOF}[qwen2_5_vl image and video-input-sdpa-ragged]",
    ),
]

QUOTAS = [
    Mutation(
        "every image has the quota of the first",
        "attach/forward/quotas.py:quotas",
        "budgets[number][cut]",
        "budgets[0][cut]",
        "test_families.py::test_budgets_are_per_image[llava-input-two]",
    ),
    Mutation(
        "every cut of a schedule keeps what the last one does",
        "attach/forward/quotas.py:quotas",
        "budgets[number][cut]",
        "budgets[number][-1]",
        f"{LATER_CUTS}[one-sdpa-llava]",
    ),
    Mutation(
        "every image protects the tokens of the first",
        "attach/forward/quotas.py:quotas",
        "protect[number]",
        "protect[0]",
        "test_protect.py::test_protected_tokens_stay_in_their_own_image[greedyprune-layer:2]",
    ),
    Mutation(
        "every image has the relevance of the first",
        "attach/forward/quotas.py:quotas",
        "relevance[number]",
        "relevance[0]",
        "test_relevance.py::test_every_image_is_chosen_by_its_own[forward-input]",
    ),
]

IMAGES = [
    Mutation(
        "a newline stays though its row is gone",
        "attach/forward/decide.py:Decider.decide",
        "bool(stays[span.row, closed].any())",
        "True",
        "test_gaps.py::test_a_newline_stays_while_a_token_of_its_row_stays[llava_next-input]",
    ),
    Mutation(
        "a newline goes though some of its row stays",
        "attach/forward/decide.py:Decider.decide",
        "stays[span.row, closed].any()",
        "stays[span.row, closed].all()",
        "test_gaps.py::test_a_newline_stays_while_a_token_of_its_row_stays[llava_next-input]",
    ),
    Mutation(
        "the text that a method sees has padding in it",
        "models/prompt.py:Prompt.is_text",
        "self.is_prompt & ~self.visual",
        "~self.visual",
        f"{CUES}[llava-input-ragged]",
    ),
    Mutation(
        "a later cut finds images where they stood without padding",
        "models/prompt.py:Span.after",
        'now[left] = torch.arange(cut.columns.shape[1], device="cpu")[cut.valid[self.row]]',
        "now[left] = torch.arange(left.numel())",
        f"{LATER_CUTS}[ragged-sdpa-llava]",
    ),
    Mutation(
        "a later cut reports the numbers of what the earlier one left",
        "attach/forward/decide.py:_selection",
        "keep=chosen.of(first.keep)",
        "keep=chosen",
        f"{LATER_CUTS}[ragged-sdpa-llava]",
    ),
    Mutation(
        "DeepStack features are those of an image's first tokens",
        "attach/forward/decide.py:Step.planes",
        "parts.append(keep.merge(plane[start : start + keep.n]))",
        "parts.append(plane[start : start + keep.k])",
        f"{PROOF}[qwen3_vl-input-sdpa-one]",
    ),
    Mutation(
        "DeepStack features of a second image are taken from the first",
        "attach/forward/decide.py:Step.planes",
        "start += keep.n",
        "start += 0",
        f"{PROOF}[qwen3_vl-layer:2-sdpa-two]",
    ),
    Mutation(
        "a merged token is the one that stands for it",
        "attach/forward/decide.py:Decision.shorten",
        "= keep.merge(hidden[span.row, columns])",
        "= keep(hidden[span.row, columns])",
        "test_attach_short.py::test_a_merged_token_is_the_mean_of_its_cell[one-input-sdpa-llava]",
    ),
    Mutation(
        "what the tower saw goes to the images backwards",
        "attach/forward/decide.py:_by_image",
        "for place in places]",
        "for place in reversed(places)]",
        "test_tower_probes.py::test_what_a_token_receives_is_that_of_the_eager_tower[0-generate-llava]",
    ),
    Mutation(
        "the last column looks at an image, though padding stands there",
        "attach/hooks/decoder.py:_last_rows",
        "work.prompt.is_prompt.int().cumsum(1).argmax(1, keepdim=True)",
        "torch.full((work.prompt.valid.shape[0], 1), work.prompt.valid.shape[1] - 1)",
        "test_probes.py::test_prompts_padded_on_the_right_look_from_their_own_last_token",
    ),
    Mutation(
        "a kernel that has the window itself is read as if it had none",
        "probes/decoder.py:_bias",
        "if window is not None:",
        "if False:",
        "test_generation_flash.py::test_a_kernel_that_has_the_window_itself_is_read_right"
        "[last-ragged-llava gemma3 short window]",
    ),
    Mutation(
        "the question begins in front of its image",
        "attach/hooks/decoder.py:_mean_rows",
        'text[work.raters[index] if kind == "raters" else work.decider.questions[index]]',
        'text[work.raters[index]] if kind == "raters" else text',
        "test_decoder_probes.py::test_the_questions_rows_are_those_of_eager_attention[ragged-sdpa-llava]",
    ),
    Mutation(
        "a merged token counts once where attention is restored",
        "probes/decoder.py:restored_scores",
        "(keep.weights != 0).sum(1).to(own)",
        "torch.ones_like(own)",
        "test_restore.py::test_a_merged_token_counts_as_many_as_it_holds",
    ),
    Mutation(
        "a kernel that takes no mask is asked to restore attention",
        "attach/hooks/decoder.py:DecoderHooks._before",
        "check_restore(self._parts, forward.wish.policy)",
        "pass",
        "test_restore.py::test_what_cannot_be_restored_is_refused_before_anything_runs",
    ),
    Mutation(
        "a bias of places is measured on no image",
        "eval/calibrate.py:calibrate",
        "if len(seen) < least:",
        "if False:",
        "test_calibrate.py::test_few_images_are_refused_unless_the_user_says_how_few_will_do",
    ),
    Mutation(
        "text of later turns asks about an image, too",
        "attach/hooks/decoder.py:_mean_rows",
        "work.decider.questions[index]",
        "slice(None)",
        "test_questions_of_turns.py::test_the_questions_attention_is_that_of_the_tokens_that_ask[one]",
    ),
    Mutation(
        "a decoder's layers without positions are rotated all the same",
        "probes/decoder.py:_rotated",
        "attention.sliding_window is None",
        "False",
        "test_every_decoder.py::test_a_layers_attention_keys_and_values_are_its_own[False-sdpa-cohere2_vision]",
    ),
    Mutation(
        "the patches of padding look at an image, too",
        "probes/rows.py:received",
        "(rows * real[:, at, None])",
        "rows",
        "test_tower_probes.py::test_what_a_token_receives_is_that_of_the_eager_tower[None-generate-gemma4]",
    ),
    Mutation(
        "a method reads the layer before its cut, attention or not",
        "models/needs.py:layers_read",
        "isinstance(need, Change) or not kind.recurrent",
        "True",
        "test_every_decoder.py::test_a_layers_attention_keys_and_values_are_its_own[False-sdpa-qwen3_5]",
    ),
    Mutation(
        "the norms of a head's queries and keys are left out",
        "probes/decoder.py:_heads",
        "(heads if norm is None else norm(heads))",
        "heads",
        "test_probes.py::test_every_readable_decoder_is_read_right[gemma3_text-2]",
    ),
    Mutation(
        "arguments with a value per token are those of the last tokens",
        "attach/forward/prefill.py:Prefill._along",
        "step.fresh.take(value, 1 - value.ndim)",
        "value[:, -step.fresh.columns.shape[1] :]",
        f"{PROOF}[gemma4 inputs per layer-input-sdpa-ragged]",
    ),
]

IMAGE = [*BUDGETS, *QUOTAS, *IMAGES]
