"""How short the box is of memory: 0 not at all, 1 give back what is idle, 2 take nothing more.

Two witnesses. The kernel's pressure stall information (PSI; Linux 4.20, absent where it is not
built in) says how much time is lost waiting for memory, and the room that is left says how near
that is. Either is enough.

| level | stalled, average of 10 s            | less available than                         |
|-------|-------------------------------------|---------------------------------------------|
| 1     | somebody more than 10 % of the time | 8 % of the total, at least 48 MiB           |
| 2     | everybody more than 5 % of the time | 4 % of the total, at least 24 MiB           |

A shortage is one only below 1 GiB (512 MiB): a large box works well with 2 % of it free.
"""

from pathlib import Path
from typing import NamedTuple

from agent.hardware.cgroup import cgroup_folders
from agent.hardware.memory import ROOT, Room, rooms

SOME_PERCENT, FULL_PERCENT = 10.0, 5.0
# (share of the total, at least, at most) that has to be available.
LOW = (0.08, 48 << 20, 1 << 30)
CRITICAL = (0.04, 24 << 20, 512 << 20)
# With so much of the box available, stalls outside our cgroup are another container at its own limit.
ROOMY_SHARE = 0.25
# PSI's own average decays over 10 s; a level is left only after as long below it.
CALM_S = 10.0


class Stall(NamedTuple):
    """Percent of the last 10 s in which some task, or every task, waited for memory."""

    some: float
    full: float


class Reading(NamedTuple):
    """What the kernel says now. `rooms` begins with the box; a None is a stall that is not told."""

    rooms: tuple[Room, ...]
    box: Stall | None = None
    own: Stall | None = None


def read(root: Path = ROOT) -> Reading:
    """Read both witnesses: a few small files. Raises OSError where even /proc/meminfo is missing."""
    own = next(iter(cgroup_folders(root)), None)
    return Reading(
        rooms=rooms(root),
        box=_stall(root / "proc/pressure/memory"),
        own=_stall(own / "memory.pressure") if own else None,
    )


def level(reading: Reading, *, is_cold: bool = False) -> int:
    """The level of one reading alone.

    `is_cold`: the model does not stay in memory, and computing reads it again and again. The kernel
    counts that as waiting for memory; it is slow, and nothing that giving back more would mend.
    """
    stall = _of_stall(reading)
    return max(min(stall, 1) if is_cold else stall, *(_of_room(room) for room in reading.rooms), 0)


def describe(reading: Reading) -> str:
    """One sentence for a person: what is left, and what is lost by waiting."""
    tightest = min(reading.rooms, key=lambda room: room.available_bytes / max(room.total_bytes, 1))
    left, total = tightest.available_bytes >> 20, tightest.total_bytes >> 20
    full = max((stall.full for stall in (reading.box, reading.own) if stall), default=0.0)
    return f"{left} of {total} MiB are available, {full:.0f} % of the time is lost waiting for memory"


class Gauge:
    """The level over time: up at once, down after `CALM_S` below it, to the highest one met meanwhile."""

    def __init__(self) -> None:
        self.level = 0
        self._calm_since: float | None = None
        self._highest = 0

    def feed(self, now_level: int, now: float) -> int:
        """Take the level of a reading at `now` (seconds of any steady clock); the level that holds."""
        if now_level >= self.level:
            self.level, self._calm_since = now_level, None
            return self.level
        if self._calm_since is None:
            self._calm_since, self._highest = now, now_level
        self._highest = max(self._highest, now_level)
        if now - self._calm_since >= CALM_S:
            self.level, self._calm_since = self._highest, None
        return self.level


def _of_room(room: Room) -> int:
    if room.available_bytes < _bound(room, CRITICAL):
        return 2
    return 1 if room.available_bytes < _bound(room, LOW) else 0


def _bound(room: Room, rule: tuple[float, int, int]) -> float:
    share, at_least, at_most = rule
    return min(max(room.total_bytes * share, at_least), at_most)


def _of_stall(reading: Reading) -> int:
    box = reading.rooms[0]
    is_roomy = box.available_bytes > box.total_bytes * ROOMY_SHARE
    stalls = [reading.own] if is_roomy else [reading.own, reading.box]
    if any(stall and stall.full > FULL_PERCENT for stall in stalls):
        return 2
    return int(any(stall and stall.some > SOME_PERCENT for stall in stalls))


def _stall(path: Path) -> Stall | None:
    """A PSI file: lines `some avg10=1.23 avg60=...` and `full avg10=...`."""
    try:
        lines = path.read_text().splitlines()
        averages = {line.split()[0]: float(line.split()[1].removeprefix("avg10=")) for line in lines}
        return Stall(averages["some"], averages["full"])
    except (OSError, ValueError, LookupError):
        return None
