"""Mistakes that cutting a prompt could make: positions and masks."""

from __future__ import annotations

from mutations.mutation import Mutation

PROOF = "test_families.py::test_a_dropped_token_is_a_masked_token"
UNCACHED = "test_families.py::test_a_cache_changes_nothing"
LATER_CUTS = "test_places.py::test_every_cut_is_a_mask_from_its_layer_on"
COMPACT = "test_attach_short.py::test_compact_positions_number_the_kept_tokens"

POSITIONS = [
    Mutation(
        "kept tokens stand one place too far",
        "attach/forward/prefill.py:Prefill._cut_input",
        "step.fresh.take(positions, -1)",
        "step.fresh.take(positions, -1) + 1",
        f"{PROOF}[llava-input-sdpa-one]",
    ),
    Mutation(
        "positions are compacted though nobody asked",
        "attach/forward/prefill.py:Prefill._cut_input",
        "step.fresh.take(positions, -1)",
        "positions[..., : step.fresh.columns.shape[1]]",
        f"{PROOF}[llava-input-sdpa-one]",
    ),
    Mutation(
        "all rows of multimodal positions are the last one",
        "attach/forward/prefill.py:Prefill._cut_input",
        "step.fresh.take(positions, -1)",
        "step.fresh.take(positions[-1:].expand_as(positions), -1)",
        f"{PROOF}[qwen2_5_vl-input-sdpa-one]",
    ),
    Mutation(
        "rotations in the decoder are those of the last tokens",
        "attach/forward/prefill.py:Prefill._positions",
        "tuple(step.fresh.take(x, -2) for x in rotary)",
        "tuple(x[..., -step.fresh.columns.shape[1] :, :] for x in rotary)",
        f"{PROOF}[llava-layer:2-sdpa-one]",
    ),
    Mutation(
        "compact positions forget their lag while decoding",
        "attach/forward/prefill.py:Prefill.cut",
        "shift=lost",
        "shift=0 * lost",
        f"{COMPACT}[llava-sdpa-one-input]",
    ),
    Mutation(
        "a later turn forgets how far the earlier one lags",
        "attach/forward/prefill.py:Prefill._compact_ids",
        "return ids if shift is None else ids - shift",
        "return ids",
        "test_attach_short.py::test_a_second_image_is_numbered_behind_the_first[one-layer:2]",
    ),
    Mutation(
        "the lags of two turns do not add up",
        "ops/cut.py:Cut.then",
        "else self.shift + other.shift,",
        "else other.shift,",
        "test_attach_short.py::test_a_second_image_is_numbered_behind_the_first[one-input]",
    ),
    Mutation(
        "layers in front of an early cut are numbered like those behind it",
        "attach/forward/prefill.py:Prefill._shorten",
        "replace(self.steps[0].whole, shift=None)",
        "self.steps[0].whole",
        f"{COMPACT}[llava-sdpa-one-layer:2:early]",
    ),
]

