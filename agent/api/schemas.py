"""The OpenAI wire: requests parsed into structs, responses and errors encoded from structs.

What would change the answer and is not supported is refused by name; everything else that is
unknown is ignored, as OpenAI clients send many harmless fields.
"""

import secrets
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from agent.draft import schema_text
from agent.errors import BadRequest, RequestError
from agent.request import (
    Finished,
    FinishReason,
    MaxTokens,
    Message,
    MinP,
    Penalty,
    Priority,
    RepeatPenalty,
    Seed,
    Stop,
    StopString,
    Temperature,
    Timings,
    TopK,
    TopP,
    Trimmed,
)

# Parameters this release does not have, and the values that ask for nothing; null never does.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}

ANY_OBJECT = '{"type":"object"}'

# ---- requests ------------------------------------------------------------------------------------


class ContentPart(Struct, frozen=True, omit_defaults=True):
    type: str
    text: str | None = None


class ChatMessage(Struct, frozen=True, omit_defaults=True):
    """One turn. Text parts are joined by line breaks; `developer` is OpenAI's newer word for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[ContentPart, ...]
    tool_calls: Any = None


class StreamOptions(Struct, frozen=True):
    include_usage: bool = False


class JsonSchema(Struct, frozen=True, omit_defaults=True):
    """OpenAI's wrapping of a schema. `strict` is taken and not looked at: we always are."""

    schema: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True, omit_defaults=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatCompletionRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of POST /v1/chat/completions. `profile`, `top_k`, `min_p` and
    `repeat_penalty` are extensions.

    `model` is taken and not looked at: a box has one model, and the response names it.
    """

    messages: tuple[ChatMessage, ...]
    model: str | None = None
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repeat_penalty: RepeatPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    response_format: ResponseFormat | None = None
    seed: Seed | None = None
    stop: StopString | Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    profile: str | None = None
    priority: Priority | None = None
    session: str | None = None
    supersede: bool | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        """True when a stream is to end with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def is_one_turn(self) -> bool:
        """True when all it says is one user message, after a system prompt or not."""
        return [m.role for m in self.messages if m.role not in ("system", "developer")] == ["user"]

    def schema_text(self) -> str | None:
        """The JSON text of the schema the answer is to keep to. Raises BadRequest."""
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return None
        if wanted.type == "json_object":
            return ANY_OBJECT
        if wanted.json_schema is None or wanted.json_schema.schema is None:
            param = "response_format.json_schema"
            raise BadRequest(f'{param}: must hold the schema, as {{"schema": ...}}', param=param)
        return schema_text(wanted.json_schema.schema)

    def conversation(self) -> tuple[Message, ...]:
        """The messages in the engine's words. Raises BadRequest for content that is not text."""
        return tuple(_message(index, message) for index, message in enumerate(self.messages))


def parse_request(body: bytes) -> ChatCompletionRequest:
    """The request in a body. Raises BadRequest, with the key in `detail["param"]` where there is one."""
    try:
        tree = msgspec.json.decode(body)
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise BadRequest("the body must be a JSON object")
    for name, harmless in UNSUPPORTED.items():
        if tree.get(name) is not None and tree[name] not in harmless:
            raise BadRequest(f"{name}: is not supported by this release; leave it out", param=name)
    try:
        return msgspec.convert(tree, ChatCompletionRequest)
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        reason = reason.replace("`", "")
        if not path:
            raise BadRequest(reason) from error
        param = path.rstrip("`")
        raise BadRequest(f"{param}: {reason}", param=param) from error


def _message(index: int, message: ChatMessage) -> Message:
    param = f"messages[{index}]"
    if message.tool_calls:
        raise BadRequest(f"{param}.tool_calls: is not supported by this release; leave it out", param=param)
    role: Literal["system", "user", "assistant"] = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return Message(role, message.content)
    return Message(role, "\n".join(_text(param, part) for part in message.content))


def _text(param: str, part: ContentPart) -> str:
    if part.type != "text":
        raise BadRequest(f"{param}.content: {part.type!r} parts are not supported; send text", param=param)
    if part.text is None:
        raise BadRequest(f"{param}.content: a text part must have text", param=param)
    return part.text


# ---- responses -----------------------------------------------------------------------------------


class PromptTokensDetails(Struct, frozen=True):
    cached_tokens: int


