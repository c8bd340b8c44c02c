"""How much memory a model's context will take, asked of llama.cpp before anything is allocated.

With `no_alloc` it plans everything, allocates nothing, and says in its log how large each buffer
would be. Two sizes of context give the part that every cell costs: its K and V, and its column of
the attention mask. Buffers on a GPU count as well: where memory is unified it is the same memory.
"""

import re
from dataclasses import dataclass
from typing import Any

from agent.engine.llama.bindings import lib, log_tail
from agent.engine.llama.context import context_params, model_params
from agent.engine.messages import Forecast, Load
from agent.errors import InsufficientMemory, ModelUnavailable

# Far enough apart that the rounding of the log's numbers (0.01 MiB) is a few bytes a cell.
_SMALL, _LARGE = 1024, 5120
_MIB = 1 << 20
_KV = re.compile(r"llama_(?:kv_cache|memory_recurrent): size = +([\d.]+) MiB")
_BUFFER = re.compile(r"(?:output|compute) buffer size = +([\d.]+) MiB")
# What no line tells: ggml's work buffer, Python's rows, half-finished answers.
_OTHER_BYTES = 4 * _MIB


@dataclass(frozen=True, slots=True)
class Plan:
    """Bytes of a context: of each cell, and of all else in it."""

    cell_bytes: int
    compute_bytes: int

    def forecast(self, weights_bytes: int, anonymous_bytes: int) -> Forecast:
        """`anonymous_bytes` is what the process has with the model loaded and no context."""
        return Forecast(
            weights_bytes=weights_bytes,
            compute_bytes=self.compute_bytes,
            cell_bytes=self.cell_bytes,
            fixed_bytes=anonymous_bytes + _OTHER_BYTES,
        )


def plan(load: Load) -> Plan:
    """Ask llama.cpp. Raises ModelUnavailable or InsufficientMemory with its own reason.

    Takes as long as opening the model, and may run on a thread beside that.
    """
    params = model_params(load)
    params.no_alloc = True
    params.load_mode = lib.LLAMA_LOAD_MODE_NONE
    params.use_extra_bufts = False
    model = lib.llama_model_load_from_file(load.path.encode(), params)
    if not model:
        raise ModelUnavailable(f"{load.path}: llama.cpp cannot load this model: {log_tail.reason()}")
    try:
        kv, small = _buffers(model, load, _SMALL)
        more_kv, large = _buffers(model, load, _LARGE)
    finally:
        lib.llama_model_free(model)
    cell_bytes = (more_kv + large - kv - small) / (_LARGE - _SMALL)
    return Plan(cell_bytes=round(cell_bytes), compute_bytes=max(0, round(kv + small - _SMALL * cell_bytes)))


def _buffers(model: Any, load: Load, n_ctx: int) -> tuple[float, float]:
    """Bytes of the KV cache, and of everything else, in a context of this size."""
    log_tail.clear()
    context = lib.llama_init_from_model(model, context_params(load, n_ctx))
    text = log_tail.text()
    if not context:
        raise InsufficientMemory(f"no context could be planned: {log_tail.reason()}")
    lib.llama_free(context)
    return _sum(_KV, text), _sum(_BUFFER, text)


def _sum(pattern: re.Pattern[str], text: str) -> float:
    return sum(float(size) for size in pattern.findall(text)) * _MIB
