"""Which model file to load and how: a pure function whose result explains itself."""

from msgspec import Struct

from agent.catalog.budget import Budget
from agent.catalog.candidate import Candidate
from agent.catalog.isa import repacked_types
from agent.catalog.manifest import AUTO, Manifest
from agent.catalog.shelf import Shelf
from agent.catalog.sources import ModelFile, Sources, find_sources
from agent.catalog.store import Store
from agent.catalog.taste import is_lookup, taste_rank
from agent.catalog.ways import DEFAULT_SLOTS, Resources, device_room
from agent.catalog.weigh import MAX_N_CTX, Weighed, weigh
from agent.config import Config
from agent.engine.messages import N_CTX_START, Load
from agent.errors import InsufficientMemory, ModelUnavailable

__all__ = ["Placement", "Resources", "place"]


class Placement(Struct, frozen=True):
    """The decision: what is loaded (`load`), what it is called, the reasons in sentences, and every file
    that was considered with the reason it won or lost by."""

    name: str
    quant: str
    sha256: str
    load: Load
    budget: Budget
    why: tuple[str, ...]
    candidates: tuple[Candidate, ...] = ()

    @property
    def runs(self) -> str:
        """How it is run, in one short line."""
        load = self.load
        on_gpu = "all layers" if load.n_gpu_layers < 0 else f"{load.n_gpu_layers} layers"
        where = f"{on_gpu} on {load.device}" if load.n_gpu_layers else "on the CPU"
        weights = ", weights in a faster layout" if load.is_repacked else ""
        return f"{where}, {_threads(load.n_threads)}, KV cache {load.kv_type}{weights}"


def place(
    config: Config,
    manifest: Manifest,
    store: Store,
    resources: Resources,
    shelf: Shelf | None = None,
    *,
    is_brief: bool = False,
) -> Placement:
    """Choose for this box. Raises ModelUnavailable or InsufficientMemory with the next step.

    `shelf` has the headers that were read before. The choice is the same with `is_brief`, but files that
    could not change it are not looked at, and are missing among the candidates.
    """
    sources = find_sources(config.models, manifest, store, resources.features, shelf or Shelf())
    weighed, refused, refusal = _weigh_all(config, sources, resources, is_brief=is_brief)
    if not weighed:
        raise refusal or _nothing(refused, sources.advice)
    ranked = sorted(weighed, key=lambda item: _rank(config, item, resources))
    best = ranked[0]
    candidates = (
        best.candidate(_why_it(config, best, ranked), is_chosen=True),
        *(item.candidate(_why_not(config, item, best), is_chosen=False) for item in ranked[1:]),
        *refused,
    )
    file = best.file
    load = _load(config, best, resources)
    why = _why(config, best, resources)
    return Placement(file.name, file.quant, file.sha256, load, best.budget, why, candidates)


def _weigh_all(
    config: Config, sources: Sources, resources: Resources, *, is_brief: bool
) -> tuple[list[Weighed], list[Candidate], InsufficientMemory | None]:
    weighed: list[Weighed] = []
    refused: list[Candidate] = []
    first: InsufficientMemory | None = None
    for group in sources.groups:
        for found in group:
            if isinstance(found, Candidate):
                refused.append(found)
                continue
            try:
                weighed.append(weigh(config, found, resources))
            except InsufficientMemory as error:
                first = first or error
                refused.append(_too_large(found, error))
        # Nothing that comes later is preferred to what runs well.
        if is_brief and any(_grade(config, item) == 0 for item in weighed):
            break
    return weighed, refused, first


def _too_large(file: ModelFile, error: InsufficientMemory) -> Candidate:
    return Candidate(
        name=file.name,
        quant=file.quant,
        file=file.path.name,
        is_chosen=False,
        fits="refused",
        reason=error.message,
    )


def _nothing(refused: list[Candidate], advice: str) -> ModelUnavailable:
    complaints = "; ".join(candidate.reason for candidate in refused)
    name = refused[0].name if refused else "none"
    return ModelUnavailable(f"model {name}: {complaints}; {advice}")


# ---- which one -----------------------------------------------------------------------------------


def _grade(config: Config, item: Weighed) -> int:
    """How well it would run; 0 is well. A preferred model that runs badly gives way to one that does not."""
    is_slow = item.pace.decode_tok_s < config.models.speed_floor
    is_poor = is_lookup(item.file.quant) and not item.way.n_gpu_layers
    if is_poor:
        return 3 if item.budget.is_warm else 5
    if not is_slow:
        return 0 if item.budget.is_warm else 1
    return 2 if item.budget.is_warm else 4


def _rank(config: Config, item: Weighed, resources: Resources) -> tuple[int, int, int, float]:
    """Smaller is better: how it runs, then the maker's preference, then the taste in quants, then speed."""
    fast = frozenset(repacked_types(resources.features)) if item.way.is_repacked else None
    return (
        _grade(config, item),
        item.file.order,
        taste_rank(item.file.quant, fast),
        -item.pace.decode_tok_s,
    )


