"""What is not on disk yet: a failed write forgets nothing, and remembers nothing that is of no use."""

from agent.journal.changes import Changes
from agent.journal.entry import Entry, Part
from agent.journal.index import Index
from agent.journal.notes import Notes
from tests.support.journals import HandClock


def changes_and_entry() -> tuple[Changes, Notes, Entry]:
    index, notes = Index(64, 1 << 16), Notes()
    entry = Entry(client="me", id="r1", digest=b"", intent=b"i", num_intent_bytes=1, seq=1)
    index.add(entry)
    changes = Changes(index, notes, HandClock())
    changes.mark(entry, Part.ROW | Part.INTENT)
    return changes, notes, entry


def test_a_failed_batch_is_taken_again() -> None:
    """With what has changed meanwhile."""
    changes, notes, entry = changes_and_entry()
    notes.note("crash", b"SIGSEGV")
    first = changes.take()
    assert not changes
    assert entry in changes
    entry.run = 2
    changes.mark(entry, Part.ROW)
    changes.settle(is_written=False)
    second = changes.take()
    assert second.intents == first.intents == [(1, b"i")]
    assert [row.run for row in second.rows] == [2]
    assert second.notes == {"crash": b"SIGSEGV"}
    changes.settle(is_written=True)
    assert not changes
    assert entry not in changes


def test_a_removal_is_not_forgotten() -> None:
    """It is tried until it is written."""
    changes, _, entry = changes_and_entry()
    changes.take()
    changes.settle(is_written=True)
    assert changes.forget(entry)
    for is_written in (False, False, True):
        assert changes.take().gone == [1]
        changes.settle(is_written=is_written)
    assert not changes


def test_what_never_reached_the_disk_needs_no_removal() -> None:
    """Neither before a write nor when it goes while one fails."""
    changes, _, entry = changes_and_entry()
    assert not changes.forget(entry)
    assert not changes
    changes, _, entry = changes_and_entry()
    changes.take()
    assert changes.forget(entry)
    changes.settle(is_written=False)
    assert not changes


def test_what_goes_while_it_is_written_is_removed_after() -> None:
    """Entries and notes alike; a note that never arrives needs no removal."""
    for is_written in (True, False):
        changes, notes, entry = changes_and_entry()
        notes.note("talk", b"x")
        changes.take()
        changes.forget(entry)
        notes.note("talk", None)
        changes.settle(is_written=is_written)
        batch = changes.take()
        assert batch.gone == ([1] if is_written else [])
        assert batch.notes == ({"talk": None} if is_written else {})
