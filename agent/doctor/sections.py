"""What stands on the screen: a word and its value for each line, section by section."""

from collections.abc import Iterable

from agent.catalog.candidate import Candidate
from agent.doctor.choice import Room
from agent.doctor.door import Door
from agent.doctor.report import BoxReport, LiveReport
from agent.doctor.words import size
from agent.hardware.machine import Gpu, Heat, Memory, Storage

BAR_CELLS = 60
# A part of the bar that is there is seen.
BAR_PARTS = (("others", "+"), ("hard", "#"), ("hot_file", "="), ("free", "."))
# What a person asks for; the rest of a CPU's features is in --json.
TOLD_FEATURES = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "neon",
    "fp16",
    "dotprod",
    "i8mm",
    "sve",
    "sve2",
    "sme",
    "rvv",
)
STORAGE_WORDS = {"nvme": "NVMe", "ssd": "SSD", "emmc": "eMMC", "sd": "SD card", "usb": "USB drive"}

Line = tuple[str, str]


def sections(report: BoxReport) -> list[tuple[str, list[Line]]]:
    """Titles and lines; of a recording the box alone."""
    if not isinstance(report, LiveReport):
        return [("Box", _box(report))]
    return [
        ("Box", _box(report)),
        ("Engine", _engine(report)),
        ("Memory", _memory(report)),
        ("Model", _model(report)),
        ("Service", _service(report)),
    ]


def _box(report: BoxReport) -> list[Line]:
    lines = [
        ("board", report.board),
        ("cpu", _cpu(report)),
        ("features", " ".join(name for name in TOLD_FEATURES if name in report.features)),
        ("memory", _ram(report.memory)),
        *(("gpu", _gpu(gpu)) for gpu in report.gpus),
        ("heat", _heat(report.heat)),
        ("power", _power(report)),
        ("system", ", ".join(filter(None, (report.system, report.kernel)))),
    ]
    if isinstance(report, LiveReport):
        lines.insert(-1, ("storage", _storage(report.storage, report.models_folder)))
    return [(name, value) for name, value in lines if value]


def _cpu(report: BoxReport) -> str:
    named = report.microarchitecture
    if named and named not in report.cpu:
        named = f"{report.cpu} ({named})" if report.cpu else named
    else:
        named = report.cpu
    clusters = f" ({' + '.join(report.clusters)})" if len(report.clusters) > 1 else ""
    threads = f", {report.cpus} threads" if report.cpus != report.cores else ""
    cores = f"{report.cores} core{'' if report.cores == 1 else 's'}{threads}{clusters}"
    return ", ".join(filter(None, (named, report.arch, cores)))


def _ram(memory: Memory) -> str:
    if memory.total_bytes is None:
        return ""
    available = f", {size(memory.available_bytes)} available" if memory.available_bytes is not None else ""
    limit = f", {size(memory.limit_bytes)} allowed here" if memory.limit_bytes is not None else ""
    zram = f" ({size(memory.zram_bytes)} of it compressed memory)" if memory.zram_bytes else ""
    swap = f", {size(memory.swap_bytes)} swap{zram}" if memory.swap_bytes else ""
    return f"{size(memory.total_bytes)}{available}{limit}{swap}"


def _gpu(gpu: Gpu) -> str:
    kind = f", {gpu.kind}" if gpu.kind else ""
    memory = ", shares the RAM" if gpu.is_unified else ""
    if gpu.total_bytes is not None and not gpu.is_unified:
        memory = f", {size(gpu.total_bytes)}"
    verdict = "worth it" if gpu.is_worth_it else "not used"
    return f"{gpu.name}{kind}{memory}: {gpu.reason or verdict}"


def _heat(heat: Heat) -> str:
    said = []
    if heat.celsius is not None:
        trip = f", slows down at {heat.trip_celsius:.0f} °C" if heat.trip_celsius is not None else ""
        said.append(f"{heat.celsius:.0f} °C{trip}")
    if heat.throttled:
        said.append(f"slowed down now: {_words(heat.throttled)}")
    if heat.throttled_before:
        said.append(f"since it was started: {_words(heat.throttled_before)}")
    return "; ".join(said)


def _words(names: Iterable[str]) -> str:
    return ", ".join(names).replace("_", " ")


def _power(report: BoxReport) -> str:
    percent = report.power.battery_percent
    return report.power.source + (f" ({percent} %)" if percent is not None else "")


