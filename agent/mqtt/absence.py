"""How long this box was away from its broker, also over a restart of the daemon or of the box.

A broker with MQTT 3.1.1 does not say how long it has kept a message: only we can know how old it may be.
"""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from agent.hardware.clock import believed_time
from agent.journal.clock import Clock
from agent.journal.notes import Notebook

NOTE = "seen_broker"
# While connected it is written down so often: a power cut is not announced.
EVERY_S = 600.0


class _Seen(Struct, frozen=True):
    """When the broker was last there: on the boot's own clock, and by the wall clock if that was right."""

    boot_id: str
    at: float
    wall: float | None


class Absence:
    """`earlier_s` is what an earlier daemon's note says of the time before this one; 0 where nobody knows."""

    def __init__(
        self, notebook: Notebook, clock: Clock | None = None, wall: Callable[[], float | None] | None = None
    ) -> None:
        self._notebook = notebook
        self._clock = clock or Clock()
        self._wall = wall or believed_time
        self._noted_at = float("-inf")

    def earlier_s(self) -> float:
        """Seconds from the last note until now."""
        try:
            seen = msgspec.msgpack.decode(self._notebook.notes(NOTE).get(NOTE, b""), type=_Seen)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return 0.0
        if seen.boot_id and seen.boot_id == self._clock.boot_id:
            return max(0.0, self._clock.now() - seen.at)
        now = self._wall()
        return 0.0 if seen.wall is None or now is None else max(0.0, now - seen.wall)

    def note(self, *, is_due_only: bool = False) -> None:
        """The broker is there, or was until now. With `is_due_only` only if the last note is old."""
        now = self._clock.now()
        if is_due_only and now - self._noted_at < EVERY_S:
            return
        self._noted_at = now
        self._notebook.note(NOTE, msgspec.msgpack.encode(_Seen(self._clock.boot_id, now, self._wall())))
