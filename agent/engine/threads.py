"""How many threads to compute with: the cores we may use, less those that others keep busy.

ggml's threads meet at a barrier after every operation. One of them without a core stops all the
others: two threads beside one busy process are ten times slower than one. So the count follows what
the box does while we compute, read from /proc/stat, and comes back when the neighbours rest.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

LOOK_EVERY_S = 0.25
# A neighbour counts from so much of a core on, and is gone below a quarter: no flapping in between.
BUSY_CORES, QUIET_CORES = 0.6, 0.25
# For so long it must have been one or the other. A look may have met a burst of the broker's; and up
# again only with patience, for a thread too few costs little, one too many nearly all.
BUSY_S, QUIET_S = 0.4, 1.0


class ThreadGovernor:
    """Says how many of `most` threads to use now; `read_busy` gives CPU seconds (everybody's, ours)."""

    def __init__(
        self,
        most: int,
        read_busy: Callable[[], tuple[float, float]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.count = most
        self._most = most
        self._read_busy = read_busy or read_cpu_seconds
        self._clock = clock
        self._looked_at = clock()
        self._busy = self._read_busy()
        # Seconds that speak for another count: fewer threads if negative.
        self._trend_s = 0.0

    def look(self) -> int:
        """The count to use from now on; reads the system at most every LOOK_EVERY_S."""
        elapsed = self._clock() - self._looked_at
        if self._most == 1 or elapsed < LOOK_EVERY_S:
            return self.count
        everybody, ours = self._read_busy()
        others = max(0.0, (everybody - self._busy[0]) - (ours - self._busy[1])) / elapsed
        self._looked_at, self._busy = self._clock(), (everybody, ours)
        self._follow(others, elapsed)
        return self.count

    def wake(self) -> None:
        """Work begins after a pause, which says nothing about now: look from here on."""
        self._looked_at, self._busy = self._clock(), self._read_busy()

    def _follow(self, others: float, elapsed: float) -> None:
        if self._fitting(others, BUSY_CORES) < self.count:
            self._trend_s = min(self._trend_s, 0.0) - elapsed
        elif self._fitting(others, QUIET_CORES) > self.count:
            self._trend_s = max(self._trend_s, 0.0) + elapsed
        else:
            self._trend_s = 0.0
        if self._trend_s <= -BUSY_S:
            self.count, self._trend_s = self._fitting(others, BUSY_CORES), 0.0
        elif self._trend_s >= QUIET_S:
            self.count, self._trend_s = self._fitting(others, QUIET_CORES), 0.0

    def _fitting(self, others: float, threshold: float) -> int:
        """Threads that have a core to themselves when a part of a core above `threshold` is a whole one."""
        return max(1, self._most - int(others + 1 - threshold))


def read_cpu_seconds(stat: Path = Path("/proc/stat")) -> tuple[float, float]:
    """CPU seconds spent since boot on the cores we may use, by everybody and by this process.

    Both are 0 where there is no /proc: the count then stays as it is.
    """
    try:
        lines = stat.read_text().splitlines()
        allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    except (OSError, AttributeError):
        return 0.0, 0.0
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name in allowed:
            user, nice, system, _idle, _iowait, *rest = map(int, fields[:8])
            # Steal is another machine's work on our core: a neighbour all the same.
            ticks += user + nice + system + sum(rest)
    return ticks / os.sysconf("SC_CLK_TCK"), time.process_time()
