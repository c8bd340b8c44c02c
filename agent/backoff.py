"""How long to wait before the next try: twice as long each time, up to a bound."""

import asyncio
import contextlib

FIRST_S = 0.1
MAX_S = 30.0
# What lived so long was well: its end is the first trouble.
STABLE_AFTER_S = 60.0


class Backoff:
    """Times in seconds."""

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def reset(self) -> None:
        """What went wrong is mended."""
        self._next_s = FIRST_S

    def next_s(self, lived_s: float) -> float:
        """How long to wait now, after a try that lived so long."""
        if lived_s > STABLE_AFTER_S:
            self.reset()
        wait_s, self._next_s = self._next_s, min(self._next_s * 2, MAX_S)
        return wait_s


class Retry:
    """Waiting for what somebody else has to mend: told that it may be, or after so many seconds."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._told = asyncio.Event()

    def now(self) -> None:
        """It may be mended."""
        self._told.set()

    def begin(self) -> None:
        """A try begins: what was told before it is in it."""
        self._told.clear()

    async def wait(self) -> None:
        """Return when the next try is due."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._every_s):
                await self._told.wait()
