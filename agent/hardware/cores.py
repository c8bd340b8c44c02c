"""How many cores this process may really use."""

import os
from pathlib import Path

from agent.hardware.cgroup import cgroup_folders, cpu_v1_folders, read_number

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Physical cores inside our cpuset and CPU quota, at least 1.

    Two hyperthreads of one core do not decode faster than one, so siblings count once.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(root, cpu) for cpu in allowed}
    quota = cpu_quota(root)
    count = len(cores) if quota is None else min(len(cores), int(quota))
    return max(1, count)


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs' worth of time the cgroups allow (own and ancestors), or None without a limit."""
    quotas = []
    for folder in cgroup_folders(root):
        try:
            limit, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if limit != "max":
            quotas.append(int(limit) / int(period))
    for folder in cpu_v1_folders(root):
        quota, span = (read_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota and span and quota > 0:  # -1: no limit
            quotas.append(quota / span)
    return min(quotas, default=None)


def _siblings(root: Path, cpu: int) -> str:
    """What a core's hyperthreads have in common; the CPU itself where the kernel does not say."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    for name in ("core_cpus_list", "thread_siblings_list"):
        try:
            return (topology / name).read_text().strip()
        except OSError:
            continue
    return str(cpu)
