"""How much memory there is for us, in bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from agent.hardware.cgroup import cgroup_folders, memory_v1_folders, read_number, read_table
from agent.hardware.process import kilobytes, table_of

ROOT = Path("/")
# cgroup v1 writes "no limit" as the largest multiple of a page.
V1_NO_LIMIT = 1 << 60
# In memory.stat: page cache, which is charged to a cgroup and given up when it is needed.
V2_RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")
V1_RECLAIMABLE = ("total_inactive_file", "total_active_file")


class Room(NamedTuple):
    """One bound on our memory: the box itself, or a cgroup above us."""

    available_bytes: int
    total_bytes: int


def rooms(root: Path = ROOT) -> tuple[Room, ...]:
    """The box first, then every cgroup above us that has a limit. Raises OSError without /proc."""
    return (_box(root), *cgroup_rooms(root))


def _box(root: Path) -> Room:
    if root == ROOT:
        memory = psutil.virtual_memory()
        return Room(memory.available, memory.total)
    table = table_of((root / "proc/meminfo").read_text().splitlines())
    # Before Linux 3.14 only what is free is told.
    available = table.get("MemAvailable") or table.get("MemFree")
    if available is None or "MemTotal" not in table:
        raise OSError(f"{root / 'proc/meminfo'} does not say how much memory there is")
    return Room(kilobytes(available), kilobytes(table["MemTotal"]))


def cgroup_rooms(root: Path) -> Iterator[Room]:
    """Every cgroup above us that has a limit, innermost first."""
    for folder in cgroup_folders(root):
        limits = [read_number(folder / name) for name in ("memory.max", "memory.high")]
        limit = min((number for number in limits if number is not None), default=None)
        used = read_number(folder / "memory.current")
        if limit is not None and used is not None:
            stat = read_table(folder / "memory.stat")
            yield _cgroup_room(limit, used, sum(stat.get(name, 0) for name in V2_RECLAIMABLE))
    for folder in memory_v1_folders(root):
        limit = read_number(folder / "memory.limit_in_bytes")
        used = read_number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None and limit < V1_NO_LIMIT:
            stat = read_table(folder / "memory.stat")
            yield _cgroup_room(limit, used, sum(stat.get(name, 0) for name in V1_RECLAIMABLE))


def _cgroup_room(limit: int, used: int, reclaimable: int) -> Room:
    return Room(max(0, limit - max(0, used - reclaimable)), limit)
