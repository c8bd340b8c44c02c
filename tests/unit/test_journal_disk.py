"""The journal over restarts: what was accepted and answered is there again, each once."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import Expired
from agent.journal.journal import EntryState, Journal, Recovered
from tests.support.journals import HandClock, accept, answer, copy_files, deliver, find, make, running

pytestmark = pytest.mark.anyio


def ids(recovered: tuple[Recovered, ...]) -> list[str]:
    return [one.entry.id for one in recovered]


async def finals_of(journal: Journal, request_id: str) -> object:
    entry = find(journal, request_id)
    assert entry is not None
    return await journal.finals(entry)


async def test_what_was_accepted_is_there_after_a_death(tmp_path: Path) -> None:
    """Once committed it needs no orderly end: in order of arrival, with its intent, one run later."""
    dying = make(tmp_path)
    await dying.start()
    entries = [accept(dying, f"r{number}") for number in range(3)]
    await asyncio.gather(*(dying.committed(entry) for entry in entries))
    copy = copy_files(tmp_path, tmp_path / "copy")
    await dying.close()
    async with running(copy) as (journal, recovered):
        assert ids(recovered) == ["r0", "r1", "r2"]
        assert recovered[1].entry.intent == b"intent of payload of r1"
        assert [one.entry.run for one in recovered] == [2, 2, 2]
        assert recovered[0].finals == ()
        assert find(journal, "r1") is recovered[1].entry


async def test_every_start_counts_as_a_run_of_what_is_live(tmp_path: Path) -> None:
    """Also one that dies before it has done anything, so that a loop of crashes is seen."""
    async with running(tmp_path) as (journal, _):
        accept(journal, "live")
        await deliver(journal, "done", "text")
    for run in range(2, 5):
        async with running(tmp_path) as (journal, recovered):
            assert [(one.entry.id, one.entry.run) for one in recovered] == [("live", run)]


async def test_terminal_frames_wait_for_their_acknowledgement(tmp_path: Path) -> None:
    """They come back with what is needed to reach who asked; delivered ones do not."""
    async with running(tmp_path) as (journal, _):
        entry = accept(journal, "waiting")
        journal.end(entry, answer("herbs"))
        await deliver(journal, "delivered", "spices")
    async with running(tmp_path) as (journal, recovered):
        assert ids(recovered) == ["waiting"]
        assert recovered[0].finals == answer("herbs")
        assert recovered[0].entry.state is EntryState.ENDED
        assert recovered[0].entry.run == 1
        assert recovered[0].entry.intent == b"intent of payload of waiting"
        journal.delivered(recovered[0].entry)
    async with running(tmp_path) as (journal, recovered):
        assert recovered == ()
        assert await finals_of(journal, "waiting") == answer("herbs")
        assert await finals_of(journal, "delivered") == answer("spices")


async def test_delivered_texts_are_on_disk_only(tmp_path: Path) -> None:
    """Memory holds their keys; who asks again gets the same bytes."""
    async with running(tmp_path) as (journal, _):
        entry = await deliver(journal, "r1", "herbs")
        assert entry.frames is None
        assert entry.intent == b""
        assert await journal.finals(entry) == answer("herbs")


async def test_a_disk_that_fails_keeps_no_prompt_in_memory(tmp_path: Path) -> None:
    """Once its answer is delivered: thousands of them would be a small box's memory."""
    (tmp_path / "file").touch()
    async with running(tmp_path / "file" / "journal") as (journal, _):
        entry = await deliver(journal, "r1", "herbs")
        assert [finding.code for finding in journal.findings] == ["journal_not_written"]
        assert entry.intent == b""
        assert await journal.finals(entry) == answer("herbs")


async def test_many_undelivered_texts_are_not_all_in_memory(tmp_path: Path) -> None:
    """A broker that is away for long costs disk; every text is still given."""
    async with running(tmp_path) as (journal, _):
        entries = [accept(journal, f"r{number}") for number in range(8)]
        for number, entry in enumerate(entries):
            journal.end(entry, answer(str(number) * 300_000))
        for entry in entries:
            await journal.committed(entry)
        assert sum(entry.frames is not None for entry in entries) <= 4
        for number, entry in enumerate(entries):
            assert await journal.finals(entry) == answer(str(number) * 300_000)


