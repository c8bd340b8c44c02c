"""What one process takes. Imports nothing heavy: the engine process asks about itself."""

from pathlib import Path


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
