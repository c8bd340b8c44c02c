"""What the engine has to say, in bundles: every message wakes the daemon, and the daemon needs a core.

On a box whose cores all compute, a wake-up per token costs a tenth of the speed: one thread without
its core stops the others at the next barrier. New text therefore waits for EVERY_S; a first token,
an end and everything else go at once, and take along what waits.
"""

import time
from collections.abc import Callable

from agent.engine.messages import Events, KeyedEvent
from agent.engine.sequence import Sequence
from agent.request import Delta, Event

# As long as fronts merge text for (a reader sees 25 updates a second).
EVERY_S = 0.04


class Outbox:
    """`emit` sends one message; `every_s` 0 sends after each step."""

    def __init__(self, emit: Callable[[Events], None], every_s: float = EVERY_S) -> None:
        self._emit = emit
        self._every_s = every_s
        self._events: list[KeyedEvent] = []
        self._grown: dict[int, Sequence] = {}
        self._is_urgent = False
        self._sent_at = 0.0

    def put(self, key: int, event: Event) -> None:
        """Send this with the next flush."""
        self._events.append(KeyedEvent(key, event))
        self._is_urgent = True

    def grow(self, sequence: Sequence) -> None:
        """The sequence has new tokens."""
        self._grown[sequence.key] = sequence
        if sequence.num_generated == 1:
            self._is_urgent = True

    def end(self, sequence: Sequence, event: Event) -> None:
        """The sequence's last words, after all its text."""
        self._grown.pop(sequence.key, None)
        if sequence.new_tokens or sequence.new_text:
            self._put_delta(sequence)
        self.put(sequence.key, event)

    def flush(self) -> None:
        """Send what is urgent or due."""
        now = time.monotonic()
        if not self._is_urgent and (not self._grown or now - self._sent_at < self._every_s):
            return
        for sequence in self._grown.values():
            self._put_delta(sequence)
        self._emit(Events(items=tuple(self._events)))
        self._grown.clear()
        self._events.clear()
        self._is_urgent, self._sent_at = False, now

    def _put_delta(self, sequence: Sequence) -> None:
        delta = Delta(text=sequence.new_text, tokens=tuple(sequence.new_tokens), draws=sequence.sampler.draws)
        sequence.new_text = ""
        sequence.new_tokens.clear()
        self._events.append(KeyedEvent(sequence.key, delta))
