"""What cannot be answered is refused by name, in OpenAI's form, and never becomes another request's trouble."""

from __future__ import annotations

import base64
import io
import json
import socket
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

import greedyprune as gp
from greedyprune.server import Settings, fetching, make_app
from greedyprune.server.errors import Refused
from served import NAME, Served, about, items, said, served, url_of

pytest.importorskip("sklearn")
pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def llava() -> Iterator[Served]:
    with served(*gp.testbed.load(), new_tokens=32, body_bytes=2**20, pixels=300_000, images=4) as found:
        yield found


def picture(url: object, **more: object) -> dict[str, Any]:
    """A user's turn with an image of this address."""
    content = [{"type": "image_url", "image_url": {"url": url, **more}}, {"type": "text", "text": "how many circles ?"}]
    return {"role": "user", "content": content}


def bomb() -> str:
    """A picture of 20000 x 20000 white pixels in 50 KB."""
    rows = zlib.compress(b"\x00" + b"\xff" * 2500, 9)
    small = io.BytesIO()
    Image.new("1", (8, 8)).save(small, "PNG")
    head = (20_000).to_bytes(4, "big") * 2 + b"\x01\x00\x00\x00\x00"

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    made = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows * 20) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(made).decode()


def moving() -> str:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    return url_of(frames[0], "GIF", save_all=True, append_images=frames[1:])


def nested(depth: int) -> dict[str, Any]:
    """A budget whose share is a budget, and so on."""
    return {"type": "ratio", "share": nested(depth - 1) if depth else 0.5}


