"""The live answers: taken in, given to the engine there is, held back, ended.

    submit -> Answer (live) -> engine process -> events -> Answer ... terminal

Knows no process: engine_client.py says when there is an engine to send to, and when it has died. The
answers that were with a dead one are given to the next where they stopped; one that was being computed
at two deaths is the likely cause and ends in `internal`, and until that is known suspects are computed
one at a time. An answer nobody can hear is parked: it keeps its tokens and leaves the engine's memory to
others.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from agent.admission import Admission
from agent.answer import Answer
from agent.config import Limits
from agent.engine.messages import Cancel, KeyedEvent, Submit, ToEngine
from agent.errors import Busy, EngineProtocolError, RequestError, TooLarge
from agent.request import Delta, FinishReason, Request
from agent.rules import Rules
from agent.sessions import Sessions
from agent.suspects import DEATHS_TO_BE_ALONE, Suspects, poisonous

CANCEL_WITHIN_S = 2.0
# When to come back to a box that has no model, or is shutting down.
TRY_AGAIN_S = 60.0

Send = Callable[[ToEngine], None]


class Dispatcher:
    """`on_work` is called when there is something to compute, `on_end` when an answer has ended."""

    def __init__(
        self,
        limits: Limits,
        rules: Rules | None = None,
        on_work: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.sessions = Sessions(limits, rules=rules)
        # How many answers the engine computes at once, and why none can be had at all, if so.
        self.num_slots = 1
        self.refusal: RequestError | None = None
        self._on_work = on_work
        self._on_end = on_end
        self._send_to_engine: Send | None = None
        self._live: dict[int, Answer] = {}
        # Those of them that no engine has: what a pump has to look at.
        self._unsent: dict[int, Answer] = {}
        self._next_key = 1
        self._admission = Admission(limits, rules)
        self._suspects = Suspects()
        self._deadlines: dict[Answer, asyncio.TimerHandle] = {}
        self._is_closed = False

    # ---- what fronts use ---------------------------------------------------------------------

    @property
    def num_live(self) -> int:
        """Answers that have not ended."""
        return len(self._live)

    @property
    def is_engine_needed(self) -> bool:
        """True while there is an answer that could be computed; parked ones could not be heard."""
        return any(not answer.is_parked for answer in self._live.values())

    @property
    def is_engine_busy(self) -> bool:
        """True while the engine has an answer of ours."""
        return any(answer.is_sent for answer in self._live.values())

    def queue_pos(self, answer: Answer) -> int:
        """How many are before it that have not begun; 0 once it has."""
        if answer.is_started:
            return 0
        return sum(not other.is_started and other.key < answer.key for other in self._live.values())

    def submit(self, request: Request, *, supersede: bool = False, replaces_history: bool = False) -> Answer:
        """Take a request in; a sleeping engine wakes. Raises Busy or RateLimited: the queue is bounded;
        ModelUnavailable or InsufficientMemory: there is no model.

        The other two are about the request's session: `supersede` cancels what is under way in it, with
        `replaces_history` the messages are all there is and not one more turn.
        """
        if self._is_closed:
            raise Busy("this box is shutting down; try again later", retry_after_ms=int(TRY_AGAIN_S * 1000))
        outgoing = self.sessions.under_way(request) if supersede else []
        staying = [answer for answer in self._live.values() if answer not in outgoing]
        self._admission.check(request.client, staying, self.num_slots)
        if self.refusal is not None:
            raise type(self.refusal)(self.refusal.message, retry_after_ms=int(TRY_AGAIN_S * 1000))
        for answer in reversed(outgoing):  # the running one last: nobody behind it begins
            self.cancel(answer)
        return self._take_in(Answer(self._next_key, request), replaces_history)

    def take_back(
        self, request: Request, *, replaces_history: bool = False, is_suspect: bool = False
    ) -> Answer:
        """Take in a request that another daemon had accepted: there is no asking whether it fits.

        A suspect is computed with nobody beside it.
        """
        answer = Answer(self._next_key, request)
        if is_suspect:
            answer.num_deaths = DEATHS_TO_BE_ALONE
            self._suspects.add(answer)
        return self._take_in(answer, replaces_history)

    def cancel(self, answer: Answer, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """Stop an answer: `done` with what there is, or an error when there is nothing yet."""
        if answer.terminal is not None:
            return
        # Remembered: the child may die with the cancel unread.
        answer.cancel_reason = answer.cancel_reason or reason
        if self._send_to_engine and answer.is_sent:
            self._send_to_engine(Cancel(answer.key, reason))
            # An engine that hangs hears nothing; its events for an ended answer are ignored.
            asyncio.get_running_loop().call_later(CANCEL_WITHIN_S, self._end_cancelled, answer)
        else:
            self._end_cancelled(answer)

    def cancel_all(self, reason: FinishReason) -> None:
        """Stop every live answer but those that are parked."""
        for answer in list(self._live.values()):
            if not answer.is_parked:
                self.cancel(answer, reason)

    def park(self, answer: Answer) -> None:
        """Nobody can hear this answer now: the engine forgets it, we keep what there is."""
        if answer.terminal is not None or answer.is_parked or answer.cancel_reason:
            return
        if self._send_to_engine and answer.is_sent:
            self._send_to_engine(Cancel(answer.key, FinishReason.CANCELLED))
        # Under another key: what the engine still says of the old one is no longer about it.
        del self._live[answer.key]
        self._unsent.pop(answer.key, None)
        self._suspects.forget(answer)
        answer.is_parked, answer.is_sent, answer.is_started, answer.is_queued = True, False, False, False
        self._enter(answer)
        self._pump()

    def unpark(self, answer: Answer) -> None:
        """It can be heard again, and goes on where it stopped."""
        if answer.is_parked:
            answer.is_parked = False
            if answer.terminal is None:
                self._on_work()
                self._pump()

    def close_door(self) -> None:
        """Take no more requests: the daemon is stopping."""
        self._is_closed = True

    async def drained(self, timeout_s: float) -> bool:
        """Wait until nothing is live but what is parked; False when that takes longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while waiting := [answer for answer in self._live.values() if not answer.is_parked]:
                    await waiting[0].ended.wait()
        except TimeoutError:
            return False
        return True

    # ---- what the engine's supervisor uses ---------------------------------------------------

    def engine_is_ready(self, send: Send) -> None:
        """There is an engine: everything that may go to it goes."""
        self._send_to_engine = send
        self._pump()

    def engine_is_gone(self) -> None:
        """Nothing can be sent any more."""
        self._send_to_engine = None

    async def answered(self, timeout_s: float) -> None:
        """Wait until the engine has nothing of ours left; what it has then goes on with the next one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while sent := [answer for answer in self._live.values() if answer.is_sent]:
                    await sent[0].ended.wait()

    def fail_begun(self, error: RequestError) -> None:
        """End every answer that has tokens; the others begin from their prompt."""
        for answer in list(self._live.values()):
            if answer.has_tokens:
                self._end(answer, error)

    def take(self, item: KeyedEvent) -> None:
        """What the engine says about one answer; ignored where it has ended here."""
        answer = self._live.get(item.key)
        if answer is None:
            return
        answer.take(item.event)
        self._note_end(answer)
        if isinstance(item.event, Delta) and self._suspects.passed(answer):
            self._pump()

    def begin_again(
        self, how: str = "", *, is_somebodys_fault: bool = False, stuck_s: float | None = None
    ) -> None:
        """The engine has ended: every live answer goes on with the next one, but for the one that is guilty.

        `how` it died and `stuck_s`, for how long it had said nothing, are told to that one.
        """
        for answer in [a for a in self._live.values() if a.cancel_reason]:
            self._end_cancelled(answer)
        guilty = self._suspects.blame(self._live.values()) if is_somebodys_fault else []
        for answer in self._live.values():
            answer.is_sent = False
        self._unsent = dict(self._live)
        for answer in guilty:
            self._end(answer, poisonous(how, stuck_s))

    def fail_all(self, error: RequestError) -> None:
        """There will be no engine: every live answer ends in this, and new ones are refused with it."""
        self.refusal = error
        for answer in list(self._live.values()):
            self._end(answer, error)

    # ---- one answer --------------------------------------------------------------------------

    def _take_in(self, answer: Answer, replaces_history: bool) -> Answer:
        self.sessions.enter(answer, replaces_history=replaces_history)
        self._enter(answer)
        ttl_s = answer.request.ttl_s
        if ttl_s is not None:
            loop = asyncio.get_running_loop()
            self._deadlines[answer] = loop.call_later(ttl_s, self.cancel, answer, FinishReason.TIMEOUT)
        self._on_work()
        self._pump()
        return answer

    def _enter(self, answer: Answer) -> None:
        answer.key = self._next_key
        self._next_key += 1
        self._live[answer.key] = self._unsent[answer.key] = answer

    def _pump(self) -> None:
        """Give the engine all it may have now: the suspect whose turn it is, and everybody unsuspected."""
        if self._send_to_engine is None or (self._suspects.wants_silence and self.is_engine_busy):
            return
        if suspect := self._suspects.next():
            self._send(self._send_to_engine, suspect)
        if self._suspects.is_alone:
            return
        for answer in self._sendable():
            self._send(self._send_to_engine, answer)

    def _sendable(self) -> Iterable[Answer]:
        """Those nothing holds back: they are sent while this goes on."""
        for answer in list(self._unsent.values()):
            is_held = self._suspects.is_held(answer) or self.sessions.is_held(answer) or answer.is_parked
            if not answer.is_sent and not is_held:
                yield answer

    def _send(self, send: Send, answer: Answer) -> None:
        try:
            send(Submit(key=answer.key, request=answer.request, resume=answer.resume))
        except EngineProtocolError as error:
            self._end(answer, TooLarge(f"the request cannot be given to the engine: {error}"))
        else:
            answer.is_sent, answer.is_started, answer.is_queued = True, False, False
            del self._unsent[answer.key]

    def _end_cancelled(self, answer: Answer) -> None:
        answer.abandon()
        self._note_end(answer)

    def _end(self, answer: Answer, error: RequestError) -> None:
        answer.fail(error)
        self._note_end(answer)

    def _note_end(self, answer: Answer) -> None:
        """Forget an answer that has ended; nothing happens while it lives, or the second time."""
        if answer.terminal is None or answer.key not in self._live:
            return
        del self._live[answer.key]
        self._unsent.pop(answer.key, None)
        self._on_end()
        self._admission.note_end(answer)
        if timer := self._deadlines.pop(answer, None):
            timer.cancel()
        self._suspects.forget(answer)
        self.sessions.leave(answer)
        self._pump()