class CompletionUsage(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class AssistantMessage(Struct, frozen=True):
    content: str
    role: Literal["assistant"] = "assistant"


class Choice(Struct, frozen=True, kw_only=True):
    """`finish_detail` is an extension: why an answer was cut where OpenAI has no word for it."""

    index: int = 0
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]
    finish_detail: str | UnsetType = UNSET


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """The whole answer. `timings` and `trimmed` are extensions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: CompletionUsage
    timings: Timings
    trimmed: Trimmed | UnsetType = UNSET


class ChunkDelta(Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True, kw_only=True):
    index: int = 0
    delta: ChunkDelta
    finish_reason: Literal["stop", "length"] | None = None
    finish_detail: str | UnsetType = UNSET


class ChatCompletionChunk(Struct, frozen=True, kw_only=True):
    """A piece of a streamed answer; the one with `usage` and `timings` has no choices.

    `trimmed`, an extension, comes with the finish reason.
    """

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: CompletionUsage | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    trimmed: Trimmed | UnsetType = UNSET


class ModelCard(Struct, frozen=True, kw_only=True):
    """`created` is OpenAI's field; a box does not know it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "tampu"


class ModelList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[ModelCard, ...]


class Reply(Struct, frozen=True, kw_only=True):
    """What all parts of one response have in common."""

    id: str
    created: int
    model: str

    def whole(self, text: str, end: Finished) -> ChatCompletion:
        reason, detail = finish_reason(end.finish_reason)
        choice = Choice(message=AssistantMessage(text), finish_reason=reason, finish_detail=detail)
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=(choice,),
            usage=usage(end),
            timings=end.timings,
            trimmed=end.trimmed or UNSET,
        )

    def first(self) -> ChatCompletionChunk:
        return self._chunk(ChunkChoice(delta=ChunkDelta(role="assistant", content="")))

    def piece(self, text: str) -> ChatCompletionChunk:
        return self._chunk(ChunkChoice(delta=ChunkDelta(content=text)))

    def last(self, end: Finished) -> ChatCompletionChunk:
        reason, detail = finish_reason(end.finish_reason)
        chunk = self._chunk(ChunkChoice(delta=ChunkDelta(), finish_reason=reason, finish_detail=detail))
        return msgspec.structs.replace(chunk, trimmed=end.trimmed or UNSET)

    def counts(self, end: Finished) -> ChatCompletionChunk:
        return msgspec.structs.replace(self._chunk(), usage=usage(end), timings=end.timings)

    def _chunk(self, *choices: ChunkChoice) -> ChatCompletionChunk:
        return ChatCompletionChunk(id=self.id, created=self.created, model=self.model, choices=choices)


def make_id() -> str:
    """An id as OpenAI's look, and a name on our wire besides."""
    return f"chatcmpl-{secrets.token_hex(12)}"


def finish_reason(reason: FinishReason) -> tuple[Literal["stop", "length"], str | UnsetType]:
    """OpenAI's word, and ours where it has none.

    OpenAI clients check the word against a closed list. A cancelled or timed-out answer was cut,
    so it is a `length`: `stop` would pass it off as complete.
    """
    match reason:
        case FinishReason.STOP:
            return "stop", UNSET
        case FinishReason.LENGTH:
            return "length", UNSET
        case _:
            return "length", reason.value


def usage(end: Finished) -> CompletionUsage:
    counts = end.usage
    return CompletionUsage(
        prompt_tokens=counts.prompt,
        completion_tokens=counts.completion,
        total_tokens=counts.prompt + counts.completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=counts.cached),
    )


# ---- errors --------------------------------------------------------------------------------------


class ErrorDetail(Struct, frozen=True, kw_only=True):
    """`code` is the wire code of errors.py; `param` names the key that is wrong, if one is."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorBody(Struct, frozen=True):
    error: ErrorDetail

    TYPES: ClassVar[dict[int, str]] = {404: "not_found_error", 429: "rate_limit_error"}

    @classmethod
    def of(cls, error: RequestError) -> "ErrorBody":
        kind = cls.TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
        param = error.detail.get("param")
        return cls(ErrorDetail(message=error.message, type=kind, code=error.code, param=param))


def error_headers(error: RequestError) -> dict[str, str]:
    """Retry-After in whole seconds, rounded up, where trying again helps."""
    if error.retry_after_ms is None:
        return {}
    return {"Retry-After": str(-(-error.retry_after_ms // 1000))}


def encode(value: Struct) -> bytes:
    return msgspec.json.encode(value)
