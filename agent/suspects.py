"""Which request killed the engine? Those it was computing are suspects, and begin again one at a time.

A suspect whose engine dies again with nobody beside it is the cause. Did it die with newcomers
beside it, nothing is proven: then the suspect is computed with nobody else in the engine, so that
the next death is.
"""

from collections import deque
from collections.abc import Iterable

from agent.answer import Answer
from agent.errors import EngineTimeout, Internal, RequestError

DEATHS_TO_BE_ALONE = 2


class Suspects:
    """The answers that were in an engine's hands when it died, until they have ended."""

    def __init__(self) -> None:
        self._waiting: deque[Answer] = deque()
        self._current: Answer | None = None

    @property
    def is_alone(self) -> bool:
        """True while the engine may have nothing but the current suspect."""
        return self._current is not None and self._current.num_deaths >= DEATHS_TO_BE_ALONE

    @property
    def wants_silence(self) -> bool:
        """True while the next suspect waits for an engine that has nothing else."""
        return (
            self._current is None
            and bool(self._waiting)
            and self._waiting[0].num_deaths >= DEATHS_TO_BE_ALONE
        )

    def add(self, answer: Answer) -> None:
        """This one is under suspicion already: it waits for its turn."""
        self._waiting.append(answer)

    def is_held(self, answer: Answer) -> bool:
        """True while a suspect waits for its turn: no engine has it."""
        return answer in self._waiting

    def blame(self, live: Iterable[Answer]) -> list[Answer]:
        """An engine died. Returns the one that is proven to be the cause, if so; the rest may go on."""
        seen = [answer for answer in live if answer.is_in_engines_hands]
        for answer in seen:
            answer.num_deaths += 1
        guilty = [answer for answer in seen if len(seen) == 1 and answer.num_deaths >= DEATHS_TO_BE_ALONE]
        waiting = [answer for answer in (*seen, *self._waiting) if answer not in guilty]
        # Those with most deaths first: after a death the engine is empty, so that they are alone in it.
        order = sorted(waiting, key=lambda answer: (-answer.num_deaths, -answer.request.priority))
        self._waiting = deque(order)
        self._current = None
        return guilty

    def next(self) -> Answer | None:
        """The suspect to compute now, if it is somebody's turn."""
        if self._current is not None or not self._waiting:
            return None
        self._current = self._waiting.popleft()
        return self._current

    def passed(self, answer: Answer) -> bool:
        """The answer has grown: where it died before, it lives. True when the next one's turn has come.

        Should it die later all the same, with others beside it, they are all seen, and go on alone.
        """
        if answer is not self._current or self.is_alone:
            return False
        self._current = None
        return bool(self._waiting)

    def forget(self, answer: Answer) -> None:
        """The answer has ended."""
        if answer is self._current:
            self._current = None
        elif self.is_held(answer):
            self._waiting.remove(answer)


def poisonous(how: str, stuck_s: float | None) -> RequestError:
    """What a request is told that was being computed at two deaths, `how` the last, or stuck for so long."""
    if stuck_s is not None:
        return EngineTimeout(f"the engine took no step for {stuck_s:.0f} s, twice, on this request")
    return Internal(f"the engine died twice ({how}) while it computed this request")
