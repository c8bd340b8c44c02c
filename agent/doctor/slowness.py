"""Why answers are slow on this box: only reasons that were really found."""

import time
from pathlib import Path
from statistics import median

from msgspec import Struct

from agent.doctor.words import capital, printable, size
from agent.findings import Finding, Severity
from agent.hardware.machine import Machine, Storage
from agent.hardware.process import kilobytes, table_of

# What a CPU needs for llama.cpp's fast integer kernels, by architecture.
FAST_FEATURES = {"x86_64": "avx2", "aarch64": "dotprod"}
# Media on which a model that does not stay in memory crawls.
SLOW_STORAGE = {
    "sd": "an SD card",
    "emmc": "eMMC",
    "usb": "a USB drive",
    "disk": "a hard disk",
    "network": "the network",
}
# Above so many tasks per core, with nothing of ours under way, somebody else computes.
BUSY_LOAD = 0.5
LOOKS, LOOK_S = 5, 0.05
# Less than so much of the RAM in swap is what nobody uses.
SWAPPED_SHARE = 0.1


class Load(Struct, frozen=True):
    """`busy` is how many tasks besides ours want a core (None: not known); and what is swapped out."""

    busy: float | None = None
    swapped_bytes: int = 0


class Facts(Struct, frozen=True, kw_only=True):
    """`load` is how many tasks of others want a core (None: not known, or they may be ours); `is_cold`:
    the model does not stay in memory; `device` what it is computed on, "" for the CPU."""

    machine: Machine
    n_threads: int = 0
    is_cold: bool = False
    storage: Storage = Storage()
    load: float | None = None
    swapped_bytes: int = 0
    device: str = ""


def read_load(root: Path) -> Load:
    """Look a few times at /proc/loadavg and once at /proc/meminfo under `root`; only Linux has them.

    To be called before we start anything. Busy are those that want a core now and did so for the last
    minute: what was computed just before, by a daemon of ours perhaps, is nobody's load any more.
    """
    try:
        looks = [_tasks(root) for _ in range(LOOKS)]
        table = table_of((root / "proc/meminfo").read_text().splitlines())
    except (OSError, ValueError, LookupError):
        return Load()
    total, free = (kilobytes(table.get(name, "")) for name in ("SwapTotal", "SwapFree"))
    average, now = min(average for average, _ in looks), median(now for _, now in looks)
    return Load(min(average, now), max(0, total - free))


def _tasks(root: Path) -> tuple[float, int]:
    """The average of a minute, and how many besides us run now: `1.50 0.70 0.30 3/300 4242`."""
    time.sleep(LOOK_S)
    average, _, _, tasks, _ = (root / "proc/loadavg").read_text().split()
    return float(average), int(tasks.partition("/")[0]) - 1


def slow(facts: Facts) -> Finding | None:
    """One warning with every reason that slows answers down, and the step for each; None without any."""
    reasons = [
        found
        for look in (_software, _throttled, _cold, _swapped, _busy, _threads, _features)
        if (found := look(facts)) is not None
    ]
    if not reasons:
        return None
    return Finding(
        Severity.WARNING,
        "slow_generation",
        "Answers come slower than they could: " + "; ".join(what for what, _ in reasons) + ".",
        capital("; ".join(step for _, step in reasons)) + ".",
    )


Reason = tuple[str, str] | None


def _software(facts: Facts) -> Reason:
    names = ("llvmpipe", "lavapipe", "swiftshader")
    if not any(name in facts.device.lower() for name in names):
        return None
    return (
        f"they are computed on {printable(facts.device)}, which is a GPU imitated by the CPU",
        "install the GPU's own Vulkan driver, or remove the imitation (mesa-vulkan-drivers)",
    )


def _throttled(facts: Facts) -> Reason:
    heat = facts.machine.heat
    if not heat.throttled:
        return None
    at = f" at {heat.celsius:.0f} °C" if heat.celsius is not None else ""
    what = f"the box slows itself down{at} ({', '.join(heat.throttled).replace('_', ' ')})"
    return what, "give it cooling or a better supply"


def _cold(facts: Facts) -> Reason:
    if not facts.is_cold:
        return None
    medium = SLOW_STORAGE.get(facts.storage.kind, "the disk")
    return (
        f"the model does not stay in memory and is read again and again from {medium}",
        "free memory, raise engine.memory, or choose a smaller quant with models.name",
    )


def _swapped(facts: Facts) -> Reason:
    total = facts.machine.memory.total_bytes
    if not total or facts.swapped_bytes < total * SWAPPED_SHARE:
        return None
    return f"{size(facts.swapped_bytes)} of memory are swapped out", "end what is not needed on this box"


def _busy(facts: Facts) -> Reason:
    cores = facts.machine.cpu.cores
    if facts.load is None or facts.load < cores * BUSY_LOAD:
        return None
    return (
        f"other programs keep the cores busy (load {facts.load:.1f} on {cores})",
        "see with `top` which these are",
    )


def _threads(facts: Facts) -> Reason:
    cores = facts.machine.cpu.cores
    if facts.n_threads <= cores:
        return None
    return f"{facts.n_threads} threads share {cores} physical cores", "set engine.threads: auto"


def _features(facts: Facts) -> Reason:
    cpu = facts.machine.cpu
    needed = FAST_FEATURES.get(cpu.arch)
    if facts.device or needed is None or not cpu.features or needed in cpu.features:
        return None
    return (
        f"this CPU has no {needed}, which llama.cpp's fast kernels need",
        "choose a smaller model with models.name",
    )
