"""llama.cpp behind the port of backend.py. The only module that imports llama_cpp.

Uses the low-level functions, one to one with llama.h: the high-level ones hide `llama_decode`'s
codes. GGML_ASSERT ends the process, so sizes and indices are checked by the callers' arithmetic
(scheduler, batch) before llama.cpp sees them.
"""

import ctypes
import importlib
import importlib.util
import sys
import types
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from agent.engine.backend import BatchRows, DecodeStatus, SpecialToken
from agent.engine.messages import Device, Load
from agent.errors import InsufficientMemory, ModelUnavailable
from agent.request import Sampling


def _import_bindings() -> Any:
    """`llama_cpp.llama_cpp` without `llama_cpp/__init__.py`.

    The package's own init pulls in numpy and the high-level classes: 22 MB of resident memory and
    0.3 s that a small board does not have, for names we never use.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("llama-cpp-python is not installed")
    if "llama_cpp" not in sys.modules:
        package = types.ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["llama_cpp"] = package
    return importlib.import_module("llama_cpp.llama_cpp")


lib = _import_bindings()

GGML_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}
_LOG_LEVEL_WARN = 3
_DEVICE_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}
# The longest piece of any known vocabulary is far below; a longer one is asked for again.
_PIECE_BYTES = 256


class _LogTail:
    """Keeps llama.cpp's last warnings: its functions fail with NULL and leave the reason there."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=8)
        # ctypes keeps no reference: the callback must live as long as llama.cpp may log.
        self._callback = lib.llama_log_callback(self._take)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _user_data: object) -> None:
        line = text.decode("utf-8", "replace").strip()
        if level >= _LOG_LEVEL_WARN and len(line) > 1:
            self._lines.append(line)

    def reason(self) -> str:
        """The first complaint since the last call, or an admission that there was none."""
        first = self._lines[0] if self._lines else "llama.cpp gave no reason"
        self._lines.clear()
        return first


_log_tail = _LogTail()


# ---- the build -----------------------------------------------------------------------------------


def initialise() -> None:
    """Once per process, before anything else here."""
    lib.llama_backend_init()


def build() -> str:
    """The bindings' version; llama.cpp's own commit is fixed by it."""
    from importlib.metadata import version

    return f"llama-cpp-python {version('llama-cpp-python')}"


def system_info() -> str:
    """The instruction sets and libraries this build can use here, in llama.cpp's own words."""
    text: str = lib.llama_print_system_info().decode()
    return text


def devices() -> tuple[Device, ...]:
    """ggml's device registry: what this build can really compute on."""
    # The symbols are looked up through libllama, whose dependency libggml is; opening libggml.so
    # by name would load a second copy with an empty registry.
    ggml = lib._lib
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        getattr(ggml, name).restype = ctypes.c_char_p
        getattr(ggml, name).argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    size_p = ctypes.POINTER(ctypes.c_size_t)
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size_p, size_p]
    ggml.ggml_backend_dev_memory.restype = None
    return tuple(_device(ggml, ggml.ggml_backend_dev_get(i)) for i in range(ggml.ggml_backend_dev_count()))


def _device(ggml: Any, device: int) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    return Device(
        name=ggml.ggml_backend_dev_name(device).decode(errors="replace"),
        description=ggml.ggml_backend_dev_description(device).decode(errors="replace"),
        kind=_DEVICE_KINDS.get(ggml.ggml_backend_dev_type(device), "other"),
        total_bytes=total.value,
        free_bytes=free.value,
    )


# ---- the vocabulary ------------------------------------------------------------------------------


class LlamaTokenizer:
    """See backend.Tokenizer. Reads only constant data, so any thread may call it."""

    def __init__(self, model: Any) -> None:
        self._vocab = lib.llama_model_get_vocab(model)
        self._num_tokens = lib.llama_vocab_n_tokens(self._vocab)
        template = lib.llama_model_chat_template(model, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None
        self._ends = {t for t in range(self._num_tokens) if lib.llama_vocab_is_eog(self._vocab, t)}

    @cached_property
    def specials(self) -> Mapping[str, SpecialToken]:
        found = {}
        for token in range(self._num_tokens):
            attributes = lib.llama_vocab_get_attr(self._vocab, token)
            if attributes & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED):
                found[self._text(token)] = SpecialToken(
                    id=token,
                    is_control=bool(attributes & lib.LLAMA_TOKEN_ATTR_CONTROL),
                    strips_left=bool(attributes & lib.LLAMA_TOKEN_ATTR_LSTRIP),
                    strips_right=bool(attributes & lib.LLAMA_TOKEN_ATTR_RSTRIP),
                )
        return found

    @property
    def bos(self) -> int | None:
        token = lib.llama_vocab_bos(self._vocab)
        return token if lib.llama_vocab_get_add_bos(self._vocab) and token >= 0 else None

    @property
    def bos_text(self) -> str:
        return self._text(lib.llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        return self._text(lib.llama_vocab_eos(self._vocab))

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        # A lone surrogate (JSON can spell one) has no UTF-8: it becomes "?".
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        tokens = (lib.llama_token * room)()
        count = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, False, parse_special)
        if count < 0:
            raise ValueError(f"{len(data)} bytes make more than {room} tokens")
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        size = _PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(size)
            count: int = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def is_end(self, token: int) -> bool:
        return token in self._ends

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        text: str = lib.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")
        return text


