"""What an engine with nothing to do gives back: first spare cells, later the whole context."""

import time
from collections.abc import Callable

from agent.engine.kv_cache import KVCache

# A pause in a conversation is not the end of the load: making cells again costs a tenth of a second.
SHRINK_AFTER_S = 30.0
NEVER = 0.0


class Rest:
    """Follows how long nothing has been done. `sleep_after_s` 0 keeps the context for ever."""

    def __init__(
        self, kv: KVCache, sleep_after_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kv = kv
        self._sleep_after_s = sleep_after_s
        self._clock = clock
        self._idle_since: float | None = None
        self._is_shrunk = False

    def wait_s(self) -> float | None:
        """Idle from now on, if not before: seconds until there is something to give back; None: never."""
        if self._idle_since is None:
            self._idle_since, self._is_shrunk = self._clock(), False
        if self._kv.pool.is_asleep:
            return None
        due = [] if self._is_shrunk else [SHRINK_AFTER_S]
        if self._sleep_after_s != NEVER:
            due.append(self._sleep_after_s)
        return max(0.0, self._idle_since + min(due) - self._clock()) if due else None

    def settle(self) -> None:
        """Give back what is due."""
        idle_s = self._clock() - (self._idle_since if self._idle_since is not None else self._clock())
        if self._sleep_after_s != NEVER and idle_s >= self._sleep_after_s:
            self._kv.sleep()
        elif idle_s >= SHRINK_AFTER_S and not self._is_shrunk:
            self._is_shrunk = True
            self._kv.shrink()

    def end(self) -> None:
        """There is work."""
        self._idle_since = None
