"""What a process takes of the memory, in the two numbers Tampu budgets with."""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `rss` has the mapped model in it, which the kernel may drop; `anonymous` is what it may not.

    `anonymous` is None where the system does not tell the two apart.
    """

    rss: int
    anonymous: int | None

    def at_least(self, other: "Memory") -> "Memory":
        """The larger of each number."""
        anonymous = None if self.anonymous is None else max(self.anonymous, other.anonymous or 0)
        return Memory(max(self.rss, other.rss), anonymous)


def memory_of(pid: int) -> Memory:
    """Now. Raises psutil.NoSuchProcess when there is no such process (any more)."""
    rss = psutil.Process(pid).memory_info().rss
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return Memory(rss, None)
    kilobytes = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines[1:])}
    return Memory(kilobytes["Rss"] << 10, kilobytes["Anonymous"] << 10)


def peak_memory(command: Sequence[str]) -> Memory:
    """Run a command to its end, its output thrown away. Raises CalledProcessError."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        peak = Memory(0, 0)
        while process.poll() is None:
            # A process that has just ended still has an entry, with no memory in it.
            now = memory_of(process.pid)
            peak = now.at_least(peak) if now.rss else peak
            time.sleep(POLL_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak
