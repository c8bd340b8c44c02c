"""The journal's file: private, whole or set aside, and nobody waits for a disk that fails."""

import asyncio
import multiprocessing
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import Expired
from agent.journal import mirror as journal_mirror
from agent.journal.entry import Written
from agent.journal.file import NAME, JournalFile
from agent.journal.journal import Journal
from tests.support.journals import accept, answer, copy_files, deliver, find, make, running, until_mended

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried soon."""
    monkeypatch.setattr(journal_mirror, "RETRY_S", 0.05)
    monkeypatch.setattr(journal_mirror, "PAUSE_S", 0.01)


def codes(journal: Journal) -> list[str]:
    return [finding.code for finding in journal.findings]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """Prompts are people's own: the folder is made 0700, every file is 0600, whatever the umask."""
    before = os.umask(0)
    try:
        async with running(tmp_path / "state" / "deep") as (journal, _):
            await journal.committed(accept(journal, "r1"))
            for name in (NAME, f"{NAME}-wal"):
                assert mode_of(tmp_path / "state" / "deep" / name) == 0o600
            assert mode_of(tmp_path / "state" / "deep") == 0o700
    finally:
        os.umask(before)


async def test_a_file_that_others_could_read_is_closed(tmp_path: Path) -> None:
    """Before anything is written to it."""
    (tmp_path / NAME).touch(mode=0o644)
    async with running(tmp_path):
        assert mode_of(tmp_path / NAME) == 0o600


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """The journal writes to its own folder and nowhere else."""
    (tmp_path / "state").mkdir()
    (tmp_path / "elsewhere").touch()
    (tmp_path / "state" / NAME).symlink_to(tmp_path / "elsewhere")
    async with running(tmp_path / "state") as (journal, _):
        assert codes(journal) == ["journal_not_written"]
        assert (tmp_path / "elsewhere").stat().st_size == 0


async def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    """The daemon goes on with a new one, and says so; only the last damaged one is kept."""
    for content in (b"not a database, " * 100, bytes(range(256)) * 40):
        (tmp_path / NAME).write_bytes(content)
        async with running(tmp_path) as (journal, recovered):
            assert recovered == ()
            assert codes(journal) == ["journal_damaged"]
            assert str(tmp_path / f"{NAME}.damaged") in journal.findings[0].remedy
            await deliver(journal, "r1", "text")
        assert (tmp_path / f"{NAME}.damaged").read_bytes() == content
    async with running(tmp_path) as (journal, _):
        assert find(journal, "r1")
        assert codes(journal) == []
    assert sorted(os.listdir(tmp_path)) == [NAME, f"{NAME}.damaged"]


