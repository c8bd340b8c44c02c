"""What `tampu bench` has measured: one small file for each (box, build, model), read by placement.

A box is its CPU, its cores and its GPUs; a build the version and devices of llama.cpp. Another of any
of them is another file, so that figures never speak for what they were not taken from.
"""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agent.catalog.files import written_whole
from agent.hardware.machine import Cpu

log = logging.getLogger(__name__)

FORMAT = 1
MAX_FILE_BYTES = 64 << 10
# Old models and builds: their files are small, but nobody else removes them.
MAX_FILES = 32
# Two threads beside one busy process are slower than one: what others take does not just add up.
DISTURBING_CORES = 0.3
# A file that says otherwise is damaged: such figures would divide by zero, or win.
Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0)]
# A request as small devices make them: what is best is what answers it soonest.
PROMPT_TOKENS, ANSWER_TOKENS = 200, 100


def request_s(prefill_tok_s: float, decode_tok_s: float) -> float:
    """Seconds for a usual request at these rates."""
    return PROMPT_TOKENS / max(prefill_tok_s, 1e-9) + ANSWER_TOKENS / max(decode_tok_s, 1e-9)


class Speed(Struct, frozen=True, kw_only=True):
    """One way to run a model, in tokens per second. `n_batch` is the rows of a prefill step,
    `n_gpu_layers` what was offloaded to `device` (a name of ggml's registry; "" for the CPU)."""

    n_threads: Count
    is_repacked: bool
    n_batch: Count
    prefill_tok_s: Rate
    decode_tok_s: Rate
    n_gpu_layers: int = 0
    device: str = ""

    @property
    def request_s(self) -> float:
        """Seconds for a usual request, alone on the box."""
        return request_s(self.prefill_tok_s, self.decode_tok_s)


class Bandwidth(Struct, frozen=True, kw_only=True):
    """What so many threads read from memory together, bytes per second."""

    n_threads: Count
    bytes_s: Rate


class Measurements(Struct, frozen=True, kw_only=True):
    """`box`, `build` and `model_key` say what was measured, `seconds` how long it took; the age is the
    file's. Others kept `others_cores` cores busy meanwhile: from DISTURBING_CORES on the figures are low."""

    box: str
    build: str
    model_key: str
    bandwidths: tuple[Bandwidth, ...]
    speeds: tuple[Speed, ...]
    seconds: float
    others_cores: float = 0.0
    format: int = FORMAT

    @property
    def is_disturbed(self) -> bool:
        """Whether others took so much of the box that the figures, of many threads above all, are low."""
        return self.others_cores >= DISTURBING_CORES


def box_key(cpu: Cpu, gpus: Iterable[str] = ()) -> str:
    """Names a box by what makes its speed: its CPU, its cores, the names of its GPUs. The same after a
    restart, whatever the order of GPUs and features."""
    parts = (cpu.arch, cpu.vendor, cpu.model, cpu.microarchitecture, cpu.cpus, cpu.cores)
    return _digest(repr((parts, sorted(cpu.features), sorted(gpus))))


def build_key(build: str, devices: Iterable[str]) -> str:
    """Names a build of llama.cpp: its version and its devices, as Hello has them."""
    return f"{build}; {', '.join(sorted(devices))}"


def file_of(folder: Path, box: str, build: str, model_key: str) -> Path:
    """Where these figures lie or would lie."""
    return folder / f"{_digest(repr((box, build, model_key)))}.json"


def load(folder: Path, box: str, build: str, model_key: str) -> Measurements | None:
    """What was measured of this model here, or None. A file that is damaged, too large, of another
    format or of something else is left alone and said in the log. Raises nothing."""
    path = file_of(folder, box, build, model_key)
    if (content := _content(path)) is None:
        return None
    found = _decoded(content)
    if found is None or (found.box, found.build, found.model_key) != (box, build, model_key):
        log.warning("%s holds no measurements of this version; run: tampu bench", path)
        return None
    return found


def load_all(folder: Path, box: str, build: str | None) -> tuple[Measurements, ...]:
    """What was measured here of whatever model, the newest first; None: by whatever build. Raises nothing."""
    try:
        found = [_decoded(content) for path in _by_age(folder)[:MAX_FILES] if (content := _content(path))]
    except OSError as error:
        log.warning("%s cannot be read: %s", folder, error.strerror)
        return ()
    return tuple(one for one in found if one and one.box == box and build in (None, one.build))


def save(folder: Path, measurements: Measurements) -> Path:
    """Keep them, in the place of older ones of the same three; the file. Of too many files the oldest
    go. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = file_of(folder, measurements.box, measurements.build, measurements.model_key)
    with written_whole(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(measurements)))
    for old in _by_age(folder)[MAX_FILES:]:
        old.unlink(missing_ok=True)
    return path


def best(
    measurements: Measurements, is_repacked: bool | None = None, device: str | None = None
) -> Speed | None:
    """The way that answers a usual request soonest, of those asked for (None: any)."""
    wanted = (
        speed
        for speed in measurements.speeds
        if is_repacked in (None, speed.is_repacked) and device in (None, speed.device)
    )
    return min(wanted, key=lambda speed: speed.request_s, default=None)


def speed_for(
    measurements: Measurements,
    n_threads: int,
    is_repacked: bool,
    device: str = "",
    n_batch: int | None = None,
) -> Speed | None:
    """What was measured of this way, with the nearest size of a prefill step (None: the quickest).

    Only the very count of threads counts: what lies between two counts is no straight line. On a GPU,
    which has all layers, any does: the CPU only hands over work.
    """
    same = [
        speed
        for speed in measurements.speeds
        if (speed.is_repacked, speed.device) == (is_repacked, device)
        and (device or speed.n_threads == n_threads)
    ]
    if n_batch is None:
        return max(same, key=lambda speed: speed.prefill_tok_s, default=None)
    return min(same, key=lambda speed: abs(speed.n_batch - n_batch), default=None)


def _content(path: Path) -> bytes | None:
    """At most one byte more than a file may have; None without one that can be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s cannot be read: %s", path, error.strerror)
        return None


def _decoded(content: bytes) -> Measurements | None:
    if len(content) > MAX_FILE_BYTES:
        return None
    try:
        found = msgspec.json.decode(content, type=Measurements)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.format == FORMAT else None


def _by_age(folder: Path) -> list[Path]:
    """The newest first."""
    aged = []
    for path in folder.glob("*.json"):
        try:
            aged.append((path.stat().st_mtime_ns, path))
        except FileNotFoundError:  # another bench has just dropped it
            continue
    return [path for _, path in sorted(aged, reverse=True)]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()
