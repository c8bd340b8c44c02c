"""Journals for tests: a clock that is set by hand, and a daemon that dies without a word."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agent import config
from agent.journal.clock import Clock
from agent.journal.journal import Entry, Final, Journal, Recovered

LONGEST_TTL_S = 3600.0


class HandClock(Clock):
    """Seconds since a boot, as the test says."""

    def __init__(self, boot_id: str = "boot-1", seconds: float = 100.0) -> None:
        self.boot_id = boot_id
        self.seconds = seconds

    def now(self) -> float:
        return self.seconds


def make(folder: Path | None = None, clock: Clock | None = None, **settings: Any) -> Journal:
    """A journal in this folder, or in memory; not started."""
    mode = {"mode": "disk", "folder": str(folder)} if folder else {"mode": "memory"}
    section = config.Journal(**{**mode, **settings})
    return Journal(section, longest_ttl_s=LONGEST_TTL_S, clock=clock or HandClock())


@contextlib.asynccontextmanager
async def running(
    folder: Path, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[tuple[Journal, tuple[Recovered, ...]]]:
    """A started journal and what its start has found; closed in the end."""
    journal = make(folder, clock, **settings)
    recovered = await journal.start()
    try:
        yield journal, recovered
    finally:
        await journal.close()


def accept(journal: Journal, request_id: str, ttl_s: float | None = None, client: str = "me") -> Entry:
    """Open a request whose payload and intent are made of its id."""
    payload = f"payload of {request_id}".encode()
    return journal.open(client, request_id, payload, intent=b"intent of " + payload, ttl_s=ttl_s)


def find(journal: Journal, request_id: str, client: str = "me") -> Entry | None:
    """The entry of a request that `accept` has opened."""
    return journal.find(client, request_id, f"payload of {request_id}".encode())


def answer(text: str) -> tuple[Final, ...]:
    """Terminal frames with this text, in two publishes."""
    return Final(text.encode()), Final(b"", "/done")


async def deliver(journal: Journal, request_id: str, text: str) -> Entry:
    """Open, end and deliver a request; all of it on disk."""
    entry = accept(journal, request_id)
    journal.end(entry, answer(text))
    await journal.committed(entry)
    journal.delivered(entry)
    await journal.committed(entry)
    return entry


async def until_mended(journal: Journal) -> None:
    """Wait until the journal has no finding any more."""
    while journal.findings:
        await asyncio.sleep(0.02)


def copy_files(folder: Path, target: Path) -> Path:
    """The files of a running journal as a loss of power would leave them, in a folder of their own."""
    target.mkdir()
    for file in folder.glob("journal.db*"):
        (target / file.name).write_bytes(file.read_bytes())
    return target
