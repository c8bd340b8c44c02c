"""Which request killed the engine? Those it was computing are suspects, and go on one at a time.

With one suspect in the engine a second death names its cause; without this rule a single poisonous
request would take its innocent neighbours' second chance with it.
"""

from collections import deque
from collections.abc import Iterable

from agent.answer import Answer

MAX_DEATHS = 2


class Suspects:
    """The answers that were in an engine's hands when it died, until they have ended."""

    def __init__(self) -> None:
        self._waiting: deque[Answer] = deque()
        self._current: Answer | None = None

    def is_held(self, answer: Answer) -> bool:
        """True while a suspect waits for its turn: no engine has it."""
        return answer in self._waiting

    def blame(self, live: Iterable[Answer]) -> list[Answer]:
        """An engine died. Returns those that were being computed at two deaths; the rest may go on."""
        seen = [answer for answer in live if not self.is_held(answer) and answer.is_in_engines_hands]
        for answer in seen:
            answer.num_deaths += 1
        guilty = [answer for answer in seen if answer.num_deaths >= MAX_DEATHS]
        self._waiting.extendleft(answer for answer in reversed(seen) if answer not in guilty)
        self._current = None
        return guilty

    def next(self) -> Answer | None:
        """The suspect to compute now, if it is somebody's turn."""
        if self._current is not None or not self._waiting:
            return None
        self._current = self._waiting.popleft()
        return self._current

    def forget(self, answer: Answer) -> None:
        """The answer has ended."""
        if answer is self._current:
            self._current = None
        elif self.is_held(answer):
            self._waiting.remove(answer)