# ---- the model and its context -------------------------------------------------------------------


@dataclass(slots=True)
class _Chain:
    """A llama_sampler chain, freed by `free_chain`."""

    handle: Any


class LlamaBackend:
    """See backend.Backend: one memory-mapped model with one unified KV cache."""

    def __init__(self, load: Load) -> None:
        """Raises ModelUnavailable or InsufficientMemory with llama.cpp's own reason."""
        self._model = _open_model(load)
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self._model)
        try:
            self._context = _open_context(self._model, load, min(load.n_ctx, self.n_ctx_train))
        except InsufficientMemory:
            lib.llama_model_free(self._model)
            raise
        self._memory = lib.llama_get_memory(self._context)
        self.n_batch: int = lib.llama_n_batch(self._context)
        self.num_cells: int = lib.llama_n_ctx(self._context)
        self.num_slots: int = lib.llama_n_seq_max(self._context)
        self._batch = lib.llama_batch_init(self.n_batch, 0, 1)
        self._tokenizer = LlamaTokenizer(self._model)

    @property
    def can_share(self) -> bool:
        # A recurrent state cannot drop a tail, and a sliding window has forgotten what lies before it.
        model = self._model
        has_state = lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model)
        return not has_state and lib.llama_model_n_swa(model) == 0

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
        return DecodeStatus(code) if code >= 0 else DecodeStatus.ERROR

    def new_chain(self, sampling: Sampling, draws: int) -> _Chain:
        handle = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if sampling.temperature == 0:
            lib.llama_sampler_chain_add(handle, lib.llama_sampler_init_greedy())
            return _Chain(handle)
        if sampling.top_k:
            lib.llama_sampler_chain_add(handle, lib.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            lib.llama_sampler_chain_add(handle, lib.llama_sampler_init_top_p(sampling.top_p, 1))
        lib.llama_sampler_chain_add(handle, lib.llama_sampler_init_temp(sampling.temperature))
        dist = lib.llama_sampler_init_dist(sampling.seed)
        _skip_draws(dist, draws)
        lib.llama_sampler_chain_add(handle, dist)
        return _Chain(handle)

    def sample(self, chain: _Chain, row: int) -> int:
        token: int = lib.llama_sampler_sample(chain.handle, self._context, row)
        return token

    def free_chain(self, chain: _Chain) -> None:
        lib.llama_sampler_free(chain.handle)

    def copy(self, source: int, target: int, count: int) -> None:
        lib.llama_memory_seq_cp(self._memory, source, target, 0, count)

    def remove(self, slot: int, start: int) -> None:
        lib.llama_memory_seq_rm(self._memory, slot, start, -1)

    def next_position(self, slot: int) -> int:
        last: int = lib.llama_memory_seq_pos_max(self._memory, slot)
        return last + 1

    def set_threads(self, count: int) -> None:
        lib.llama_set_n_threads(self._context, count, count)

    def close(self) -> None:
        """Free the context and unmap the model; the object is dead afterwards."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)


def _open_model(load: Load) -> Any:
    params = lib.llama_model_default_params()
    params.n_gpu_layers = load.n_gpu_layers
    params.load_mode = lib.LLAMA_LOAD_MODE_MMAP
    # Repacked weights would be an anonymous copy beside the mapping: twice the memory.
    params.use_extra_bufts = False
    if not Path(load.path).is_file():
        raise ModelUnavailable(f"{load.path}: no such model file; put it there")
    _log_tail.reason()
    model = lib.llama_model_load_from_file(load.path.encode(), params)
    if not model:
        raise ModelUnavailable(f"{load.path}: llama.cpp cannot load this model: {_log_tail.reason()}")
    return model


def _open_context(model: Any, load: Load, n_ctx: int) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = n_ctx
    # A step carries one row of every stream at least.
    params.n_batch = params.n_ubatch = max(min(load.n_batch, n_ctx), load.n_seq_max)
    params.n_seq_max = load.n_seq_max
    # Logits of n_batch rows would be reserved otherwise; each sequence samples from one row a step.
    params.n_outputs_max = load.n_seq_max
    params.n_threads = params.n_threads_batch = load.n_threads
    params.kv_unified = True
    params.no_perf = True
    params.type_k = params.type_v = GGML_TYPES[load.kv_type]
    if load.kv_type != "f16":
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED  # quantised V needs it
    _log_tail.reason()
    context = lib.llama_init_from_model(model, params)
    if not context:
        reason = _log_tail.reason()
        raise InsufficientMemory(f"no context of {n_ctx} tokens could be made: {reason}; lower engine.n_ctx")
    return context


def _skip_draws(dist: Any, count: int) -> None:
    """Use up `count` random numbers: a choice among one candidate draws exactly one."""
    candidate = (lib.llama_token_data * 1)()
    for _ in range(count):
        choice = lib.llama_token_data_array(data=candidate, size=1, selected=-1, sorted=False)
        lib.llama_sampler_apply(dist, ctypes.byref(choice))