def _storage(storage: Storage, folder: str) -> str:
    medium = STORAGE_WORDS.get(storage.kind, storage.kind) or "disk"
    speed = f", about {storage.read_bytes_s / 1e6:.0f} MB/s" if storage.read_bytes_s else ""
    free = f", {size(storage.free_bytes)} free" if storage.free_bytes is not None else ""
    return f"{medium}{speed}{free} under {folder}"


def _engine(report: LiveReport) -> list[Line]:
    build = report.build
    if build is None:
        return [("llama.cpp", "does not start here")]
    devices = "; ".join(f"{device.name} ({device.description})" for device in report.devices)
    lines = [
        ("llama.cpp", build.version),
        ("uses", " ".join(build.features)),
        ("devices", devices),
        ("sandbox", build.sandbox or "none"),
    ]
    return [(name, value) for name, value in lines if value]


def _memory(report: LiveReport) -> list[Line]:
    if report.budget is None:
        return [("budget", "not known")]
    return [("", bar(report.budget)), ("budget", _legend(report.budget))]


def bar(parts: Room) -> str:
    """The box's memory as one bar: `+` others, `#` hard, `=` hot file, `.` free."""
    shares = [getattr(parts, f"{name}_bytes") / max(parts.total_bytes, 1) for name, _ in BAR_PARTS]
    cells = [max(1, round(share * BAR_CELLS)) if share > 0 else 0 for share in shares]
    # What rounding and the least of one cell made too much or too little, the largest part takes.
    cells[cells.index(max(cells))] += BAR_CELLS - sum(cells)
    return "[" + "".join(mark * count for (_, mark), count in zip(BAR_PARTS, cells, strict=True)) + "]"


def _legend(parts: Room) -> str:
    """The bar in numbers, each part behind its mark."""
    words = [
        f"{mark} {size(getattr(parts, f'{name}_bytes'))} {name.replace('_', ' ')}" for name, mark in BAR_PARTS
    ]
    lowered = f", lowered to level {parts.level}" if parts.level else ""
    return f"{'   '.join(words)}   of {size(parts.total_bytes)}{lowered}"


def _model(report: LiveReport) -> list[Line]:
    chosen = report.choice
    if chosen is None:
        return [("choice", "none"), *_candidates(report.candidates)]
    gpu = f", {_layers(chosen.n_gpu_layers)} on {chosen.device}" if chosen.n_gpu_layers else ""
    how = f"n_ctx {chosen.n_ctx} in {chosen.kv_type}, {chosen.slots} slots, {chosen.threads} threads{gpu}"
    why = [("why" if number == 0 else "", reason) for number, reason in enumerate(chosen.why)]
    return [
        ("choice", f"{chosen.name} {chosen.quant}: {how}"),
        *why,
        *_candidates(report.candidates),
    ]


def _layers(count: int) -> str:
    return "all layers" if count < 0 else f"{count} layers"


def _candidates(candidates: Iterable[Candidate]) -> list[Line]:
    """A table of what was not chosen, and why not."""
    rows = [_candidate(candidate) for candidate in candidates if not candidate.is_chosen]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [("" if number else "not taken", line) for number, line in enumerate(lines)]


def _candidate(candidate: Candidate) -> tuple[str, ...]:
    needs = size(candidate.fit.total_bytes) if candidate.fit else ""
    about = "" if candidate.is_measured else "~"
    speed = f"{about}{candidate.decode_tok_s:.1f} tok/s" if candidate.decode_tok_s is not None else ""
    return f"{candidate.name} {candidate.quant}", candidate.fits, needs, speed, candidate.reason


def _service(report: LiveReport) -> list[Line]:
    broker = report.broker
    spoken = f"answers, MQTT {broker.protocol}" if not broker.trouble else "NO CONNECTION"
    return [
        ("broker", f"{broker.host}:{broker.port} {spoken}"),
        ("socket", _socket(report.daemon)),
        ("daemon", _daemon(report.daemon)),
    ]


def _socket(door: Door) -> str:
    if not door.owner:
        return door.path
    return f"{door.path} ({door.owner}:{door.group}, mode {door.mode:04o})"


def _daemon(door: Door) -> str:
    status = door.status
    if status is None:
        return "does not run" if door.answer in ("absent", "stale") else "does not answer"
    reason = f": {status.reason}" if status.reason else ""
    model = f", {status.model.name} {status.model.quant}" if status.model else ""
    return f"{status.state}{reason} (tampu {status.version}, node {status.node}{model})"
