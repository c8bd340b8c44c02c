"""Conversations: what a client and the box said to each other under a name, and whose turn it is.

    enter -> first in its session's line: the request begins with the history -> leave: kept, or not

The requests of one session run one after another, in order of arrival. The messages of a request are
put together when its turn comes, from the history of that moment; only an answer that ended by itself
(stop, length) becomes history. The system prompt stands in front of it and stays until a kept request
brings another one.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from agent.admission import FIRST_ANSWER_S
from agent.answer import Answer
from agent.config import Config, Limits
from agent.errors import Busy, RateLimited
from agent.request import Finished, FinishReason, Message, Request
from agent.rules import Rules

Key = tuple[str, str]
OnChange = Callable[[Key, bytes | None, Answer | None], None]
"""A conversation has changed: what to `restore`, or None when it is forgotten; the answer that changed it."""
# What a message weighs in memory besides its text, so that a thousand empty ones are not free.
MESSAGE_BYTES = 64
_RETRY_MS = int(FIRST_ANSWER_S * 1000)


@dataclass(slots=True)
class _Turn:
    answer: Answer
    replaces_history: bool


@dataclass(slots=True)
class _Session:
    """`line` holds the answers under way: the first runs, the others wait. `system` has one at most."""

    system: tuple[Message, ...] = ()
    history: tuple[Message, ...] = ()
    line: list[_Turn] = field(default_factory=list)
    used_at: float = 0.0


class _Kept(Struct, frozen=True):
    """What outlives the daemon of a conversation; `at` is Unix time, where that was known."""

    system: tuple[Message, ...]
    history: tuple[Message, ...]
    at: float | None = None


class Sessions:
    """All conversations of the box, in memory; the least recently used idle ones give way."""

    def __init__(
        self, limits: Limits, clock: Callable[[], float] = time.monotonic, rules: Rules | None = None
    ) -> None:
        self.on_change: OnChange = lambda key, kept, answer: None
        # Unix time where it can be believed: the age of a conversation over a restart.
        self.wall: Callable[[], float | None] = lambda: None
        self._limits = limits
        self._rules = rules or Rules(Config(limits=limits))
        self._clock = clock
        self._sessions: OrderedDict[Key, _Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def under_way(self, request: Request) -> list[Answer]:
        """The answers of this request's session that have not ended; the running one comes first."""
        session = self._sessions.get(_key(request))
        return [turn.answer for turn in session.line] if session else []

    def history(self, client: str, name: str) -> tuple[Message, ...]:
        """What is kept of a conversation, without its system prompt."""
        session = self._sessions.get((client, name))
        return session.history if session else ()

    def enter(self, answer: Answer, *, replaces_history: bool = False) -> None:
        """Put a request into its session's line; its own messages are a turn, or all the history there is.

        Raises RateLimited or Busy when there are too many sessions and none of them is idle.
        """
        if answer.request.session is None:
            return
        session = self._open(_key(answer.request))
        session.line.append(_Turn(answer, replaces_history))
        if len(session.line) == 1:
            _begin(session)

    def restore(self, key: Key, kept: bytes) -> None:
        """Go on with a conversation of an earlier daemon, the oldest first; what cannot be read, and what
        nobody has gone on with for too long, is left out."""
        try:
            found = msgspec.msgpack.decode(kept, type=_Kept)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        now = self.wall()
        age_s = 0.0 if found.at is None or now is None else max(0.0, now - found.at)
        if age_s >= self._limits.session_ttl_s:
            self.on_change(key, None, None)
            return
        if len(self._sessions) >= self._limits.sessions:
            self._evict(self._sessions)
        self._sessions[key] = _Session(found.system, found.history, used_at=self._clock() - age_s)

    def is_held(self, answer: Answer) -> bool:
        """True while an earlier request of the same session has not ended."""
        if answer.request.session is None:
            return False
        return self._sessions[_key(answer.request)].line[0].answer is not answer

    def leave(self, answer: Answer) -> None:
        """An answer has ended: keep it if it ended by itself, and begin with the next in line."""
        if answer.request.session is None:
            return
        key = _key(answer.request)
        session = self._sessions[key]
        was_first = session.line[0].answer is answer
        session.line = [turn for turn in session.line if turn.answer is not answer]
        if was_first and _is_kept(answer):
            system, messages = _split(answer.request.messages)
            session.system = system
            session.history = _newest_turns(
                (*messages, Message("assistant", answer.text)), self._limits.session_bytes
            )
            kept = _Kept(session.system, session.history, self.wall())
            self.on_change(key, msgspec.msgpack.encode(kept), answer)
        if session.line and was_first:
            _begin(session)
        if session.line or session.history or session.system:
            self._touch(key, session)
        else:
            del self._sessions[key]

    def _open(self, key: Key) -> _Session:
        self._forget_expired()
        if key not in self._sessions:
            self._make_room(key[0])
            self._sessions[key] = _Session()
        session = self._sessions[key]
        self._touch(key, session)
        return session

    def _touch(self, key: Key, session: _Session) -> None:
        session.used_at = self._clock()
        self._sessions.move_to_end(key)

    def _make_room(self, client: str) -> None:
        """Have a place for one more session, of this client and on the box."""
        most = self._rules.limits(client).sessions_per_client
        own = [key for key in self._sessions if key[0] == client]
        if len(own) >= most and not self._evict(own):
            raise RateLimited(
                f"this client has {most} sessions with requests under way; wait for one to end",
                retry_after_ms=_RETRY_MS,
            )
        if len(self._sessions) >= self._limits.sessions and not self._evict(self._sessions):
            raise Busy(
                f"{self._limits.sessions} sessions on this box have requests under way; try again later",
                retry_after_ms=_RETRY_MS,
            )

    def _evict(self, keys: Iterable[Key]) -> bool:
        """Forget the idle session of these that was used longest ago; False when all are busy."""
        victim = next((key for key in keys if not self._sessions[key].line), None)
        if victim is None:
            return False
        self._forget(victim)
        return True

    def _forget(self, key: Key) -> None:
        del self._sessions[key]
        self.on_change(key, None, None)

    def _forget_expired(self) -> None:
        horizon = self._clock() - self._limits.session_ttl_s
        for key, session in list(self._sessions.items()):
            if session.used_at > horizon:
                return
            if not session.line:
                self._forget(key)


def _key(request: Request) -> Key:
    return request.client, request.session or ""


def _begin(session: _Session) -> None:
    """The first in line becomes a request with all that was said before it."""
    turn = session.line[0]
    request = turn.answer.request
    system, messages = _split(request.messages)
    history = () if turn.replaces_history else session.history
    whole = (*(system or session.system), *history, *messages)
    turn.answer.request = msgspec.structs.replace(request, messages=whole)


def _split(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The system prompt in front, if there is one, and the rest."""
    count = 1 if messages and messages[0].role == "system" else 0
    return messages[:count], messages[count:]


def _is_kept(answer: Answer) -> bool:
    end = answer.terminal
    return isinstance(end, Finished) and end.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)


def _newest_turns(messages: tuple[Message, ...], max_bytes: int) -> tuple[Message, ...]:
    """The newest whole turns that fit; a turn ends with what the assistant said."""
    start, size = len(messages), 0
    for index in reversed(range(len(messages))):
        size += MESSAGE_BYTES + len(messages[index].content.encode())
        if size > max_bytes:
            break
        if _begins_turn(messages, index):
            start = index
    return messages[start:]


def _begins_turn(messages: tuple[Message, ...], index: int) -> bool:
    return index == 0 or (messages[index].role != "assistant" and messages[index - 1].role == "assistant")
