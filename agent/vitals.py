"""The box's own signs of life: how hot it is, whether that slows it, and what we have its disk write."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from agent.hardware.heat import read_heat
from agent.hardware.memory import ROOT
from agent.hardware.process import written_bytes

DAY_S = 86_400.0
# Before that a start's own writing would be taken for the habit of a day.
RATE_AFTER_S = 600.0
# Health, metrics and an operator may ask in the same second.
FRESH_S = 2.0


class Vitals(Struct, frozen=True, kw_only=True):
    """A None is not known here, or not yet. `written_bytes` counts both processes since the daemon began,
    `written_per_day_bytes` is the rate of that time."""

    celsius: float | None = None
    is_throttled: bool | None = None
    written_bytes: int | None = None
    written_per_day_bytes: int | None = None


class WriteMeter:
    """Adds up what the daemon and its engine processes have written: an engine that ends takes its own
    count with it, so what was read of it last is kept."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._engine_pid: int | None = None
        self._engine = 0
        self._ended = 0

    def read(self, engine_pid: int | None) -> int | None:
        """Bytes so far; None where the kernel does not count them."""
        own = written_bytes(None, self._root)
        if own is None:
            return None
        if engine_pid != self._engine_pid:
            self._ended += self._engine
            self._engine_pid, self._engine = engine_pid, 0
        if engine_pid is not None:
            # One that is gone tells nothing more.
            self._engine = max(self._engine, written_bytes(engine_pid, self._root) or 0)
        return own + self._ended + self._engine


class VitalsSource:
    """Reads them when asked, on any thread: some sensors take tens of milliseconds to answer."""

    def __init__(
        self,
        engine_pid: Callable[[], int | None],
        root: Path = ROOT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine_pid = engine_pid
        self._root = root
        self._clock = clock
        self._born = clock()
        self._meter = WriteMeter(root)
        self._lock = threading.Lock()
        self._read_at = 0.0
        self._last: Vitals | None = None

    def read(self) -> Vitals:
        """The vitals now, at most two seconds old. Raises nothing."""
        with self._lock:
            now = self._clock()
            if self._last is None or now - self._read_at >= FRESH_S:
                self._last, self._read_at = self._look(now - self._born), now
            return self._last

    def _look(self, age_s: float) -> Vitals:
        heat = read_heat(self._root)
        written = self._meter.read(self._engine_pid())
        is_rate_known = written is not None and age_s >= RATE_AFTER_S
        tells = heat.celsius is not None or bool(heat.throttled)
        return Vitals(
            celsius=round(heat.celsius, 1) if heat.celsius is not None else None,
            is_throttled=bool(heat.throttled) if tells else None,
            written_bytes=written,
            written_per_day_bytes=int((written or 0) * DAY_S / age_s) if is_rate_known else None,
        )
