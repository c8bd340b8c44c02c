"""The last lines of the log are kept: bounded, in order, and without what people asked."""

import logging
from collections.abc import Iterator

import pytest

from agent import logs
from agent.config import Log
from agent.logs import MAX_BYTES, MAX_LINE_BYTES, MAX_LINES, Ring

log = logging.getLogger("tampu.test")


@pytest.fixture
def ring() -> Ring:
    return Ring()


@pytest.fixture
def set_up() -> Iterator[None]:
    """Leaves logging as it was."""
    root = logging.getLogger()
    handlers, level, is_disabled = root.handlers[:], root.level, logs.prompts.disabled
    yield
    root.handlers[:], root.level = handlers, level
    logs.prompts.disabled = is_disabled


def say(ring: Ring, text: str, name: str = "tampu.test") -> None:
    ring.handle(logging.LogRecord(name, logging.INFO, "file", 1, text, None, None))


def test_the_newest_lines_come_last(ring: Ring) -> None:
    """And no more than are asked for."""
    for number in range(5):
        say(ring, f"line {number}")
    assert [line.rsplit(" ", 1)[1] for line in ring.tail(3)] == ["2", "3", "4"]
    assert len(ring.tail(100)) == 5
    assert ring.tail(0) == ()


def test_old_lines_go(ring: Ring) -> None:
    """No more than 500 are kept."""
    for number in range(MAX_LINES + 50):
        say(ring, f"line {number}")
    kept = ring.tail(10_000)
    assert len(kept) == MAX_LINES
    assert kept[0].endswith("line 50")


def test_long_lines_are_cut_and_their_bytes_counted(ring: Ring) -> None:
    """200 KiB is the bound, whatever the script."""
    for _ in range(400):
        say(ring, "ä" * 100_000)
    kept = ring.tail(10_000)
    assert sum(len(line.encode()) for line in kept) <= MAX_BYTES
    assert len(kept) == MAX_BYTES // (MAX_LINE_BYTES + 3)
    assert kept[-1].endswith("...")


def test_a_traceback_is_lines(ring: Ring) -> None:
    """Each counts."""
    try:
        raise ValueError("no")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    ring.handle(logging.LogRecord("tampu.test", logging.ERROR, "file", 1, "broke", None, info))
    kept = ring.tail(100)
    assert kept[0].endswith("broke")
    assert kept[-1] == "ValueError: no"
    assert all("\n" not in line for line in kept)


def test_device_text_begins_no_line(ring: Ring) -> None:
    """A message is one line, whatever is in it."""
    say(ring, "client\n2026-01-01 ERROR forged\x1b[2J")
    (line,) = ring.tail(10)
    assert "\\n2026-01-01 ERROR forged\\x1b[2J" in line


def test_a_record_that_cannot_be_formatted_is_left_out(ring: Ring) -> None:
    """It harms nobody."""
    ring.handle(logging.LogRecord("tampu.test", logging.INFO, "file", 1, "%d", ("x",), None))
    assert ring.tail(10) == ()


@pytest.mark.usefixtures("set_up")
def test_prompts_are_kept_only_where_they_are_logged() -> None:
    """And can be left out even there."""
    logs.set_up(Log(level="info"))
    logs.prompts.info("what I asked")
    log.info("first")
    assert not any("what I asked" in line for line in logs.tail(MAX_LINES))
    logs.set_up(Log(level="info", prompts=True))
    logs.prompts.info("what I asked")
    log.info("second")
    assert any("what I asked" in line for line in logs.tail(3))
    assert not any("what I asked" in line for line in logs.tail(MAX_LINES, has_prompts=False))
    assert logs.tail(1)[0].endswith("second")
