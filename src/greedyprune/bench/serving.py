"""Throughput and time to the first token of `greedyprune serve`, at several budgets and concurrencies, in one run.

Every budget has a server process of its own; all of them are up at a time, and rounds go from one to the next, so a
slow minute of the machine meets all alike. Clients stream their answers.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from greedyprune.bench.calls import Unmeasurable

BUDGETS = ("100%", "1/4", "1/9")
"""What is kept; the first is the dense model."""
CONCURRENCIES = (1, 8, 32)
NAME = "served"
PATIENCE = 300.0
"""Seconds until a server must be up."""


@dataclass(frozen=True)
class Row:
    """One budget at one concurrency."""

    model: str
    parameters: int
    method: str
    keep: str
    tokens: int
    """Visual tokens of a prompt."""
    kept: int
    concurrency: int
    requests: int
    """Answered requests, in all rounds."""
    answer_tokens: float
    """Tokens of an answer, on average."""
    per_second: float
    """Requests that are answered in a second: the median of the rounds."""
    first_ms: float
    """Time to the first token: the median over requests."""
    first_p95_ms: float
    whole_ms: float
    """Time of a whole answer: the median over requests."""
    speedup: float
    """`per_second` over that of all tokens at the same concurrency."""
    first_speedup: float
    """`first_ms` of all tokens over this one."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Told:
    """One streamed answer: seconds to its first token and to its end, and what its usage says."""

    first: float
    whole: float
    usage: dict[str, int]


def measure(
    folder: str,
    bodies: Sequence[dict[str, Any]],
    *,
    name: str,
    parameters: int,
    method: str,
    budgets: Sequence[str] = BUDGETS,
    concurrencies: Sequence[int] = CONCURRENCIES,
    rounds: int = 3,
    each: int = 4,
    threads: int = 1,
) -> list[Row]:
    """Serve a model at every budget, and send `each` requests per client and round, taken from `bodies` in turn.

    Raises Unmeasurable if a server does not start, or refuses a request.
    """
    found: dict[tuple[str, int], list[tuple[float, list[Told]]]] = {}
    with ExitStack() as stack:
        urls = {keep: stack.enter_context(_started(folder, method, keep, threads)) for keep in budgets}
        for url in urls.values():
            _ask(url, bodies[0])  # the first answer of each is not counted
        for _ in range(rounds):
            for concurrency in concurrencies:
                for keep, url in urls.items():
                    found.setdefault((keep, concurrency), []).append(_round(url, bodies, concurrency, each))
    rows: list[Row] = []
    for concurrency in concurrencies:
        dense: Row | None = None
        for keep in budgets:
            row = _row(found[keep, concurrency], (name, parameters, method), keep, concurrency, dense)
            dense = dense or row
            rows.append(row)
    return rows


def _row(
    rounds: list[tuple[float, list[Told]]], model: tuple[str, int, str], keep: str, concurrency: int, dense: Row | None
) -> Row:
    told = [one for _, answers in rounds for one in answers]
    first = sorted(1e3 * one.first for one in told)
    per_second, usage = median(len(answers) / seconds for seconds, answers in rounds), told[0].usage
    return Row(
        *model,
        keep,
        tokens=usage["visual_tokens"],
        kept=usage["visual_tokens_kept"],
        concurrency=concurrency,
        requests=len(told),
        answer_tokens=sum(one.usage["completion_tokens"] for one in told) / len(told),
        per_second=per_second,
        first_ms=median(first),
        first_p95_ms=first[min(len(first) - 1, round(0.95 * len(first)))],
        whole_ms=median(1e3 * one.whole for one in told),
        speedup=per_second / dense.per_second if dense else 1.0,
        first_speedup=dense.first_ms / median(first) if dense else 1.0,
    )


def _round(url: str, bodies: Sequence[dict[str, Any]], concurrency: int, each: int) -> tuple[float, list[Told]]:
    """Send `each` requests from every one of `concurrency` clients. -> seconds, answers"""

    def client(number: int) -> list[Told]:
        return [_ask(url, bodies[(number * each + turn) % len(bodies)]) for turn in range(each)]

    begun = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        told = [one for answers in pool.map(client, range(concurrency)) for one in answers]
    return time.perf_counter() - begun, told


def _ask(url: str, body: dict[str, Any]) -> Told:
    """Stream one answer."""
    more = {"model": NAME, "stream": True, "stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection(url, timeout=600)
    begun, first, usage = time.perf_counter(), 0.0, None
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps({**body, **more}), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise Unmeasurable(f"the server refuses a request: {answer.read(2000).decode(errors='replace')}")
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise Unmeasurable(f"the server failed: {chunk['error']['message']}")
            first = first or time.perf_counter() - begun
            usage = chunk.get("usage") or usage
    finally:
        connection.close()
    if usage is None:
        raise Unmeasurable("the stream ended without its usage.")
    return Told(first, time.perf_counter() - begun, usage)


@contextmanager
def _started(folder: str, method: str, keep: str, threads: int) -> Iterator[str]:
    """A server process. -> host and port"""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--method", method, "--keep", keep, "--name", NAME, "--port", str(port), "--queue", "128"]
    run = f"import torch; torch.set_num_threads({threads}); from greedyprune.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", run, "serve", folder, *options], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    url, until = f"127.0.0.1:{port}", time.monotonic() + PATIENCE
    try:
        while not _is_up(url):
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                said = process.communicate()[1].decode(errors="replace").strip()
                raise Unmeasurable(f"the server with keep={keep} does not start: {said}")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.communicate()


def _is_up(url: str) -> bool:
    connection = http.client.HTTPConnection(url, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def body_of(image: Any, question: str, max_tokens: int) -> dict[str, Any]:
    """A request about a picture."""
    held = io.BytesIO()
    image.save(held, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": max_tokens}


def random_model(folder: Path, seed: int = 0) -> int:
    """Write a LLaVA with random weights, 576 visual tokens of an image, into a folder. -> its parameters

    12 layers of width 768 in the decoder and in the vision tower. It never ends an answer by itself. Processor and
    words are those of the bundled model.
    """
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from greedyprune.testbed import load

    small, processor = load("llava")
    config = LlavaConfig.from_dict(small.config.to_dict())
    shape = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    heads = {"num_key_value_heads": 12, "head_dim": 64, "intermediate_size": 2048, "max_position_embeddings": 2048}
    sight = {"image_size": 336, "intermediate_size": 3072}
    for part, more in ((config.text_config, heads), (config.vision_config, sight)):
        for key, value in {**shape, **more}.items():
            setattr(part, key, value)
    config.image_seq_length = 576
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = None
    processor.image_processor.size = {"shortest_edge": 336}
    processor.image_processor.crop_size = {"height": 336, "width": 336}
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())
