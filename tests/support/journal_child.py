"""A process that keeps a journal, to be killed or to be given a bad disk: `journal_child.py WHAT FOLDER`.

Prints one JSON value a line.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from agent.journal import mirror as journal_mirror
from agent.journal.journal import Entry, Journal
from tests.support.journals import accept, answer, make, running, until_mended


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def codes(journal: Journal) -> list[str]:
    return [finding.code for finding in journal.findings]


async def write(folder: Path) -> None:
    """Requests without end; each line is an id and what is on disk of it, said after its commit."""
    journal = make(folder, max_rows=1 << 20)
    await journal.start()
    await asyncio.gather(*(_write_some(journal, lane) for lane in range(8)))


async def _write_some(journal: Journal, lane: int) -> None:
    for number in range(1_000_000):
        entry = accept(journal, f"{os.getpid()}-{lane}-{number}", ttl_s=600)
        await journal.committed(entry)
        say([entry.id, "live"])
        if number % 3:
            journal.note("last", entry.id.encode(), of=entry.key)
            journal.end(entry, answer(entry.id))
            await journal.committed(entry)
            say([entry.id, "ended"])
        if number % 3 == 2:
            journal.delivered(entry)


async def full(folder: Path) -> None:
    """A disk that fills up and is emptied again."""

    async def fill_up() -> None:
        with (folder / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return

    await _break_and_mend(folder, fill_up, lambda: (folder / "filler").unlink())


async def limited(folder: Path) -> None:
    """Files that may not grow for a while."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))

    await _break_and_mend(folder, limit, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before))


async def _break_and_mend(folder: Path, spoil: Callable[[], Any], mend: Callable[[], Any]) -> None:
    async with running(folder) as (journal, _):
        before = accept(journal, "before")
        await journal.committed(before)
        await spoil()
        for number in range(400):
            entry = accept(journal, f"r{number}")
            await journal.committed(entry)
            await _answered(journal, entry)
        say(codes(journal))
        mend()
        await until_mended(journal)
        say(codes(journal))
    async with running(folder) as (journal, recovered):
        say([one.entry.id for one in recovered])


async def _answered(journal: Journal, entry: Entry) -> None:
    journal.end(entry, answer("x" * 2000))
    await journal.committed(entry)


async def read_only(folder: Path) -> None:
    """A disk that may only be read when the daemon comes back, and is mended later."""
    dying = make(folder)
    await dying.start()
    await dying.committed(accept(dying, "live"))
    await _answered(dying, accept(dying, "answered"))
    # The file as the death of the first daemon leaves it, in a place that nobody holds.
    names = [f"journal.db{end}" for end in ("", "-wal")]
    contents = [(folder / name).read_bytes() for name in names]
    await dying.close()
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(content)
    _remount(folder, "ro")
    async with running(folder) as (journal, recovered):
        say([[one.entry.id, one.entry.run, len(one.finals)] for one in recovered])
        say(codes(journal))
        _remount(folder, "rw")
        await until_mended(journal)
    async with running(folder) as (_, recovered):
        say([[one.entry.id, one.entry.run, len(one.finals)] for one in recovered])


def _remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


if __name__ == "__main__":
    journal_mirror.RETRY_S, journal_mirror.PAUSE_S = 0.1, 0.01
    what = {"write": write, "full": full, "limited": limited, "read-only": read_only}[sys.argv[1]]
    asyncio.run(what(Path(sys.argv[2])))
