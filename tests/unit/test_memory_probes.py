"""What the kernel says about memory, read from recorded trees: proc/ and sys/ under a folder."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.hardware import pressure
from agent.hardware.memory import Room, rooms
from agent.hardware.oom import oom_kills
from agent.hardware.pressure import Gauge, Reading, Stall
from agent.hardware.process import anonymous_bytes
from agent.memory_level import MAX_LEVEL, PEACE_S, MemoryLevel

MIB = 1 << 20
GIB = 1 << 30
CALM = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
DUMPS = Path(__file__).parents[3] / "shared" / "devices"


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write files under a root; the root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def meminfo(available: int, total: int) -> str:
    return f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\nHuge: 0\n"


# ---- how much there is ---------------------------------------------------------------------------


def test_the_box_alone(tmp_path: Path) -> None:
    """Without cgroups MemAvailable is all."""
    tree(tmp_path, {"proc/meminfo": meminfo(300 * MIB, 512 * MIB)})
    assert rooms(tmp_path) == (Room(300 * MIB, 512 * MIB),)


def test_a_kernel_before_memavailable(tmp_path: Path) -> None:
    """Only what is free is sure."""
    tree(tmp_path, {"proc/meminfo": "MemTotal: 1024 kB\nMemFree: 512 kB\n"})
    assert min(room.available_bytes for room in rooms(tmp_path)) == 512 * 1024


@pytest.mark.parametrize("text", ["", "MemTotal: 1 kB", "MemAvailable: 1 kB", "\0\0"])
def test_a_meminfo_that_says_nothing_is_no_memory_figure(tmp_path: Path, text: str) -> None:
    """An OSError, as if it were not there."""
    tree(tmp_path, {"proc/meminfo": text})
    with pytest.raises(OSError, match="does not say how much memory"):
        rooms(tmp_path)


def test_limits_of_cgroup_v2_bind_with_their_ancestors(tmp_path: Path) -> None:
    """The page cache in a group is given up when it is needed; memory.high bounds like memory.max."""
    tree(
        tmp_path,
        {
            "proc/meminfo": meminfo(900 * MIB, 1024 * MIB),
            "proc/self/cgroup": "0::/system.slice/tampu.service\n",
            "sys/fs/cgroup/system.slice/tampu.service/memory.max": "max\n",
            "sys/fs/cgroup/system.slice/tampu.service/memory.high": f"{400 * MIB}\n",
            "sys/fs/cgroup/system.slice/tampu.service/memory.current": f"{390 * MIB}\n",
            "sys/fs/cgroup/system.slice/tampu.service/memory.stat": (
                f"anon {290 * MIB}\ninactive_file {60 * MIB}\nactive_file {40 * MIB}\n"
            ),
            "sys/fs/cgroup/system.slice/memory.max": f"{500 * MIB}\n",
            "sys/fs/cgroup/system.slice/memory.current": f"{450 * MIB}\n",
        },
    )
    assert rooms(tmp_path)[1:] == (Room(110 * MIB, 400 * MIB), Room(50 * MIB, 500 * MIB))
    assert min(room.available_bytes for room in rooms(tmp_path)) == 50 * MIB


def test_limits_of_cgroup_v1_bind_too(tmp_path: Path) -> None:
    """A group without one says 9223372036854771712."""
    tree(
        tmp_path,
        {
            "proc/meminfo": meminfo(900 * MIB, 1024 * MIB),
            "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/box/tampu\n0::/\n",
            "sys/fs/cgroup/memory/box/tampu/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/box/tampu/memory.usage_in_bytes": f"{100 * MIB}\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{256 * MIB}\n",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": f"{200 * MIB}\n",
            "sys/fs/cgroup/memory/box/memory.stat": f"cache 1\ntotal_inactive_file {30 * MIB}\n",
        },
    )
    assert rooms(tmp_path)[1:] == (Room(86 * MIB, 256 * MIB),)


def test_a_container_that_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    """The path in /proc is the host's and leads nowhere here; the mounted folder is ours."""
    tree(
        tmp_path,
        {
            "proc/meminfo": meminfo(900 * MIB, 1024 * MIB),
            "proc/self/cgroup": "4:memory:/docker/0123\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{128 * MIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{28 * MIB}\n",
        },
    )
    assert min(room.available_bytes for room in rooms(tmp_path)) == 100 * MIB


