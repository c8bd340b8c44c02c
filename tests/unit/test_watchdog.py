"""systemd's watchdog is fed while every part lives, and goes hungry, with a word why, when one does not."""

import logging

import pytest

from agent.systemd import LATE_S, Watchdog


class Systemd:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []

    def __call__(self, **fields: str) -> None:
        self.told.append(fields)

    @property
    def num_fed(self) -> int:
        return self.told.count({"WATCHDOG": "1"})


@pytest.fixture
def systemd() -> Systemd:
    return Systemd()


def test_it_is_fed_at_once_and_then_in_its_time(systemd: Systemd) -> None:
    """Not with every tick."""
    watchdog = Watchdog(15.0, str, systemd)
    for second in range(46):
        watchdog.tick(float(second))
    assert systemd.told == [{"WATCHDOG": "1"}] * 4


def test_a_dead_part_lets_it_starve(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, to the log and to systemd, and again when all is well."""
    trouble = [""]
    watchdog = Watchdog(15.0, lambda: trouble[0], systemd)
    watchdog.tick(0.0)
    trouble[0] = "the journal does not answer"
    with caplog.at_level(logging.INFO):
        for second in range(1, 60):
            watchdog.tick(float(second))
        assert systemd.num_fed == 1
        assert [r.message for r in caplog.records] == ["the watchdog is not fed: the journal does not answer"]
        trouble[0] = ""
        watchdog.tick(60.0)
    assert systemd.num_fed == 2
    assert "fed again" in caplog.records[-1].message
    assert {"STATUS": "not well: the journal does not answer"} in systemd.told


@pytest.mark.parametrize(("late_s", "num_fed"), [(LATE_S - 0.1, 1), (LATE_S, 0)])
def test_a_late_loop_is_no_life(systemd: Systemd, late_s: float, num_fed: int) -> None:
    """Five seconds are the bound."""
    Watchdog(15.0, str, systemd).tick(0.0, late_s)
    assert systemd.num_fed == num_fed


def test_it_is_fed_as_soon_as_the_loop_is_in_time_again(systemd: Systemd) -> None:
    """Without waiting for its next turn."""
    watchdog = Watchdog(15.0, str, systemd)
    watchdog.tick(0.0, LATE_S)
    watchdog.tick(1.0)
    assert systemd.num_fed == 1


def test_a_question_that_fails_is_trouble(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    """A bug in asking does not keep a daemon alive of which nobody knows how it is."""

    def fail() -> str:
        raise RuntimeError("a bug")

    Watchdog(15.0, fail, systemd).tick(0.0)
    assert systemd.num_fed == 0
    assert any(record.exc_info for record in caplog.records)


def test_a_daemon_without_systemd_feeds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """And asks nobody."""
    import asyncio

    from agent.systemd import feed_watchdog

    monkeypatch.delenv("WATCHDOG_USEC", raising=False)

    def ask() -> str:
        raise AssertionError("nobody wants to know")

    asyncio.run(feed_watchdog(ask))
