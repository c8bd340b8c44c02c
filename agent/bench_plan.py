"""What `tampu bench` tries here: the ways to run a model, counts of threads, sizes of a prefill step."""

from pathlib import Path

from msgspec import Struct

from agent.engine.messages import Device
from agent.hardware.machine import Cpu

# Sizes of a prefill step; 256 is placement's. The larger ones take memory a small box does not have.
ROWS = (32, 256, 128, 64, 512)
FEW_ROWS = (32, 128, 64)
ROOM_FOR_MANY_ROWS = 1 << 30
# What a repacked copy or an offloaded model takes beside its weights.
BESIDE_WEIGHTS_BYTES = 192 << 20
GPU_KINDS = ("gpu", "igpu")


class Target(Struct, frozen=True, kw_only=True):
    """The model file to measure; `key` names its content as placement does, and `copied_bytes` of its
    weights have a faster layout on this CPU."""

    name: str
    quant: str
    path: Path
    key: str
    file_bytes: int
    copied_bytes: int = 0


class Box(Struct, frozen=True, kw_only=True):
    """What is measured on. `key` is measurements.box_key's; `threads` the counts to try, the most useful
    first; `room_bytes` the memory we may take, `buffer_bytes` how much to read for the bandwidth (0: not)."""

    key: str
    threads: tuple[int, ...]
    room_bytes: int
    buffer_bytes: int

    @property
    def rows(self) -> tuple[int, ...]:
        """The sizes of a prefill step to try, the most useful first."""
        return ROWS if self.room_bytes >= ROOM_FOR_MANY_ROWS else FEW_ROWS


class Way(Struct, frozen=True, kw_only=True):
    """One way to run the model."""

    name: str
    is_repacked: bool = False
    device: str = ""


def thread_counts(cpu: Cpu, usable: int) -> tuple[int, ...]:
    """Counts worth a try, the most useful first: all usable cores, the fast cluster's, one, half of them,
    and every hardware thread where nothing keeps us from them."""
    fast = max((c for c in cpu.clusters if c.capacity), key=lambda c: c.capacity or 0, default=None)
    counts = [usable, fast.cpus if fast else usable, 1, usable // 2]
    if usable >= cpu.cores:
        counts.append(cpu.cpus)
    most = max(usable, cpu.cpus)
    return tuple(dict.fromkeys(count for count in counts if 1 <= count <= most))


def ways(target: Target, room_bytes: int, devices: tuple[Device, ...]) -> tuple[list[Way], list[str]]:
    """The ways there is memory for, the one that always goes first; and why others are left out."""
    needed = target.file_bytes + BESIDE_WEIGHTS_BYTES
    found, notes = [Way(name="evictable")], []
    if not target.copied_bytes:
        notes.append("repacked: not measured, none of these weights has a faster layout on this CPU")
    elif needed <= room_bytes:
        found.append(Way(name="repacked", is_repacked=True))
    else:
        notes.append(f"repacked: not measured, {needed >> 20} MiB are needed and {room_bytes >> 20} are free")
    for device in devices:
        if device.kind not in GPU_KINDS:
            continue
        if needed <= (device.free_bytes or needed):
            found.append(Way(name=device.name, device=device.name))
        else:
            free = device.free_bytes >> 20
            notes.append(f"{device.name}: not measured, {needed >> 20} MiB are needed and {free} are free")
    return found, notes
