"""One file on this box: every way to run it, what each would take and how fast it would be, and the best."""

from collections.abc import Sequence
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from agent.catalog.budget import Budget, memory_bytes, plan
from agent.catalog.candidate import Candidate, Fits
from agent.catalog.isa import repack_bytes
from agent.catalog.sources import ModelFile
from agent.catalog.speed import Pace, from_disk, pace_of
from agent.catalog.taste import is_lookup, quality_of
from agent.catalog.way import Parts, Way, parts
from agent.catalog.ways import GOOD_N_CTX, Resources, device_room, ways
from agent.config import Config
from agent.engine.messages import Device
from agent.errors import InsufficientMemory, ModelUnavailable

# The KV cache grows with the load; these bound how far. Fewer cells hold no conversation.
MIN_N_CTX = 512
MAX_N_CTX = 8192
# While the cache is resized, a copy of its state lies beside it (engine/pool.py).
RESIZE_ROOM = 1.5
# Of the largest cache: itself, a copy while it is moved, and what waits with its state kept.
MOST_ROOM = 2.0


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
            fit=self.parts.with_cells(min(self.n_ctx, self.room)),
            quality=quality_of(file.quant, file.variant.quality if file.variant else None),
            decode_tok_s=round(self.pace.decode_tok_s, 1),
            is_measured=self.pace.is_measured,
        )


def weigh(config: Config, file: ModelFile, resources: Resources) -> Weighed:
    """The best way to run this file here. Raises InsufficientMemory when there is none."""
    found: list[Weighed] = []
    refusals: list[InsufficientMemory] = []
    for way in ways(config, file, resources):
        try:
            found.append(_weigh_way(config, file, way, resources))
        except InsufficientMemory as error:
            refusals.append(error)
    if not found:
        # What the most frugal way lacks is what this file lacks.
        raise min(refusals, key=lambda refusal: refusal.detail["needed_bytes"])
    return _best(config, found, resources)


def _weigh_way(config: Config, file: ModelFile, way: Way, resources: Resources) -> Weighed:
    """Raises InsufficientMemory where this way does not fit, ModelUnavailable where it cannot be."""
    wishes, kv = config.engine, file.shape.kv
    # All conversations together; the engine keeps each of them within what the model was made for.
    most = MAX_N_CTX if wishes.n_ctx == "auto" else wishes.n_ctx
    types = kv.types if wishes.kv_type == "auto" else (wishes.kv_type,)
    if types[0] not in kv.types:
        raise ModelUnavailable(
            f"{file.path.name}: its KV cache cannot be {types[0]}, only {' or '.join(kv.types)};"
            " set engine.kv_type to auto"
        )
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
    """Of ways that fit: a GPU that nobody has measured, else the fastest where it was measured, else a GPU,
    then the copy where there is room for both, then the plain one. They come in that order."""
    warm = [item for item in found if item.budget.is_warm] or list(found)
    if config.engine.repack != "on":
        warm = [
            item for item in warm if not item.way.is_repacked or _has_room_for_both(config, item, resources)
        ] or warm
    measured = [item for item in warm if item.pace.is_measured]
    # One figure is enough to know a GPU: `bench` has none of other counts of threads there, or of a part.
    known = {item.way.device for item in measured}
    for item in warm:
        if item.way.n_gpu_layers and item.way.device not in known:
            return item
    if measured:
        return min(measured, key=lambda item: item.pace.request_s)
    return warm[0]


def _has_room_for_both(config: Config, item: Weighed, resources: Resources) -> bool:
    """The copy pays where the file it is made from stays as well, and a good conversation beside them."""
    memory = memory_bytes(config.engine.memory_bytes, resources.available_bytes, resources.cgroup_bytes)
    needed = item.parts.with_cells(GOOD_N_CTX).total_bytes
    return memory >= needed and item.room >= GOOD_N_CTX
