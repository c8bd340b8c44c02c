"""How many requests the box takes at once, and what those hear that it does not take.

A client that is told `busy` stands in a line from then on (line.py): as long as every slot has work, a free
place is kept for those who were refused before. Asking again at once moves nobody forward, and holds
nobody up.
"""

import time
from collections.abc import Callable, Collection
from math import sqrt

from agent.answer import Answer
from agent.buckets import Buckets
from agent.config import Config, Limits
from agent.errors import Busy, Forbidden, RateLimited
from agent.line import Line
from agent.request import Finished
from agent.rules import Rules, is_local

# Before anything is measured, a guess of one answer's time.
FIRST_ANSWER_S = 5.0
# Weight of the newest answer in the moving averages.
SMOOTHING = 0.1
MIN_WAIT_S, MAX_WAIT_S = 0.5, 60.0


class Admission:
    """The bounds of a client and of the box, and an honest guess when to try again."""

    def __init__(
        self, limits: Limits, rules: Rules | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._rules = rules or Rules(Config(limits=limits))
        self._clock = clock
        self._buckets = Buckets(clock)
        self._line = Line()
        self._answer_s = FIRST_ANSWER_S
        self._answer_s2 = 2 * FIRST_ANSWER_S**2

    def check(self, client: str, live: Collection[Answer], num_slots: int) -> None:
        """Let a fresh request in, or raise: Forbidden or RateLimited for the client's own bounds, Busy for
        the box's. Not for duplicates nor for what the journal gives back: those were let in before.

        Only what is let in costs a token. Clients of the local socket have no rate.
        """
        limits = self._rules.limits(client)
        self._check_own(client, live, num_slots, limits)
        self._check_rate(client, limits)
        self._check_box(client, live, num_slots)
        self._line.leave(client)
        if not is_local(client):
            self._buckets.take(client, limits.requests_per_minute)

    def observe(self, seconds: float) -> None:
        """An answer held a slot for so long."""
        self._answer_s += SMOOTHING * (seconds - self._answer_s)
        self._answer_s2 += SMOOTHING * (seconds**2 - self._answer_s2)

    def note_end(self, answer: Answer) -> None:
        """Learn from an answer that has ended: the time it was computed, without that in the queue."""
        if isinstance(answer.terminal, Finished):
            timings = answer.terminal.timings
            if (seconds := timings.prefill_s + timings.decode_s) > 0:  # 0 is one the engine did not end
                self.observe(seconds)

    def _check_own(self, client: str, live: Collection[Answer], num_slots: int, limits: Limits) -> None:
        if limits.per_client < 1:
            raise Forbidden("this client may not ask this box anything; see clients in its configuration")
        if sum(answer.request.client == client for answer in live) < limits.per_client:
            return
        # Clients take turns: of as many ends as there are clients, one is its own.
        num_clients = len({answer.request.client for answer in live})
        raise RateLimited(
            f"this client has {limits.per_client} requests under way; wait for one to end",
            retry_after_ms=_ms(self._until_ends_s(num_clients, len(live), num_slots)),
        )

    def _check_rate(self, client: str, limits: Limits) -> None:
        if is_local(client):
            return
        wait_ms = self._buckets.wait_ms(client, limits.requests_per_minute, limits.burst)
        if wait_ms:
            raise RateLimited(
                f"this client may send {limits.requests_per_minute:g} requests a minute, and"
                f" {limits.burst} at once; wait for {wait_ms / 1000:.1f} s",
                retry_after_ms=wait_ms,
            )

    def _check_box(self, client: str, live: Collection[Answer], num_slots: int) -> None:
        now = self._clock()
        num_free = self._limits.queue - len(live)
        num_before = self._line.num_before(client, now)
        # A slot without work is worth more than anybody's turn, but a queue that is all slots has turns too.
        is_idle = len(live) < min(num_slots, (self._limits.queue + 1) // 2)
        if num_free > num_before or is_idle:
            return
        wait_s = self._until_ends_s(num_before + 1 - num_free, len(live), num_slots)
        self._line.promise(client, now + wait_s)
        raise Busy(
            f"{len(live)} requests are under way on this box, of {self._limits.queue}; try again later",
            retry_after_ms=_ms(wait_s),
        )

    def _until_ends_s(self, num_ends: int, num_live: int, num_slots: int) -> float:
        """How long until so many answers have ended, in most cases.

        With n slots at work one ends every `answer_s` / n on average, and k of them take k such times. When
        the next one ends nobody knows: were the times exponential, the k-th end would deviate by sqrt(k)
        of them, and adding that makes the guess right five times in six. Where a few answers are much
        longer than most it deviates by more.
        """
        gap_s = self._answer_s / max(1, min(num_slots, num_live))
        variation = self._answer_s2 / self._answer_s**2 - 1 if self._answer_s else 1.0
        seconds = gap_s * (num_ends + sqrt(num_ends * max(1.0, variation)))
        return min(max(seconds, MIN_WAIT_S), MAX_WAIT_S)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