def _why_it(config: Config, best: Weighed, ranked: list[Weighed]) -> str:
    """What it won by, and what is wrong with it all the same."""
    is_bad = _grade(config, best) > 0
    won = "nothing runs better on this box" if is_bad else "the preferred one of those that run well"
    if len(ranked) == 1:
        is_free = (config.models.name, config.models.variant) == (AUTO, AUTO)
        won = "the only one that is here and fits" if is_free else "the configuration asks for it"
    return f"{won}, but {_worse(config, best)}" if is_bad else won


def _why_not(config: Config, item: Weighed, best: Weighed) -> str:
    """What it lost by."""
    if _grade(config, item) > _grade(config, best):
        return _worse(config, item)
    if item.file.order != best.file.order:
        return f"{best.file.name} is preferred: the default comes first, then the order of the manifest"
    if taste_rank(item.file.quant) > taste_rank(best.file.quant):
        return f"{best.file.quant} is the better use of this box's memory"
    return f"{best.file.quant} is faster here"


def _worse(config: Config, item: Weighed) -> str:
    if is_lookup(item.file.quant) and not item.way.n_gpu_layers:
        return f"{item.file.quant} is slow on every CPU and loses the most"
    if item.pace.decode_tok_s < config.models.speed_floor:
        return (
            f"{item.pace.decode_tok_s:.1f} tok/s are below the floor of {config.models.speed_floor:g}"
            " (models.speed_floor)"
        )
    return f"the file does not stay in memory: {item.budget.why}"


# ---- how -----------------------------------------------------------------------------------------


def _load(config: Config, best: Weighed, resources: Resources) -> Load:
    wishes, way = config.engine, best.way
    return Load(
        path=str(best.file.path),
        n_ctx=best.n_ctx,
        n_seq_max=DEFAULT_SLOTS if wishes.slots == "auto" else wishes.slots,
        n_batch=way.n_batch,
        n_threads=way.n_threads,
        kv_type=way.kv_type,
        n_gpu_layers=way.n_gpu_layers,
        hard_bytes=_hard_bytes(best, resources),
        model_key=best.file.key,
        profiles=tuple(profile.system for profile in config.profiles.values()),
        idle_context_s=wishes.idle.context_s,
        is_repacked=way.is_repacked,
        device=way.device if way.n_gpu_layers else "",
        flash_attention="auto" if way.kv_type == "f16" else "on",
        n_ctx_start=min(N_CTX_START, best.n_ctx),
    )


def _hard_bytes(best: Weighed, resources: Resources) -> int:
    """The engine's share, in the words of its own forecast: that has the KV cache and the buffers of a GPU
    in it, wherever they lie, and not the weights there."""
    way, hard = best.way, best.budget.engine_bytes
    if not way.n_gpu_layers:
        return hard
    if way.is_unified:
        return hard - best.parts.repack_bytes
    device = next(device for device in resources.devices if device.name == way.device)
    return hard + max(0, device_room(device) - best.parts.device_bytes)


def _why(config: Config, best: Weighed, resources: Resources) -> tuple[str, ...]:
    wishes, way = config.engine, best.way
    kind = f"{best.room} tokens fit" if wishes.kv_type == "auto" else "configured"
    context = "as many as are any use" if best.n_ctx == MAX_N_CTX else "all that fit"
    asked = "configured" if best.n_ctx <= best.room else f"configured, and {best.room} fit"
    cores = "physical cores we may use" if wishes.threads == "auto" else "configured"
    if wishes.threads == "auto" and way.n_threads != resources.cores:
        cores = "the quickest"
    measured = "; measured" if best.pace.is_measured else ""
    return (
        best.budget.why,
        f"kv_type {way.kv_type}: {kind}",
        f"n_ctx up to {best.n_ctx}, of all conversations together:"
        f" {context if wishes.n_ctx == 'auto' else asked}",
        f"{_threads(way.n_threads)}: {cores}{measured}",
        _why_device(config, best),
    )


def _why_device(config: Config, best: Weighed) -> str:
    way, shape = best.way, best.file.shape
    if way.n_gpu_layers < 0:
        return f"computed on {way.device}: the whole model fits there"
    if way.n_gpu_layers:
        fits = "configured" if isinstance(config.engine.gpu, int) else "what fits there"
        return f"{way.n_gpu_layers} of {shape.num_layers} layers on {way.device}: {fits}"
    if config.engine.gpu not in ("auto", "off"):
        return "computed on the CPU: engine.gpu asks for a GPU, and this build has none it can use here"
    if way.is_repacked:
        copied = best.parts.repack_bytes >> 20
        return f"weights in a faster layout: {copied} MiB besides the file, for quicker prompts"
    if config.engine.repack == "on":
        return "weights stay in the file: engine.repack asks for a copy, and there is none to make or no room"
    return "weights stay in the file: clean pages, which the kernel can drop and read again"


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
