"""Our cgroups, from our own up to the root: limits of ancestors bind as well."""

from pathlib import Path

from agent.hardware.text import read, read_int

V2 = Path("sys/fs/cgroup")
V1_MEMORY = Path("sys/fs/cgroup/memory")
V1_CPU = Path("sys/fs/cgroup/cpu")


def cgroup_folders(root: Path) -> list[Path]:
    """The cgroup v2 folders that hold this process, innermost first; empty where there is no v2."""
    return _folders(root, root / V2, "")


def memory_v1_folders(root: Path) -> list[Path]:
    """The same of cgroup v1's memory controller, which older kernels and hybrid set-ups have."""
    return _folders(root, root / V1_MEMORY, "memory")


def cpu_v1_folders(root: Path) -> list[Path]:
    """The same of cgroup v1's CPU controller."""
    return _folders(root, root / V1_CPU, "cpu")


def _folders(root: Path, base: Path, controller: str) -> list[Path]:
    """From our own folder to `base`. In a container `base` is our own and what lies between is not there.

    Where nobody says which is ours, as in a recording without proc/self, it is `base`.
    """
    lines = read(root / "proc/self/cgroup").splitlines()
    if not lines:
        return [base]
    # Each line: a hierarchy's number, its controllers (none: v2), our path in it.
    rows = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    path = next((path for _, names, path in rows if controller in names.split(",")), None)
    if path is None:
        return []
    own = base / path.lstrip("/")
    return [own, *(parent for parent in own.parents if parent.is_relative_to(base))]


def read_number(path: Path) -> int | None:
    """The number in a file; None for `max`, a missing file or anything else."""
    return read_int(path)


def read_table(path: Path) -> dict[str, int]:
    """A file of lines `name number`, as memory.stat, memory.events and vmstat are; empty without it."""
    table = {}
    try:
        for line in read(path).splitlines():
            name, _, value = line.partition(" ")
            table[name] = int(value)
    except ValueError:
        return {}
    return table
