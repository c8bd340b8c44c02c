"""Whether the box's clock can be believed: the kernel's word, else timesyncd's, else nobody's."""

import ctypes
from pathlib import Path

import pytest

from agent.hardware import clock


def test_a_recorded_box_is_told_by_its_files(tmp_path: Path) -> None:
    """Unknown without timesyncd, false until that has set the clock."""
    assert clock.is_synchronised(tmp_path) is None
    folder = tmp_path / "run" / "systemd" / "timesync"
    folder.mkdir(parents=True)
    assert clock.is_synchronised(tmp_path) is False
    (folder / "synchronized").touch()
    assert clock.is_synchronised(tmp_path) is True


@pytest.mark.parametrize("told", [True, False])
def test_the_kernel_s_word_counts_more_than_a_file(monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    """It knows of every program that sets the clock; where it tells nothing, the file does."""
    monkeypatch.setattr(clock, "_ask_kernel", lambda: told)
    monkeypatch.setattr(clock, "_ask_timesyncd", lambda root: not told)
    assert clock.is_synchronised() is told
    monkeypatch.setattr(clock, "_ask_kernel", lambda: None)
    assert clock.is_synchronised() is (not told)


def test_a_system_without_adjtimex_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS, or a sandbox that forbids it."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert clock._ask_kernel() is None


def test_the_running_kernel_can_be_asked() -> None:
    """One of the three answers, and no exception."""
    assert clock.is_synchronised() in (True, False, None)