GOOD = [about(0)]
OWN = "greedyprune.methods.divprune:DivPrune"
"""A method of somebody's own, as it is named; it would run."""
TIFF = "data:image/tiff;base64," + base64.b64encode(b"II*\x00" * 9).decode()
CASES: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "n": ({"n": 2}, 400, "unsupported_parameter", "n is not supported"),
    "tools": ({"tools": [{"type": "function"}]}, 400, "unsupported_parameter", "tools is not supported"),
    "logprobs": ({"logprobs": True}, 400, "unsupported_parameter", "logprobs is not supported"),
    "no truth": ({"logprobs": 0}, 400, "unsupported_parameter", "logprobs is not supported"),
    "json": ({"response_format": {"type": "json_object"}}, 400, "unsupported_parameter", "response_format"),
    "penalty": ({"frequency_penalty": 0.5}, 400, "unsupported_parameter", "frequency_penalty"),
    "unknown": ({"best_of": 2}, 400, "unknown_field", "best_of is not known"),
    "ours": ({"greedyprune": {"kept": 4}}, 400, "unknown_field", "greedyprune.kept is not known"),
    "type": ({"temperature": "warm"}, 400, "invalid_value", "temperature"),
    "text for a number": ({"max_tokens": "8"}, 400, "invalid_value", "max_tokens"),
    "empty": ({"messages": []}, 400, "invalid_value", "messages"),
    "nobody asks": ({"messages": [*GOOD, said("assistant", "yes")]}, 400, "invalid_value", "not the user's"),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, 400, "invalid_value", "role"),
    "system": ({"messages": [said("system", "be brief"), *GOOD]}, 400, "unsupported_role", "no system turn"),
    "video": (
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]},
        400,
        "unsupported_content",
        "'video_url' is not supported",
    ),
    "assistant's image": (
        {"messages": [{**about(0), "role": "assistant"}, said("user", "what ?")]},
        400,
        "unsupported_content",
        "holds an image",
    ),
    "placeholder": ({"messages": [said("user", "see <image> ?")]}, 400, "reserved_text", "'<image>'"),
    "surrogate": ({"messages": [said("user", "\ud800")]}, 400, "invalid_value", "surrogate"),
    "model": ({"model": "gpt-4"}, 404, "model_not_found", f"this server has '{NAME}'"),
    "method": ({"greedyprune": {"method": "greddyprune"}}, 400, "invalid_value", "did you mean 'greedyprune'"),
    "strange method": ({"greedyprune": {"method": OWN}}, 400, "invalid_value", OWN),
    "strange budget": ({"greedyprune": {"keep": {"type": OWN}}}, 400, "invalid_value", OWN),
    "strange place": ({"greedyprune": {"at": {"type": OWN}}}, 400, "invalid_value", OWN),
    "keep 0": ({"greedyprune": {"keep": 0}}, 400, "invalid_value", "keep=0"),
    "keep 0 %": ({"greedyprune": {"keep": "0%"}}, 400, "invalid_value", "keep=0"),
    "keep beyond": ({"greedyprune": {"keep": 145}}, 400, "invalid_value", "more than image 0 has, 144"),
    "keep beyond in a list": ({"greedyprune": {"keep": [145]}}, 400, "invalid_value", "more than image 0 has, 144"),
    "two budgets": ({"greedyprune": {"keep": [4, 4]}}, 400, "invalid_value", "keep has 2 budgets"),
    "no budget": ({"greedyprune": {"keep": "many"}}, 400, "invalid_value", "'many' is no budget"),
    "place": ({"greedyprune": {"at": "layer:9"}}, 400, "invalid_value", "layer"),
    "no place": ({"greedyprune": {"at": {"type": "ratio", "share": 0.5}}}, 400, "invalid_value", "is no stage"),
    "deep": ({"greedyprune": {"keep": nested(700)}}, 400, "invalid_value", ""),
    "decay": ({"greedyprune": {"decay": 0.0}}, 400, "invalid_value", "greedyprune.decay"),
    "both": ({"messages": [about(0, "low")], "greedyprune": {"keep": 9}}, 400, "invalid_value", "both name its budget"),
    "detail": ({"messages": [about(0, "tiny")]}, 400, "invalid_value", "detail"),
    "long answer": ({"max_tokens": 33}, 400, "invalid_value", "max_tokens=33 is more than this server writes, 32"),
    "long prompt": ({"messages": [about(n) for n in range(4)]}, 400, "context_length_exceeded", "512 positions"),
    "options": ({"stream_options": {"include_usage": True}}, 400, "invalid_value", "stream_options needs stream"),
    "many images": ({"messages": [about(0)] * 5}, 400, "too_many_images", "at most 4"),
    "https": ({"messages": [picture("https://example.com/a.png")]}, 400, "invalid_image_url", "send a data URL"),
    "file": ({"messages": [picture("file:///etc/passwd")]}, 400, "invalid_image_url", "send a data URL"),
    "path": ({"messages": [picture("/etc/passwd")]}, 400, "invalid_image_url", "send a data URL"),
    "no base64": ({"messages": [picture("data:image/png;base64,!!")]}, 400, "invalid_image_url", "no valid base64"),
    "image type": ({"messages": [picture(TIFF)]}, 400, "unsupported_image_type", "'image/tiff'"),
    "hidden type": ({"messages": [picture(TIFF.replace("tiff", "png"))]}, 400, "unsupported_image_type", "known are"),
    "capitals": ({"messages": [picture("DATA:IMAGE/PNG;BASE64,!!")]}, 400, "invalid_image_url", "no valid base64"),
    "damaged": ({"messages": [picture(url_of(items()[0].image)[:-3000])]}, 400, "damaged_image", "image 0"),
    "moving": ({"messages": [picture(moving())]}, 400, "unsupported_image_type", "2 frames"),
    "bomb": ({"messages": [picture(bomb())]}, 413, "image_too_large", "image 0"),
    "pixels of all": (
        {"messages": [picture(url_of(Image.new("L", (400, 400)))), picture(url_of(Image.new("L", (400, 400))))]},
        413,
        "image_too_large",
        "image 1 is not read: it has 400 x 400 pixels, and at most 140000 are left",
    ),
    "body": ({"messages": [said("user", "x" * 2**20)]}, 413, "body_too_large", "1048576 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_bad_request_is_refused_by_name(case: str, llava: Served) -> None:
    more, status, code, told = CASES[case]
    body = json.dumps({"model": NAME, "messages": GOOD, **more})
    found = llava.http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert found.status_code == status, found.text
    error = found.json()["error"]
    assert error["code"] == code, error
    assert told in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_the_official_client_raises_its_own_errors(llava: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="keep=0") as refused:
        llava.ask(about(0), pruning={"keep": 0})
    assert refused.value.param == "greedyprune.keep"
    for field, wrong in (("method", "none"), ("keep", "none"), ("at", "none"), ("at", {"type": "ratio", "share": 0.5})):
        with pytest.raises(openai.BadRequestError) as refused:
            llava.ask(about(0), pruning={field: wrong})
        assert refused.value.param == f"greedyprune.{field}"
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        llava.client.models.retrieve("other")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": NaN}', b"[" * 100_000, b"\xff\xfe"])
def test_a_body_that_is_no_request(body: bytes, llava: Served) -> None:
    found = llava.http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert found.status_code == 400
    assert found.json()["error"]["type"] == "invalid_request_error"


def test_unknown_paths_and_methods_have_the_same_form(llava: Served) -> None:
    assert llava.http.get("/v1/completions").json()["error"]["code"] == "unknown_path"
    wrong = llava.http.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def test_words_that_the_tokenizer_does_not_know_are_told(llava: Served) -> None:
    assert llava.ask(about(0)).greedyprune["warnings"] == []
    strange = llava.ask(about(0, question="is there a zebra ?")).greedyprune["warnings"]
    assert "1 words of the prompt are unknown" in strange[0]


def test_a_request_that_breaks_the_model_harms_no_other(llava: Served) -> None:
    ids = llava.processor.tokenizer("red", add_special_tokens=False)["input_ids"]
    expected = [llava.reference(number)[0] for number in range(3)]

    def break_down(module: object, args: object, given: dict[str, Any]) -> None:
        held = given["input_ids"]
        if held.shape[1] > 1 and any(bool((held == token).any()) for token in ids) and "red" in broken:
            raise RuntimeError("a kernel failed")

    broken = {"red"}
    hook = llava.model.register_forward_pre_hook(break_down, with_kwargs=True)
    questions = [about(0, question="is there a red circle ?"), *(about(number) for number in range(3))]
    assert not any("red" in str(turn["content"][1]["text"]) for turn in questions[1:])
    try:
        with llava.held() as gate, ThreadPoolExecutor(5) as pool:
            first = pool.submit(llava.ask, said("user", "what color ?"))
            llava.until(lambda: llava.service.room.inside == 1 and not len(llava.service.waiting))
            found = [pool.submit(llava.post, messages=[turn]) for turn in questions]
            llava.until(lambda: len(llava.service.waiting) == 4)
            gate.release(10_000)
            answers = [each.result() for each in found]
            first.result()
    finally:
        hook.remove()
    assert [each.status_code for each in answers] == [500, 200, 200, 200]
    error = answers[0].json()["error"]
    assert (error["code"], error["type"]) == ("model_failed", "server_error")
    assert "kernel" not in error["message"]  # what is inside stays inside
    assert [each.json()["choices"][0]["message"]["content"] for each in answers[1:]] == expected


def test_a_stream_whose_model_fails_in_the_middle_ends_with_the_error(llava: Served) -> None:
    expected, _ = llava.reference(1)
    forwards: list[int] = []

    def break_down(*_: object) -> None:
        forwards.append(1)
        if len(forwards) == 2:
            raise RuntimeError("a kernel failed")

    hook = llava.model.register_forward_pre_hook(break_down)
    try:
        stream = llava.ask(about(0), stream=True)
        with pytest.raises(openai.APIError, match="the model failed on this request") as told:
            list(stream)
    finally:
        hook.remove()
    assert told.value.code == "model_failed"
    assert llava.ask(about(1)).choices[0].message.content == expected


def test_the_key_is_asked_for() -> None:
    with served(*gp.testbed.load(), api_key="secret") as found:
        assert found.http.get("/v1/models").status_code == 200
        for key in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            with httpx.Client(base_url=found.url, verify=False) as stranger:
                denied = stranger.get("/v1/models", headers=key)
                assert (denied.status_code, denied.json()["error"]["type"]) == (401, "authentication_error")
                assert stranger.get("/health").status_code == 200


def test_a_model_without_a_chat_template_is_not_served() -> None:
    model, processor = gp.testbed.load()
    processor.chat_template = None
    with pytest.raises(ValueError, match="--chat-template FILE"):
        make_app(model, processor, Settings(name="x"))
    gp.prune(model, keep=9).remove()  # nothing was left behind


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"queue": 0}, "queue=0"), ({"decay": 1.5}, "decay=1.5"), ({"timeout": float("inf")}, "timeout=inf"),
        ({"name": " "}, "name is empty"), ({"api_key": " k"}, "api_key"), ({"prompt_tokens": 0}, "prompt_tokens=0"),
        ({"window_ms": -1}, "window_ms=-1"),
    ],
)  # fmt: skip
def test_settings_out_of_range(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Settings(**{"name": "x", **wrong})
    assert "secret" not in repr(Settings(name="x", api_key="secret"))


PRIVATE = (
    "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::a00:1",
    "2002:a00:1::", "nonsense",
)  # fmt: skip


def test_private_addresses_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [address for address in PRIVATE if fetching.is_public(address)] == []
    assert fetching.is_public("93.184.216.34")
    assert fetching.is_public("2606:2800:220:1::1")

    def resolved(*addresses: str) -> None:
        found = [(2, 1, 6, "", (address, 443)) for address in addresses]
        monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *_, **__: found)

    for addresses in (("10.0.0.1",), ("93.184.216.34", "127.0.0.1"), ()):
        resolved(*addresses)
        with pytest.raises(Refused, match="no public address"):
            fetching.fetch("https://evil.example/a.png", 100, 1e12)
    for url in ("https://user:pw@a.example/", "https://a.example:22/", "https:///a", "https://[::1/"):
        with pytest.raises(Refused, match="image_url"):
            fetching.fetch(url, 100, 1e12)


