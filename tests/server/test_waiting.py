"""The queue, the joining of inputs, and the text of an answer while it is written, each by itself."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import greedyprune as gp
from greedyprune.eval.engine import padded_left
from greedyprune.server.errors import Refused
from greedyprune.server.jobs import Job
from greedyprune.server.sharing import joined, policy_of
from greedyprune.server.waiting import Room, Waiting
from greedyprune.server.wire import Chat
from greedyprune.server.wishes import Wish
from greedyprune.server.writing import Text


def job(keep: Any = (16,), method: str = "divprune", length: int = 9, **more: Any) -> Job:
    """A job without a client."""
    chat = Chat.model_validate({"model": "m", "messages": [{"role": "user", "content": "?"}], **more})
    ids = torch.ones(1, length).long()
    inputs = {"input_ids": ids, "attention_mask": ids, "pixel_values": torch.zeros(1, 3, 4, 4)}
    prepared: Any = SimpleNamespace(inputs=inputs, spans=[1], wish=Wish(gp.Policy(method, keep), [16], True))
    loop: Any = None  # nothing is told
    return Job(chat, prepared, 0.0, time.monotonic() + 60, loop)


def batches(*jobs: Job, batch: int = 8) -> list[list[Job]]:
    """The batches in which a queue hands out jobs."""
    queue = Waiting(batch, 0.0)
    for each in jobs:
        queue.put(each)
    queue.close()
    found: list[list[Job]] = []
    while taken := queue.take():
        found.append(taken)
    return found


def test_jobs_share_a_batch_if_only_budgets_and_prompts_differ() -> None:
    a, b, c, d = job(), job((9,), length=12), job(method="mmr"), job()
    assert batches(a, c, b, d) == [[a, b, d], [c]]
    assert batches(a, b, d, batch=2) == [[a, b], [d]]
    assert policy_of([a, b]).keep == (16, 9)
    warm, cold, seeded = job(temperature=1.0), job(temperature=0.5), job(temperature=1.0, seed=1)
    assert batches(warm, cold, seeded, a) == [[warm], [cold], [seeded], [a]]
    assert batches(job(temperature=0.0), job(seed=3))[0][1:]  # without sampling a seed changes nothing
    half, other = job(gp.PerLayer({1: 9})), job(gp.PerLayer({1: 8}))
    assert [len(each) for each in batches(half, other, job(gp.PerLayer({1: 9})))] == [2, 1]
    wide = job()
    wide.prepared.inputs["pixel_values"] = torch.zeros(1, 3, 4, 8)
    assert batches(a, wide) == [[a], [wide]]


def test_who_left_is_passed_over_and_a_closed_queue_takes_nobody() -> None:
    gone, first, last = job(), job(), job()
    gone.cancelled = True
    assert batches(gone, first, gone, last) == [[first, last]]
    queue = Waiting(8, 0.0)
    queue.close()
    with pytest.raises(Refused, match="stops"):
        queue.put(job())


def test_a_queue_of_jobs_that_all_left_waits_for_the_next() -> None:
    queue, gone, late = Waiting(8, 0.0), job(), job()
    gone.cancelled = True
    queue.put(gone)
    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(queue.take)
        while len(queue):  # until it has passed over the one that left
            time.sleep(0.001)
        queue.put(late)
        assert taken.result() == [late]
    queue.put(gone)
    queue.close()
    assert queue.take() == []


def test_the_room_is_bounded_and_says_when_to_come_again() -> None:
    room = Room(2, 1)
    room.enter()
    room.enter()
    with pytest.raises(Refused) as full:
        room.enter()
    assert full.value.status == 429
    assert int(full.value.headers["Retry-After"]) >= 1
    room.leave()
    room.enter()


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_joined_inputs_are_those_of_the_processor(name: str) -> None:
    for extra in ("sklearn", "skimage"):
        pytest.importorskip(extra)
    _, processor = gp.testbed.load(name)
    drawn = gp.testbed.sample(3, seed=5)
    texts = [gp.testbed.prompt(processor, each.question) for each in drawn]
    pictures = [each.image for each in drawn]
    assert len({len(text.split()) for text in texts}) > 1
    with padded_left(processor):
        whole = processor(images=pictures, text=texts, return_tensors="pt", padding=True)
    singly = [
        dict(processor(images=[one], text=[text], return_tensors="pt"))
        for one, text in zip(pictures, texts, strict=True)
    ]
    found = joined(singly, processor.tokenizer.pad_token_id)
    assert set(found) == set(whole)
    assert [key for key, value in found.items() if not torch.equal(value, whole[key])] == []


SIGNS = ("a", "b", "ab", " ", "", ". ", "é")


@example(["a", "b"], ["ab"])
@given(st.lists(st.sampled_from(SIGNS), max_size=12), st.lists(st.sampled_from(("ab", "ba", "é", "b b")), max_size=2))
def test_what_a_stream_tells_is_the_whole_text_up_to_the_first_stop(written: list[str], stops: list[str]) -> None:
    def decode(ids: list[int]) -> str:
        return "".join(written[number] for number in ids)

    text, told = Text(decode, stops, streams=True), ""
    for number in range(len(written)):
        told += text.add(number)
        if text.is_stopped:
            break
    whole, rest = text.end()
    everything = "".join(written)
    places = [place for stop in stops if (place := everything.find(stop)) >= 0]
    assert told + rest == whole
    assert text.is_stopped == bool(places)
    if places:
        assert not any(stop in whole for stop in stops)
        assert everything.startswith(whole)
    else:
        assert whole == everything


def test_half_a_character_is_not_told() -> None:
    text = Text(lambda ids: bytes(ids).decode(errors="replace"), [], streams=True)
    assert [text.add(byte) for byte in "é!".encode()] == ["", "é", "!"]