async def test_what_was_dropped_stays_dropped(tmp_path: Path) -> None:
    """Whether it had reached the disk or not."""
    async with running(tmp_path) as (journal, _):
        journal.drop(accept(journal, "never-written"))
        entry = accept(journal, "written")
        await journal.committed(entry)
        journal.drop(entry)
        other = accept(journal, "half-way")
        waiting = asyncio.create_task(journal.committed(other))
        await asyncio.sleep(0)
        journal.drop(other)
        await waiting
    async with running(tmp_path) as (journal, recovered):
        assert recovered == ()
        assert find(journal, "written") is None


async def test_a_changed_intent_and_loneliness_are_kept(tmp_path: Path) -> None:
    """The newest of both."""
    async with running(tmp_path) as (journal, _):
        entry = accept(journal, "r1")
        await journal.committed(entry)
        journal.change_intent(entry, b"newer")
        journal.mark_alone(entry, True)
        await journal.committed(entry)
    async with running(tmp_path) as (journal, recovered):
        assert recovered[0].entry.intent == b"newer"
        assert recovered[0].entry.is_alone


async def test_a_deadline_goes_on_in_the_same_boot(tmp_path: Path) -> None:
    """The time the daemon was away counts; what is over is said so."""
    clock = HandClock()
    async with running(tmp_path, clock) as (journal, _):
        for name, ttl_s in (("short", 10), ("long", 100), ("endless", None)):
            accept(journal, name, ttl_s)
    clock.seconds += 40
    async with running(tmp_path, clock) as (_, recovered):
        assert [one.remaining_s for one in recovered] == [-30, 60, None]


async def test_after_another_boot_the_remaining_seconds_count(tmp_path: Path) -> None:
    """Those at the last commit, which renews them when they are old. No wall clock is asked."""
    clock = HandClock(seconds=1000)
    dying = make(tmp_path, clock)
    await dying.start()
    await dying.committed(accept(dying, "r1", ttl_s=100))
    clock.seconds += 35
    await dying.committed(accept(dying, "r2", ttl_s=100))
    clock.seconds += 10
    await dying.committed(accept(dying, "r3", ttl_s=100))
    copy = copy_files(tmp_path, tmp_path / "copy")
    await dying.close()
    async with running(copy, HandClock("boot-2", 5)) as (_, recovered):
        assert [one.remaining_s for one in recovered] == [65, 100, 100]
    # And on from there.
    async with running(copy, HandClock("boot-2", 15)) as (_, recovered):
        assert [one.remaining_s for one in recovered] == [55, 90, 90]


async def test_without_a_boot_id_no_boot_is_the_same(tmp_path: Path) -> None:
    """As on macOS."""
    async with running(tmp_path, HandClock("", 1000)) as (journal, _):
        accept(journal, "r1", ttl_s=100)
    async with running(tmp_path, HandClock("", 5000)) as (_, recovered):
        assert recovered[0].remaining_s == 100


async def test_a_note_comes_with_the_end_it_belongs_to(tmp_path: Path) -> None:
    """Both or neither, also when the next turn is noted at once."""
    async with running(tmp_path) as (journal, _):
        first, second = accept(journal, "r1"), accept(journal, "r2")
        journal.note("talk", b"turn 1", of=("me", "r1"))
        journal.end(first, answer("text"))
        journal.note("talk", b"turn 2", of=("me", "r2"))
        journal.note("crash", b"SIGSEGV")
        assert journal.notes("talk") == {"talk": b"turn 2"}
        await journal.committed(first)
        await journal.committed(second)
    async with running(tmp_path) as (journal, _):
        assert journal.notes("") == {"talk": b"turn 1", "crash": b"SIGSEGV"}


async def test_a_removed_note_is_gone_after_a_restart(tmp_path: Path) -> None:
    """And the order of their age survives it: of too many the oldest go."""
    async with running(tmp_path) as (journal, _):
        for number in range(256):
            journal.note(f"n{number:03}", b"x")
        journal.note("n000", b"newer")
        journal.note("n001", None)
    async with running(tmp_path) as (journal, _):
        assert "n001" not in journal.notes("")
        for number in range(2):
            journal.note(f"more{number}", b"x")
        assert journal.notes("n000")
        assert not journal.notes("n002")


