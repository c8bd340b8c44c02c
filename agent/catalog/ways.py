"""Every way to run a model that a box and its owner's wishes leave."""

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from agent.catalog.isa import repack_bytes
from agent.catalog.measurements import Measurements, Speed
from agent.catalog.sources import ModelFile
from agent.catalog.way import Way
from agent.config import Config
from agent.engine.messages import MAX_PINNED, Device

# Below so many cells a cheaper format buys more than it costs.
GOOD_N_CTX = 2048
DEFAULT_SLOTS = 8
# Small steps cost little speed and keep compute buffers, and the stall of a long prompt, small. A GPU
# needs larger ones to be worth its while; a box that is short of memory makes do with less.
N_BATCH, GPU_N_BATCH, SMALL_N_BATCH = 256, 512, 64
# Left on a GPU of its own for its driver, a screen and the buffers of a step.
DEVICE_RESERVE_BYTES = 256 << 20
DEVICE_RESERVE_PARTS = 10
# Of a GPU that does not tell how much memory it has: nothing is too large for it.
UNTOLD_BYTES = 1 << 50
# Reading what is missing of a cold file, where nobody knows the disk: a fair SD card.
SLOW_DISK_BYTES_S = 40e6


class Resources(Struct, frozen=True):
    """What placement has to know of the box.

    `available_bytes` of the box and `cgroup_bytes` of our cgroups (None: no limit there) include what
    both processes have taken already; `level` says how far the budget is lowered (agent/memory_level.py).
    `features` are the CPU's, `devices` what the engine's build can compute on and is worth it here;
    `measurements` all there are of this box and build.
    """

    available_bytes: int
    cores: int
    level: int = 0
    cgroup_bytes: int | None = None
    features: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    measurements: tuple[Measurements, ...] = ()
    disk_bytes_s: float = SLOW_DISK_BYTES_S


def ways(config: Config, file: ModelFile, resources: Resources) -> Iterator[Way]:
    """Every way the wishes leave: a GPU whole or in part, the CPU with its copy and without, and small."""
    wishes = config.engine
    slots = DEFAULT_SLOTS if wishes.slots == "auto" else wishes.slots
    num_slots = slots + min(len(config.profiles), MAX_PINNED)
    for threads in _thread_counts(config, file, resources):
        plain = Way(n_threads=threads, n_batch=N_BATCH, num_slots=num_slots)
        if wishes.gpu != "off":
            yield from _gpu_ways(wishes.gpu, plain, file, resources)
        if wishes.gpu not in ("auto", "off") and resources.devices:
            continue
        for n_batch in _batches(file, resources):
            sized = replace(plain, n_batch=n_batch)
            # A copy of little costs little: with 13 MiB of Gemma or TinyLlama copied a request took 1.01
            # and 1.00 times the best way's (tests/bench/README.md).
            if wishes.repack != "off" and repack_bytes(file.header, resources.features):
                yield replace(sized, is_repacked=True)
            yield sized
    if wishes.gpu in ("auto", "off") or not resources.devices:
        # Last: where nothing else stays in memory, smaller buffers may.
        threads = _thread_counts(config, file, resources)[0]
        yield Way(n_threads=threads, n_batch=SMALL_N_BATCH, num_slots=num_slots)


def _speeds(file: ModelFile, resources: Resources) -> list[Speed]:
    """What was measured of this file here."""
    figures = (one for one in resources.measurements if one.model_key == file.key)
    return [speed for one in figures for speed in one.speeds]


def _thread_counts(config: Config, file: ModelFile, resources: Resources) -> list[int]:
    """What is configured; else the cores, and whatever else was measured within them."""
    if config.engine.threads != "auto":
        return [config.engine.threads]
    measured = {speed.n_threads for speed in _speeds(file, resources)}
    return sorted({resources.cores, *(n for n in measured if n <= resources.cores)}, reverse=True)


def _batches(file: ModelFile, resources: Resources) -> list[int]:
    """The usual size of a step, and the smaller ones that were measured."""
    measured = {speed.n_batch for speed in _speeds(file, resources) if not speed.device}
    return sorted({N_BATCH, *(n for n in measured if SMALL_N_BATCH <= n < N_BATCH)}, reverse=True)


def _gpu_ways(wish: int | str, plain: Way, file: ModelFile, resources: Resources) -> Iterator[Way]:
    for device in resources.devices:
        way = replace(plain, device=device.name, n_batch=GPU_N_BATCH, is_unified=is_unified(device))
        if isinstance(wish, int):
            yield replace(way, n_gpu_layers=wish)
            continue
        yield replace(way, n_gpu_layers=-1)
        layers = fitting_layers(file, way, device)
        if wish == "auto" and not way.is_unified and layers > 0:
            yield replace(way, n_gpu_layers=layers)


def is_unified(device: Device) -> bool:
    """True where the GPU's memory is the box's: integrated ones, Jetson's, Apple's."""
    return device.kind == "igpu" or device.name.startswith(("MTL", "Metal"))


def fitting_layers(file: ModelFile, way: Way, device: Device) -> int:
    """How many of the repeated layers fit into a GPU's own memory beside their part of the KV cache."""
    shape = file.shape
    layer = shape.layer_bytes + shape.kv.cell_bytes(way.kv_type) * GOOD_N_CTX / max(shape.num_layers, 1)
    fitting = int(max(0, device_room(device)) / layer) if layer else 0
    return min(fitting, shape.num_layers)


def device_room(device: Device) -> int:
    """What is free of a GPU's memory for us, in bytes; plenty where its driver tells nothing."""
    if not device.total_bytes and not device.free_bytes:
        return UNTOLD_BYTES
    return device.free_bytes - max(DEVICE_RESERVE_BYTES, device.free_bytes // DEVICE_RESERVE_PARTS)
