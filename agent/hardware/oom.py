"""How often the kernel has killed for memory: the counters it keeps of that."""

from pathlib import Path

from agent.hardware.cgroup import cgroup_folders, memory_v1_folders, read_table
from agent.hardware.memory import ROOT


def oom_kills(root: Path = ROOT) -> int | None:
    """The sum of all counters that can see us, to be compared with an earlier one; None without any.

    The box's own (/proc/vmstat, Linux 4.13), our cgroup's memory.events (v2) and memory.oom_control
    (v1). Each is raised before the victim gets its SIGKILL.
    """
    files = [root / "proc/vmstat"]
    files += [folder / "memory.events" for folder in cgroup_folders(root)[:1]]
    files += [folder / "memory.oom_control" for folder in memory_v1_folders(root)[:1]]
    counts = [table["oom_kill"] for path in files if "oom_kill" in (table := read_table(path))]
    return sum(counts) if counts else None
