"""Our cgroups, from our own up to the root: limits of ancestors bind as well."""

from pathlib import Path


def cgroup_folders(root: Path) -> list[Path]:
    """The cgroup v2 folders that hold this process, innermost first; empty where there is no v2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if path is None:
        return []
    base = root / "sys/fs/cgroup"
    own = base / path
    return [own, *(parent for parent in own.parents if parent.is_relative_to(base))]


def read_number(path: Path) -> int | None:
    """The number in a file; None for `max`, a missing file or anything else."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