async def test_texts_that_have_gone_stay_gone(tmp_path: Path) -> None:
    """The key is there after a restart, and a repeat of it is told."""
    async with running(tmp_path, max_bytes=1 << 16) as (journal, _):
        await deliver(journal, "old", "x" * 40_000)
        await deliver(journal, "new", "x" * 40_000)
    async with running(tmp_path, max_bytes=1 << 16) as (journal, _):
        with pytest.raises(Expired):
            await finals_of(journal, "old")
        assert await finals_of(journal, "new") == answer("x" * 40_000)


async def test_smaller_bounds_hold_from_the_start(tmp_path: Path) -> None:
    """What is too much for them goes before anything is asked."""
    async with running(tmp_path) as (journal, _):
        for number in range(80):
            journal.end(entry := accept(journal, f"r{number:02}"), answer("x" * 2000))
            journal.delivered(entry)
    async with running(tmp_path, max_rows=64, max_bytes=1 << 16) as (journal, _):
        known = [number for number in range(80) if find(journal, f"r{number:02}")]
        assert known == list(range(16, 80))
        with pytest.raises(Expired):
            await finals_of(journal, "r20")
        assert await finals_of(journal, "r79") == answer("x" * 2000)
    async with running(tmp_path) as (journal, _):
        assert find(journal, "r15") is None


async def test_ages_are_kept_in_a_boot(tmp_path: Path) -> None:
    """A restart of the daemon does not make what it knows younger."""
    clock = HandClock()
    async with running(tmp_path, clock, keep_s=60) as (journal, _):
        await deliver(journal, "old", "text")
    clock.seconds += 600 + 3600 + 61
    async with running(tmp_path, clock, keep_s=60) as (journal, _):
        assert find(journal, "old") is None


class Model:
    """What a journal should know, as plainly as it can be said."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.ended: dict[str, str] = {}
        self.delivered: dict[str, str] = {}
        self.notes: dict[str, bytes] = {}

    def restart(self) -> None:
        self.live = {name: run + 1 for name, run in self.live.items()}

    def check(self, recovered: tuple[Recovered, ...]) -> None:
        live = {one.entry.id: one.entry.run for one in recovered if one.entry.state is EntryState.LIVE}
        ended = {one.entry.id: one.finals for one in recovered if one.entry.state is EntryState.ENDED}
        assert live == self.live
        assert ended == {name: answer(text) for name, text in self.ended.items()}


ACTIONS = ["open", "open", "end", "end", "deliver", "drop", "note", "wait", "restart"]


@settings(max_examples=25)
@given(steps=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 5)), max_size=40))
async def test_the_journal_is_what_a_dictionary_would_be(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Whatever is opened, ended, delivered, dropped and noted, over any number of restarts."""
    folder, model = tmp_path_factory.mktemp("journal"), Model()
    journal = make(folder)
    model.check(await journal.start())
    for number, (action, which) in enumerate(steps):
        name = f"r{which}"
        if action == "restart":
            await journal.close()
            journal = make(folder)
            model.restart()
            model.check(await journal.start())
            assert journal.notes("") == model.notes
        else:
            await _act(journal, model, action, name, f"text {number}")
    for name, text in {**model.ended, **model.delivered}.items():
        assert await finals_of(journal, name) == answer(text)
    assert not journal.findings
    await journal.close()


async def _act(journal: Journal, model: Model, action: str, name: str, text: str) -> None:
    entry = find(journal, name)
    assert (entry is not None) == (name in {**model.live, **model.ended, **model.delivered})
    if action == "note":
        journal.note(name, text.encode())
        model.notes[name] = text.encode()
    elif entry is None:
        if action == "open":
            accept(journal, name)
            model.live[name] = 1
    elif action == "wait":
        await journal.committed(entry)
    elif action == "end" and name in model.live:
        journal.end(entry, answer(text))
        model.ended[name] = text
        del model.live[name]
    elif action == "deliver" and name in model.ended:
        journal.delivered(entry)
        model.delivered[name] = model.ended.pop(name)
    elif action == "drop" and name in model.live:
        journal.drop(entry)
        del model.live[name]
