"""What devices send: payloads parsed into structs, and what is wrong with them."""

import secrets
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from agent.draft import Draft, schema_text
from agent.errors import BadRequest, RequestError, TooLarge, UnsupportedVersion
from agent.mqtt.names import is_name
from agent.request import (
    MaxTokens,
    Message,
    MinP,
    Penalty,
    Priority,
    RepeatPenalty,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
)

T = TypeVar("T")

VERSION = 1
MAX_CORRELATION_BYTES = 128
Ttl = Annotated[float, Meta(gt=0, le=86400 * 365)]
# Fields of the contract that would change the answer and that this release does not know yet.
UNSUPPORTED = ("max_frame",)


class RequestPayload(Struct, frozen=True, kw_only=True):
    """A JSON request. Unknown fields are ignored, known ones must have their type."""

    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    profile: str | None = None
    system: str | None = None
    stream: bool = True
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repeat_penalty: RepeatPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    schema: dict[str, Any] | None = None
    stop: Stop = field(default_factory=list)
    ttl_s: Ttl | None = None
    priority: Priority | None = None
    session: str | None = None
    supersede: bool = False
    format: Literal["json", "text"] = "json"


class CancelPayload(Struct, frozen=True):
    id: str | None = None
    all: bool = False


class GetPayload(Struct, frozen=True):
    id: str


class CtlPayload(Struct, frozen=True, kw_only=True):
    """An operator's question; the verb is in the topic. An `id` is made where none is given.

    `lines` is for `log`, `name` and `variant` are for `select`.
    """

    id: str | None = None
    lines: Annotated[int, Meta(ge=1, le=1000)] = 50
    name: str | None = None
    variant: str | None = None


class Envelope(Struct, frozen=True, kw_only=True):
    """What can be known of a request before its fields are right: how to name it and where to answer."""

    id: str
    is_id_given: bool = False
    reply_to: str | None = None
    reply_qos: int = 0
    is_text_wanted: bool = False
    tree: dict[str, Any] | None = None
    text: str = ""


def rename(envelope: Envelope, request_id: str) -> Envelope:
    """The same request under another id."""
    return msgspec.structs.replace(envelope, id=request_id)


def make_id() -> str:
    """An id for a request that brought none."""
    return secrets.token_hex(8)


def open_envelope(payload: bytes, *, is_json: bool, max_bytes: int) -> tuple[Envelope, RequestError | None]:
    """Name, reply route and raw content of a request, and what is wrong with them, if anything.

    A payload whose first non-blank byte is `{`, or that is declared as JSON, must parse; any other
    valid UTF-8 is itself the prompt. An error still has an envelope, to be answered on.
    """
    if len(payload) > max_bytes:
        return Envelope(id=make_id()), TooLarge(
            f"the request has {len(payload)} bytes; at most {max_bytes} are taken"
        )
    if not is_json and payload.lstrip()[:1] != b"{":
        return _open_text(payload)
    try:
        tree = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Envelope(id=make_id()), BadRequest(f"the payload begins like JSON and is not: {error}")
    except RecursionError:
        return Envelope(id=make_id()), BadRequest("the payload is nested too deeply")
    if not isinstance(tree, dict):
        return Envelope(id=make_id()), BadRequest("the payload must be a JSON object")
    return _open_tree(tree)


def _open_text(payload: bytes) -> tuple[Envelope, RequestError | None]:
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        return Envelope(id=make_id()), BadRequest("the payload is neither JSON nor UTF-8 text")
    if not text.strip():
        return Envelope(id=make_id()), BadRequest("the payload is empty; send a prompt")
    return Envelope(id=make_id(), text=text), None


def _open_tree(tree: dict[str, Any]) -> tuple[Envelope, RequestError | None]:
    error: RequestError | None = None
    given, route, qos = tree.get("id"), tree.get("reply_to"), tree.get("reply_qos", 0)
    if not isinstance(qos, int) or isinstance(qos, bool) or qos not in (0, 1):
        error, qos = BadRequest(f"reply_qos: {_short(qos)} is not allowed; expected 0 or 1"), 0
    if route is not None and not isinstance(route, str):
        error, route = BadRequest(f"reply_to: {_short(route)} is not allowed; expected a topic"), None
    if given is not None and not is_name(given):
        error = BadRequest(f"id: {_short(given)} is not allowed; expected 1 to 64 of A-Z a-z 0-9 _ . -")
    request_id = given if isinstance(given, str) and is_name(given) else None
    envelope = Envelope(
        id=request_id or make_id(),
        is_id_given=request_id is not None,
        reply_to=route,
        reply_qos=qos,
        is_text_wanted=tree.get("format") == "text",
        tree=tree,
    )
    if tree.get("v", VERSION) != VERSION or isinstance(tree.get("v"), bool):
        error = UnsupportedVersion(f"v: {_short(tree['v'])} is not spoken here; this box speaks {VERSION}")
    return envelope, error


def parse_draft(envelope: Envelope, client: str, expiry_s: float | None) -> tuple[Draft, bool]:
    """The request in an envelope, and whether it wants its tokens streamed. Raises BadRequest.

    `expiry_s` is MQTT 5's Message Expiry Interval; the shorter of it and the payload's `ttl_s` counts.
    """
    if envelope.tree is None:
        messages = (Message("user", envelope.text),)
        return Draft(client=client, id=envelope.id, messages=messages, ttl_s=expiry_s), True
    for name in UNSUPPORTED:
        if envelope.tree.get(name):
            raise BadRequest(f"{name}: is not supported by this release; leave it out")
    payload = _convert(envelope.tree, RequestPayload)
    draft = Draft(
        client=client,
        id=envelope.id,
        messages=_messages(payload),
        profile=payload.profile,
        system=payload.system,
        max_tokens=payload.max_tokens,
        temperature=payload.temperature,
        top_p=payload.top_p,
        top_k=payload.top_k,
        min_p=payload.min_p,
        repeat_penalty=payload.repeat_penalty,
        presence_penalty=payload.presence_penalty,
        frequency_penalty=payload.frequency_penalty,
        schema=None if payload.schema is None else schema_text(payload.schema),
        seed=payload.seed,
        stop=tuple(payload.stop),
        ttl_s=min((s for s in (payload.ttl_s, expiry_s) if s is not None), default=None),
        priority=payload.priority,
        session=payload.session,
        supersede=payload.supersede,
        replaces_history=payload.messages is not None,
    )
    return draft, payload.stream


def parse_cancel(payload: bytes, max_bytes: int) -> CancelPayload:
    """Which requests to cancel. Raises BadRequest or TooLarge."""
    if len(payload) > max_bytes:
        raise TooLarge(f"the cancel has {len(payload)} bytes; at most {max_bytes} are taken")
    try:
        cancel = msgspec.json.decode(payload, type=CancelPayload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f'a cancel is {{"id":"..."}} or {{"all":true}}: {error}') from error
    if not cancel.all and not is_name(cancel.id):
        raise BadRequest('a cancel is {"id":"..."} or {"all":true}')
    return cancel


def _messages(payload: RequestPayload) -> tuple[Message, ...]:
    if (payload.prompt is None) == (payload.messages is None):
        raise BadRequest("prompt, messages: exactly one of them must be given")
    if payload.messages is not None:
        return payload.messages
    if not payload.prompt or not payload.prompt.strip():
        raise BadRequest("prompt: must not be empty")
    return (Message("user", payload.prompt),)


def _convert(tree: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(tree, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        reason, _, path = str(error).partition(" - at `$.")
        name = f"{path.rstrip('`')}: " if path else ""
        raise BadRequest(f"{name}{reason.replace('`', '')}") from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
