"""What devices send: payloads parsed into structs, and what is wrong with them."""

import difflib
import secrets
from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from agent.config import Name
from agent.draft import Draft, left_of, schema_text
from agent.errors import BadRequest, RequestError, TooLarge, UnsupportedVersion
from agent.explain import NAME_WORDS, explain, one_line, short
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

T = TypeVar("T", bound=Struct)

VERSION = 1
MAX_CORRELATION_BYTES = 128
# A question larger than this is not looked into for its name.
MAX_NAMED_BYTES = 4096
# So many of a request's fields are looked at for a misspelt one.
MAX_LOOKED_AT = 32
MIN_FRAME_BYTES, MAX_FRAME_BYTES = 128, 65536
Ttl = Annotated[float, Meta(gt=0, le=86400 * 365)]
MaxFrame = Annotated[int, Meta(ge=MIN_FRAME_BYTES, le=MAX_FRAME_BYTES)]
# What people wrote: a sentence about it says no more than its size.
PRIVATE = frozenset({"prompt", "messages", "system", "stop"})


class RequestPayload(Struct, frozen=True, kw_only=True):
    """A JSON request. Unknown fields are ignored, known ones must have their type. The envelope's are looked
    at before (`open_envelope`): v, id, reply_to, reply_qos and max_frame.

    `sent_at` is Unix time by the device's clock, `max_frame` the bytes of the largest publish it can take.
    """

    v: Literal[1] = 1
    id: Name | None = None
    reply_to: str | None = None
    reply_qos: Literal[0, 1] = 0
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
    sent_at: Annotated[float, Meta(ge=0)] | None = None
    priority: Priority | None = None
    session: str | None = None
    supersede: bool = False
    max_frame: MaxFrame | None = None
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
    max_frame: int | None = None
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
        return Envelope(id=make_id()), BadRequest(
            f"the payload begins like JSON and is not: {_not_json(error)}"
        )
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
        error, qos = BadRequest(f"reply_qos: {short(qos)} is not allowed; expected 0 or 1"), 0
    if route is not None and not isinstance(route, str):
        error, route = BadRequest(f"reply_to: {short(route)} is not allowed; expected a topic"), None
    frame = tree.get("max_frame")
    if frame is not None and not _is_frame_size(frame):
        limits = f"{MIN_FRAME_BYTES} to {MAX_FRAME_BYTES} bytes"
        error, frame = BadRequest(f"max_frame: {short(frame)} is not allowed; expected {limits}"), None
    if given is not None and not is_name(given):
        error = BadRequest(f"id: {short(given)} is not allowed; expected {NAME_WORDS}")
    request_id = given if isinstance(given, str) and is_name(given) else None
    envelope = Envelope(
        id=request_id or make_id(),
        is_id_given=request_id is not None,
        reply_to=route,
        reply_qos=qos,
        is_text_wanted=tree.get("format") == "text",
        max_frame=frame,
        tree=tree,
    )
    if tree.get("v", VERSION) != VERSION or isinstance(tree.get("v"), bool):
        error = UnsupportedVersion(f"v: {short(tree['v'])} is not spoken here; this box speaks {VERSION}")
    return envelope, error


def _is_frame_size(value: object) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number and MIN_FRAME_BYTES <= value <= MAX_FRAME_BYTES  # type: ignore[operator]


def parse_draft(
    envelope: Envelope, client: str, expiry_s: float | None, now: float | None = None
) -> tuple[Draft, bool]:
    """The request in an envelope, and whether it wants its tokens streamed. Raises BadRequest or Expired.

    `expiry_s` is MQTT 5's Message Expiry Interval; the shorter of it and the payload's `ttl_s` counts.
    `now` is Unix time while the box's clock can be believed: then `ttl_s` counts from `sent_at`.
    """
    if envelope.tree is None:
        messages = (Message("user", envelope.text),)
        return Draft(client=client, id=envelope.id, messages=messages, ttl_s=expiry_s), True
    payload = _convert(envelope.tree, RequestPayload)
    draft = Draft(
        client=client,
        id=envelope.id,
        messages=_messages(payload, envelope.tree),
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
        ttl_s=min((s for s in (_ttl_left(payload, now), expiry_s) if s is not None), default=None),
        sent_at=payload.sent_at,
        priority=payload.priority,
        session=payload.session,
        supersede=payload.supersede,
        replaces_history=payload.messages is not None,
    )
    return draft, payload.stream


