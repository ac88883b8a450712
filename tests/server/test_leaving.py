"""Clients that leave, requests that wait too long, queues that are full, and servers that are told to stop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

import greedyprune as gp
from served import NAME, Served, about, said, served

pytest.importorskip("sklearn")
pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def loaded() -> tuple[object, object]:
    return gp.testbed.load()


@pytest.fixture
def llava(loaded: tuple[object, object]) -> Iterator[Served]:
    with served(*loaded, queue=3, batch=1, window_ms=0) as found:
        yield found


def test_who_leaves_while_waiting_or_running_is_not_worked_for(llava: Served) -> None:
    ran: list[int] = []
    hook = llava.model.register_forward_pre_hook(lambda *_: ran.append(1))
    with llava.held() as gate, ThreadPoolExecutor(2) as pool:
        running = httpx.Client(base_url=llava.url, timeout=1, verify=False)
        waiting = httpx.Client(base_url=llava.url, timeout=1, verify=False)
        body = {"model": NAME, "messages": [about(0)]}
        first = pool.submit(running.post, "/v1/chat/completions", json=body)
        llava.until(lambda: len(ran) == 1)  # it is in its first forward
        second = pool.submit(waiting.post, "/v1/chat/completions", json={**body, "stream": True})
        for gone in (first, second):
            with pytest.raises(httpx.ReadTimeout):
                gone.result()
        running.close()
        waiting.close()
        llava.until(lambda: llava.service.room.inside == 0)  # nobody holds a place in the queue
        gate.release(1)
        llava.until(lambda: not len(llava.service.waiting))
    assert len(ran) == 1  # the forward that ran when both left, and none after it
    hook.remove()
    expected, _ = llava.reference(1)
    assert llava.ask(about(1)).choices[0].message.content == expected


def test_a_full_queue_says_when_to_come_again(llava: Served) -> None:
    with llava.held() as gate, ThreadPoolExecutor(3) as pool:
        inside = [pool.submit(llava.ask, said("user", "what color ?")) for _ in range(3)]
        llava.until(lambda: llava.service.room.inside == 3)
        with pytest.raises(openai.RateLimitError) as full:
            llava.ask(said("user", "what color ?"))
        assert int(full.value.response.headers["Retry-After"]) >= 1
        assert llava.http.get("/health").status_code == 200
        gate.release(10_000)
        assert [each.result().choices[0].finish_reason for each in inside] == ["stop"] * 3
    assert llava.ask(said("user", "what color ?")).choices[0].finish_reason == "stop"


def test_an_answer_that_takes_too_long_is_an_error_by_name(loaded: tuple[object, object]) -> None:
    with served(*loaded, timeout=1.0, batch=1) as found, found.held() as gate:
        stream = found.ask(about(0), stream=True)
        with pytest.raises(openai.APIError, match="took longer"):
            list(stream)
        late = found.post(messages=[about(0)])
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        gate.release(10_000)
        found.until(lambda: found.service.room.inside == 0)


def test_a_body_that_never_ends_does_not_hold_a_place(loaded: tuple[object, object]) -> None:
    with served(*loaded, timeout=1.0, queue=1) as found:
        with socket.create_connection(("127.0.0.1", int(found.url.rpartition(":")[2]))) as slow:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
            found.until(lambda: found.service.room.inside == 1)
            assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        found.until(lambda: found.service.room.inside == 0)


def test_what_is_inside_is_answered_when_the_server_stops(loaded: tuple[object, object]) -> None:
    with ThreadPoolExecutor(3) as pool:
        with served(*loaded, batch=1) as found:
            expected, _ = found.reference(0)
            with found.held() as gate:
                asked = [pool.submit(found.ask, about(0)) for _ in range(2)]
                stream = found.ask(about(0), stream=True)
                found.until(lambda: found.service.room.inside == 3)
                found.server.should_exit = True
                read = pool.submit(lambda: "".join(c.choices[0].delta.content or "" for c in stream if c.choices))
                threading.Timer(0.5, gate.release, [10_000]).start()
                time.sleep(0.3)
                assert not any(each.done() for each in asked)
                told = [each.result().choices[0].message.content for each in asked]
                assert [*told, read.result()] == [expected] * 3
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{found.url}/health", verify=False)
    gp.prune(found.model, keep=9).remove()  # the model is as it was
