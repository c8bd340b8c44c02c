"""Tells systemd how the service is doing (sd_notify), and keeps its watchdog fed."""

import asyncio
import contextlib
import os
import socket


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


async def feed_watchdog() -> None:
    """Report life twice per WatchdogSec from the event loop; a blocked loop goes hungry."""
    interval_us = int(os.environ.get("WATCHDOG_USEC", "0"))
    if not interval_us or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        notify(WATCHDOG="1")
        await asyncio.sleep(interval_us / 2e6)
