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


def anonymous_bytes(pid: int | None = None) -> int:
    """Memory of a process (ours by default) that the kernel cannot drop, swapped out or not; 0 if unknown.

    Raises nothing: the process may be gone, and only Linux tells.
    """
    try:
        lines = Path(f"/proc/{pid or 'self'}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    sizes = {name: rest for name, _, rest in (line.partition(":") for line in lines[1:])}
    return sum(int(sizes.get(name, "0 kB").split()[0]) for name in ("Anonymous", "Swap")) << 10
