"""A child that has work and says nothing is stuck: it is killed, and another one started."""

import asyncio
import logging
import time
from collections.abc import Callable

from agent.engine_process import EngineProcess

log = logging.getLogger(__name__)


class StallWatch:
    """`patience_s` says how long silence is fine now, in seconds; None while no word is expected."""

    def __init__(self, patience_s: Callable[[], float | None], every_s: float) -> None:
        self.was_stuck = False
        self._patience_s = patience_s
        self._every_s = every_s
        self._last_word_at = 0.0

    def heard(self) -> None:
        """The child has said something."""
        self._last_word_at = time.monotonic()

    async def guard(self, process: EngineProcess) -> None:
        """Kill the process once it has been silent for too long; returns then."""
        self.heard()
        self.was_stuck = False
        while True:
            await asyncio.sleep(self._every_s)
            patience_s = self._patience_s()
            silent_s = time.monotonic() - self._last_word_at
            if patience_s is None:
                self.heard()
            elif silent_s > patience_s:
                log.error("no word from the engine for %.0f s; it is killed and started again", silent_s)
                self.was_stuck = True
                process.kill()
                return
