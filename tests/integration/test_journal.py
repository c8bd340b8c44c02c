"""The journal of real processes: killed in mid-write, on disks that are full, limited or read-only."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.journal.clock import Clock
from agent.journal.journal import EntryState
from tests.support import journal_child
from tests.support.journals import answer, running

CHILD = [sys.executable, journal_child.__file__]


@contextlib.contextmanager
def child(what: str, folder: Path, before: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*before, *CHILD, what, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def said_by(what: str, folder: Path, before: tuple[str, ...] = ()) -> list[Any]:
    """All lines of a child that ends by itself."""
    with child(what, folder, before) as process:
        out, _ = process.communicate(timeout=50)
        assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def killed_after(num_lines: int, folder: Path) -> dict[str, str]:
    """What a child has said of each id until SIGKILL met it in the middle of its writing."""
    with child("write", folder) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(num_lines)]
        process.kill()
        lines += process.stdout.readlines()
    # The last line may be cut.
    return dict(json.loads(line) for line in lines if line.endswith("\n"))


def test_what_was_committed_survives_sigkill(tmp_path: Path) -> None:
    """Each request said to be on disk is there, live or with its result, after each of several deaths."""
    said: dict[str, str] = {}
    for num_lines in (1, 200, 77):
        said |= killed_after(num_lines, tmp_path)
    asyncio.run(check(tmp_path, said))


async def check(folder: Path, said: dict[str, str]) -> None:
    async with running(folder, Clock(), max_rows=1 << 20) as (journal, recovered):
        assert journal.findings == ()
        found = {one.entry.id: one for one in recovered}
        for name, state in said.items():
            entry = journal.peek("me", name)
            assert entry is not None, name
            if state == "ended":
                assert entry.state is not EntryState.LIVE
            if entry.state is EntryState.LIVE:
                assert found[name].entry.run >= 2
                assert found[name].remaining_s is not None
            else:
                assert await journal.finals(entry) == answer(name)
        noted = journal.notes("last")["last"].decode()
        entry = journal.peek("me", noted)
        assert entry is not None
        assert entry.state is not EntryState.LIVE


def test_a_file_that_may_not_grow_stops_no_answer(tmp_path: Path) -> None:
    """Everything is written when it may grow again."""
    check_broken_and_mended(said_by("limited", tmp_path), {"journal_not_written", "journal_disk_full"})


def check_broken_and_mended(said: list[Any], expected: set[str]) -> None:
    broken, mended, recovered = said
    assert len(broken) == 1
    assert set(broken) <= expected
    assert mended == []
    assert recovered == ["before", *(f"r{number}" for number in range(400))]


@pytest.fixture
def small_disk(tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """A folder, and the words before a command that see a small file system there."""
    shell = f'mount -t tmpfs -o size=4m none {tmp_path} && exec "$0" "$@"'
    how = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "sh", "-c", shell]
    if not shutil.which("unshare") or subprocess.run([*how, "true"], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    return tmp_path, tuple(how)


def test_a_full_disk_stops_no_answer(small_disk: tuple[Path, tuple[str, ...]]) -> None:
    """It is said, and everything is written when there is room again."""
    check_broken_and_mended(said_by("full", *small_disk), {"journal_disk_full"})


def test_a_disk_that_has_become_read_only_is_read(small_disk: tuple[Path, tuple[str, ...]]) -> None:
    """As worn flash does: what it holds is answered all the same, and runs are counted when it is mended."""
    first, codes, second = said_by("read-only", *small_disk)
    assert first == [["live", 2, 0], ["answered", 1, 2]]
    assert codes == ["journal_not_written"]
    assert second == [["live", 3, 0], ["answered", 1, 2]]
