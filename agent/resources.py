"""What the box has for us now: read for placement, by the daemon and by the doctor."""

from collections.abc import Iterable
from pathlib import Path

from agent.catalog.weigh import Resources
from agent.hardware.cpu import usable_cores
from agent.hardware.memory import rooms
from agent.hardware.process import anonymous_bytes


def read_resources(root: Path, pids: Iterable[int], level: int, own_bytes: int = 0) -> Resources:
    """What there is under `root`. Raises OSError without /proc.

    What the processes `pids` hold already is ours as well, and so are `own_bytes` more; `level` is the
    budget's (agent/memory_level.py).
    """
    own = own_bytes + sum(anonymous_bytes(pid, root) for pid in pids)
    box, *cgroups = rooms(root)
    return Resources(
        available_bytes=box.available_bytes + own,
        cgroup_bytes=min((room.available_bytes + own for room in cgroups), default=None),
        cores=usable_cores(root),
        level=level,
    )
