"""When an idle engine process may go, and what brings it back."""

import asyncio
import time
from collections.abc import Callable

LOOKS_EVERY_S = 1.0


class Slumber:
    """The child sleeps (has ended) after `idle_s` seconds without work, never if that is 0."""

    def __init__(self, idle_s: float) -> None:
        # How long the last waking took, from the request to the loaded model.
        self.wake_s: float | None = None
        self._idle_s = idle_s
        self._quiet_since = time.monotonic()
        self._woken = asyncio.Event()
        self._woken_at: float | None = None

    @property
    def is_waking(self) -> bool:
        """True from the request that wakes the child until the model is loaded, or cannot be."""
        return self._woken_at is not None

    def stir(self) -> None:
        """There was something to do until now."""
        self._quiet_since = time.monotonic()

    async def until_idle(self, is_busy: Callable[[], bool]) -> None:
        """Return when there was nothing to do for so long."""
        self.stir()
        while not self._idle_s or time.monotonic() - self._quiet_since < self._idle_s:
            await asyncio.sleep(min(LOOKS_EVERY_S, self._idle_s / 4) or LOOKS_EVERY_S)
            if is_busy():
                self.stir()

    def fall_asleep(self) -> None:
        """The child is being ended."""
        self._woken.clear()

    def wake(self) -> None:
        """A request is there: the child is wanted again."""
        if not self._woken.is_set():
            self._woken_at = time.monotonic()
            self._woken.set()

    async def until_woken(self) -> None:
        """Return when the child is wanted again."""
        await self._woken.wait()

    def end_waking(self, *, is_up: bool) -> None:
        """The model is loaded, or this child did not come so far."""
        if is_up and self._woken_at is not None:
            self.wake_s = time.monotonic() - self._woken_at
        self._woken_at = None
