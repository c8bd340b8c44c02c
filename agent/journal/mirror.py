"""Keeps the journal's file like the journal in memory: what changed is written together, in one transaction.

While one transaction reaches the disk, the next gathers. When the disk fails, what changed stays marked
and nobody waits for it; it is tried again until it is written.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent.findings import Finding, Severity
from agent.journal.changes import Changes
from agent.journal.clock import Clock
from agent.journal.entry import Batch, Entry, Final, Part, Written
from agent.journal.thread import Worker

if TYPE_CHECKING:
    from agent.journal.file import JournalFile
    from agent.journal.rows import Loaded

log = logging.getLogger(__name__)

# What need not be safe at once waits for the next transaction, or so long.
LAZY_S = 3.0
# After a failure: the soonest, and the latest, that it is tried again.
PAUSE_S = 1.0
RETRY_S = 10.0
# A disk that takes longer is said, and not waited for.
SLOW_S = 10.0
OPEN_S = 60.0
CLOSE_S = 5.0
# The thread has stopped for good.
DEAD_S = 90.0


class Mirror:
    """The loop's side of the file. All methods are called on the loop."""

    def __init__(
        self,
        folder: Path,
        changes: Changes,
        clock: Clock,
        on_findings: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._changes = changes
        self._clock = clock
        self._on_findings = on_findings
        self._worker = Worker("journal")
        self._waiters: dict[Entry, list[asyncio.Future[None]]] = {}
        self._changed = asyncio.Event()
        self._closing = asyncio.Event()
        self._lazy: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._fault: Finding | None = None
        self._notices: tuple[Finding, ...] = ()
        self._file: JournalFile | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What keeps it from writing, and what it had to give up."""
        return (self._fault, *self._notices) if self._fault else self._notices

    def is_alive(self) -> bool:
        """False when the thread has not answered for DEAD_S."""
        return self._worker.waiting_s() < DEAD_S

    # ---- start and end -----------------------------------------------------------------------

    async def open(self) -> "Loaded | None":
        """What the file holds; None or nothing when that is not known, and why is a finding."""
        self._worker.start()
        opening = self._worker.call(self._open)
        await asyncio.wait({opening}, timeout=OPEN_S)
        if not opening.done():
            self._set_fault(self._slow())
            self._worker.call(self._let_go)
            return None
        try:
            loaded = opening.result()
        except Exception as error:
            log.exception("the journal could not be opened")
            self._set_fault(_failed(error))
            return None
        self._take_notices(loaded.notices)
        self._set_fault(loaded.fault)
        return loaded

    def _open(self) -> "Loaded":
        # Here, on the thread: sqlite3 is imported where there is a file only.
        from agent.journal.file import JournalFile

        self._file = JournalFile(self._folder)
        return self._file.open(self._clock.boot_id, self._clock.now())

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()

    async def run_first(self) -> None:
        """Write what the start has changed, then go on by itself."""
        if self._changes:
            await self._write_once()
        self._changed.set()
        self._task = asyncio.create_task(self._run(), name="journal")

    async def close(self) -> None:
        """Write what is left and let go of the file, within CLOSE_S each."""
        if self._task is None:
            return
        self._closing.set()
        self._changed.set()
        await asyncio.wait({self._task}, timeout=CLOSE_S)
        if not self._task.done():
            self._task.cancel()
        for timer in (self._lazy, self._retry):
            if timer is not None:
                timer.cancel()
        if self._changes:
            log.error("the journal could not be written to its end: the last changes are lost")
        await self._worker.end(self._let_go, CLOSE_S)
        self._task = None

    # ---- changes -----------------------------------------------------------------------------

    def mark(self, entry: Entry, parts: Part, *, is_urgent: bool = True) -> None:
        """These parts of the entry are to be written."""
        self._changes.mark(entry, parts)
        self.touch(is_urgent=is_urgent)

    def forget(self, entry: Entry, *, is_urgent: bool = False) -> None:
        """The entry is no more."""
        if self._changes.forget(entry):
            self.touch(is_urgent=is_urgent)
        self._resolve(entry)

    def touch(self, *, is_urgent: bool) -> None:
        """Something has changed: write now, or soon."""
        if is_urgent:
            self._changed.set()
        elif self._lazy is None and self._task is not None:
            self._lazy = asyncio.get_running_loop().call_later(LAZY_S, self._end_laziness)

    def _end_laziness(self) -> None:
        if self._lazy is not None:
            self._lazy.cancel()
            self._lazy = None
            self._changed.set()

    async def committed(self, entry: Entry) -> None:
        """Wait until the entry is on disk as it is now. Does not wait for a disk that fails."""
        if self._task is None or self._fault is not None or entry not in self._changes:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(entry, []).append(waiter)
        self._changed.set()
        await waiter

    async def read(self, entry: Entry) -> tuple[Final, ...] | None:
        """Terminal frames that have left memory; None when the disk does not give them."""
        file = self._file
        if file is None or self._worker.waiting_s() > SLOW_S:
            return None
        reading = self._worker.call(partial(file.read_frames, entry.seq))
        await asyncio.wait({reading}, timeout=SLOW_S)
        return reading.result() if reading.done() else None

    # ---- the loop ----------------------------------------------------------------------------

    async def _run(self) -> None:
        """Take what changed, write it, settle; until closed, and then once more."""
        while not (self._closing.is_set() and not self._changes):
            await self._changed.wait()
            self._changed.clear()
            if not self._changes or await self._write_once():
                continue
            if self._closing.is_set():
                return
            await asyncio.wait({pausing := asyncio.ensure_future(self._closing.wait())}, timeout=PAUSE_S)
            pausing.cancel()

    async def _write_once(self) -> bool:
        """One transaction; a new file is told everything. False when it failed, and will be tried again."""
        written = await self._attempt()
        if written.is_anew:
            self._changes.begin_anew()
            written = await self._attempt()
        is_written = written.fault is None and not written.is_anew
        if not is_written:
            self._try_again()
        for entry in list(self._waiters):
            if not is_written or entry not in self._changes:
                self._resolve(entry)
        self._set_fault(written.fault)
        return is_written

    async def _attempt(self) -> Written:
        self._end_laziness()
        batch = self._changes.take()
        try:
            written = await self._patiently(batch)
        except Exception as error:
            written = Written(fault=_failed(error))
            if written.fault != self._fault:
                log.exception("the journal could not be written")
        self._changes.settle(is_written=written.fault is None and not written.is_anew)
        self._take_notices(written.notices)
        return written

    async def _patiently(self, batch: Batch) -> Written:
        """The file's answer. Those who wait for it are let go when it takes too long."""
        writing = self._worker.call(partial(self._write, batch))
        await asyncio.wait({writing}, timeout=SLOW_S)
        if not writing.done():
            self._set_fault(self._slow())
            for entry in list(self._waiters):
                self._resolve(entry)
        return await writing

    def _write(self, batch: Batch) -> Written:
        from agent.journal.file import JournalFile

        self._file = self._file or JournalFile(self._folder)
        return self._file.write(batch)

    def _try_again(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._changed.set)

    # ---- what is said ------------------------------------------------------------------------

    def _resolve(self, entry: Entry) -> None:
        for waiter in self._waiters.pop(entry, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _set_fault(self, fault: Finding | None) -> None:
        if fault == self._fault:
            return
        self._fault = fault
        if fault is None:
            log.info("the journal is written again")
        else:
            log.error("%s %s", fault.what, fault.remedy)
        self._on_findings()

    def _take_notices(self, notices: list[Finding]) -> None:
        if notices:
            self._notices = tuple(dict.fromkeys((*self._notices, *notices)))[-4:]
            self._on_findings()

    def _slow(self) -> Finding:
        what = f"The disk of {self._folder} does not answer: accepted requests are kept in memory only."
        return Finding(Severity.ERROR, "journal_stuck", what, "Look for disk errors in the kernel's log.")


def _failed(error: Exception) -> Finding:
    """A bug of ours; its traceback is in the log."""
    what = f"Accepted requests are kept in memory only: the journal failed ({error!r})."
    return Finding(Severity.ERROR, "journal_failed", what, "Report the daemon's log.")
