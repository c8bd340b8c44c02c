"""How far the memory budget is lowered, after the engine process was killed for memory.

Each such death lowers it by one level (catalog/budget.py says what a level leaves), so that the
next child takes less than what was too much. After an hour without trouble the next start tries
one level more again.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from agent.hardware.memory import ROOT
from agent.hardware.oom import oom_kills

log = logging.getLogger(__name__)

MAX_LEVEL = 3
PEACE_S = 3600.0


class MemoryLevel:
    """0 is the whole budget, `MAX_LEVEL` the smallest. `clock` gives seconds and never goes back."""

    def __init__(self, root: Path = ROOT, clock: Callable[[], float] = time.monotonic) -> None:
        self.level = 0
        self._root = root
        self._clock = clock
        self._changed_at = 0.0
        self._kills: int | None = None

    def begin(self) -> None:
        """A child is about to be started."""
        if self.level and self._clock() - self._changed_at >= PEACE_S:
            self.level -= 1
            self._changed_at = self._clock()
            log.info("an hour without trouble: memory budget level %d", self.level)
        self._kills = oom_kills(self._root)

    def blame(self, pressure: int) -> bool:
        """The child was ended by a SIGKILL that nobody here sent. Lowers the level if it was for memory.

        The kernel counts the processes it kills; earlyoom and systemd-oomd leave no count, but act
        only under `pressure`. Where nothing is counted, a SIGKILL is taken for the OOM killer's.
        """
        kills = oom_kills(self._root)
        is_known = kills is not None and self._kills is not None
        if is_known and kills == self._kills and not pressure:
            return False
        self.level = min(self.level + 1, MAX_LEVEL)
        self._changed_at = self._clock()
        log.warning("the engine was killed for memory: memory budget level %d", self.level)
        return True

    def relent(self) -> bool:
        """The model does not fit into the lowered budget: one level back. False at the whole budget."""
        if not self.level:
            return False
        self.level -= 1
        self._changed_at = self._clock()
        log.warning("the model does not fit there: memory budget level %d", self.level)
        return True
