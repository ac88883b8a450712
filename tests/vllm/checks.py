"""The checks of `make test-vllm`: vLLM's answers against those of transformers, and against its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from engine import ARCHITECTURES, Engine, Prompt
from reference import METHODS, POSITIONS, Answer, Reference, pairs

import greedyprune as gp
from greedyprune.engines.vllm import plan as plans
from greedyprune.engines.vllm.plan import able
from greedyprune.engines.vllm.store import LARGEST, Store
from greedyprune.engines.vllm.tower import Tower
from greedyprune.naming import as_method

CLOSE, FAR = 1e-4, 1e-2
"""The largest difference of log-probabilities that passes, and the least that a negative control must reach."""
KEEP: dict[str, Any] = {"llava": 24}
"""The budget of each model; of the others 8 % of an image."""
TOTALS = ("llava", "qwen", "qwen2_vl", "qwen3_vl", "gemma3")
"""The models whose images' sizes are known before they are processed."""
GRIDLESS = ("internvl", "idefics3", "smolvlm")
"""The models whose images have several tiles, which form no grid together."""
CHUNK = 32


@dataclass(frozen=True)
class Row:
    """One line of the figures."""

    model: str
    check: str
    prompts: int
    same_tokens: int
    same_rows: int | str
    largest_difference: float
    passed: bool
    note: str = ""


def apart(one: list[Answer], other: list[Answer]) -> float:
    """The largest difference of log-probabilities, of answers with equal tokens; infinity if tokens differ."""
    if any(a.tokens != b.tokens for a, b in zip(one, other, strict=True)):
        return float("inf")
    return max(abs(x - y) for a, b in zip(one, other, strict=True) for x, y in zip(a.logprobs, b.logprobs, strict=True))


def moved(one: Answer, other: Answer) -> float:
    """The largest difference of log-probabilities up to the first token that differs."""
    found = 0.0
    for a, b, x, y in zip(one.tokens, other.tokens, one.logprobs, other.logprobs, strict=False):
        found = max(found, abs(x - y))
        if a != b:
            break
    return found


def wish(method: Any, keep: Any) -> dict[str, Any]:
    """The options of a request, as its JSON holds them."""
    return {"method": gp.to_plain(method), "keep": gp.to_plain(keep)}