def test_a_process_tells_its_anonymous_memory(tmp_path: Path) -> None:
    """Swapped out counts: it was taken, and comes back when it is touched."""
    tree(
        tmp_path,
        {"proc/7/status": "Name:\tpython\nRssAnon:\t  2048 kB\nRssFile:\t 9 kB\nVmSwap:\t 1024 kB\n"},
    )
    assert anonymous_bytes(7, tmp_path) == 3 * MIB
    assert anonymous_bytes(8, tmp_path) == 0
    tree(tmp_path, {"proc/9/status": "Name:\tkthreadd\n"})
    assert anonymous_bytes(9, tmp_path) == 0


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no smaps_rollup here")
def test_the_quick_figure_is_the_kernels_thorough_one() -> None:
    """smaps_rollup walks all pages; the counter in status is the same within what Python takes meanwhile."""
    table = Path("/proc/self/smaps_rollup").read_text().splitlines()
    thorough = next(int(line.split()[1]) * 1024 for line in table if line.startswith("Anonymous:"))
    assert abs(anonymous_bytes() - thorough) < 8 * MIB


@pytest.mark.parametrize(
    "dump", sorted(DUMPS.glob("derived/fsroot/*/proc/meminfo")), ids=lambda p: p.parts[-3]
)
def test_recorded_machines_are_read_and_not_short(dump: Path) -> None:
    """Each as it was on a quiet day."""
    reading = pressure.read(dump.parents[1])
    assert 0 < reading.rooms[0].available_bytes <= reading.rooms[0].total_bytes
    assert pressure.level(reading) == 0


# ---- pressure ------------------------------------------------------------------------------------


def reading(
    available: int = 400 * MIB, total: int = 512 * MIB, box: Stall | None = None, own: Stall | None = None
) -> Reading:
    return Reading((Room(available, total),), box, own)


@pytest.mark.parametrize(
    ("given_reading", "level"),
    [
        (reading(), 0),
        (reading(available=49 * MIB), 0),
        (reading(available=47 * MIB), 1),
        (reading(available=23 * MIB), 2),
        (reading(available=300 * MIB, total=4 * GIB), 1),
        (reading(available=160 * MIB, total=4 * GIB), 2),
        (reading(available=2 * GIB, total=64 * GIB), 0),
        (reading(available=GIB - 1, total=64 * GIB), 1),
        (reading(own=Stall(9.9, 0.0)), 0),
        (reading(own=Stall(11.0, 0.0)), 1),
        (reading(own=Stall(11.0, 6.0)), 2),
        (reading(box=Stall(70.0, 60.0)), 0),
        (reading(available=100 * MIB, box=Stall(70.0, 0.0)), 1),
        (reading(available=100 * MIB, box=Stall(70.0, 60.0)), 2),
        (Reading((Room(GIB, 2 * GIB), Room(10 * MIB, 128 * MIB))), 2),
    ],
)
def test_the_level_of_a_reading(given_reading: Reading, level: int) -> None:
    """The thresholds, one by one: room, own stalls, the box's stalls when it is full, a cgroup's room."""
    assert pressure.level(given_reading) == level


@given(st.integers(0, 1 << 34), st.integers(0, 1 << 34), st.integers(1, 1 << 34))
def test_less_room_never_means_less_pressure(one: int, other: int, total: int) -> None:
    """Whatever the box."""
    less, more = sorted((one, other))
    assert pressure.level(reading(less, total)) >= pressure.level(reading(more, total))


def test_pressure_is_read_from_the_box_and_from_our_own_group(tmp_path: Path) -> None:
    """Both where they are."""
    thrashing = CALM.replace("avg10=0.00", "avg10=70.24")
    tree(
        tmp_path,
        {
            "proc/meminfo": meminfo(100 * MIB, 512 * MIB),
            "proc/pressure/memory": thrashing,
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.pressure": CALM,
        },
    )
    found = pressure.read(tmp_path)
    assert (found.box, found.own) == (Stall(70.24, 70.24), Stall(0.0, 0.0))
    assert pressure.level(found) == 2
    assert pressure.describe(found) == (
        "100 of 512 MiB are available, 70 % of the time is lost waiting for memory"
    )


