"""What `tampu bench` has measured: one small file for each (box, build, model), read by placement.

A box is its CPU, its cores and its GPUs; a build the version and devices of llama.cpp. Another of any
of them is another file, so that figures never speak for what they were not taken from.
"""

from msgspec import Struct

FORMAT = 1


class Speed(Struct, frozen=True, kw_only=True):
    """One way to run a model, in tokens per second. `n_batch` is the rows of a prefill step,
    `n_gpu_layers` what was offloaded to `device` (a name of ggml's registry; "" for the CPU)."""

    n_threads: int
    is_repacked: bool
    n_batch: int
    prefill_tok_s: float
    decode_tok_s: float
    n_gpu_layers: int = 0
    device: str = ""


class Bandwidth(Struct, frozen=True, kw_only=True):
    """What so many threads read from memory together, bytes per second."""

    n_threads: int
    bytes_s: float


class Measurements(Struct, frozen=True, kw_only=True):
    """`box`, `build` and `model_key` say what was measured, `seconds` how long it took; the age is the
    file's."""

    box: str
    build: str
    model_key: str
    bandwidths: tuple[Bandwidth, ...]
    speeds: tuple[Speed, ...]
    seconds: float
    format: int = FORMAT
