"""The front end's part: the plan of each image, its cache key, and the placeholders that the prompt gets for it."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import DictEmbeddingItems, EmbeddingItems
from vllm.multimodal.processing import BaseMultiModalProcessor, PromptUpdateDetails

from greedyprune.engines.vllm.plan import FIELD, TEXTS, Plan, check_grid, plans_of, read_policy, texts_of
from greedyprune.engines.vllm.tower import Tower
from greedyprune.naming import as_method
from greedyprune.policy import Policy, Positions
from greedyprune.registry import DEFAULT
from greedyprune.stages import Input

LONGEST = 64
"""How many tokens of text an image has that measures vLLM's memory."""


@dataclass
class Work:
    """The images of one request while its prompt is processed."""

    plans: list[Plan]
    """The plan of every image of the prompt."""
    fresh: list[int]
    """The numbers of the images that are processed now; the others come out of vLLM's cache."""
    hashes: Mapping[str, list[str]]
    """vLLM's own keys of all items."""

    def now(self, item: int) -> Plan:
        """The plan of the item-th image that is processed now."""
        return self.plans[self.fresh[item]]


WORK: ContextVar[Work | None] = ContextVar("greedyprune_work", default=None)
MEASURING: ContextVar[bool] = ContextVar("greedyprune_measuring", default=False)


class PrunesPrompts(BaseMultiModalProcessor):
    """A mixin in front of a model's own multimodal processor. A family says where its images stand.

    It takes the options out of a request before the model's processor sees them, since vLLM makes a new processor for
    every new value of an option.
    """

    positions: ClassVar[Positions] = "compact"
    """The positions of kept tokens. vLLM counts tokens; only models with M-RoPE keep the original ones."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config, settings = self.info.get_hf_config(), self.info.ctx.model_config.get_multimodal_config()
        self._server, self._tower = getattr(config, FIELD, None), Tower(config, settings.mm_encoder_tp_mode == "data")
        self._policy(None)  # a wrong option of the server ends its start

    def marks(self) -> list[int]:
        """The token ids of which each stands for an image in a prompt before placeholders are written."""
        config = self.info.get_hf_config()
        found = getattr(config, "image_token_id", None)
        return [config.image_token_index if found is None else found]

    def grid(self, n: int, item: Mapping[str, Any]) -> tuple[int, int, int] | None:
        """The (t, h, w) grid of an image's n tokens; None if they form none. `item`: what the worker gets of it."""
        raise NotImplementedError

    def sizes(self, images: Any, options: Mapping[str, Any]) -> Callable[[], list[int]] | None:
        """What tells the number of tokens of each image before it is processed; None if nothing does.

        `options`: those of the request for the model's own processor.
        """
        return None

    @cached_property
    def largest(self) -> int | None:
        """The number of tokens of the largest image that memory is measured with; None if none can be larger."""
        return None

    def contents(self, items: Any, options: Mapping[str, object]) -> list[Any] | None:
        """What a whole image's placeholders are, for each image, before images are processed.

        None if they are tokens of the image alone. A method that reads the text sees what stands around them.
        """
        return None

    def told(self, items: Any, options: Mapping[str, object]) -> list[Any]:
        """The `contents` of a model whose own processor can write them before images are processed."""
        (update,) = super()._get_prompt_updates(items, options, {})
        return [update.content(item) for item in range(items.get_count("image"))]

    def placeholders(self, content: Any, k: int) -> Any:
        """What is written for an image of which k tokens stay. `content`: what is written for all of them."""
        return shortened(content, k)

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Process one request. Its plans hold until its prompt is written."""
        options = dict(inputs.hf_processor_mm_kwargs)
        asked = options.pop(FIELD, None)
        images = inputs.mm_data_items.get_all_counts().get("image", 0)
        inputs = replace(inputs, hf_processor_mm_kwargs=options)
        plans = self._measured(images) if MEASURING.get() else self._plans(inputs, asked, images)
        hashes = super()._get_mm_hashes(inputs)
        plans = [
            replace(plan, image=key) if plan.text and not plan.measuring else plan
            for plan, key in zip(plans, hashes.get("image", [""] * images), strict=True)
        ]
        with _held(WORK, Work(plans, list(range(images)), hashes)):
            return super().apply(inputs, timing_ctx)

    def get_dummy_mm_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """The largest input there can be. vLLM sizes its caches by it, so every token stays: a request may ask so."""
        with _held(MEASURING, True):
            return super().get_dummy_mm_inputs(*args, **kwargs)

    def _policy(self, asked: Any) -> Policy | None:
        """The server's options, and those of a request in front of them."""
        return read_policy(self._server, asked, self.positions, self._tower)

    def _plans(self, inputs: Any, asked: Any, images: int) -> list[Plan]:
        policy = self._policy(asked)
        if policy is None or not images:
            return [Plan()] * images
        items, contents = inputs.mm_data_items["image"], None
        if self._tower.wanted(policy.method) and isinstance(items, (EmbeddingItems, DictEmbeddingItems)):
            raise ValueError(
                f"greedyprune: {type(policy.method).__name__} looks into the vision tower, which does not run on "
                'image embeddings: send the image, or choose a method such as "divprune".'
            )
        if policy.method.reads & TEXTS:
            contents = self.contents(inputs.mm_data_items, inputs.hf_processor_mm_kwargs)
        tokens, number = self.whole(inputs.prompt, contents, images)
        texts = texts_of(policy.method, tokens, number, self._ends())
        if len(texts) != images:  # vLLM itself refuses such a prompt, in its own words
            texts = [()] * images
        return plans_of(policy, texts, self.sizes(items, inputs.hf_processor_mm_kwargs))

    def whole(self, prompt: Sequence[int], contents: list[Any] | None, images: int) -> tuple[list[int], list[int]]:
        """The tokens of a prompt with whole images, and the number of the image that each stands for, -1 for text."""
        marks, tokens, number, count = self.marks(), list[int](), list[int](), -1
        for token in prompt:
            if token not in marks:
                tokens.append(token)
                number.append(-1)
                continue
            count += 1
            content = contents[count] if contents is not None and count < images else None
            tokens += [token] if content is None else content.full
            number += [count] if content is None else [count if own else -1 for own in mask_of(content)]
        return tokens, number

    def _measured(self, images: int) -> list[Plan]:
        """Plans for vLLM's profile: the server's method runs once on every image, and every token stays."""
        policy = self._policy(None)
        if policy is None:
            policy = Policy(as_method(DEFAULT), 1, Input(), self.positions)
        half = replace(policy, keep="1/2")  # pyright: ignore[reportArgumentType] - read as a Ratio
        return [Plan(half, (0,) * LONGEST, measuring=True)] * images

    def _ends(self) -> list[list[int]]:
        """The token ids that end a turn: those that end an answer, as in transformers."""
        config = self.info.ctx.model_config
        named = (config.try_get_generation_config() or {}).get("eos_token_id")
        if named is None:
            named = getattr(config.hf_text_config, "eos_token_id", None)
        return [[end] for end in ([named] if isinstance(named, int) else named or [])]

    def _get_mm_hashes(self, inputs: Any) -> Any:
        """The cache keys of all items. An image's says what is done with it."""
        work = WORK.get()
        if work is None or "image" not in work.hashes:
            return super()._get_mm_hashes(inputs) if work is None else work.hashes
        both = zip(work.hashes["image"], work.plans, strict=True)
        return {**work.hashes, "image": [f"{own}-{plan.digest}" if plan.digest else own for own, plan in both]}

    def _get_cache_missing_items(self, *args: Any, **kwargs: Any) -> Any:
        """Note which images are processed now."""
        cached, missing = super()._get_cache_missing_items(*args, **kwargs)
        if (work := WORK.get()) is not None:
            work.fresh = [number for number, there in enumerate(cached.get("image", [])) if not there]
        return cached, missing

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        """Pixels and their like, and with every image its plan."""
        data = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        images, work = mm_items.get_all_counts().get("image", 0), WORK.get()
        if images and work is not None:
            data[FIELD] = [work.now(item).to_tensor() for item in range(images)]
        return data

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        """How fields are split into items. The plan stays on the CPU, where the worker reads it."""
        own = super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
        return {**own, FIELD: MultiModalFieldConfig.batched("image", keep_on_cpu=True)}

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Sequence[Any]:
        """The placeholders of each item: for an image, one for each token that stays."""
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        work = WORK.get()
        if work is None:
            return updates
        return [self._shorter(each, work, out_mm_kwargs) if each.modality == "image" else each for each in updates]

    def _shorter(self, update: Any, work: Work, processed: Any) -> Any:
        """An update that writes the placeholders of the tokens that stay."""
        content = update.content

        def written(item: int) -> Any:
            own = content(item) if callable(content) else content
            plan, n = work.now(item), embedded(own)
            if plan.policy is None:
                return own
            grid = self.grid(n, processed["image"][item])
            check_grid(plan.policy.method, grid)
            k = plan.count(n, grid)
            if k < n and self.largest is not None and n > self.largest:  # vLLM itself would count those that stay alone
                raise ValueError(
                    f"greedyprune: an image has {n} tokens before it is pruned, and vLLM measured its memory with "
                    f"{self.largest}: send a smaller image, or start the server with the larger number of pixels."
                )
            return self.placeholders(own, k)

        return replace(update, **{"insertion" if update.mode.value == "insert" else "replacement": written})


