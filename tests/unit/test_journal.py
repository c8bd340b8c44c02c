"""The journal: each id is answered once, and what it keeps is bounded. Without a disk."""

import asyncio
from collections.abc import Callable

import pytest

from agent.errors import Expired, IdConflict
from agent.journal.journal import EntryState, Final, Journal
from tests.support.journals import HandClock, accept, answer, find, make


def ended(journal: Journal, request_id: str, text: str = "text") -> None:
    journal.end(accept(journal, request_id), answer(text))


def delivered(journal: Journal, request_id: str, text: str = "text") -> None:
    ended(journal, request_id, text)
    entry = find(journal, request_id)
    assert entry is not None
    journal.delivered(entry)


def finals(journal: Journal, request_id: str) -> tuple[Final, ...]:
    entry = find(journal, request_id)
    assert entry is not None
    return asyncio.run(journal.finals(entry))


def test_the_same_request_is_found_again() -> None:
    """By client, id and payload."""
    journal = make()
    entry = accept(journal, "r1")
    assert find(journal, "r1") is entry
    assert find(journal, "r1", client="you") is None
    assert find(journal, "r2") is None


def test_an_id_with_another_payload_is_a_conflict() -> None:
    """The sentence says what to do; asking for the state needs no payload."""
    journal = make()
    entry = accept(journal, "r1")
    with pytest.raises(IdConflict, match="send a new id"):
        journal.find("me", "r1", b"other")
    assert journal.peek("me", "r1") is entry


def test_terminal_frames_are_given_again_as_they_were() -> None:
    """Before and after the broker has acknowledged them."""
    journal = make()
    ended(journal, "r1", "herbs")
    assert finals(journal, "r1") == answer("herbs")
    delivered(journal, "r2", "spices")
    assert finals(journal, "r2") == answer("spices")


def test_a_request_that_was_not_accepted_after_all_may_come_again() -> None:
    """As if it had never been there."""
    journal = make()
    journal.drop(accept(journal, "r1"))
    assert find(journal, "r1") is None
    assert journal.find("me", "r1", b"other") is None


def test_only_the_first_end_counts() -> None:
    """A second result does not take the place of one that may have been published."""
    journal = make()
    ended(journal, "r1", "first")
    entry = find(journal, "r1")
    assert entry is not None
    journal.end(entry, answer("second"))
    assert finals(journal, "r1") == answer("first")


def test_delivered_entries_go_first_then_ended_ones_and_live_ones_never() -> None:
    """A full journal forgets, oldest first."""
    journal = make(max_rows=64)
    accept(journal, "live")
    ended(journal, "ended")
    for number in range(62):
        delivered(journal, f"r{number}")
    accept(journal, "one-more")
    assert find(journal, "r0") is None
    assert all(find(journal, name) for name in ("live", "ended", "r1", "one-more"))
    for number in range(100):
        accept(journal, f"more-{number}")
    assert find(journal, "ended") is None
    assert all(find(journal, name) for name in ("live", "one-more", "more-0", "more-99"))


def test_delivered_entries_are_forgotten_after_their_time_and_others_are_not() -> None:
    """Not before a broker's session and the longest request may have ended, whatever is configured."""
    clock = HandClock()
    journal = make(clock=clock, keep_s=60)
    delivered(journal, "delivered")
    ended(journal, "ended")
    accept(journal, "live")
    clock.seconds += 600 + 3600
    accept(journal, "r1")
    assert find(journal, "delivered")
    clock.seconds += 61
    accept(journal, "r2")
    assert find(journal, "delivered") is None
    assert find(journal, "ended")
    assert find(journal, "live")


