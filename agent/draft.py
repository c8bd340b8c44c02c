"""From what a client wrote to a `Request` within the box's limits. Pure; both fronts pass here."""

import re
import secrets
from typing import Any

import msgspec
from msgspec import Struct

from agent.config import NAME, ClientRules, Limits, Profile
from agent.errors import BadRequest, Expired, Forbidden, NotFound
from agent.request import (
    DEFAULT_TEMPERATURE,
    DEFAULT_TOP_K,
    DEFAULT_TOP_P,
    NUM_SEEDS,
    Message,
    Request,
    Sampling,
)
from agent.rules import NO_RULES, cut_down

DEFAULT_MAX_TOKENS = 256
# Each is rendered and tokenised by itself before the door.
MAX_MESSAGES = 256
# A request that is older than this was not under way so long: somebody's clock is wrong.
MAX_AGE_S = 86400.0
_NAME = re.compile(NAME)


class Draft(Struct, frozen=True, kw_only=True):
    """A request as asked for: None means "as the box likes".

    In a `session` the messages are its next turn, or with `replaces_history` all that was said in it.
    `sent_at` is Unix time by the client's clock; `ttl_s` is what is left of its time when it came here.
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
    sent_at: float | None = None


def to_request(
    draft: Draft, limits: Limits, profiles: dict[str, Profile], rules: ClientRules = NO_RULES
) -> Request:
    """The request to run: values clamped, the seed drawn, the system prompt in front.

    `rules` are those of the draft's client (rules.py). Raises BadRequest, NotFound or Forbidden.
    """
    limits = cut_down(limits, rules)
    _check_session(draft)
    _check_rules(draft, rules)
    return Request(
        client=draft.client,
        id=draft.id,
        messages=_conversation(draft, profiles, rules),
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


def left_of(ttl_s: float, sent_at: float, now: float) -> float:
    """Seconds left of a request's time to live; both times are Unix, by clocks that can be believed.

    A request from the future, or from more than a day ago, has its whole time: one of the clocks is
    wrong after all. Raises Expired.
    """
    age_s = now - sent_at
    if not 0 < age_s < MAX_AGE_S:
        return ttl_s
    if age_s >= ttl_s:
        raise Expired(f"the request was {age_s:.0f} s old when it came here; its ttl_s is {ttl_s:g}")
    return ttl_s - age_s


def _check_session(draft: Draft) -> None:
    if draft.session is None:
        if draft.supersede:
            raise BadRequest("supersede: is about a session; name one, or leave it out")
    elif not _NAME.match(draft.session):
        raise BadRequest(
            f"session: {draft.session[:64]!r} is not allowed; expected 1 to 64 of A-Z a-z 0-9 _ . -"
        )


def _check_rules(draft: Draft, rules: ClientRules) -> None:
    if draft.session is not None and rules.sessions == 0:
        raise Forbidden("session: this client may have none; leave it out")
    if not rules.own_system:
        if draft.system is not None:
            raise Forbidden(f"system: this client may not bring its own; {_profiles_left(rules)}")
        if any(message.role == "system" for message in draft.messages):
            raise Forbidden(f"messages: this client may not bring a system message; {_profiles_left(rules)}")
    if draft.profile is not None and rules.profiles is not None and draft.profile not in rules.profiles:
        raise Forbidden(f"profile: {draft.profile[:64]!r} is not for this client; {_profiles_left(rules)}")


def _profiles_left(rules: ClientRules) -> str:
    """What to name instead."""
    if rules.profiles is None:
        return "name a profile instead"
    return f"it may name: {', '.join(rules.profiles)}" if rules.profiles else "it may name no profile either"


def schema_text(schema: dict[str, Any]) -> str:
    """The JSON text of a schema that came as an object. Raises BadRequest."""
    try:
        return msgspec.json.encode(schema).decode()
    except RecursionError as error:
        raise BadRequest("schema: is nested too deeply") from error


def _conversation(draft: Draft, profiles: dict[str, Profile], rules: ClientRules) -> tuple[Message, ...]:
    if not draft.messages:
        raise BadRequest("messages: must hold at least one message")
    if len(draft.messages) > MAX_MESSAGES:
        raise BadRequest(f"messages: {len(draft.messages)} are too many; at most {MAX_MESSAGES} are taken")
    if draft.messages[-1].role == "system":
        raise BadRequest("messages: must end with something to answer, not with a system message")
    if not draft.messages[-1].content.strip():
        raise BadRequest("messages: the last one is empty; there is nothing to answer")
    system = _system_prompt(draft, profiles, rules)
    if system is None:
        return draft.messages
    if any(message.role == "system" for message in draft.messages):
        raise BadRequest(
            "messages: hold a system message already; leave out profile and system, or that message"
        )
    return (Message("system", system), *draft.messages)


def _system_prompt(draft: Draft, profiles: dict[str, Profile], rules: ClientRules) -> str | None:
    if draft.profile is not None and draft.system is not None:
        raise BadRequest("profile, system: only one of them can be given")
    profile = _only_profile(rules) if draft.profile is None else draft.profile
    if profile is None:
        return draft.system
    if profile not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        raise NotFound(f"profile: {profile[:64]!r} is not configured on this box; there are: {known}")
    return profiles[profile].system


def _only_profile(rules: ClientRules) -> str | None:
    """The profile of a client that may have nothing else in front. Raises Forbidden where it has a choice."""
    if rules.own_system or not rules.profiles:
        return None
    if len(rules.profiles) > 1:
        raise Forbidden(f"profile: this client must name one of: {', '.join(rules.profiles)}")
    return rules.profiles[0]
