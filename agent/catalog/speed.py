"""How fast a way to run a model will be: measured where `tampu bench` has, else an estimate.

Decoding one token reads every weight once, so its speed is what the memory gives, divided by the bytes
of the model. The estimates order candidates on one box; they promise nothing.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from agent.catalog.measurements import PROMPT_TOKENS, Measurements, request_s, speed_for
from agent.catalog.shape import Shape
from agent.catalog.way import Way, offloaded_share

GB = 1e9
# What decoding gets of the memory of a usual box with these features, bytes per second; the first that
# matches. Behind each stands a kind of box: servers and desktops, small PCs, Grace and phones, boards of
# the Cortex-A76 kind, RISC-V and the Cortex-A53 kind.
USUAL_BANDWIDTH = (
    ("avx512f", 10 * GB), ("avx2", 9 * GB), ("avx", 6 * GB), ("sse2", 3 * GB),
    ("i8mm", 20 * GB), ("dotprod", 7 * GB), ("neon", 2 * GB),
)  # fmt: skip
LEAST_BANDWIDTH = 1 * GB
# Of what threads read from memory together decoding gets so much.
DECODE_EFFICIENCY = 0.6
# Formats that are looked up in tables keep the processor busier than the memory: TinyLlama in IQ2_XXS
# decoded 20 tokens per second where its bytes promise 33.
LOOKUP_FACTOR = 0.5
# A GPU that shares the memory of the box gets more of it; one with its own has another kind of it.
UNIFIED_GPU_FACTOR, OWN_GPU_BANDWIDTH = 2.0, 150 * GB
# Computing rows of a prompt together is faster than one by one: several times with a repacked model.
PREFILL_FACTOR, REPACKED_PREFILL_FACTOR = 2.5, 5.0


class Pace(Struct, frozen=True, kw_only=True):
    """Tokens per second."""

    prefill_tok_s: float
    decode_tok_s: float
    is_measured: bool = False

    @property
    def request_s(self) -> float:
        """How long a usual request takes."""
        return request_s(self.prefill_tok_s, self.decode_tok_s)


def pace_of(
    shape: Shape,
    way: Way,
    features: Iterable[str],
    measured: Sequence[Measurements],
    key: str,
    *,
    is_lookup: bool = False,
) -> Pace:
    """The measured pace of exactly this way and model (by its key), else an estimate."""
    is_partial = way.n_gpu_layers > 0
    for measurements in measured:
        if measurements.model_key != key or is_partial:
            continue
        speed = speed_for(measurements, way.n_threads, way.is_repacked, way.device, way.n_batch)
        if speed:
            return Pace(prefill_tok_s=speed.prefill_tok_s, decode_tok_s=speed.decode_tok_s, is_measured=True)
    bandwidth = bandwidth_of(way, features, measured)
    return estimate(shape, way, bandwidth * LOOKUP_FACTOR if is_lookup else bandwidth)


def bandwidth_of(way: Way, features: Iterable[str], measured: Sequence[Measurements]) -> float:
    """Bytes per second that decoding gets from the box's memory."""
    rows = [row for measurements in measured for row in measurements.bandwidths]
    if rows:
        nearest = min(rows, key=lambda row: abs(row.n_threads - way.n_threads))
        return nearest.bytes_s * DECODE_EFFICIENCY
    have = set(features)
    return next((bytes_s for name, bytes_s in USUAL_BANDWIDTH if name in have), LEAST_BANDWIDTH)


def estimate(shape: Shape, way: Way, bandwidth: float) -> Pace:
    """From the bytes a token reads; what is offloaded reads the GPU's memory instead."""
    gpu = bandwidth * UNIFIED_GPU_FACTOR if way.is_unified else OWN_GPU_BANDWIDTH
    share = offloaded_share(shape, way)
    seconds = shape.read_bytes * ((1 - share) / bandwidth + share / gpu)
    decode = 1 / max(seconds, 1e-6)
    factor = REPACKED_PREFILL_FACTOR if way.is_repacked or way.n_gpu_layers else PREFILL_FACTOR
    return Pace(prefill_tok_s=decode * factor, decode_tok_s=decode)


def from_disk(pace: Pace, missing_bytes: int, disk_bytes_s: float) -> Pace:
    """The pace when so much of the file is read again for every step."""
    if missing_bytes <= 0:
        return pace
    wait = missing_bytes / disk_bytes_s
    return Pace(
        prefill_tok_s=1 / (1 / pace.prefill_tok_s + wait / PROMPT_TOKENS),
        decode_tok_s=1 / (1 / pace.decode_tok_s + wait),
    )