def parse_cancel(payload: bytes, max_bytes: int) -> CancelPayload:
    """Which requests to cancel. Raises BadRequest or TooLarge."""
    cancel = _parse(payload, CancelPayload, max_bytes, 'a cancel is {"id":"..."} or {"all":true}')
    if not cancel.all and not is_name(cancel.id):
        raise BadRequest('a cancel is {"id":"..."} or {"all":true}')
    return cancel


def given_id(payload: bytes) -> str | None:
    """The id in a payload with something else wrong in it, so that the answer finds its reader."""
    if len(payload) > MAX_NAMED_BYTES:
        return None
    try:
        found = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    given = found.get("id") if isinstance(found, dict) else None
    return given if is_name(given) else None


def parse_get(payload: bytes, max_bytes: int) -> GetPayload:
    """Whose state or result is wanted again. Raises BadRequest or TooLarge."""
    get = _parse(payload, GetPayload, max_bytes, 'a get is {"id":"..."}')
    _check_id(get.id)
    return get


def parse_ctl(payload: bytes, max_bytes: int) -> CtlPayload:
    """An operator's question, with an id; nothing at all is one without fields. Raises BadRequest or
    TooLarge."""
    ctl = _parse(payload.strip() or b"{}", CtlPayload, max_bytes, 'a question is {"id":"..."}, or nothing')
    if ctl.id is None:
        return msgspec.structs.replace(ctl, id=make_id())
    _check_id(ctl.id)
    return ctl


def _check_id(given: str) -> None:
    if not is_name(given):
        raise BadRequest(f"id: {short(given)} is not allowed; expected {NAME_WORDS}")


def _parse(payload: bytes, kind: type[T], max_bytes: int, usage: str) -> T:
    """A small payload as a struct; `usage` is how it looks. Raises BadRequest or TooLarge."""
    if len(payload) > max_bytes:
        raise TooLarge(f"the payload has {len(payload)} bytes; at most {max_bytes} are taken")
    try:
        tree = msgspec.json.decode(payload)
    except RecursionError as error:
        raise BadRequest(f"{usage}; this is nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{usage}: {_not_json(error)}") from error
    if not isinstance(tree, dict):
        raise BadRequest(usage)
    return _convert(tree, kind)


def _messages(payload: RequestPayload, given: Iterable[str]) -> tuple[Message, ...]:
    if (payload.prompt is None) == (payload.messages is None):
        raise BadRequest(f"prompt, messages: exactly one of them must be given{_misspelt(given)}")
    if payload.messages is not None:
        return payload.messages
    if not payload.prompt or not payload.prompt.strip():
        raise BadRequest("prompt: must not be empty")
    return (Message("user", payload.prompt),)


def _misspelt(given: Iterable[str]) -> str:
    """Which of the given fields may have been meant: unknown ones are ignored, and nobody sees why."""
    for name in islice(given, MAX_LOOKED_AT):
        meant = difflib.get_close_matches(name[:64], ("prompt", "messages"), n=1)
        if meant and name not in meant:
            return f"; is {short(name)} meant to be {meant[0]}?"
    return ""


def _ttl_left(payload: RequestPayload, now: float | None) -> float | None:
    if payload.ttl_s is None or payload.sent_at is None or now is None:
        return payload.ttl_s
    return left_of(payload.ttl_s, payload.sent_at, now)


def _convert(tree: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(tree, kind)
    except RecursionError as error:
        raise BadRequest("the payload is nested too deeply") from error
    except msgspec.ValidationError as error:
        raise BadRequest(explain(tree, kind, str(error), PRIVATE)[1]) from error


def _not_json(error: Exception) -> str:
    """What the parser stumbled over, without its notes on our types."""
    return one_line(error).partition(" - at `")[0]