def mask_of(content: Any) -> list[bool]:
    """Which tokens of an update get a row of the image."""
    if not isinstance(content, PromptUpdateDetails) or content.is_embed is None:
        return [True] * len(content.full if isinstance(content, PromptUpdateDetails) else content)
    return content.is_embed(content.full).tolist()


def embedded(content: Any) -> int:
    """The number of placeholders that get a row of the image."""
    return sum(mask_of(content))


def shortened(content: Any, k: int, remedy: str = "leave out greedyprune for this model") -> Any:
    """The first k placeholders of an image, and all tokens around them.

    Raises ValueError, with the remedy, if text stands between the placeholders: where it belongs is known only when
    tokens are chosen. vLLM measures its memory by such an image, so this ends its start.
    """
    if not isinstance(content, PromptUpdateDetails):
        return content[:k]
    if content.is_embed is None:
        return replace(content, full=content.full[:k])
    places = [place for place, own in enumerate(mask_of(content)) if own]
    if places[-1] - places[0] + 1 != len(places):
        raise ValueError(
            f"greedyprune: an image has text between its tokens, which cannot be kept in order in vLLM: {remedy}."
        )
    found = replace(content, full=content.full[: places[0] + k] + content.full[places[-1] + 1 :])
    assert embedded(found) == k, "the mask of an update looks at the tokens"
    return found


@contextmanager
def _held(variable: ContextVar[Any], value: Any) -> Generator[None]:
    """Give a context variable a value for a block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
