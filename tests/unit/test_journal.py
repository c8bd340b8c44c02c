"""The journal: each id is answered once, and memory stays bounded."""

import pytest

from agent.errors import IdConflict
from agent.journal import Final, Journal


def test_the_same_request_is_found_again() -> None:
    """By client, id and payload."""
    journal = Journal()
    entry = journal.open("me", "r1", b"payload")
    assert journal.find("me", "r1", b"payload") is entry
    assert journal.find("you", "r1", b"payload") is None
    assert journal.find("me", "r2", b"payload") is None


def test_an_id_with_another_payload_is_a_conflict() -> None:
    """The sentence says what to do."""
    journal = Journal()
    journal.open("me", "r1", b"payload")
    with pytest.raises(IdConflict, match="send a new id"):
        journal.find("me", "r1", b"other")


def test_finished_entries_go_first_and_live_ones_never() -> None:
    """A full journal forgets what has ended, oldest first."""
    journal = Journal(max_entries=3)
    for number in range(3):
        journal.open("me", f"r{number}", b"")
    journal.find("me", "r1", b"").terminal = (Final(b"done"),)  # type: ignore[union-attr]
    journal.open("me", "r3", b"")
    assert journal.find("me", "r1", b"") is None
    assert all(journal.find("me", f"r{number}", b"") for number in (0, 2, 3))


def test_old_entries_are_forgotten() -> None:
    """After the time a duplicate can still arrive."""
    journal = Journal(keep_s=0.0)
    journal.open("me", "r1", b"").terminal = (Final(b"done"),)
    journal.open("me", "r2", b"")
    assert journal.find("me", "r1", b"") is None
