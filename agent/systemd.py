"""Tells systemd how the service is doing (sd_notify), and keeps its watchdog fed while all parts live."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

# So late the loop may be with its own tick; devices wait for it as long.
LATE_S = 5.0
TICK_S = 1.0


def notify(**fields: str) -> None:
    """Send `READY="1"`, `STATUS="..."` and the like; nothing happens outside systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # A leading @ names an abstract socket.
    name = "\0" + address[1:] if address.startswith("@") else address
    text = "\n".join(f"{key}={value}" for key, value in fields.items())
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.sendto(text.encode(), name)


class Watchdog:
    """Says WATCHDOG=1 every `every_s` seconds while `is_alive` finds nothing wrong ("").

    Else it says nothing, and systemd ends a daemon that stays so. What is wrong is logged once.
    """

    def __init__(
        self, every_s: float, is_alive: Callable[[], str], tell: Callable[..., None] = notify
    ) -> None:
        self._every_s = every_s
        self._is_alive = is_alive
        self._tell = tell
        self._fed_at: float | None = None
        self._trouble = ""

    def tick(self, now_s: float, late_s: float = 0.0) -> None:
        """Feed it if it is time. `late_s` is how much later than it wished the loop came here."""
        if self._fed_at is not None and now_s - self._fed_at < self._every_s:
            return
        trouble = f"the event loop was {late_s:.0f} s late" if late_s >= LATE_S else self._ask()
        self._note(trouble)
        if not trouble:
            self._fed_at = now_s
            self._tell(WATCHDOG="1")

    def _ask(self) -> str:
        try:
            return self._is_alive()
        except Exception:
            log.exception("nobody can say whether the daemon is well")
            return "it cannot be told whether all parts live"

    def _note(self, trouble: str) -> None:
        if trouble and not self._trouble:
            log.error("the watchdog is not fed: %s", trouble)
            self._tell(STATUS=f"not well: {trouble}")
        elif self._trouble and not trouble:
            log.info("the watchdog is fed again, after: %s", self._trouble)
            self._tell(STATUS="well again")
        self._trouble = trouble


async def feed_watchdog(is_alive: Callable[[], str] = str) -> None:
    """Report life twice per WatchdogSec from the event loop; a blocked loop goes hungry, and so does a
    daemon of which `is_alive` says what is wrong ("" when nothing is). It is called on the loop."""
    interval_us = int(os.environ.get("WATCHDOG_USEC", "0"))
    if not interval_us or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    every_s = interval_us / 2e6
    step_s = min(TICK_S, every_s)
    watchdog, late_s = Watchdog(every_s - step_s / 2, is_alive), 0.0
    while True:
        before = time.monotonic()
        watchdog.tick(before, late_s)
        await asyncio.sleep(step_s)
        late_s = time.monotonic() - before - step_s
