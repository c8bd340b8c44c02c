"""llama.cpp behind the port of agent/engine/backend.py.

Uses the low-level functions, one to one with llama.h: the high-level ones hide `llama_decode`'s
codes. GGML_ASSERT ends the process, so sizes and indices are checked by the callers' arithmetic
(scheduler, batch) before llama.cpp sees them.
"""

import contextlib
import ctypes
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from agent.engine.backend import BatchRows, Buffer, DecodeStatus
from agent.engine.batch import Batch
from agent.engine.llama.bindings import lib, log_tail
from agent.engine.llama.context import context_params, model_params, num_slots
from agent.engine.llama.forecast import plan
from agent.engine.llama.sampling import LlamaChain, LlamaSampling
from agent.engine.llama.tokenizer import LlamaTokenizer
from agent.engine.messages import Forecast, Load
from agent.errors import InsufficientMemory, ModelUnavailable
from agent.hardware.process import anonymous_bytes
from agent.request import Sampling


class LlamaBackend:
    """See agent.engine.backend.Backend: one memory-mapped model, and a context that comes and goes."""

    def __init__(self, load: Load) -> None:
        """Opens the model; the context is made by `resize`.

        Raises ModelUnavailable or InsufficientMemory with llama.cpp's own reason.
        """
        self._load = load
        self._context: Any = None
        self._memory: Any = None
        # Renumbered positions reach the keys with the next decode; until then the state is not whole.
        self._is_shift_pending = False
        # Asked beside opening the model, and while what needs only the vocabulary is prepared.
        beside = ThreadPoolExecutor(max_workers=1)
        self._planned = beside.submit(plan, load)
        beside.shutdown(wait=False)
        if load.n_gpu_layers:
            # ggml's Vulkan sets up a device at its first use, without a lock: two threads at once crash.
            self._planned.exception()
        self._model = _open_model(load)
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self._model)
        self.num_slots = num_slots(load)
        self.max_running = load.n_seq_max
        self._num_threads = load.n_threads
        self.n_batch = max(load.n_batch, self.num_slots)
        self._batch = lib.llama_batch_init(self.n_batch, 0, 1)
        self._tokenizer = LlamaTokenizer(self._model)
        self._sampling = LlamaSampling(self._tokenizer)
        # Known once there is a context.
        self.can_share = False
        self._is_probed = False

    @property
    def num_cells(self) -> int:
        return int(lib.llama_n_ctx(self._context)) if self._context else 0

    @cached_property
    def forecast(self) -> Forecast:
        """To be asked before the first context is made."""
        planned = self._planned.result()
        _return_free_memory()
        return planned.forecast(self.model_bytes, anonymous_bytes())

    @property
    def can_shift(self) -> bool:
        return self.can_share and bool(lib.llama_memory_can_shift(self._memory))

    @property
    def tokenizer(self) -> LlamaTokenizer:
        return self._tokenizer

    @property
    def description(self) -> str:
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def model_bytes(self) -> int:
        size: int = lib.llama_model_size(self._model)
        return size

    def resize(self, num_cells: int) -> bool:
        before = self.num_cells
        state = self._take_state() if num_cells else None
        self._free_context()
        if num_cells == 0:
            return False
        try:
            self._make_context(num_cells)
        except InsufficientMemory:
            if before:
                self._make_context(before)
                self._put_state(state)
            raise
        return self._put_state(state)

    def decode(self, batch: BatchRows) -> DecodeStatus:
        raw = self._batch
        raw.n_tokens = len(batch.tokens)
        for i, (token, position, slot, output) in enumerate(
            zip(batch.tokens, batch.positions, batch.slots, batch.outputs, strict=True)
        ):
            raw.token[i] = token
            raw.pos[i] = position
            raw.n_seq_id[i] = 1
            raw.seq_id[i][0] = slot
            raw.logits[i] = output
        code = lib.llama_decode(self._context, raw)
        if code == 0:
            self._is_shift_pending = False
        return DecodeStatus(code) if code >= 0 else DecodeStatus.ERROR

    def new_chain(
        self, sampling: Sampling, draws: int, grammar: str | None = None, tokens: Sequence[int] = ()
    ) -> LlamaChain:
        return self._sampling.new(sampling, draws, grammar, tokens)

    def sample(self, chain: LlamaChain, row: int) -> int:
        return self._sampling.sample(chain, self._context, row)

    def allows(self, chain: LlamaChain, token: int) -> bool:
        return self._sampling.allows(chain, token)

    def resample(self, chain: LlamaChain, row: int) -> int | None:
        return self._sampling.resample(chain, self._context, row)

    def accept(self, chain: LlamaChain, token: int) -> None:
        self._sampling.accept(chain, token)

    def free_chain(self, chain: LlamaChain) -> None:
        self._sampling.free(chain)

    def copy(self, source: int, target: int, count: int) -> None:
        lib.llama_memory_seq_cp(self._memory, source, target, 0, count)

    def remove(self, slot: int, start: int, end: int = -1) -> bool:
        return bool(lib.llama_memory_seq_rm(self._memory, slot, start, end)) if self._context else True

    def shift(self, slot: int, start: int, delta: int) -> None:
        lib.llama_memory_seq_add(self._memory, slot, start, -1, delta)
        self._is_shift_pending = True

    def save(self, slot: int) -> Buffer:
        if self._is_shift_pending:
            return b""
        size = lib.llama_state_seq_get_size(self._context, slot)
        buffer = (ctypes.c_uint8 * size)()
        written = lib.llama_state_seq_get_data(self._context, buffer, size, slot)
        return memoryview(buffer).cast("B")[:written]

    def restore(self, slot: int, state: Buffer) -> bool:
        array = ctypes.c_uint8 * len(state)
        # A mapped file is read where it lies.
        buffer = array.from_buffer_copy(state) if isinstance(state, bytes) else array.from_buffer(state)
        if lib.llama_state_seq_set_data(self._context, buffer, len(state), slot):
            return True
        self.remove(slot, 0)
        return False

    def next_position(self, slot: int) -> int:
        last: int = lib.llama_memory_seq_pos_max(self._memory, slot) if self._context else -1
        return last + 1

    def set_threads(self, count: int) -> None:
        self._num_threads = count
        lib.llama_set_n_threads(self._context, count, count)

    def close(self) -> None:
        """Free the context and unmap the model; the object is dead afterwards."""
        self._sampling.close()
        lib.llama_batch_free(self._batch)
        self._free_context()
        lib.llama_model_free(self._model)

    def _make_context(self, num_cells: int) -> None:
        self._planned.exception()  # it reads llama.cpp's log, which is one
        log_tail.clear()
        self._context = lib.llama_init_from_model(self._model, context_params(self._load, num_cells))
        if not self._context:
            raise InsufficientMemory(
                f"no context of {num_cells} tokens could be made: {log_tail.reason()}; lower engine.n_ctx"
            )
        self._memory = lib.llama_get_memory(self._context)
        self.set_threads(self._num_threads)
        if not self._is_probed:
            self._is_probed, self.can_share = True, self._can_drop_tail()

    def _can_drop_tail(self) -> bool:
        """Try it: two tokens, less the second. A recurrent state cannot go back, whatever it says."""
        model = self._model
        if lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model):
            return False
        lib.llama_memory_clear(self._memory, True)
        batch = Batch(tokens=[0, 0], positions=[0, 1], slots=[0, 0], outputs=[False, True])
        is_dropped = self.decode(batch) is DecodeStatus.OK and self.remove(0, 1)
        first = lib.llama_memory_seq_pos_min(self._memory, 0)
        can = is_dropped and first == 0 and self.next_position(0) == 1
        lib.llama_memory_clear(self._memory, True)
        return bool(can)

    def _free_context(self) -> None:
        if self._context:
            lib.llama_free(self._context)
            _return_free_memory()
        self._context = self._memory = None
        self._is_shift_pending = False

    def _take_state(self) -> Any:
        """All slots as llama.cpp writes them: every used cell once, with the ids of its slots."""
        if self._context is None or self._is_shift_pending:
            return None
        size = lib.llama_state_get_size(self._context)
        buffer = (ctypes.c_uint8 * size)()
        return buffer if lib.llama_state_get_data(self._context, buffer, size) else None

    def _put_state(self, state: Any) -> bool:
        if state is None:
            return False
        if lib.llama_state_set_data(self._context, state, len(state)):
            return True
        lib.llama_memory_clear(self._memory, True)
        return False


def _open_model(load: Load) -> Any:
    if not Path(load.path).is_file():
        raise ModelUnavailable(f"{load.path}: no such model file; put it there")
    log_tail.clear()
    model = lib.llama_model_load_from_file(load.path.encode(), model_params(load))
    if not model:
        raise ModelUnavailable(f"{load.path}: llama.cpp cannot load this model: {log_tail.reason()}")
    return model


def _return_free_memory() -> None:
    """Have the C library give back what it keeps for later: 16 MB after a model was loaded."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # musl has none
            ctypes.CDLL(None).malloc_trim(0)
