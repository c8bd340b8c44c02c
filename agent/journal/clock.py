"""The journal's clock: seconds of this boot, sleep included, and which boot it is."""

import logging
import time
from pathlib import Path

log = logging.getLogger(__name__)


class Clock:
    """`boot_id` is "" where the system has none (macOS): then no two starts are known to share a boot."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.boot_id = _boot_id(root / "proc/sys/kernel/random/boot_id")
        self._id = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now(self) -> float:
        """Seconds that no wall clock can move."""
        return time.clock_gettime(self._id)


def _boot_id(path: Path) -> str:
    try:
        return path.read_text().strip()[:64]
    except (OSError, ValueError) as error:
        log.debug("%s: %s; deadlines go by the seconds that were left at the last write", path, error)
        return ""