MASKS = [
    Mutation(
        "the columns of a mask are the last ones, not the kept ones",
        "ops/cut.py:Cut.mask_columns",
        "return mask.gather(3, index).masked_fill(",
        "return mask[..., -index.shape[3] :].masked_fill(",
        f"{PROOF}[llava-layer:2-eager-ragged]",
    ),
    Mutation(
        "the rows of a mask are the last ones, not the kept ones",
        "ops/cut.py:Cut.mask_rows",
        "return mask.gather(2, index)",
        "return mask[:, :, -index.shape[2] :]",
        f"{PROOF}[llava-layer:2-eager-ragged]",
    ),
    Mutation(
        "the padding of shorter rows is seen in masks of four dimensions",
        "ops/cut.py:Cut.mask_columns",
        ".masked_fill(~self.valid.to(mask.device)[:, None, None, :], forbidden(mask.dtype))",
        "",
        f"{PROOF}[llava-layer:2-eager-unequal]",
    ),
    Mutation(
        "the padding of shorter rows is seen by the whole decoder",
        "ops/cut.py:Cut.keeping",
        "return cls.of(keep.shape[1], columns, keep.gather(1, columns))",
        "return cls.of(keep.shape[1], columns, torch.ones_like(columns, dtype=torch.bool))",
        f"{PROOF}[llava-input-sdpa-unequal]",
    ),
    Mutation(
        "the padding of shorter rows is seen while decoding",
        "ops/cut.py:Cut.padding_mask",
        "self.dropped), self.valid, tail",
        "self.dropped), self.valid | True, tail",
        f"{PROOF}[llava-input-sdpa-unequal]",
    ),
    Mutation(
        "the padding of shorter rows is seen by layers behind the cut where no mask came along",
        "attach/forward/decode.py:mask_of",
        "if mask is None and not held.ragged:",
        "if mask is None:",
        f"{PROOF}[llava-layer:2-sdpa-unequal]",
    ),
    Mutation(
        "padding in front of a prompt is kept as if it were text",
        "attach/forward/decide.py:Decider.decide",
        "prompt.valid.clone(), prompt.last",
        "torch.ones_like(prompt.valid), prompt.last",
        f"{PROOF}[llava-input-sdpa-ragged]",
    ),
    Mutation(
        "padding behind a prompt is kept as if it were text",
        "attach/forward/decide.py:Decider.decide",
        "prompt.valid.clone(), prompt.last",
        "prompt.valid.int().cumsum(1) > 0, prompt.last",
        "test_attach_generation.py::test_direct_logits_are_those_of_the_kept_tokens[padded right-input]",
    ),
    Mutation(
        "a step's mask in layers behind the cut is that of the last columns",
        "attach/forward/decode.py:mask_of",
        "grown.mask_columns(mask)",
        "mask[..., -grown.columns.shape[1] :]",
        f"{PROOF}[llava-layer:2-eager-ragged]",
    ),
    Mutation(
        "an all-ones mask is left out, and gaps in the positions look like packed sequences",
        "attach/forward/prefill.py:Prefill._cut_input",
        "torch.cat([past, step.fresh.valid.long()], 1)",
        "torch.cat([past, step.fresh.valid.long()], 1) if step.fresh.ragged else None",
        f"{UNCACHED}[llava-input-sdpa-one]",
    ),
    Mutation(
        "what the outer model lets images see of themselves is lost",
        "ops/masks.py:anew_with",
        "|= allowed_by(own)",
        "&= allowed_by(own)",
        f"{PROOF}[paligemma-input-sdpa-ragged]",
    ),
    Mutation(
        "a window is one token too long",
        "ops/cut.py:Cut.allowed",
        "seen = seen.triu(width - queries - window + 1)",
        "seen = seen.triu(width - queries - window)",
        f"{PROOF}[gemma3 short window-input-sdpa-ragged]",
    ),
    Mutation(
        "a window counts the tokens that were dropped",
        "ops/cut.py:Cut.allowed",
        "seen = seen.triu(width - queries - window + 1)",
        "seen = seen & (self.columns[0, -queries:, None] - self.columns[0] < window)",
        f"{PROOF}[gemma3 short window-layer:2-sdpa-ragged]",
    ),
    Mutation(
        "a layer that carries a state is not told what is padding",
        "attach/forward/prefill.py:Prefill._mask",
        "step.fresh.valid.long() if step.fresh.ragged and not text.past else None",
        "None",
        f"{PROOF}[qwen3_5-layer:2-sdpa-unequal]",
    ),
]

REMADE = [
    Mutation(
        "a mask made anew has the first columns, not the last",
        "ops/masks.py:last_columns",
        "mask[..., -width:]",
        "mask[..., :width]",
        f"{PROOF}[gemma3 short window-input-sdpa-ragged]",
    ),
    Mutation(
        "late layers read the mask of the first queries",
        "ops/masks.py:last_queries",
        "mask[:, :, -queries:]",
        "mask[:, :, :queries]",
        "test_masks.py::test_the_last_columns_and_the_last_queries_are_taken",
    ),
    Mutation(
        "a padding mask shows the padding of shorter rows",
        "ops/masks.py:padding_mask",
        " & cut.valid.to(mask.device)",
        "",
        "test_masks.py::test_a_padding_mask_is_of_the_columns_that_stay",
    ),
    Mutation(
        "kernels that take a padding mask get another",
        "ops/masks.py:of_kernel",
        "if flash else",
        "if False else",
        "test_masks.py::test_a_kernel_needs_a_mask_only_if_a_row_is_padded",
    ),
    Mutation(
        "an additive mask allows what it forbids",
        "ops/masks.py:allowed_by",
        "mask == 0",
        "mask != 0",
        f"{PROOF}[paligemma-input-eager-ragged]",
    ),
    Mutation(
        "padding is seen through a mask made anew",
        "ops/masks.py:padded",
        "cut.valid & padding.bool()",
        "cut.valid | padding.bool()",
        f"{PROOF}[gemma3 short window-layer:2-sdpa-ragged]",
    ),
    Mutation(
        "a kernel's mask forgets causality",
        "ops/masks.py:of_kernel",
        "additive(cut.allowed(queries, window), dtype)",
        "additive(cut.allowed(queries, window) | cut.valid[:, None, None, :], dtype)",
        f"{PROOF}[llava-layer:2-sdpa-unequal]",
    ),
    Mutation(
        "a layer in front of the cut gets the mask of those behind it",
        "attach/forward/decode.py:mask_of",
        "return text.rebuilt(None, index, mask, hidden)",
        "return mask",
        f"{PROOF}[cohere2_vision-layer:2-sdpa-ragged]",
    ),
]

CUTS = [*POSITIONS, *MASKS, *REMADE]