class Checks:
    """All checks of one bundled checkpoint."""

    def __init__(self, name: str, folder: Any, n: int) -> None:
        self.name, self.folder, self.keep = name, folder, KEEP.get(name, gp.Ratio(0.08))
        self.oracle, self.pairs = Reference(name, folder), pairs(name, n)
        self.prompts: list[Prompt] = [(self.oracle.text(each.question), [each.image]) for each in self.pairs]
        self.able = able(Tower(self.oracle.model.config))
        self.kinds = [
            kind for kind, method in METHODS.items() if method is not None and gp.to_plain(method)["type"] in self.able
        ]
        """The kinds of methods that run on this model."""
        self.wanted = {kind: self.want(self.prompts, METHODS[kind], self.keep) for kind in ("all", *self.kinds)}

    def row(
        self, check: str, got: list[Answer], want: list[Answer], rows: Any = None, note: str = "", **more: Any
    ) -> Row:
        """One line: passed if tokens are equal, log-probabilities close, and kept rows equal where they are known."""
        same = sum(a.tokens == b.tokens for a, b in zip(got, want, strict=True))
        far = apart(got, want)
        kept = (
            "" if rows is None else sum(a == b for a, b in zip(rows, [r for w in want for r in w.rows], strict=False))
        )
        passed = more.pop("passed", far <= more.pop("close", CLOSE))
        total = sum(len(w.rows) for w in want)
        passed = passed and (rows is None or (kept == total and len(rows) == total))
        return Row(self.name, check, len(got), same, kept, far, passed, note)

    def stock(self) -> Iterator[Row]:
        """vLLM as it is, against transformers; its answers are kept for the next check."""
        engine = Engine(self.folder, ARCHITECTURES[self.name], None)
        self.whole = engine.ask(self.prompts)
        yield self.row("stock vLLM is transformers, nothing pruned", self.whole, self.wanted["all"])
        del engine

    def start(self) -> Engine:
        """The engine of the next checks."""
        return Engine(self.folder, ARCHITECTURES[self.name], wish(METHODS["text-free"], self.keep))

    def parity(self, engine: Engine) -> Iterator[Row]:
        """Answers, rows and log-probabilities, one at a time, together, with warm and with cold caches."""
        got = engine.ask(self.prompts, {"keep": "100%"})
        yield self.row("keep-all is stock vLLM", got, self.whole, close=0.0)
        yield self.row("keep-all selects nothing", got, self.whole, passed=not engine.seen)
        for kind in self.kinds:
            asked = wish(METHODS[kind], self.keep)
            engine.forget()
            got = [engine.ask([prompt], asked)[0] for prompt in self.prompts]
            rows = [each for _, each in engine.seen]
            lengths = sorted({len(each.prompt_token_ids) for each in engine.last})
            yield self.row(f"{kind}, one at a time", got, self.wanted[kind], rows, f"last prompt: {lengths} tokens")
            engine.seen.clear()
            got = engine.ask(self.prompts, asked)
            yield self.row(f"{kind}, again, caches warm", got, self.wanted[kind], note=f"{len(engine.seen)} selections")
            engine.forget()
            got = engine.ask(self.prompts, asked)
            yield self.row(f"{kind}, 8 at a time, caches cold", got, self.wanted[kind])
        yield self.control("control: pruning changes answers", self.wanted["question"], self.wanted["all"])

    def several(self, engine: Engine) -> Iterator[Row]:
        """Several questions about one image, several images, several budgets and methods, and later turns."""
        image, asked = self.pairs[0].image, [self.pairs[i].question for i in (0, 1, 2)] * 2
        model = engine.runner.model
        own = model.unpruned
        for kind, selections in (("text-free", 1), ("question", 3), ("tower", 1), ("tower and question", 3)):
            if kind not in self.kinds:
                continue
            engine.forget()
            model.store = Store(LARGEST, "cpu")
            runs: list[Any] = []
            model.unpruned = lambda fields, runs=runs: runs.append(fields) or own(fields)
            prompts: list[Prompt] = [(self.oracle.text(question), [image]) for question in asked]
            got = [engine.ask([prompt], wish(METHODS[kind], self.keep))[0] for prompt in prompts]
            del model.unpruned
            want = self.want(prompts, METHODS[kind], self.keep)
            seen = (len(engine.seen), len(runs))
            note = f"{seen[0]} selections, {seen[1]} runs of the tower"
            row = self.row(f"{kind}, one image, 3 questions, twice", got, want, note=note)
            yield row if seen == (selections, 1) else replaced(row)
        for kind in self.kinds:
            engine.forget()
            images = [each.image for each in self.pairs]
            two: list[Prompt] = [
                (self.oracle.text(self.pairs[i + 1].question, 2), images[i : i + 2]) for i in (0, 2, 4)
            ]
            got = engine.ask(two, wish(METHODS[kind], self.keep))
            yield self.row(f"{kind}, two images", got, self.want(two, METHODS[kind], self.keep))
        listed = [8, 24]
        got = engine.ask(two, {"method": "soft_greedyprune", "keep": listed})
        yield self.row("a budget for each image", got, self.want(two, METHODS["question"], listed))
        if self.name in TOTALS:
            got = engine.ask(two, {"method": "soft_greedyprune", "keep": "total:40"})
            yield self.row("a total of two images", got, self.want(two, METHODS["question"], gp.Total(40)))
        budgets: list[Any] = [8, 16, 36, gp.Ratio(0.5), 1000, 12, 24, 4]
        kinds = ["text-free", "question"] * 4
        got = engine.ask(self.prompts[:8], [wish(METHODS[k], b) for k, b in zip(kinds, budgets, strict=True)])
        want = [self.want([p], METHODS[k], b)[0] for p, k, b in zip(self.prompts, kinds, budgets, strict=False)]
        lengths = [len(each.prompt_token_ids) for each in engine.last]
        yield self.row("8 at once, each its own budget and method", got, want, note=f"{lengths} tokens")
        got = [engine.ask(self.prompts[:1], wish(METHODS["question"], k))[0] for k in (24, 8, 24)]
        want = [self.want(self.prompts[:1], METHODS["question"], k)[0] for k in (24, 8, 24)]
        yield self.row("one image and question, keep 24, 8, 24", got, want)
        engine.forget()
        question = self.pairs[1].question
        chat: Prompt = (self.oracle.text(self.pairs[0].question, turns=[("yes", question)]), self.prompts[0][1])
        both = [self.prompts[0], chat]
        got = [engine.ask([prompt], wish(METHODS["question"], self.keep))[0] for prompt in both]
        row = self.row(
            "a later turn", got, self.want(both, METHODS["question"], self.keep), note=f"{len(engine.seen)} selections"
        )
        # A template without a token at the end of a user's turn takes the answer into the question.
        yield row if len(engine.seen) == (2 if self.name == "llava" else 1) else replaced(row)
        engine.forget()
        reading = gp.SoftGreedyPrune(text="chat_max")
        got = [engine.ask([prompt], wish(reading, self.keep))[0] for prompt in both]
        row = self.row("a later turn, by the chat", got, self.want(both, reading, self.keep))
        yield row if len(engine.seen) == 2 else replaced(row)
        engine.forget()
        got = engine.ask(self.prompts)
        yield self.row("the server's own options", got, self.wanted["text-free"])

    def methods(self, engine: Engine) -> Iterator[Row]:
        """Every method that runs in vLLM."""
        named = [as_method(name) for name in self.able] + [
            gp.GreedyPrune(text="question_mean"), gp.MMR(text="question_max"), gp.Saliency(text="question_mean"),
        ]  # fmt: skip
        for method in named:
            engine.forget()
            if self.name in GRIDLESS and any(isinstance(need, gp.Grid) for need in method.needs):
                yield self.refused(engine, {"method": gp.to_plain(method), "keep": 8})
                continue
            got = engine.ask(self.prompts[:4], wish(method, self.keep))
            rows, want = [each for _, each in engine.seen], self.want(self.prompts[:4], method, self.keep)
            shown = f"method {gp.to_plain(method)['type']}"
            yield self.row(shown, got, want, None if method.merges else rows)

    def controls(self, engine: Engine) -> Iterator[Row]:
        """What a mistake would do: without the digest in the key, and without the positions of kept tokens."""
        image, questions = self.pairs[0].image, [each.question for each in self.pairs]
        prompts: list[Prompt] = [(self.oracle.text(question), [image]) for question in questions]
        want = self.want(prompts, METHODS["question"], 12)
        own = plans.Plan.digest
        plans.Plan.digest = property(lambda self: "")  # type: ignore[assignment]
        try:
            engine.forget()
            got = [engine.ask([prompt], wish(METHODS["question"], 12))[0] for prompt in prompts]
        finally:
            plans.Plan.digest = own  # type: ignore[method-assign]
            seen = len(engine.seen)
        yield self.control("control: no digest in the key", got, want, f"{seen} selections")
        if "tower" in self.kinds:
            yield self.blind(engine)
        engine.forget()
        half = gp.Ratio(0.5)
        if POSITIONS[self.name] == "compact":
            got = engine.ask(self.prompts, wish(METHODS["question"], half))
            want = self.want(self.prompts, METHODS["question"], half, "original")
            yield self.control("control: original positions", got, want)
            return
        from greedyprune.engines.vllm.mrope import CHANNELS, PrunesMRoPE

        def forgetful(self: Any, input_ids: Any, multimodal_embeddings: Any, mrope_positions: Any, **_: Any) -> Any:
            plain = [rows[:, :-CHANNELS] for rows in multimodal_embeddings]
            return plain, mrope_positions, int(mrope_positions.max()) + 1 - len(input_ids)

        written = PrunesMRoPE.recompute_mrope_positions
        PrunesMRoPE.recompute_mrope_positions = forgetful  # type: ignore[method-assign]
        try:
            got = engine.ask(self.prompts, wish(METHODS["question"], half))
        finally:
            PrunesMRoPE.recompute_mrope_positions = written  # type: ignore[method-assign]
        want = self.want(self.prompts, METHODS["question"], half)
        yield self.control("control: positions left out", got, want)
        engine.forget()

    def blind(self, engine: Engine) -> Row:
        """What a mistake in the tower would do: cues of its first layer."""
        own = Tower.placed
        Tower.placed = lambda self, need: replace(own(self, need), layer=0)  # type: ignore[method-assign]
        try:
            engine.forget()
            got = engine.ask(self.prompts, wish(METHODS["tower"], self.keep))
        finally:
            Tower.placed = own  # type: ignore[method-assign]
        return self.control("control: cues of another layer of the tower", got, self.wanted["tower"])

    def control(self, check: str, got: list[Answer], want: list[Answer], note: str = "") -> Row:
        """One line: passed if answers differ, by log-probabilities at least."""
        far, same = max(map(moved, got, want)), sum(a.tokens == b.tokens for a, b in zip(got, want, strict=True))
        return Row(self.name, check, len(got), same, "", far, far > FAR, note)

    def bad(self, engine: Engine) -> Iterator[Row]:
        """Wrong options are refused with a ValueError, NaN is thinned out evenly, and the engine lives on."""
        for asked in ({"kep": 3}, {"keep": 0}, {"keep": -3}, {"keep": 64, "method": "fastv"}, {"keep": [1, 2, 3]}):
            yield self.refused(engine, asked)
        model = engine.runner.model
        own = model.unpruned
        model.unpruned = lambda fields: [rows * float("nan") for rows in own(fields)]
        engine.forget()
        try:
            engine.ask(self.prompts[:2], wish(METHODS["text-free"], 7))
        finally:
            del model.unpruned
        even = [[(2 * i + 1) * n // 14 for i in range(7)] for n in map(self.size, self.prompts[:2])]
        rows = [each for _, each in engine.seen]
        yield Row(self.name, "NaN is thinned out evenly", 2, 0, len(rows), 0.0, rows == even)
        engine.forget()
        got = engine.ask(self.prompts, wish(METHODS["question"], self.keep))
        yield self.row("alive after all this", got, self.wanted["question"])

    def refused(self, engine: Engine, asked: Any) -> Row:
        """One line: passed if a request is refused with a sentence of greedyprune's."""
        try:
            engine.ask(self.prompts[:1], asked)
            said = "accepted"
        except ValueError as error:
            said = str(error)
        return Row(self.name, f"refused: {asked}", 1, 0, "", 0.0, "greedyprune: " in said, said[:120])

    def chunks(self) -> Iterator[Row]:
        """Steps of 32 tokens, which split an image."""
        engine = Engine(
            self.folder, ARCHITECTURES[self.name], {}, max_num_batched_tokens=CHUNK, enable_chunked_prefill=True,
            max_num_seqs=4,
        )  # fmt: skip
        steps: list[int] = []
        own = engine.runner._gather_mm_embeddings

        def gather(*args: Any, **more: Any) -> Any:
            found = own(*args, **more)
            steps.extend(rows.shape[0] for rows in found[0])
            return found

        engine.runner._gather_mm_embeddings = gather
        few, half = self.prompts[:10], gp.Ratio(0.5)
        for kind in ("text-free", "question"):
            want, asked = self.want(few, METHODS[kind], half), wish(METHODS[kind], half)
            engine.forget()
            steps.clear()
            got = [engine.ask([prompt], asked)[0] for prompt in few]
            note = f"rows of a step: {steps[:4]}"
            yield self.row(f"{kind}, steps of {CHUNK} tokens", got, want, [each for _, each in engine.seen], note)
            engine.forget()
            yield self.row(f"{kind}, steps of {CHUNK} tokens, together", engine.ask(few, asked), want)
            yield self.row(f"{kind}, steps of {CHUNK} tokens, cached", engine.ask(few, asked), want)

    def uncached(self) -> Iterator[Row]:
        """Neither a cache of processed images nor one of prefixes."""
        engine = Engine(self.folder, ARCHITECTURES[self.name], {}, mm_processor_cache_gb=0, enable_prefix_caching=False)
        for kind in ("text-free", "question"):
            got = engine.ask(self.prompts, wish(METHODS[kind], self.keep))
            yield self.row(f"{kind}, no caches", got, self.wanted[kind])

    def starts(self) -> Iterator[Row]:
        """Wrong options of a server, which end its start."""
        wrong: list[tuple[Any, dict[str, Any], str]] = [
            ({"kep": 64}, {}, "there is no option 'kep'"),
            ({"keep": 0}, {}, "leaves nothing"),
            ({"keep": 64, "method": "fastv"}, {}, "cannot run in vLLM"),
            ({"keep": 64}, {"video_pruning_rate": 0.5}, "--video-pruning-rate cannot be combined"),
        ]
        for options, settings, reason in wrong:
            try:
                Engine(self.folder, ARCHITECTURES[self.name], options, **settings)
                said = "started"
            except (ValueError, RuntimeError) as error:
                said = str(error)
            yield Row(self.name, f"no start: {options} {settings}", 0, 0, "", 0.0, reason in said, said[-120:])

    def want(self, prompts: list[Prompt], method: gp.Method | None, keep: Any, *positions: Any) -> list[Answer]:
        """The answers of transformers. `positions`: others than those of vLLM."""
        return [self.oracle.answer(images, text, method, keep, *positions) for text, images in prompts]

    def size(self, prompt: Prompt) -> int:
        """The number of visual tokens of a prompt."""
        text, images = prompt
        inputs = self.oracle.processor(images=images, text=text, return_tensors="pt")
        return sum(each.n for each in gp.images(self.oracle.model, inputs))


def replaced(row: Row) -> Row:
    """The same line, failed."""
    return replace(row, passed=False)