def test_texts_go_earlier_than_keys() -> None:
    """The oldest delivered first, then ended ones; who repeats such an id is told, and not answered twice."""
    journal = make(max_bytes=1 << 16)
    ended(journal, "ended", "x" * 30_000)
    delivered(journal, "old", "x" * 20_000)
    delivered(journal, "new", "x" * 20_000)
    with pytest.raises(Expired, match="ask again with a new id"):
        finals(journal, "old")
    assert finals(journal, "new") == answer("x" * 20_000)
    ended(journal, "large", "x" * 40_000)
    for name in ("new", "ended"):
        with pytest.raises(Expired):
            finals(journal, name)
    assert finals(journal, "large") == answer("x" * 40_000)


def test_live_requests_count_and_stay() -> None:
    """Their intents take room from texts."""
    journal = make(max_bytes=1 << 16)
    delivered(journal, "old", "x" * 1000)
    for number in range(4):
        journal.open("me", f"r{number}", b"", intent=b"x" * 20_000, ttl_s=None)
    ended(journal, "last")
    with pytest.raises(Expired):
        finals(journal, "old")
    live = [journal.peek("me", f"r{number}") for number in range(4)]
    assert all(entry is not None and len(entry.intent) == 20_000 for entry in live)


def test_an_intent_leaves_memory_with_the_end() -> None:
    """Nothing is run again after that."""
    journal = make()
    entry = accept(journal, "r1")
    journal.change_intent(entry, b"newer")
    assert entry.intent == b"newer"
    journal.end(entry, answer("text"))
    assert entry.intent == b""


@pytest.mark.parametrize(
    "hand_out",
    [
        lambda journal, entry: journal.delivered(entry),
        lambda journal, entry: asyncio.run(journal.finals(entry)),
    ],
)
def test_a_journal_that_is_off_forgets_with_the_result(hand_out: Callable[..., object]) -> None:
    """A duplicate of a live request is known; one of an answered request is a new one."""
    journal = make(mode="off")
    entry = accept(journal, "r1")
    assert find(journal, "r1") is entry
    journal.end(entry, answer("text"))
    assert find(journal, "r1") is entry
    hand_out(journal, entry)
    assert entry.state is not EntryState.LIVE
    assert find(journal, "r1") is None


def test_without_a_disk_there_is_nothing_to_wait_for() -> None:
    """A start finds nothing, a commit is done, no thread can be stuck."""

    async def check() -> None:
        journal = make()
        assert await journal.start() == ()
        await journal.committed(accept(journal, "r1"))
        assert journal.is_alive()
        assert journal.findings == ()
        await journal.close()

    asyncio.run(check())


def test_notes_are_kept_by_name() -> None:
    """The newest value; None removes it; one for a live request is there at once."""
    journal = make()
    accept(journal, "r1")
    journal.note("talk/a", b"1")
    journal.note("talk/a", b"2")
    journal.note("talk/b", b"3", of=("me", "r1"))
    journal.note("crash", b"4")
    assert journal.notes("talk/") == {"talk/a": b"2", "talk/b": b"3"}
    journal.note("talk/a", None)
    assert journal.notes("") == {"talk/b": b"3", "crash": b"4"}


def test_notes_are_bounded() -> None:
    """In number and in bytes, the oldest names go; one that is too large for all is not kept."""
    journal = make()
    for number in range(300):
        journal.note(f"n{number}", b"x")
    assert len(journal.notes("")) == 256
    assert journal.notes("n299")
    assert not journal.notes("n43")
    for number in range(12):
        journal.note(f"large{number}", b"x" * 100_000)
    assert sum(len(value) for value in journal.notes("").values()) <= 1 << 20
    assert journal.notes("large11")
    journal.note("large11", b"x" * (1 << 20))
    assert not journal.notes("large11")


def test_notes_that_wait_for_an_end_are_bounded_too() -> None:
    """Of too many the oldest are written without it."""
    journal = make()
    for number in range(40):
        accept(journal, f"r{number}")
        for name in range(10):
            journal.note(f"{number}/{name}", b"x", of=("me", f"r{number}"))
    assert len(journal.notes("")) <= 512
    assert len(journal.notes("39/")) == 10
