"""How much memory there is for us, in bytes."""

from pathlib import Path

import psutil

from agent.hardware.cgroup import cgroup_folders, read_number

ROOT = Path("/")


def available_bytes(root: Path = ROOT) -> int:
    """What can be used without swapping: MemAvailable, cut down by every cgroup limit above us."""
    free = [psutil.virtual_memory().available if root == ROOT else _mem_available(root)]
    for folder in cgroup_folders(root):
        limit, used = read_number(folder / "memory.max"), read_number(folder / "memory.current")
        if limit is not None and used is not None:
            free.append(max(0, limit - used))
    return min(free)


def _mem_available(root: Path) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 0
