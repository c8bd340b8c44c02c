"""What one process takes. Imports nothing heavy: the engine process asks about itself."""

from pathlib import Path

ROOT = Path("/")


def anonymous_bytes(pid: int | None = None, root: Path = ROOT) -> int:
    """Memory of a process (ours by default) that the kernel cannot drop, swapped out or not; 0 if unknown.

    From /proc/PID/status: what smaps_rollup calls Anonymous, without its walk over every page of a
    mapped model. Raises nothing: the process may be gone, and only Linux tells.
    """
    try:
        lines = (root / f"proc/{pid or 'self'}/status").read_text().splitlines()
    except OSError:
        return 0
    table = table_of(lines)
    return sum(kilobytes(table.get(name, "")) for name in ("RssAnon", "VmSwap"))


def table_of(lines: list[str]) -> dict[str, str]:
    """Lines of `Name: value`."""
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def kilobytes(value: str) -> int:
    """The bytes in `123 kB`; 0 for anything else."""
    number = value.removesuffix("kB").strip()
    return int(number) * 1024 if number.isdecimal() else 0


def written_bytes(pid: int | None = None, root: Path = ROOT) -> int | None:
    """Bytes a process (ours by default) has had its disks write since it began, page cache included; None
    where nobody tells. From /proc/PID/io, which is its own user's alone. Raises nothing."""
    try:
        lines = (root / f"proc/{pid or 'self'}/io").read_text().splitlines()
    except (OSError, ValueError):
        return None
    count = table_of(lines).get("write_bytes", "").strip()
    return int(count) if count.isdecimal() else None
