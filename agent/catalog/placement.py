"""Which model file to load and how: a pure function whose result explains itself."""

from pathlib import Path

from msgspec import Struct

from agent.catalog.gguf import read_header
from agent.catalog.manifest import Manifest, Model, Variant
from agent.catalog.store import FileState, Store
from agent.config import Config
from agent.engine.messages import Load
from agent.errors import ManifestError, ModelFileError, ModelUnavailable

# The KV cache may take this part of the memory that is available once the weights are in it.
KV_SHARE = 4
MIN_N_CTX = 512
MAX_N_CTX = 4096
DEFAULT_SLOTS = 8
# Small steps cost little speed and keep compute buffers, and the stall of a long prompt, small.
N_BATCH = 256
# Bytes per cell relative to f16.
KV_COST = {"f16": 1.0, "q8_0": 34 / 64, "q4_0": 18 / 64}
# For a file the manifest does not know: between the small models' 12 and 112 KiB.
UNKNOWN_KV_BYTES_PER_TOKEN = 64 << 10


class Placement(Struct, frozen=True):
    """The decision: what is loaded (`load`), what it is called, and the reasons in sentences."""

    name: str
    quant: str
    sha256: str
    load: Load
    why: tuple[str, ...]


def place(config: Config, manifest: Manifest, store: Store, available_bytes: int, cores: int) -> Placement:
    """Choose for this box. Raises ModelUnavailable with the next step."""
    wanted = config.models.name
    if wanted.endswith(".gguf"):
        return _place_file(config, store.folder / wanted, available_bytes, cores)
    try:
        model = manifest.model(wanted)
    except ManifestError as error:
        raise ModelUnavailable(str(error)) from error
    variant = _present(model, store)
    load, why = _load(
        config, store.locate(variant), variant.kv_bytes_per_token, variant.file_bytes, available_bytes, cores
    )
    return Placement(name=model.name, quant=variant.quant, sha256=variant.sha256, load=load, why=why)


def _place_file(config: Config, path: Path, available_bytes: int, cores: int) -> Placement:
    """A file named by hand: taken as it is, once its header is sound."""
    try:
        file_bytes = path.stat().st_size
    except FileNotFoundError as error:
        raise ModelUnavailable(
            f"{path}: no such model file; put it there or choose another with models.name"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{path}: cannot be read: {error}") from error
    _check_header(path)
    load, why = _load(config, path, UNKNOWN_KV_BYTES_PER_TOKEN, file_bytes, available_bytes, cores)
    return Placement(name=path.stem, quant="unknown", sha256="", load=load, why=why)


def _present(model: Model, store: Store) -> Variant:
    """The first variant whose file is there and whole."""
    complaints = []
    for variant in model.variants:
        path = store.locate(variant)
        match store.status(variant):
            case FileState.PRESENT:
                _check_header(path)
                return variant
            case FileState.MISSING:
                complaints.append(f"{path} is missing")
            case FileState.WRONG_SIZE:
                complaints.append(_header_complaint(path))
    raise ModelUnavailable(
        f"model {model.name}: {'; '.join(complaints)};"
        f" fetch it with: tampu models fetch --folder {store.folder} {model.name}"
    )


def _check_header(path: Path) -> None:
    try:
        read_header(path)
    except ModelFileError as error:
        raise ModelUnavailable(str(error)) from error


def _header_complaint(path: Path) -> str:
    try:
        read_header(path)
    except ModelFileError as error:
        return str(error)
    return f"{path} has another size than this model"


def _load(
    config: Config, path: Path, kv_bytes_per_token: int, file_bytes: int, available_bytes: int, cores: int
) -> tuple[Load, tuple[str, ...]]:
    wishes = config.engine
    kv_type = "f16" if wishes.kv_type == "auto" else wishes.kv_type
    cell_bytes = kv_bytes_per_token * KV_COST[kv_type]
    if wishes.n_ctx == "auto":
        room = max(0, available_bytes - file_bytes) / KV_SHARE
        n_ctx = int(min(MAX_N_CTX, max(MIN_N_CTX, room / cell_bytes // 256 * 256)))
        reason = (
            f"n_ctx {n_ctx}: a quarter of the {available_bytes >> 20} MiB available, less the weights, for KV"
        )
    else:
        n_ctx = wishes.n_ctx
        reason = f"n_ctx {n_ctx}: configured"
    threads = cores if wishes.threads == "auto" else wishes.threads
    load = Load(
        path=str(path),
        n_ctx=n_ctx,
        n_seq_max=DEFAULT_SLOTS if wishes.slots == "auto" else wishes.slots,
        n_batch=N_BATCH,
        n_threads=threads,
        kv_type=kv_type,
        n_gpu_layers=0,
    )
    return load, (
        reason,
        f"{threads} threads: " + ("physical cores we may use" if wishes.threads == "auto" else "configured"),
    )
