"""A server under load, in a process of its own: many clients, some of them hostile, and at the end SIGTERM.

    python tests/tools/soak.py --clients 32 --requests 200

Every good request must be answered as `generate` answers it, every hostile one must get a 4xx, and the memory of the
server must not grow. `make soak` runs it, and schemathesis on the server's OpenAPI.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import torch

import greedyprune as gp
from served import items, url_of

NAME = "bundled"
BUDGETS = (9, "1/4", 100)
HOSTILE = 0.05
"""The share of hostile requests."""
GROWTH = 1.02
"""The largest ratio of the server's memory at the end and in the middle."""


@contextmanager
def started(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own. -> process, address"""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "greedyprune", "serve", "--port", str(port), *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            with plain(url) as client:
                for _ in range(6000):  # ten minutes: a busy machine takes long to import torch
                    try:
                        if process.poll() is not None or client.get("/health").status_code == 200:
                            break
                    except httpx.TransportError:
                        time.sleep(0.1)
            assert process.poll() is None, "the server did not start"
            yield process, url
        finally:
            if process.poll() is None:
                process.kill()


def plain(url: str) -> httpx.Client:
    """A client without certificates, which take long to load."""
    return httpx.Client(base_url=url, timeout=300, verify=False)


def body(number: int, **more: Any) -> dict[str, Any]:
    """A good request about one of `items`."""
    item = items()[number]
    parts = [{"type": "image_url", "image_url": {"url": url_of(item.image)}}]
    content = [*parts, {"type": "text", "text": item.question.text}]
    return {"model": NAME, "messages": [{"role": "user", "content": content}], **more}


def expected() -> dict[tuple[int, object], tuple[str, int]]:
    """What `generate` says, and how many tokens stay, for every item and budget."""
    model, processor = gp.testbed.load()
    found: dict[tuple[int, object], tuple[str, int]] = {}
    with gp.prune(model, keep=9) as pruned, torch.inference_mode():
        for number, item in enumerate(items()):
            text = gp.testbed.prompt(processor, item.question.text)
            inputs = processor(images=item.image, text=text, return_tensors="pt")
            for keep in BUDGETS:
                request = pruned.request(keep=keep)
                out = request.generate(**inputs, do_sample=False, max_new_tokens=8)
                told = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
                found[number, keep] = (told, request.report().kept)
    return found


def hostile(client: httpx.Client, drawn: random.Random) -> str | None:
    """Send a hostile request. -> what is wrong with the answer; None if it is a 4xx, or if nobody waited for one"""
    kind = drawn.randrange(7)
    if kind == 0:
        address = client.base_url
        with socket.create_connection((address.host, address.port or 80)) as half:
            half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{")
        return None
    good = body(0)
    damaged = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    bad: dict[str, Any] = [
        {"content": b"{" * 5000},
        {"json": {**good, "greedyprune": {"keep": 0}}},
        {"json": {**good, "greedyprune": {"method": "os:system"}}},
        {"json": {**good, "n": 3}},
        {"content": b" " * 3 * 2**20},
        {"json": {**good, "messages": [{"role": "user", "content": [damaged]}]}},
    ][kind - 1]
    answer = client.post("/v1/chat/completions", **bad)
    return None if 400 <= answer.status_code < 500 else f"hostile {kind}: {answer.status_code} {answer.text[:200]}"


def good(client: httpx.Client, drawn: random.Random, right: dict[tuple[int, object], tuple[str, int]]) -> str | None:
    """Send a good request. -> what is wrong with the answer"""
    number, keep = drawn.choice(list(right))
    answer = client.post("/v1/chat/completions", json=body(number, greedyprune={"keep": keep}))
    if answer.status_code != 200:
        return f"good: {answer.status_code} {answer.text[:200]}"
    found = answer.json()
    told = found["choices"][0]["message"]["content"], found["usage"]["visual_tokens_kept"]
    return None if told == right[number, keep] else f"item {number}, keep {keep}: {told}, not {right[number, keep]}"


def memory(process: subprocess.Popen[str]) -> int:
    """The memory of a process in KiB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def load(process: subprocess.Popen[str], url: str, clients: int, requests: int) -> tuple[list[str], list[int]]:
    """Send `requests` by each of `clients`. -> what went wrong, and the server's memory along the way"""
    right, faults, sizes, lock = expected(), list[str](), list[int](), threading.Lock()

    def one(seed: int) -> None:
        drawn = random.Random(seed)
        with plain(url) as client:
            for _ in range(requests):
                bad = drawn.random() < HOSTILE
                fault = hostile(client, drawn) if bad else good(client, drawn, right)
                with lock:
                    sizes.append(memory(process))
                    faults.extend([fault] if fault else [])

    with ThreadPoolExecutor(clients) as pool:
        for each in [pool.submit(one, seed) for seed in range(clients)]:
            each.result()
    return faults, sizes


def inside(client: httpx.Client) -> int:
    """How many requests the server holds."""
    lines = client.get("/metrics").text.splitlines()
    return int(float(next(line for line in lines if line.startswith("greedyprune_requests_inside")).split()[1]))


def stopped(process: subprocess.Popen[str], url: str, clients: int) -> list[str]:
    """Send SIGTERM while requests run. -> what went wrong: all that were inside must be answered, and it must end"""

    def one(number: int) -> int:
        try:
            with plain(url) as client:
                return client.post("/v1/chat/completions", json=body(number % len(items()))).status_code
        except httpx.TransportError:
            return 0  # it came too late

    with ThreadPoolExecutor(clients) as pool, plain(url) as watch:
        asked = [pool.submit(one, number) for number in range(clients)]
        held = 0
        while held < max(2, clients // 2) and not all(each.done() for each in asked):
            held = inside(watch)
        done = sum(each.done() for each in asked)
        process.send_signal(signal.SIGTERM)
        statuses = [each.result() for each in asked]
    answered = statuses.count(200)
    status = process.wait(120)
    faults = [] if set(statuses) <= {0, 200} else [f"after SIGTERM: {statuses}"]
    faults += [] if answered >= max(held, done) else [f"{held} were inside, and {answered} were answered"]
    return faults + ([] if status == 0 else [f"the server ended with status {status}"])


def main() -> None:
    """Run it, and exit with status 1 if anything went wrong."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clients", type=int, default=32)
    options.add_argument("--requests", type=int, default=200)
    options.add_argument("--schema", action="store_true", help="run schemathesis on the OpenAPI, too")
    given = options.parse_args()
    with started("--max-body-mb", "1", "--queue", "256") as (process, url):
        if given.schema:
            tool = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{url}/openapi.json"]
            with TemporaryDirectory() as empty:  # it would try again there what it once found
                subprocess.run([*tool, *SCHEMA], check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}, cwd=empty)
        begun = time.monotonic()
        faults, sizes = load(process, url, given.clients, given.requests)
        print(f"{len(sizes)} requests in {time.monotonic() - begun:.0f} s, {len(faults)} faults")
        middle, end = max(sizes[len(sizes) // 2 :][: given.clients]), max(sizes[-given.clients :])
        print(f"memory {middle / 1024:.0f} MiB in the middle, {end / 1024:.0f} MiB at the end")
        if end > GROWTH * middle:
            faults.append(f"the memory grew by {100 * (end / middle - 1):.1f} %")
        faults += stopped(process, url, given.clients)
    print("\n".join(faults) or "all requests were answered as they must be")
    sys.exit(bool(faults))


SCHEMA = (
    *("--exclude-checks", "positive_data_acceptance", "--max-examples", "40"),
    *("--request-timeout", "120", "--seed", "1", "--no-color"),
)
"""A body that fits the schema may still be refused: its model, picture or budget may not exist."""

if __name__ == "__main__":
    main()
