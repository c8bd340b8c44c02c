"""Which model file to load and how: a pure function whose result explains itself."""

from pathlib import Path

from msgspec import Struct

from agent.catalog.budget import ENGINE_BYTES, Budget, plan, vocabulary_bytes
from agent.catalog.gguf import GgufHeader, read_header
from agent.catalog.kv_size import KvSize, kv_size
from agent.catalog.manifest import Manifest, Model, Variant
from agent.catalog.store import FileState, Store
from agent.config import Config
from agent.engine.messages import Load
from agent.errors import ManifestError, ModelFileError, ModelUnavailable

# The KV cache grows with the load; these bound how far. Fewer cells hold no conversation.
MIN_N_CTX = 512
MAX_N_CTX = 8192
# Below so many cells a cheaper format buys more than it costs.
GOOD_N_CTX = 2048
# While the cache is resized, a copy of its state lies beside it (engine/pool.py).
RESIZE_ROOM = 1.5
DEFAULT_SLOTS = 8
# Small steps cost little speed and keep compute buffers, and the stall of a long prompt, small.
N_BATCH = 256


class Resources(Struct, frozen=True):
    """What placement has to know of the box.

    `available_bytes` of the box and `cgroup_bytes` of our cgroups (None: no limit there) include what
    both processes have taken already; `level` says how far the
    budget is lowered (agent/memory_level.py).
    """

    available_bytes: int
    cores: int
    level: int = 0
    cgroup_bytes: int | None = None


class Placement(Struct, frozen=True):
    """The decision: what is loaded (`load`), what it is called, and the reasons in sentences."""

    name: str
    quant: str
    sha256: str
    load: Load
    budget: Budget
    why: tuple[str, ...]


class _File(Struct, frozen=True):
    """A model file and what its header says; `key` names its content."""

    path: Path
    key: str
    num_bytes: int
    num_vocabulary: int
    kv: KvSize


def place(config: Config, manifest: Manifest, store: Store, resources: Resources) -> Placement:
    """Choose for this box. Raises ModelUnavailable or InsufficientMemory with the next step."""
    wanted = config.models.name
    if wanted.endswith(".gguf"):
        return _place_file(config, store.folder / wanted, resources)
    try:
        model = manifest.model(wanted)
    except ManifestError as error:
        raise ModelUnavailable(str(error)) from error
    variant, header = _present(model, store)
    file = _File(
        path=store.locate(variant),
        key=variant.sha256,
        num_bytes=variant.file_bytes,
        num_vocabulary=_num_vocabulary(header),
        kv=kv_size(header, variant.kv_bytes_per_token),
    )
    load, budget, why = _load(config, file, resources)
    return Placement(model.name, variant.quant, variant.sha256, load, budget, why)


def _place_file(config: Config, path: Path, resources: Resources) -> Placement:
    """A file named by hand: taken as it is, once its header is sound."""
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise ModelUnavailable(
            f"{path}: no such model file; put it there or choose another with models.name"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{path}: cannot be read: {error}") from error
    header = _header(path)
    # A hash would have to read the whole file.
    key = f"{path.name}:{found.st_size}:{found.st_mtime_ns}"
    file = _File(path, key, found.st_size, _num_vocabulary(header), kv_size(header))
    load, budget, why = _load(config, file, resources)
    return Placement(path.stem, "unknown", "", load, budget, why)


def _present(model: Model, store: Store) -> tuple[Variant, GgufHeader]:
    """The first variant whose file is there and whole."""
    complaints = []
    for variant in model.variants:
        path = store.locate(variant)
        match store.status(variant):
            case FileState.PRESENT:
                return variant, _header(path)
            case FileState.MISSING:
                complaints.append(f"{path} is missing")
            case FileState.WRONG_SIZE:
                complaints.append(_header_complaint(path))
    raise ModelUnavailable(
        f"model {model.name}: {'; '.join(complaints)};"
        f" fetch it with: tampu models fetch --folder {store.folder} {model.name}"
    )


def _header(path: Path) -> GgufHeader:
    try:
        return read_header(path)
    except ModelFileError as error:
        raise ModelUnavailable(str(error)) from error


def _header_complaint(path: Path) -> str:
    try:
        read_header(path)
    except ModelFileError as error:
        return str(error)
    return f"{path} has another size than this model"


def _num_vocabulary(header: GgufHeader) -> int:
    return header.lengths.get("tokenizer.ggml.tokens", 0)


def _load(config: Config, file: _File, resources: Resources) -> tuple[Load, Budget, tuple[str, ...]]:
    wishes = config.engine
    # All conversations together; the engine keeps each of them within what the model was made for.
    most = MAX_N_CTX if wishes.n_ctx == "auto" else wishes.n_ctx
    types = file.kv.types if wishes.kv_type == "auto" else (wishes.kv_type,)
    slots = DEFAULT_SLOTS if wishes.slots == "auto" else wishes.slots
    more_bytes = vocabulary_bytes(file.num_vocabulary, slots)
    cache_bytes = more_bytes + int(min(MIN_N_CTX, most) * file.kv.cell_bytes(types[-1]) * RESIZE_ROOM)
    budget = plan(
        wishes.memory_bytes,
        resources.available_bytes,
        file.num_bytes,
        cache_bytes,
        resources.level,
        resources.cgroup_bytes,
    )
    kv_type, room = _kv_type(file.kv, types, budget.engine_bytes - more_bytes, min(GOOD_N_CTX, most))
    n_ctx = most if wishes.n_ctx != "auto" else min(most, max(MIN_N_CTX, room // 256 * 256))
    threads = resources.cores if wishes.threads == "auto" else wishes.threads
    load = Load(
        path=str(file.path),
        n_ctx=n_ctx,
        n_seq_max=slots,
        n_batch=N_BATCH,
        n_threads=threads,
        kv_type=kv_type,
        n_gpu_layers=0,
        hard_bytes=budget.engine_bytes,
        model_key=file.key,
        profiles=tuple(profile.system for profile in config.profiles.values()),
        idle_context_s=wishes.idle.context_s,
    )
    return load, budget, (budget.why, *_why(config, load, room, most))


def _kv_type(kv: KvSize, types: tuple[str, ...], engine_bytes: int, good: int) -> tuple[str, int]:
    """The best format in which `good` cells fit, else the cheapest; and how many cells fit in it."""
    room = (engine_bytes - ENGINE_BYTES) / RESIZE_ROOM
    fits = {kv_type: int(room / kv.cell_bytes(kv_type)) for kv_type in types}
    best = next((kv_type for kv_type in types if fits[kv_type] >= good), types[-1])
    return best, fits[best]


def _why(config: Config, load: Load, room: int, most: int) -> tuple[str, ...]:
    wishes = config.engine
    kind = f"{room} tokens fit" if wishes.kv_type == "auto" else "configured"
    context = "as many as are any use" if load.n_ctx == most else "all that fit"
    cores = "physical cores we may use" if wishes.threads == "auto" else "configured"
    return (
        f"kv_type {load.kv_type}: {kind}",
        f"n_ctx {load.n_ctx}: {context if wishes.n_ctx == 'auto' else 'configured'}",
        f"{load.n_threads} threads: {cores}",
    )
