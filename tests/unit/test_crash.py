"""The engine's last death: what is said of it, how often it has been, and what outlives the daemon."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.crash import MAX_WORDS_CHARS, Crash, decode, encode


def test_a_death_is_one_sentence() -> None:
    """How, doing what, and why where the engine has said so."""
    assert Crash(how="SIGKILL", phase="loading").sentence == "SIGKILL while loading"
    crash = Crash(how="SIGABRT", phase="ready", words="GGML_ASSERT(a) failed")
    assert crash.sentence == "SIGABRT while ready: GGML_ASSERT(a) failed"


def test_deaths_of_one_daemon_are_counted() -> None:
    """Each knows of those before it."""
    first = Crash.of("SIGKILL", "ready", model="tiny Q4_0")
    second = Crash.of("SIGKILL", "ready", before=first)
    assert (first.count, second.count, first.model) == (1, 2, "tiny Q4_0")
    assert second.at >= first.at > 0


def test_what_was_kept_is_an_earlier_death() -> None:
    """The next daemon begins to count anew."""
    kept = Crash.of("SIGSEGV", "ready", "words", model="m", before=Crash.of("SIGKILL", "ready"))
    restored = decode(encode(kept))
    assert restored is not None
    assert restored.is_earlier
    assert (restored.sentence, restored.at, restored.model) == (kept.sentence, kept.at, "m")
    assert Crash.of("SIGKILL", "ready", before=restored).count == 1


def test_last_words_are_bounded() -> None:
    """A line of a megabyte is cut."""
    assert len(Crash.of("SIGABRT", "ready", "x" * 1_000_000).words) == MAX_WORDS_CHARS


@given(st.binary(max_size=64))
def test_bytes_that_hold_no_crash_are_none(data: bytes) -> None:
    """A damaged note is forgotten, and the daemon starts."""
    restored = decode(data)
    assert restored is None or restored.is_earlier


def test_a_cut_note_is_none() -> None:
    """Half of a real one."""
    data = encode(Crash.of("SIGKILL", "ready"))
    assert decode(data[:-1]) is None


@pytest.mark.parametrize(
    ("at", "said"), [(0.0, ""), (1_780_000_000.0, "2026-05-28 20:26 UTC"), (1e300, ""), (float("nan"), "")]
)
def test_the_date_is_said_where_it_is_known(at: float, said: str) -> None:
    """A clock beyond all years has none."""
    assert Crash(how="x", phase="ready", at=at).date == said
