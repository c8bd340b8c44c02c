"""How long the broker was out of reach: by the clock of the boot, else by a wall clock that is right."""

from types import SimpleNamespace

import pytest

from agent.mqtt.absence import EVERY_S, NOTE, Absence


class Notebook:
    """Keeps notes over restarts."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.num_notes = 0

    def note(self, name: str, value: bytes | None) -> None:
        assert value is not None
        self.values[name] = value
        self.num_notes += 1

    def notes(self, prefix: str) -> dict[str, bytes]:
        return {name: value for name, value in self.values.items() if name.startswith(prefix)}


def absence(notebook: Notebook, boot: str, now: float, wall: float | None) -> Absence:
    """A daemon's, in this boot at this time."""
    clock = SimpleNamespace(boot_id=boot, now=lambda: now)
    return Absence(notebook, clock, lambda: wall)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("boot", "now", "wall", "expected"),
    [
        ("b1", 1_400.0, None, 400.0),  # the daemon was restarted
        ("b1", 1_400.0, 99_999_999.0, 400.0),  # and no wall clock moves that
        ("b2", 12.0, 50_000.0 + 86_400.0, 86_400.0),  # the box was off for a day
        ("b2", 12.0, None, 0.0),  # and has no clock yet
        ("b2", 12.0, 40_000.0, 0.0),  # or one that went backwards
        ("", 1_400.0, None, 0.0),  # a system without boot ids
    ],
)
def test_the_time_before_this_daemon_is_known_as_far_as_it_can_be(
    boot: str, now: float, wall: float | None, expected: float
) -> None:
    """Nothing is guessed."""
    notebook = Notebook()
    absence(notebook, "b1" if boot else "", 1_000.0, 50_000.0).note()
    assert absence(notebook, boot, now, wall).earlier_s() == expected


def test_without_a_note_or_with_a_damaged_one_nothing_is_known() -> None:
    """A first start."""
    notebook = Notebook()
    assert absence(notebook, "b1", 5.0, 5.0).earlier_s() == 0.0
    notebook.values[NOTE] = b"\xff"
    assert absence(notebook, "b1", 5.0, 5.0).earlier_s() == 0.0


def test_presence_is_written_down_seldom() -> None:
    """An SD card has to bear it."""
    notebook = Notebook()
    times = [0.0]
    clock = SimpleNamespace(boot_id="b1", now=lambda: times[0])
    one = Absence(notebook, clock, lambda: None)  # type: ignore[arg-type]
    for _ in range(100):
        one.note(is_due_only=True)
        times[0] += 60.0
    assert notebook.num_notes == 100 * 60 / EVERY_S
