"""From what a client wrote to a `Request` within the box's limits. Pure; both fronts pass here."""

import re
import secrets
from typing import Any

import msgspec
from msgspec import Struct

from agent.config import NAME, Limits, Profile
from agent.errors import BadRequest, NotFound
from agent.request import (
    DEFAULT_TEMPERATURE,
    DEFAULT_TOP_K,
    DEFAULT_TOP_P,
    NUM_SEEDS,
    Message,
    Request,
    Sampling,
)

DEFAULT_MAX_TOKENS = 256
# Each is rendered and tokenised by itself before the door.
MAX_MESSAGES = 256
_NAME = re.compile(NAME)


class Draft(Struct, frozen=True, kw_only=True):
    """A request as asked for: None means "as the box likes".

    In a `session` the messages are its next turn, or with `replaces_history` all that was said in it.
    """

    client: str
    id: str
    messages: tuple[Message, ...]
    profile: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    schema: str | None = None
    stop: tuple[str, ...] = ()
    ttl_s: float | None = None
    priority: int | None = None
    session: str | None = None
    supersede: bool = False
    replaces_history: bool = False


def to_request(draft: Draft, limits: Limits, profiles: dict[str, Profile]) -> Request:
    """The request to run: values clamped, the seed drawn, the system prompt in front.

    Raises BadRequest or NotFound.
    """
    _check_session(draft)
    return Request(
        client=draft.client,
        id=draft.id,
        messages=_conversation(draft, profiles),
        sampling=Sampling(
            seed=secrets.randbelow(NUM_SEEDS) if draft.seed is None else draft.seed,
            temperature=DEFAULT_TEMPERATURE if draft.temperature is None else draft.temperature,
            top_p=DEFAULT_TOP_P if draft.top_p is None else draft.top_p,
            top_k=DEFAULT_TOP_K if draft.top_k is None else draft.top_k,
            min_p=draft.min_p or 0.0,
            repeat_penalty=1.0 if draft.repeat_penalty is None else draft.repeat_penalty,
            presence_penalty=draft.presence_penalty or 0.0,
            frequency_penalty=draft.frequency_penalty or 0.0,
        ),
        max_tokens=min(draft.max_tokens or DEFAULT_MAX_TOKENS, limits.max_tokens),
        stop=draft.stop,
        ttl_s=limits.ttl_s if draft.ttl_s is None else min(draft.ttl_s, limits.ttl_s),
        priority=min(draft.priority or 0, limits.priority),
        session=draft.session,
        schema=draft.schema,
    )


def _check_session(draft: Draft) -> None:
    if draft.session is None:
        if draft.supersede:
            raise BadRequest("supersede: is about a session; name one, or leave it out")
    elif not _NAME.match(draft.session):
        raise BadRequest(
            f"session: {draft.session[:64]!r} is not allowed; expected 1 to 64 of A-Z a-z 0-9 _ . -"
        )


def schema_text(schema: dict[str, Any]) -> str:
    """The JSON text of a schema that came as an object. Raises BadRequest."""
    try:
        return msgspec.json.encode(schema).decode()
    except RecursionError as error:
        raise BadRequest("schema: is nested too deeply") from error


def _conversation(draft: Draft, profiles: dict[str, Profile]) -> tuple[Message, ...]:
    if not draft.messages:
        raise BadRequest("messages: must hold at least one message")
    if len(draft.messages) > MAX_MESSAGES:
        raise BadRequest(f"messages: {len(draft.messages)} are too many; at most {MAX_MESSAGES} are taken")
    if draft.messages[-1].role == "system":
        raise BadRequest("messages: must end with something to answer, not with a system message")
    if not draft.messages[-1].content.strip():
        raise BadRequest("messages: the last one is empty; there is nothing to answer")
    system = _system_prompt(draft, profiles)
    if system is None:
        return draft.messages
    if any(message.role == "system" for message in draft.messages):
        raise BadRequest(
            "messages: hold a system message already; leave out profile and system, or that message"
        )
    return (Message("system", system), *draft.messages)


def _system_prompt(draft: Draft, profiles: dict[str, Profile]) -> str | None:
    if draft.profile is None:
        return draft.system
    if draft.system is not None:
        raise BadRequest("profile, system: only one of them can be given")
    if draft.profile not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        raise NotFound(f"profile: {draft.profile!r} is not configured on this box; there are: {known}")
    return profiles[draft.profile].system
