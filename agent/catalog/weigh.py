"""One file on this box: every way to run it, what each would take and how fast it would be, and the best."""

from collections.abc import Iterator, Sequence
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from agent.catalog.budget import Budget, memory_bytes, plan
from agent.catalog.candidate import Candidate, Fits
from agent.catalog.isa import repack_bytes
from agent.catalog.measurements import Measurements
from agent.catalog.sources import ModelFile
from agent.catalog.speed import Pace, from_disk, pace_of
from agent.catalog.taste import is_lookup, quality_of
from agent.catalog.way import Parts, Way, parts
from agent.config import Config
from agent.engine.messages import Device
from agent.errors import InsufficientMemory

# The KV cache grows with the load; these bound how far. Fewer cells hold no conversation.
MIN_N_CTX = 512
MAX_N_CTX = 8192
# Below so many cells a cheaper format buys more than it costs.
GOOD_N_CTX = 2048
# While the cache is resized, a copy of its state lies beside it (engine/pool.py).
RESIZE_ROOM = 1.5
# Of the largest cache: itself, a copy while it is moved, and what waits with its state kept.
MOST_ROOM = 2.0
DEFAULT_SLOTS = 8
# As the engine counts them: sequence ids beyond the slots, where profiles stay resident.
MAX_PINNED = 8
# Small steps cost little speed and keep compute buffers, and the stall of a long prompt, small. A GPU
# needs larger ones to be worth its while; a box that is short of memory makes do with less.
N_BATCH, GPU_N_BATCH, SMALL_N_BATCH = 256, 512, 64
# So much of what a token reads has to have a faster layout for its copy to be worth the memory.
COPIED_SHARE = 0.25
# Left on a GPU of its own for its driver, a screen and the buffers of a step.
DEVICE_RESERVE_BYTES = 256 << 20
DEVICE_RESERVE_PARTS = 10
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


class Weighed(Struct, frozen=True, kw_only=True):
    """A file, the way it would be run, and how many tokens of context it would have at most."""

    file: ModelFile
    way: Way
    parts: Parts
    budget: Budget
    pace: Pace
    n_ctx: int
    room: int

    @property
    def fits(self) -> Fits:
        return "warm" if self.budget.is_warm else "cold"

    def candidate(self, reason: str, *, is_chosen: bool) -> Candidate:
        """The row for a person."""
        file = self.file
        return Candidate(
            name=file.name,
            quant=file.quant,
            file=file.path.name,
            is_chosen=is_chosen,
            fits=self.fits,
            reason=reason,
            fit=self.parts.with_cells(self.n_ctx),
            quality=quality_of(file.quant, file.variant.quality if file.variant else None),
            decode_tok_s=round(self.pace.decode_tok_s, 1),
            is_measured=self.pace.is_measured,
        )


def weigh(config: Config, file: ModelFile, resources: Resources) -> Weighed:
    """The best way to run this file here. Raises InsufficientMemory when there is none."""
    found: list[Weighed] = []
    refusal: InsufficientMemory | None = None
    for way in ways(config, file, resources):
        try:
            found.append(_weigh_way(config, file, way, resources))
        except InsufficientMemory as error:
            refusal = refusal or error
    if not found:
        assert refusal is not None, "there is always the plain way"
        raise refusal
    return _best(config, found, resources)


def ways(config: Config, file: ModelFile, resources: Resources) -> Iterator[Way]:
    """Every way the wishes leave: a GPU whole or in part, the CPU with its copy and without, and small."""
    wishes = config.engine
    slots = DEFAULT_SLOTS if wishes.slots == "auto" else wishes.slots
    num_slots = slots + min(len(config.profiles), MAX_PINNED)
    for threads in _thread_counts(config, file, resources):
        plain = Way(n_threads=threads, n_batch=N_BATCH, num_slots=num_slots)
        if wishes.gpu != "off":
            yield from _gpu_ways(wishes.gpu, plain, file, resources)
        if wishes.gpu in ("auto", "off") or not resources.devices:
            if wishes.repack == "on" or (wishes.repack == "auto" and _pays_to_copy(file, resources)):
                yield replace(plain, is_repacked=True)
            yield plain
            yield replace(plain, n_batch=SMALL_N_BATCH)


def _pays_to_copy(file: ModelFile, resources: Resources) -> bool:
    """A model of which little has a faster layout is hardly quicker for it."""
    copied = repack_bytes(file.header, resources.features)
    return copied >= file.shape.read_bytes * COPIED_SHARE


