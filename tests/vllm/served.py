"""`vllm serve` in processes of its own, asked over HTTP by the client of OpenAI."""

from __future__ import annotations

import base64
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
from checks import TOTALS, Checks, Row
from reference import METHODS, TOKENS

import greedyprune as gp

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT: int = free.getsockname()[1]
BAD: list[Any] = [
    {"keep": -3}, {"kep": 3}, {"keep": 0}, {"keep": [8, 8, 8]}, {"keep": "total:0"}, {"keep": "64 per layer"},
    {"detail": "middle"}, {"method": "fastv"}, {"method": {"type": "prumerge", "adaptive": True}},
    {"method": "os:system"}, {"at": "layer:2"}, "25%",
]  # fmt: skip
_PIXELS = {"size": {"shortest_edge": 7 * 7 * 2000, "longest_edge": 7 * 7 * 8000}}
_TILES = {"size": {"longest_edge": 6 * 56}}
LARGE: dict[str, dict[str, Any]] = {
    "qwen": _PIXELS, "qwen2_vl": _PIXELS, "qwen3_vl": _PIXELS, "idefics3": _TILES, "smolvlm": _TILES,
    "internvl": {"min_patches": 8, "max_patches": 12},
}  # fmt: skip
"""Options of a model's own processor that make an image of more tokens than the server's largest has."""


def served(checks: Checks) -> Iterator[Row]:
    """Answers over HTTP against those of transformers, budgets of requests, and wrong requests."""
    name, pairs = checks.name, checks.pairs[:8]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none", timeout=300, max_retries=0)

    def ask(images: Any, question: str, options: Any = None, more: Any = None) -> tuple[str, int]:
        each = images if isinstance(images, list) else [images]
        content: list[Any] = [{"type": "image_url", "image_url": {"url": _url(image)}} for image in each]
        content.append({"type": "text", "text": question})
        extra = {} if options is None else {"mm_processor_kwargs": {"greedyprune": options, **(more or {})}}
        done = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": content}], max_tokens=TOKENS, temperature=0,
            extra_body=extra,
        )  # fmt: skip
        assert done.usage is not None
        return str(done.choices[0].message.content).strip(), done.usage.prompt_tokens

    def wanted(images: Any, question: str, keep: Any, kind: str = "question") -> str:
        each = images if isinstance(images, list) else [images]
        found = checks.oracle.answer(each, checks.oracle.text(question, len(each)), METHODS[kind], keep)
        return checks.oracle.processor.decode(found.tokens, skip_special_tokens=True).strip()

    def row(check: str, got: list[tuple[str, int]], want: list[str]) -> Row:
        same = sum(text == other for (text, _), other in zip(got, want, strict=True))
        return Row(name, check, len(got), same, "", 0.0, same == len(got), f"{[tokens for _, tokens in got]} tokens")

    server = _serve(checks)
    try:
        _wait(server, Path(f"{checks.folder}-serve.log"))
        want = [wanted(*pair, checks.keep) for pair in pairs]
        with ThreadPoolExecutor(8) as pool:
            yield row("HTTP, 8 at once", list(pool.map(lambda pair: ask(*pair), pairs)), want)
        yield row("HTTP, again, one at a time", [ask(*pair) for pair in pairs], want)
        budgets: list[Any] = [8, 16, 36, "50%", 1000, 12, {"type": "ratio", "share": 0.1}, 4]
        want = [wanted(*pair, gp.parse_keep(keep)) for pair, keep in zip(pairs, budgets, strict=True)]
        with ThreadPoolExecutor(8) as pool:
            both = zip(pairs, budgets, strict=True)
            yield row(
                "HTTP, 8 at once, each its own budget", list(pool.map(lambda p: ask(*p[0], {"keep": p[1]}), both)), want
            )
        yield row("HTTP, detail", [ask(*pairs[0], {"detail": "auto"})], [wanted(*pairs[0], gp.Ratio(0.25))])
        two = [pairs[0].image, pairs[1].image]
        shared = ["total:40"] if name in TOTALS else []
        for listed in ([8, 24], *shared):
            found = [ask(two, pairs[1].question, {"keep": listed})]
            yield row(
                f"HTTP, two images, keep {listed}", found, [wanted(two, pairs[1].question, gp.parse_keep(listed))]
            )
        for kind in (kind for kind in checks.kinds if "tower" in kind):
            options = {"method": gp.to_plain(METHODS[kind])}
            found = [ask(*pair, options) for pair in pairs]
            yield row(f"HTTP, {kind}", found, [wanted(*pair, checks.keep, kind) for pair in pairs])
        bad: list[tuple[Any, Any, Any]] = [(pairs[0].image, wrong, {}) for wrong in BAD]
        bad += [(two, {"keep": "total:40"}, {})] * (not shared)
        if name in LARGE:
            bad.append((pairs[0].image, {"keep": 8}, LARGE[name]))
        for images, wrong, more in bad:
            try:
                said, passed = f"accepted: {ask(images, pairs[0].question, wrong, more)}", False
            except openai.APIStatusError as error:
                said, passed = str(error.message), error.status_code == 400 and "greedyprune: " in str(error.message)
            yield Row(name, f"HTTP 400: {wrong} {more or ''}".strip(), 1, 0, "", 0.0, passed, said[:160])
        yield row("HTTP, alive after all this", [ask(*pairs[0])], [wanted(*pairs[0], checks.keep)])
    finally:
        server.terminate()
        server.wait(120)


def _serve(checks: Checks) -> subprocess.Popen[bytes]:
    """A server whose own method looks at the question, started as docs/vllm.md says."""
    keep = checks.keep if isinstance(checks.keep, int) else f"{100 * checks.keep.share:g}%"
    tools = Path(sys.executable).parent
    command = [
        str(tools / "greedyprune"), "vllm", "serve", str(checks.folder), "--keep", str(keep), "--requests", "--",
        "--served-model-name", checks.name, "--port", str(PORT), "--dtype", "float32", "--enforce-eager",
        "--max-model-len", "512", "--block-size", "32", "--max-num-seqs", "8",
        "--limit-mm-per-prompt", '{"image": 2, "video": 0}',
    ]  # fmt: skip
    assert shutil.which(command[0])
    more = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PATH": f"{tools}:{os.environ['PATH']}"}
    with Path(f"{checks.folder}-serve.log").open("wb") as log:
        return subprocess.Popen(command, env={**os.environ, **more}, stdout=log, stderr=subprocess.STDOUT)


def _wait(server: subprocess.Popen[bytes], log: Path, minutes: int = 20) -> None:
    """Until the server answers."""
    for _ in range(minutes * 30):
        if server.poll() is not None:
            raise RuntimeError(f"the server ended before it answered: {log.read_text()[-3000:]}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5)
            return
        except OSError:
            time.sleep(2)
    raise RuntimeError("the server does not answer")


def _url(image: Any) -> str:
    """A picture as a data URL, without loss."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
