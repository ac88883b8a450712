"""Errors of requests, in OpenAI's form: a status, a type, a code, and a message that says what to do."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from greedyprune.shown import short

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TYPES = {401: "authentication_error", 429: "rate_limit_error"}
"""The type of an error by its status. Others are `invalid_request_error` below 500 and `server_error` above."""
_OURS = ("greedyprune.attach", "greedyprune.choosing", "greedyprune.models", "greedyprune.policy")


class Refused(Exception):
    """A request that gets no answer: its status, code and message.

    raise Refused(404, "model_not_found", "...", param="model")
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        told = str(self).encode("utf-8", "replace").decode("utf-8")
        kind = TYPES.get(self.status, usual)
        return {"error": {"message": told, "type": kind, "param": self.param, "code": self.code}}


def invalid(message: object, param: str | None = None, code: str = "invalid_value") -> Refused:
    """The error for a request that cannot be right: status 400."""
    return Refused(400, code, str(message), param=param)


def of_validation(errors: Iterable[Mapping[str, Any]]) -> Refused:
    """The error that names the field which the schema refuses. Of the branches of a union, the deepest one is meant."""
    found = max(errors, key=lambda error: (error["type"] == "extra_forbidden", len(error["loc"])))
    path = _path(found["loc"])
    param, kind, told = ".".join(map(str, path)) or None, found["type"], found["msg"].rstrip(".")
    if kind == "json_invalid":
        return invalid(f"the body is no JSON: {found.get('ctx', {}).get('error', told)}.", code="invalid_json")
    if kind == "missing":
        return invalid(f"{param or 'the body'} is missing: write it.", param, "missing_field")
    if kind == "extra_forbidden":
        return invalid(f"{short(param or '')} is not known to this server: leave it out.", param, "unknown_field")
    if kind == "union_tag_invalid":
        given = short(str(found.get("ctx", {}).get("tag", "")))
        return invalid(
            f"{param}: a part of type {given!r} is not supported: send text and image_url parts.",
            param,
            "unsupported_content",
        )
    if remedy := UNSUPPORTED.get(str(path[0]) if path else ""):
        return invalid(f"{path[0]} is not supported: {remedy}.", param, "unsupported_parameter")
    return invalid(f"{param or 'the body'}: {told[:1].lower()}{told[1:]}.", param)


UNSUPPORTED: dict[str, str] = {
    "n": "a request gets one answer, leave it out or send several requests",
    "tools": "the server calls no tools, leave it out",
    "tool_choice": "the server calls no tools, leave it out",
    "functions": "the server calls no functions, leave it out",
    "response_format": "answers are free text, leave it out",
    "logprobs": "the server returns no probabilities, leave it out",
    "top_logprobs": "the server returns no probabilities, leave it out",
    "logit_bias": "the server changes no logits, leave it out",
    "frequency_penalty": "the server has no penalties, leave it out",
    "presence_penalty": "the server has no penalties, leave it out",
    "modalities": "answers are text alone, leave it out",
    "audio": "answers are text alone, leave it out",
}
"""Fields of OpenAI's interface that this server refuses unless they ask for nothing, and the remedy."""


def _path(loc: Iterable[object]) -> list[object]:
    """The names of a field and of those around it, without the names that pydantic gives to branches of a union."""
    found: list[object] = []
    for part in loc:
        branch = isinstance(part, str) and ("[" in part or "-" in part or part in ("body", "str", "int"))
        if not branch and found[-1:] != [part]:
            found.append(part)
    return found


def of_run(error: BaseException) -> Refused:
    """The error for an answer that failed in the model. What pruning itself refuses is the request's fault."""
    frames = traceback.extract_tb(error.__traceback__) if error.__traceback__ else []
    last = frames[-1].filename.replace("\\", "/") if frames else ""
    ours = any(f"/{name.replace('.', '/')}" in last for name in _OURS)
    if isinstance(error, (ValueError, TypeError, NotImplementedError)) and ours:
        return invalid(error, "greedyprune", "cannot_prune")
    if type(error).__name__ == "OutOfMemoryError":
        return Refused(503, "out_of_memory", "the model ran out of memory: send fewer or smaller images, or less text.")
    return Refused(500, "model_failed", f"the model failed on this request ({type(error).__name__}).")