def _thread_counts(config: Config, file: ModelFile, resources: Resources) -> list[int]:
    """What is configured; else the cores, and whatever else was measured within them."""
    if config.engine.threads != "auto":
        return [config.engine.threads]
    measured = {
        speed.n_threads
        for measurements in resources.measurements
        if measurements.model_key == file.key
        for speed in measurements.speeds
    }
    return sorted({resources.cores, *(n for n in measured if n <= resources.cores)}, reverse=True)


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
    """What is free of a GPU's memory for us, in bytes."""
    return device.free_bytes - max(DEVICE_RESERVE_BYTES, device.free_bytes // DEVICE_RESERVE_PARTS)


def _weigh_way(config: Config, file: ModelFile, way: Way, resources: Resources) -> Weighed:
    """Raises InsufficientMemory where this way does not fit."""
    wishes, kv = config.engine, file.shape.kv
    # All conversations together; the engine keeps each of them within what the model was made for.
    most = MAX_N_CTX if wishes.n_ctx == "auto" else wishes.n_ctx
    types = kv.types if wishes.kv_type == "auto" else (wishes.kv_type,)
    copied = repack_bytes(file.header, resources.features) if way.is_repacked else 0
    options = [replace(way, kv_type=kv_type) for kv_type in types]
    cheapest = parts(file.shape, options[-1], copied)
    least = ceil(min(MIN_N_CTX, most) * cheapest.host_cell_bytes * RESIZE_ROOM)
    dearest = parts(file.shape, options[0], copied)
    budget = plan(
        wishes.memory_bytes,
        resources.available_bytes,
        cheapest.hot_bytes,
        cheapest.least_bytes + least,
        resources.level,
        resources.cgroup_bytes,
        dearest.least_bytes + ceil(most * dearest.host_cell_bytes * MOST_ROOM),
    )
    device = next((device for device in resources.devices if device.name == way.device), None)
    sized = [
        (option, split := parts(file.shape, option, copied), _room(split, budget, way, device))
        for option in options
    ]
    way, split, room = next((row for row in sized if row[2] >= min(GOOD_N_CTX, most)), sized[-1])
    if room < min(MIN_N_CTX, most):
        raise _no_room_on(device, split)
    pace = pace_of(
        file.shape,
        way,
        resources.features,
        resources.measurements,
        file.key,
        is_lookup=is_lookup(file.quant),
    )
    missing = split.hot_bytes - budget.hot_file_bytes
    return Weighed(
        file=file,
        way=way,
        parts=split,
        budget=budget,
        pace=from_disk(pace, missing, resources.disk_bytes_s),
        n_ctx=most if wishes.n_ctx != "auto" else min(most, max(MIN_N_CTX, room // 256 * 256)),
        room=room,
    )


def _room(split: Parts, budget: Budget, way: Way, device: Device | None) -> int:
    """How many cells fit, a copy beside them while they are moved."""
    cells = (budget.engine_bytes - split.least_bytes) / RESIZE_ROOM / split.host_cell_bytes
    if device and way.n_gpu_layers and not way.is_unified and split.cell_device_bytes:
        cells = min(cells, (device_room(device) - split.device_bytes) / split.cell_device_bytes)
    return int(max(0, cells))


def _no_room_on(device: Device | None, split: Parts) -> InsufficientMemory:
    where = f"{device.description} ({device.name})" if device else "this box"
    free = device.free_bytes if device else 0
    return InsufficientMemory(
        f"{split.device_bytes >> 20} MiB of weights and a KV cache do not fit into the {free >> 20} MiB"
        f" free on {where}; lower engine.gpu, or set it to auto",
        needed_bytes=split.device_bytes,
        available_bytes=free,
    )


def _best(config: Config, found: Sequence[Weighed], resources: Resources) -> Weighed:
    """Of ways that fit: the fastest where it was measured, else a GPU, then the copy where there is room
    for both, then the plain one. They come in that order."""
    warm = [item for item in found if item.budget.is_warm] or list(found)
    if config.engine.repack != "on":
        warm = [
            item for item in warm if not item.way.is_repacked or _has_room_for_both(config, item, resources)
        ] or warm
    measured = [item for item in warm if item.pace.is_measured]
    full_size = [item for item in measured if item.way.n_batch != SMALL_N_BATCH] or measured
    if full_size and all(item.pace.is_measured for item in warm):
        return min(full_size, key=lambda item: item.pace.request_s)
    if full_size and not any(item.way.n_gpu_layers for item in warm):
        return min(full_size, key=lambda item: item.pace.request_s)
    return warm[0]


def _has_room_for_both(config: Config, item: Weighed, resources: Resources) -> bool:
    """The copy pays where the file it is made from stays as well, and a good conversation beside them."""
    memory = memory_bytes(config.engine.memory_bytes, resources.available_bytes, resources.cgroup_bytes)
    needed = item.parts.with_cells(GOOD_N_CTX).total_bytes
    return memory >= needed and item.room >= GOOD_N_CTX
