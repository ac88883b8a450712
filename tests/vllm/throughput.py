"""What pruning saves in a server: requests per second and time to the first token, dense and at budgets.

    python tests/vllm/throughput.py MODEL --out results/vllm/throughput.csv -- --gpu-memory-utilization 0.9

For each budget it starts `vllm serve`, asks about pictures at several concurrencies, and writes one line of figures.
Pictures are drawn anew for every request, so no cache of an image can answer. `--` is followed by options of vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import csv
import io
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import openai
from PIL import Image

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT: int = free.getsockname()[1]
BUDGETS = ("dense", "1/4", "1/9")
FIELDS = (
    "model", "keep", "concurrency", "requests", "prompt_tokens", "requests_per_second", "first_token_median_s",
    "first_token_p95_s", "seconds",
)  # fmt: skip


def picture(size: int, generator: random.Random) -> str:
    """A picture of coarse noise as a data URL; no two are alike."""
    small = Image.frombytes("RGB", (16, 16), generator.randbytes(768))
    buffer = io.BytesIO()
    small.resize((size, size)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


async def one(client: openai.AsyncOpenAI, model: str, url: str, tokens: int) -> tuple[float, int]:
    """Ask once. -> seconds to the first token, tokens of the prompt"""
    content: list[Any] = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it ?"}]
    begun, first, prompt = time.perf_counter(), 0.0, 0
    stream = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], max_tokens=tokens, temperature=0, stream=True,
        stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
    )  # fmt: skip
    async for chunk in stream:
        first = first or time.perf_counter() - begun
        if chunk.usage is not None:
            prompt = chunk.usage.prompt_tokens
    return first, prompt


async def load(model: str, concurrency: int, given: argparse.Namespace) -> dict[str, Any]:
    """Keep so many requests open until all are answered. -> one line of figures"""
    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none", timeout=3600, max_retries=0)
    generator, gate = random.Random(concurrency), asyncio.Semaphore(concurrency)
    count = max(given.requests, 2 * concurrency)
    urls = [picture(given.size, generator) for _ in range(count)]

    async def held(url: str) -> tuple[float, int]:
        async with gate:
            return await one(client, model, url, given.tokens)

    await one(client, model, picture(given.size, random.Random(-1)), given.tokens)  # what is compiled at first use
    begun = time.perf_counter()
    found = await asyncio.gather(*map(held, urls))
    seconds, firsts = time.perf_counter() - begun, sorted(first for first, _ in found)
    return {
        "concurrency": concurrency, "requests": count, "prompt_tokens": found[0][1],
        "requests_per_second": f"{count / seconds:.3f}", "first_token_median_s": f"{statistics.median(firsts):.4f}",
        "first_token_p95_s": f"{firsts[int(0.95 * (count - 1))]:.4f}", "seconds": f"{seconds:.2f}",
    }  # fmt: skip


def served(given: argparse.Namespace, keep: str) -> subprocess.Popen[bytes]:
    """A server, dense or pruned, that answers."""
    tools = Path(sys.executable).parent
    pruned = [str(tools / "greedyprune"), "vllm", "serve", given.model, "--keep", keep, "--method", given.method, "--"]
    dense = [str(tools / "vllm"), "serve", given.model]
    own = ["--served-model-name", "model", "--port", str(PORT)]
    command = [*(dense if keep == "dense" else pruned), *own, *given.vllm]
    server = subprocess.Popen(command, env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"})
    while server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5)
            return server
        except OSError:
            time.sleep(2)
    raise RuntimeError("the server ended before it answered")


def main() -> None:
    """Measure every budget at every concurrency."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model")
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--method", default="soft_greedyprune")
    options.add_argument("--keep", nargs="+", default=list(BUDGETS), help="budgets; dense is vLLM as it is")
    options.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    options.add_argument("--requests", type=int, default=64, help="at each concurrency, at least twice as many as it")
    options.add_argument("--tokens", type=int, default=64, help="of each answer")
    options.add_argument("--size", type=int, default=672, help="side of the pictures in pixels")
    arguments, more = sys.argv[1:], list[str]()
    if "--" in arguments:
        arguments, more = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    given = options.parse_args(arguments)
    given.vllm = more
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for keep in given.keep:
            server = served(given, keep)
            try:
                for concurrency in given.concurrency:
                    figures = asyncio.run(load("model", concurrency, given))
                    writer.writerow({"model": given.model, "keep": keep} | figures)
                    file.flush()
            finally:
                server.terminate()
                server.wait(120)


if __name__ == "__main__":
    main()
