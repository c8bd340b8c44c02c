"""Tells measurements that other processes disturbed from those they did not."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import psutil

T = TypeVar("T")

# Of one core. ggml's threads wait for each other, so a core that is lent for a moment stops them all.
DISTURBING_SHARE = 0.05
# Builds and test runs next door come in bursts of seconds.
PAUSE_S = 2.0


@dataclass(slots=True)
class Referee:
    """Repeats what was disturbed, to `max_tries` in all, and counts what had to be taken as it was."""

    max_tries: int
    num_measured: int = 0
    num_disturbed: int = 0

    def __str__(self) -> str:
        tries = "" if self.max_tries == 1 else f", {self.max_tries} times in a row"
        return f"Other processes disturbed {self.num_disturbed} of {self.num_measured} measurements{tries}."

    def undisturbed(self, measure: Callable[[], T]) -> T:
        """The first result during which the neighbours kept still, else the last one."""
        self.num_measured += 1
        for attempt in range(self.max_tries):
            if attempt:
                time.sleep(PAUSE_S)
            started, foreign_s = time.monotonic(), foreign_cpu_s()
            result = measure()
            if foreign_cpu_s() - foreign_s < DISTURBING_SHARE * (time.monotonic() - started):
                return result
        self.num_disturbed += 1
        return result


def foreign_cpu_s() -> float:
    """CPU seconds of all processes but this one and its descendants; only differences mean anything."""
    times = psutil.cpu_times()
    # Linux counts guests in `user` as well.
    idle = times.idle + getattr(times, "iowait", 0.0) + getattr(times, "guest", 0.0)
    return float(sum(times) - idle - own_cpu_s())


def own_cpu_s() -> float:
    """Of this process, of its children that have ended, and of those that run."""
    me = psutil.Process()
    total = sum(me.cpu_times()[:4])
    for child in me.children(recursive=True):
        try:
            total += sum(child.cpu_times()[:4])
        except psutil.Error:  # ended meanwhile: it is in its parent's sum now
            continue
    return float(total)