async def test_a_file_of_another_version_is_set_aside(tmp_path: Path) -> None:
    """It is not written to: the version that made it may come back."""
    async with running(tmp_path) as (journal, _):
        accept(journal, "r1")
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    async with running(tmp_path) as (journal, recovered):
        assert recovered == ()
        assert "another version" in journal.findings[0].what


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
async def test_damage_anywhere_never_keeps_the_daemon_from_starting(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """What is read is what was written, or it is not read at all."""
    folder = tmp_path_factory.mktemp("journal")
    texts = {f"r{number}": str(number) * 700 for number in range(12)}
    async with running(folder) as (journal, _):
        for name, text in texts.items():
            journal.end(entry := accept(journal, name), answer(text))
            if len(name) == 2:
                journal.delivered(entry)
        live = accept(journal, "live")
        await journal.committed(live)
        content = bytearray((folder / NAME).read_bytes() + (folder / f"{NAME}-wal").read_bytes())
        size = (folder / NAME).stat().st_size
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        garbage = data.draw(st.binary(min_size=1, max_size=200))
        content[start : start + len(garbage)] = garbage
    (folder / NAME).write_bytes(content[:size])
    (folder / f"{NAME}-wal").write_bytes(content[size:])
    async with running(folder) as (journal, recovered):
        for one in recovered:
            if one.finals and one.entry.id in texts:
                assert one.finals == answer(texts[one.entry.id])
            elif one.entry.id == "live":
                assert one.entry.intent == b"intent of payload of live"
        await deliver(journal, "new", "text")
        assert "journal_failed" not in codes(journal)
    async with running(folder) as (journal, _):
        new = find(journal, "new")
        assert new is not None
        assert await journal.finals(new) == answer("text")


async def test_a_text_with_a_lost_bit_is_not_given(tmp_path: Path) -> None:
    """SQLite does not look at what is stored; a wrong answer is worse than none."""
    async with running(tmp_path) as (journal, _):
        await deliver(journal, "answered", "herbs" * 100)
        accept(journal, "live")
    content = (tmp_path / NAME).read_bytes()
    content = content.replace(b"herbsherbs", b"herbsherbz", 1).replace(b"intent of", b"intent_of", 1)
    (tmp_path / NAME).write_bytes(content)
    async with running(tmp_path) as (journal, recovered):
        assert recovered == ()
        assert "1 entries" in journal.findings[0].what
        entry = find(journal, "answered")
        assert entry is not None
        with pytest.raises(Expired):
            await journal.finals(entry)


async def test_a_folder_that_cannot_be_made_is_a_finding(tmp_path: Path) -> None:
    """Answering goes on; when the folder is there, all that was kept in memory is written."""
    (tmp_path / "state").write_text("in the way")
    journal = make(tmp_path / "state" / "deep")
    assert await journal.start() == ()
    assert codes(journal) == ["journal_not_written"]
    entry = accept(journal, "r1")
    await journal.committed(entry)
    journal.end(entry, answer("text"))
    journal.note("crash", b"SIGSEGV")
    (tmp_path / "state").unlink()
    await until_mended(journal)
    await journal.close()
    async with running(tmp_path / "state" / "deep") as (journal, recovered):
        assert [one.finals for one in recovered] == [answer("text")]
        assert journal.notes("") == {"crash": b"SIGSEGV"}


def hold(path: Path, is_held: "threading.Event", is_over: "threading.Event") -> None:
    """Another daemon with the same journal."""
    file = JournalFile(path)
    file.open("", 0.0)
    is_held.set()
    is_over.wait(30)
    file.close()


@pytest.fixture
def other_daemon(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Has the journal until it is told to let go."""
    context = multiprocessing.get_context("spawn")
    is_held, is_over = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, is_held, is_over))
    process.start()
    assert is_held.wait(30)

    def let_go() -> None:
        is_over.set()
        process.join(30)

    yield let_go
    let_go()


async def test_a_journal_in_use_is_left_alone(tmp_path: Path, other_daemon: Callable[[], None]) -> None:
    """Two daemons never share one; when the other has gone, what it left is found by the next start."""
    async with running(tmp_path) as (journal, recovered):
        assert recovered == ()
        assert codes(journal) == ["journal_locked"]
        entry = accept(journal, "mine")
        await journal.committed(entry)
        other_daemon()
        with sqlite3.connect(tmp_path / NAME) as db:
            db.execute("INSERT INTO entries VALUES(1,'me','theirs',x'00',1,'live',0,'',NULL,NULL,0.0)")
            db.execute("INSERT INTO intents VALUES(1,x'',0)")
        db.close()
        await until_mended(journal)
        assert journal.peek("me", "theirs") is None
        journal.end(entry, answer("text"))
        await journal.committed(entry)
        journal.delivered(entry)
        await journal.committed(entry)
        assert await journal.finals(entry) == answer("text")
    async with running(tmp_path) as (journal, recovered):
        assert [one.entry.id for one in recovered] == ["theirs"]
        assert find(journal, "mine")


async def test_a_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    """With all that is in memory; texts that were on disk only have gone, and their keys have not."""
    async with running(tmp_path) as (journal, _):
        await deliver(journal, "delivered", "herbs")
        accept(journal, "live", ttl_s=60)
        ended = accept(journal, "ended")
        journal.end(ended, answer("spices"))
        journal.note("crash", b"SIGSEGV")
        await journal.committed(ended)
        for name in (NAME, f"{NAME}-wal"):
            (tmp_path / name).unlink()
        await journal.committed(accept(journal, "another"))
        assert codes(journal) == []
    async with running(tmp_path) as (journal, recovered):
        assert [one.entry.id for one in recovered] == ["live", "another"]
        assert journal.notes("") == {"crash": b"SIGSEGV"}
        for name in ("ended", "delivered"):
            assert find(journal, name)
        entry = find(journal, "delivered")
        assert entry is not None
        with pytest.raises(Expired):
            await journal.finals(entry)


async def test_nobody_waits_for_a_disk_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a finding while it lasts; then everything is written."""
    monkeypatch.setattr(journal_mirror, "SLOW_S", 0.05)
    is_answering = threading.Event()
    write = JournalFile.write

    def slowly(self: JournalFile, batch: object) -> Written:
        is_answering.wait(30)
        return write(self, batch)  # type: ignore[arg-type]

    journal = make(tmp_path)
    await journal.start()
    monkeypatch.setattr(JournalFile, "write", slowly)
    entries = [accept(journal, f"r{number}") for number in range(3)]
    await asyncio.gather(*(journal.committed(entry) for entry in entries))
    assert codes(journal) == ["journal_stuck"]
    journal.end(entries[0], answer("text"))
    await journal.committed(entries[0])
    is_answering.set()
    await until_mended(journal)
    await journal.close()
    async with running(tmp_path) as (_, recovered):
        assert [len(one.finals) for one in recovered] == [2, 0, 0]


async def test_a_bug_in_writing_ends_neither_the_thread_nor_the_answering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a finding and a traceback in the log, and it is tried again."""
    journal = make(tmp_path)
    await journal.start()
    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "write", lambda *_: 1 / 0)
        await journal.committed(accept(journal, "r1"))
        assert codes(journal) == ["journal_failed"]
    await until_mended(journal)
    assert journal.is_alive()
    await journal.close()
    async with running(tmp_path) as (_, recovered):
        assert [one.entry.id for one in recovered] == ["r1"]


async def test_what_is_kept_for_a_broken_disk_is_bounded(tmp_path: Path) -> None:
    """However long it is broken, and whatever comes and goes meanwhile."""
    (tmp_path / "state").write_text("in the way")
    async with running(tmp_path / "state", max_rows=64, max_bytes=1 << 16) as (journal, _):
        for number in range(500):
            entry = accept(journal, f"r{number}")
            journal.note(f"n{number}", b"x")
            journal.note(f"n{number - 1}", None)
            await journal.committed(entry)
            journal.end(entry, answer("x" * 2000))
            journal.delivered(entry)
            if number % 50 == 0:
                await asyncio.sleep(0.02)
        batch = journal._changes.take()
        assert len(batch.rows) <= 64
        # Besides a few, those of a try that is under way.
        assert len(batch.gone) + len(batch.notes) <= 64 + 4
        texts = [frame.payload for _, frames in batch.frames for frame in frames or ()]
        assert 0 < sum(len(text) for text in texts) <= 1 << 16
        journal._changes.settle(is_written=False)


async def test_the_file_shrinks_with_what_it_holds(tmp_path: Path) -> None:
    """Old texts do not take the disk for ever."""
    async with running(tmp_path) as (journal, _):
        for number in range(40):
            await deliver(journal, f"r{number}", "x" * 100_000)
    large = (tmp_path / NAME).stat().st_size
    async with running(tmp_path, max_bytes=1 << 16) as (journal, _):
        for number in range(20):
            await deliver(journal, f"more{number}", "text")
    assert (tmp_path / NAME).stat().st_size < large / 2


async def test_what_is_not_urgent_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without anything urgent to carry it, and after a time for which nothing was left to write."""
    monkeypatch.setattr(journal_mirror, "LAZY_S", 0.01)
    async with running(tmp_path) as (journal, _):
        for _ in range(2):
            journal.note("fleeting", b"x")
            journal.note("fleeting", None)
            await asyncio.sleep(0.05)
        journal.note("crash", b"SIGSEGV")
        while journal._changes or journal._changes._flying:
            await asyncio.sleep(0.01)
        copy = copy_files(tmp_path, tmp_path / "copy")
        async with running(copy) as (other, _):
            assert other.notes("") == {"crash": b"SIGSEGV"}


async def test_a_closed_journal_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Those who are late are answered from memory."""
    async with running(tmp_path) as (journal, _):
        entry = accept(journal, "r1")
    journal.end(entry, answer("text"))
    await journal.committed(entry)
    assert await journal.finals(entry) == answer("text")
    await journal.close()


def test_a_log_shows_nothing_of_what_people_wrote() -> None:
    """Neither prompt nor answer is in an entry's name."""
    journal = make()
    entry = accept(journal, "r1")
    journal.end(entry, answer("secret"))
    assert "secret" not in repr(entry)
    assert "payload" not in repr(entry)


async def test_a_burst_is_few_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one reaches the disk, the next gathers."""
    batches: list[object] = []
    write = JournalFile.write

    def counted(self: JournalFile, batch: object) -> Written:
        batches.append(batch)
        return write(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(JournalFile, "write", counted)
    async with running(tmp_path) as (journal, _):
        entries = [accept(journal, f"r{number}") for number in range(1000)]
        await asyncio.gather(*(journal.committed(entry) for entry in entries))
        assert len(batches) <= 2
        for entry in entries:
            journal.end(entry, answer("text"))
            journal.delivered(entry)
        await asyncio.gather(*(journal.committed(entry) for entry in entries))
        assert len(batches) <= 4
