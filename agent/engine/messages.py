"""The words on the pipe between daemon and engine, filed by receiver.

A frame is a 4-byte big-endian length and one msgpack struct. Both ends check the protocol number
in `Hello`; a frame longer than MAX_FRAME_BYTES ends the connection. `key` names a request for the
life of one daemon: fronts have ids, the pipe has keys.
"""

import socket
import struct
import threading
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agent.errors import EngineProtocolError
from agent.request import Event, FinishReason, Request, Resume

# Cells the KV cache begins with: one short question and its answer, 11 MB for a model of 135M parameters.
N_CTX_START = 512
# Sequence ids beyond the answers computed at once: where profiles stay resident.
MAX_PINNED = 8

PROTOCOL = 2
MAX_FRAME_BYTES = 8 << 20
HEADER = struct.Struct(">I")


# ---- received by the engine ----------------------------------------------------------------------


class Load(Struct, frozen=True, tag="load"):
    """Open this model. Sent once, first. Sizes are in tokens (`n_*`) as llama.cpp counts them.

    `n_ctx` is the most the KV cache may grow to from `n_ctx_start`. `hard_bytes` bounds the engine
    process's anonymous memory (0: no bound). `model_key` names the file's content, for what is kept
    beside it; `profiles` are the system prompts to have ready. `n_gpu_layers` of the model are computed on
    `device`, a name of ggml's registry (-1: all of them, and the output); with 0 no GPU is touched.
    `is_repacked`: the CPU gets its own, faster copy of the weights, in anonymous memory.
    `flash_attention`: always, or as llama.cpp finds it possible on the device.
    """

    path: str
    n_ctx: int
    n_seq_max: int
    n_batch: int
    n_threads: int
    kv_type: str
    n_gpu_layers: int
    hard_bytes: int = 0
    model_key: str = ""
    profiles: tuple[str, ...] = ()
    idle_context_s: float = 300.0
    is_repacked: bool = False
    device: str = ""
    flash_attention: Literal["auto", "on"] = "auto"
    n_ctx_start: int = N_CTX_START


class Measure(Struct, frozen=True, tag="measure"):
    """Open this model and measure it: sent once, first, where Load would be (engine/measure.py).

    Decode and prefill for each count of `threads`, the most useful first; `rows` are the sizes of a
    prefill step, the smallest first, none above `load.n_batch`. It takes about `seconds`, more only
    where a slow box has nothing to show by then.
    """

    load: Load
    threads: tuple[int, ...]
    rows: tuple[int, ...]
    seconds: float


class MeasureMemory(Struct, frozen=True, tag="measure_memory"):
    """Measure how fast so many threads read memory, from a buffer of `num_bytes`; no model is opened."""

    num_bytes: int
    threads: tuple[int, ...]
    seconds: float


class Pressure(Struct, frozen=True, tag="pressure"):
    """How short the box is of memory: 0 not at all, 1 give back what is idle, 2 take nothing more."""

    level: int


class Submit(Struct, frozen=True, tag="submit"):
    """Answer this request, from the start or from where another engine process stopped."""

    key: int
    request: Request
    resume: Resume | None = None


class Cancel(Struct, frozen=True, tag="cancel"):
    """Stop generating; an unknown key is ignored.

    After the first token the answer ends with `reason` as its finish reason; before it, in the
    error `cancelled` (or `expired` for a timeout).
    """

    key: int
    reason: FinishReason


# ---- received by the daemon ----------------------------------------------------------------------


class Device(Struct, frozen=True):
    """One compute device in ggml's registry; memory in bytes."""

    name: str
    description: str
    kind: str
    total_bytes: int
    free_bytes: int


class Hello(Struct, frozen=True, tag="hello"):
    """The process is up and llama.cpp imported; nothing is loaded yet."""

    protocol: int
    pid: int
    build: str
    devices: tuple[Device, ...]
    system: str
    sandbox: str = ""


