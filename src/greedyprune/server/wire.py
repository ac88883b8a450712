"""The body of a request, as OpenAI's clients write it, with our field `greedyprune`. Nothing is ignored silently."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

COLD = 0.01
"""The temperature below which the likeliest token is taken."""


class Strict(BaseModel):
    """A value whose fields have exactly these types. An unknown field is an error that names it."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(Strict):
    """A text within a message."""

    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    """The address of an image and its `detail`, which names a budget."""

    url: str = Field(min_length=1, description="data:image/png;base64,... or, if the server allows it, https://...")
    detail: Literal["low", "high", "auto"] | None = None


class ImagePart(Strict):
    """An image within a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Strict):
    """One turn of the chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1)]
    name: None = None


class Pruning(Strict):
    """What this request wants instead of the server's own method, budget and place."""

    method: str | dict[str, Any] | None = Field(None, description="A registered name, or a plain dict with its options")
    keep: int | str | list[int | str] | dict[str, Any] | None = Field(None, description='64, "1/4", or one per image')
    at: str | dict[str, Any] | None = Field(None, description="input, layer:2, ...")
    positions: Literal["original", "compact"] | None = None
    restore: Literal["none", "size", "distance", "both"] | None = None
    decay: float | None = Field(None, gt=0, le=1, description="The share that an image keeps with every later turn")
    rows: bool = Field(False, description="True to list the kept tokens of every image")


class StreamOptions(Strict):
    """What a stream holds besides the answer."""

    include_usage: bool = False


class Prompt(Strict):
    """The part of a request that a preview reads."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    greedyprune: Pruning | None = None

    @property
    def wanted_tokens(self) -> int | None:
        """The longest answer that the request allows; None if it does not say."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


def _refuse_true(value: bool) -> bool:
    """Raise ValueError for True. Literal[False] would take 0, too."""
    if value:
        raise ValueError("only false is supported")
    return value


No = Annotated[bool, AfterValidator(_refuse_true), Field(json_schema_extra={"const": False})]
Zero = Annotated[float, Field(ge=0, le=0)]
Empty = Annotated[list[Any], Field(max_length=0)]


class Chat(Prompt):
    """A request for an answer. Fields that the server cannot honour may only hold what asks for nothing."""

    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, takes the likeliest token")
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Accepted, and not read")
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    tools: Empty | None = None
    functions: Empty | None = None
    tool_choice: Literal["none"] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    logprobs: No | None = None
    top_logprobs: None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def samples(self) -> bool:
        """True if tokens are drawn at random. Below `COLD` the likeliest is taken: dividing by less overflows."""
        return self.temperature is not None and self.temperature >= COLD


class Fault(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: Fault


class Sized(BaseModel):
    """The visual tokens of one image, before and after pruning."""

    image: int
    tokens: int
    kept: int
    grid: list[int] | None
    budget: str


class Kept(Sized):
    """One image of an answer. `layer_averaged`: its visual tokens, averaged over decoder layers."""

    layer_averaged: float | None
    rows: list[int] | None = None


class Pruned(BaseModel):
    """What pruning did for an answer, and how many requests ran together."""

    method: str
    at: str
    positions: Literal["original", "compact"]
    batch: int
    images: list[Kept]
    warnings: list[str]


class Usage(BaseModel):
    """The tokens of prompt and answer. `prompt_tokens` and `visual_tokens` are before pruning."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    visual_tokens: int
    visual_tokens_kept: int


class Said(BaseModel):
    """The text of an answer."""

    role: Literal["assistant"]
    content: str


class Choice(BaseModel):
    """The one answer of a request."""

    index: int
    message: Said
    finish_reason: Literal["stop", "length"]
    logprobs: None


class ChatBody(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    greedyprune: Pruned


class CountBody(BaseModel):
    """What a request would take. `exact` is False if the method may keep fewer tokens than counted here."""

    model: str
    prompt_tokens: int
    prompt_tokens_kept: int
    visual_tokens: int
    visual_tokens_kept: int
    exact: bool
    max_tokens: int
    context: int | None
    fits: bool
    method: str
    at: str
    images: list[Sized]