@pytest.mark.parametrize("text", ["", "some\n", "some avg10=x\n", CALM.splitlines()[0], "\0"])
def test_a_kernel_without_stall_information_still_has_its_room(tmp_path: Path, text: str) -> None:
    """Not built in, switched off, or in another form."""
    tree(tmp_path, {"proc/meminfo": meminfo(400 * MIB, 512 * MIB)})
    assert pressure.read(tmp_path).box is None
    tree(tmp_path, {"proc/pressure/memory": text})
    assert pressure.read(tmp_path).box is None
    assert pressure.level(pressure.read(tmp_path)) == 0


@pytest.mark.skipif(not (DUMPS / "excerpts/psi").exists(), reason="no recorded machines here")
def test_a_recorded_thrashing_machine_is_out_of_memory(tmp_path: Path) -> None:
    """Somebody's box, waiting 70 % of its time."""
    text = (DUMPS / "excerpts/psi/memory_thrashing.txt").read_text()
    tree(tmp_path, {"proc/meminfo": meminfo(100 * MIB, 1024 * MIB), "proc/pressure/memory": text})
    assert pressure.level(pressure.read(tmp_path)) == 2


def test_the_level_rises_at_once_and_falls_after_ten_calm_seconds() -> None:
    """A level met in between starts nothing anew, but is where it falls to."""
    gauge = Gauge()
    levels = [(0, 0), (1, 0), (2, 2), (3, 0), (8, 1), (12, 0), (13, 0), (14, 0), (22, 0), (23, 0), (24, 1)]
    seen = [gauge.feed(level, float(now)) for now, level in levels]
    assert seen == [0, 0, 2, 2, 2, 2, 1, 1, 1, 1, 1]
    assert [gauge.feed(0, float(now)) for now in (25, 34, 35)] == [1, 1, 0]


# ---- deaths for memory ---------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_kills_are_counted_wherever_the_kernel_counts(tmp_path: Path) -> None:
    """The box, our group of either version; nothing where nothing is counted."""
    assert oom_kills(tmp_path) is None
    tree(tmp_path, {"proc/vmstat": "nr_free_pages 1\noom_kill 3\n"})
    assert oom_kills(tmp_path) == 3
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/a\n0::/b\n",
            "sys/fs/cgroup/memory/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            "sys/fs/cgroup/b/memory.events": "low 0\noom 1\noom_kill 1\n",
        },
    )
    assert oom_kills(tmp_path) == 6


def test_a_kill_that_the_kernel_did_not_count_is_not_for_memory(tmp_path: Path) -> None:
    """Somebody's `kill -9`; unless the box is short of memory, where a userspace killer acts uncounted."""
    level = MemoryLevel(tree(tmp_path, {"proc/vmstat": "oom_kill 3\n"}))
    level.begin()
    assert not level.blame(pressure=0)
    assert level.level == 0
    assert level.blame(pressure=1)
    assert level.level == 1


def test_a_counted_kill_lowers_the_level_three_times_at_most(tmp_path: Path) -> None:
    """Each death once."""
    level = MemoryLevel(tree(tmp_path, {"proc/vmstat": "oom_kill 0\n"}))
    for kills in range(1, 6):
        level.begin()
        tree(tmp_path, {"proc/vmstat": f"oom_kill {kills}\n"})
        assert level.blame(pressure=0)
        assert level.level == min(kills, MAX_LEVEL)


def test_where_nothing_is_counted_a_kill_is_taken_for_the_oom_killers(tmp_path: Path) -> None:
    """Old kernels, and others."""
    level = MemoryLevel(tmp_path)
    level.begin()
    assert level.blame(pressure=0)


def test_an_hour_without_trouble_gives_a_level_back_at_the_next_start(tmp_path: Path) -> None:
    """One at a time."""
    clock = Clock()
    level = MemoryLevel(tmp_path, clock)
    for _ in range(2):
        level.begin()
        level.blame(pressure=0)
    clock.now = PEACE_S - 1
    level.begin()
    assert level.level == 2
    clock.now = PEACE_S
    level.begin()
    level.begin()
    assert level.level == 1
    clock.now = 2 * PEACE_S
    level.begin()
    assert level.level == 0