class Forecast(Struct, frozen=True):
    """What llama.cpp says it will allocate, in bytes: asked of it before anything is.

    With the KV cache at `n` cells the anonymous memory is about
    `fixed_bytes + compute_bytes + n * cell_bytes`; the weights are mapped from the file.
    """

    weights_bytes: int
    compute_bytes: int
    cell_bytes: int
    fixed_bytes: int

    def needed_bytes(self, num_cells: int) -> int:
        """The anonymous memory with so many cells."""
        return self.fixed_bytes + self.compute_bytes + num_cells * self.cell_bytes


class Loaded(Struct, frozen=True, tag="loaded"):
    """The model answers from now on. `n_ctx` is the most the KV cache can grow to in its budget."""

    description: str
    n_ctx: int
    n_ctx_train: int
    n_seq_max: int
    model_bytes: int
    load_s: float
    memory: Forecast | None = None


class LoadFailed(Struct, frozen=True, tag="load_failed"):
    """The model cannot be used; the engine ends after this."""

    code: str
    message: str


class KeyedEvent(Struct, frozen=True, array_like=True):
    key: int
    event: Event


class Events(Struct, frozen=True, tag="events"):
    """What one step brought, in order."""

    items: tuple[KeyedEvent, ...]


class Stats(Struct, frozen=True, tag="stats"):
    """How the engine is doing; sent about once a second and when it falls idle."""

    num_running: int
    num_waiting: int
    cells_used: int
    cells_total: int
    num_preemptions: int
    tokens_per_s: float
    is_asleep: bool = False
    num_resizes: int = 0
    # The longest single resize, in seconds: running answers wait for it.
    longest_resize_s: float = 0.0


class Measuring(Struct, frozen=True, tag="measuring"):
    """What is measured next, and which share of the work (0 to 1) is done."""

    what: str
    share: float


class Read(Struct, frozen=True, tag="read"):
    """So many threads read so many bytes per second from memory."""

    n_threads: int
    bytes_s: float


class Timed(Struct, frozen=True, tag="timed"):
    """One count of threads with one size of a prefill step; tokens per second, medians."""

    n_threads: int
    n_batch: int
    prefill_tok_s: float
    decode_tok_s: float


class Measured(Struct, frozen=True, tag="measured"):
    """All that time allowed is said. Others kept `others_cores` cores busy meanwhile."""

    others_cores: float


# What msgspec raises for a body that is no message: text that is no UTF-8 and nesting without end
# come as Python's own errors.
FOREIGN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

ToEngine = Load | Submit | Cancel | Pressure | Measure | MeasureMemory
ToDaemon = Hello | Loaded | LoadFailed | Events | Stats | Measuring | Read | Timed | Measured

_encoder = msgspec.msgpack.Encoder()


def encode(message: ToEngine | ToDaemon) -> bytes:
    """The whole frame, header included."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        name = type(message).__name__
        raise EngineProtocolError(f"a {name} of {len(body)} bytes does not fit the engine pipe")
    return HEADER.pack(len(body)) + body


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder for `ToEngine` or `ToDaemon` bodies."""
    return msgspec.msgpack.Decoder(kind)


class Pipe:
    """The engine's blocking end. One thread receives; any thread may send."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = sock.makefile("rb")
        self._decoder = decoder(ToEngine)
        self._send_lock = threading.Lock()

    def send(self, message: ToDaemon) -> None:
        """Blocks while the daemon is behind: that is the bound. Raises OSError when it is gone."""
        frame = encode(message)
        with self._send_lock:
            self._sock.sendall(frame)

    def receive(self) -> ToEngine | None:
        """The next message, or None when the daemon has closed its end."""
        header = self._reader.read(HEADER.size)
        if len(header) < HEADER.size:
            return None
        (size,) = HEADER.unpack(header)
        if size > MAX_FRAME_BYTES:
            raise EngineProtocolError(f"the daemon announced a frame of {size} bytes")
        body = self._reader.read(size)
        if len(body) < size:
            return None
        try:
            message: ToEngine = self._decoder.decode(body)
        except FOREIGN as error:
            raise EngineProtocolError(f"the daemon sent no message of this protocol: {error}") from error
        return message

    def close(self) -> None:
        """Hang up: the daemon reads the end of the pipe."""
        self._reader.close()
        self._sock.close()