def test_a_fetch_connects_to_the_checked_address_within_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without encryption here: the certificate is checked against the name, by the standard library."""
    answers = {"/ok": b"HTTP/1.1 200 OK\r\n\r\npixels", "/away": b"HTTP/1.1 302 Found\r\nLocation: /ok\r\n\r\n"}
    named: list[str | None] = []
    lookups: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float) -> Any:
        lookups.append(address)
        mine, theirs = socket.socketpair()
        mine.settimeout(timeout)
        served_by[0].submit(answer, theirs)
        return mine

    def answer(theirs: socket.socket) -> None:
        with theirs:
            path = theirs.recv(4096).split()[1].decode()
            theirs.sendall(answers[path])

    def wrap(plain: socket.socket, server_hostname: str | None = None) -> socket.socket:
        named.append(server_hostname)
        return plain

    context: Any = SimpleNamespace(wrap_socket=wrap)
    monkeypatch.setattr(fetching.Connection, "__init__", plain_connection(context))
    monkeypatch.setattr(fetching.socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("93.184.216.34", 443))])
    monkeypatch.setattr(fetching.socket, "create_connection", connect)
    with ThreadPoolExecutor(1) as pool:
        served_by = [pool]
        assert fetching.fetch("https://a.example/ok", 6, 1e12) == b"pixels"
        with pytest.raises(Refused, match="more than 5 bytes"):
            fetching.fetch("https://a.example/ok", 5, 1e12)
        with pytest.raises(Refused, match="redirects are not followed"):
            fetching.fetch("https://a.example/away", 6, 1e12)
        with pytest.raises(Refused, match="too long"):
            fetching.fetch("https://a.example/ok", 6, 0.0)
    assert set(lookups) == {("93.184.216.34", 443)}
    assert set(named) == {"a.example"}


def plain_connection(context: Any) -> Any:
    """The constructor of a connection whose encryption is `context`."""

    def init(self: Any, host: str, address: str, timeout: float) -> None:
        fetching.http.client.HTTPConnection.__init__(self, host, 443, timeout=timeout)
        self._checked, self._tls = address, context

    return init
