"""What Prometheus is told about this box: the families, made of the status, the counts and the vitals."""

from agent.counts import Counts
from agent.exposition import Family, Kind, Sample
from agent.status import Status
from agent.vitals import Vitals

PREFIX = "tampu_"
# The journal's findings begin so; this one is about what is past.
JOURNAL, JOURNAL_WAS_DAMAGED = "journal_", "journal_damaged"


def families(status: Status, counts: Counts, vitals: Vitals) -> tuple[Family, ...]:
    """Every family, in the order of the text. What is not known on this box has no samples."""
    return (*_identity(status), *_work(status, counts), *_memory(status), *_health(status, vitals))


def _one(name: str, kind: Kind, text: str, value: float | bool | None, *labels: tuple[str, str]) -> Family:
    samples = () if value is None else (Sample(float(value), labels),)
    return Family(PREFIX + name, kind, text, samples)


def _gauge(name: str, text: str, value: float | bool | None, *labels: tuple[str, str]) -> Family:
    return _one(name, "gauge", text, value, *labels)


def _counter(name: str, text: str, value: float) -> Family:
    return _one(f"{name}_total", "counter", text, value)


def _identity(status: Status) -> tuple[Family, ...]:
    model = status.model
    names = (("name", model.name), ("quant", model.quant)) if model else ()
    labels = (("version", status.version), ("node", status.node))
    return (
        _gauge("build_info", "The release that runs, and the name of the box.", 1, *labels),
        _gauge("model_info", "The model that is loaded.", 1 if model else None, *names),
        _gauge("up", "1 while requests are taken and would be computed.", status.state == "online"),
        _gauge("uptime_seconds", "Seconds since the daemon was started.", status.uptime_s),
    )


def _work(status: Status, counts: Counts) -> tuple[Family, ...]:
    ends = (
        *(_end("done", reason, count) for reason, count in counts.done.items()),
        *(_end("error", code, count) for code, count in counts.errors.items()),
    )
    return (
        Family(
            f"{PREFIX}requests_total",
            "counter",
            "Requests that have ended: done with a finish reason, or in an error with its code.",
            ends,
        ),
        _counter("prompt_tokens", "Tokens of prompts.", counts.prompt_tokens),
        _counter("prompt_cached_tokens", "Those that were not computed again.", counts.cached_tokens),
        _counter("completion_tokens", "Tokens of answers.", counts.completion_tokens),
        _counter("queue_seconds", "Seconds that answered requests waited.", counts.queue_s),
        _counter("prefill_seconds", "Seconds in which their prompts were computed.", counts.prefill_s),
        _counter("decode_seconds", "Seconds in which they were answered.", counts.decode_s),
        _gauge("queue_requests", "Requests that wait.", max(0, status.live - status.running)),
        _gauge("active_requests", "Requests that are computed.", status.running),
        _gauge("tokens_per_second", "Tokens of answers per second, of late.", status.tokens_per_s),
        _gauge("kv_cells_used", "Cells of the KV cache that hold a token.", status.cells_used),
        _gauge("kv_cells", "Cells that there are now.", status.cells_total),
    )


def _end(end: str, reason: str, count: int) -> Sample:
    return Sample(count, (("end", end), ("reason", reason)))


def _memory(status: Status) -> tuple[Family, ...]:
    memory = status.memory
    resident = (
        Sample(memory.daemon_rss_bytes, (("process", "daemon"),)),
        Sample(memory.engine_rss_bytes, (("process", "engine"),)),
    )
    return (
        Family(f"{PREFIX}resident_bytes", "gauge", "Resident memory, mapped weights included.", resident),
        _gauge("budget_hard_bytes", "Anonymous memory that is never exceeded.", memory.hard_bytes),
        _gauge("budget_hot_file_bytes", "Mapped weights that should stay.", memory.hot_file_bytes),
        _gauge("budget_level", "How far deaths for memory have lowered the budget.", memory.level),
        _gauge("memory_pressure", "How short the box is of memory: 0, 1 or 2.", memory.pressure),
    )


def _health(status: Status, vitals: Vitals) -> tuple[Family, ...]:
    codes = {finding.code for finding in status.findings}
    is_degraded = any(code.startswith(JOURNAL) for code in codes - {JOURNAL_WAS_DAMAGED})
    written = vitals.written_bytes
    return (
        _gauge("temperature_celsius", "The hottest processor sensor.", vitals.celsius),
        _gauge("throttled", "1 while the box slows its CPU down.", vitals.is_throttled),
        _one("written_bytes_total", "counter", "Bytes both processes had the disks write.", written),
        _counter("engine_restarts", "Engine processes started again.", status.engine_restarts),
        _gauge("broker_connected", "1 while MQTT is connected.", status.mqtt.startswith("connected")),
        _gauge("journal_degraded", "1 while accepted requests are not kept as configured.", is_degraded),
        _gauge("findings", "Things that the daemon's parts want mended.", len(status.findings)),
    )
