"""The thread count follows the neighbours: down at once, up with patience."""

import math
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.engine.threads import BUSY_S, LOOK_EVERY_S, QUIET_S, ThreadGovernor, read_cpu_seconds

BUSY_LOOKS = math.ceil(BUSY_S / LOOK_EVERY_S)
QUIET_LOOKS = math.ceil(QUIET_S / LOOK_EVERY_S)


class Box:
    """Time passes from look to look, and the neighbours take as many cores as is said."""

    def __init__(self, most: int) -> None:
        self.now, self.everybody, self.ours = 0.0, 0.0, 0.0
        self.governor = ThreadGovernor(most, lambda: (self.everybody, self.ours), lambda: self.now)

    def look(self, others: float) -> int:
        self.now += LOOK_EVERY_S
        self.ours += self.governor.count * LOOK_EVERY_S
        self.everybody += (self.governor.count + others) * LOOK_EVERY_S
        return self.governor.look()


def test_on_a_quiet_box_all_cores_are_used() -> None:
    """Our own work is not a neighbour."""
    box = Box(4)
    assert {box.look(0.1) for _ in range(20)} == {4}


def test_a_busy_neighbour_takes_a_core_within_half_a_second() -> None:
    """The second look in a row decides."""
    box = Box(2)
    assert [box.look(0.9) for _ in range(BUSY_LOOKS)] == [2, 1]


def test_a_burst_changes_nothing() -> None:
    """A broker that hands out a message is no neighbour."""
    box = Box(2)
    assert {box.look(others) for others in (0.9, 0.1) * 10} == {2}


def test_what_happened_while_we_were_idle_counts_for_nothing() -> None:
    """A pause says nothing about now."""
    box = Box(2)
    box.now += 100
    box.everybody += 200
    box.governor.wake()
    assert box.look(0.9) == 2


def test_a_single_long_step_can_bring_the_core_back() -> None:
    """A prefill step takes a second on a slow board: time counts, not looks."""
    box = Box(2)
    for _ in range(BUSY_LOOKS):
        box.look(1.0)
    box.now += QUIET_S - LOOK_EVERY_S
    box.ours += QUIET_S - LOOK_EVERY_S
    box.everybody += QUIET_S - LOOK_EVERY_S
    assert box.look(0.0) == 2


def test_a_core_comes_back_when_the_neighbour_has_rested_for_a_while() -> None:
    """Not at the first quiet look."""
    box = Box(2)
    for _ in range(BUSY_LOOKS):
        box.look(1.0)
    assert [box.look(0.0) for _ in range(QUIET_LOOKS)] == [1] * (QUIET_LOOKS - 1) + [2]


def test_a_neighbour_between_busy_and_quiet_changes_nothing() -> None:
    """No flapping."""
    box = Box(2)
    assert {box.look(0.4) for _ in range(20)} == {2}
    for _ in range(BUSY_LOOKS):
        box.look(1.0)
    assert {box.look(0.4) for _ in range(20)} == {1}


@given(st.integers(1, 16), st.lists(st.floats(0, 20), max_size=50))
def test_there_is_always_a_thread_and_never_one_too_many(most: int, loads: list[float]) -> None:
    """Whatever the neighbours do."""
    box = Box(most)
    for others in loads:
        for _ in range(BUSY_LOOKS):
            count = box.look(others)
            assert 1 <= count <= most
        assert count <= max(1, most - int(others))


def test_the_kernel_s_numbers_are_read(tmp_path: Path) -> None:
    """Idle and waiting for the disk are not work; a file that is not there reads as nothing."""
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu 1 1 1 1 1 1 1 1 0 0\n" + "".join(f"cpu{n} 100 0 100 999 999 0 0 0 0 0\n" for n in range(512))
    )
    everybody, ours = read_cpu_seconds(stat)
    assert everybody > 0
    assert ours > 0
    assert read_cpu_seconds(tmp_path / "missing") == (0.0, 0.0)
