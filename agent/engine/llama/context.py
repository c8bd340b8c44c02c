"""The parameters of a model and of its context, as Tampu wants them."""

import ctypes
from functools import cache
from typing import Any

from agent.engine.llama.bindings import lib
from agent.engine.llama.registry import gpu_handle
from agent.engine.messages import MAX_PINNED, Load

GGML_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}


def num_slots(load: Load) -> int:
    """Sequence ids: one for every answer at once, and one for each profile."""
    return load.n_seq_max + min(len(load.profiles), MAX_PINNED)


def model_params(load: Load) -> Any:
    """Weights mapped from the file, clean and shared with the page cache.

    Raises ModelUnavailable when there is no such GPU.
    """
    params = lib.llama_model_default_params()
    place(params, load)
    params.load_mode = lib.LLAMA_LOAD_MODE_MMAP
    # Repacked weights are an anonymous copy beside the mapping: twice the memory.
    params.use_extra_bufts = load.is_repacked
    return params


def place(params: Any, load: Load) -> None:
    """Say which GPU computes how many layers. Raises ModelUnavailable when there is no such GPU.

    Without a list of devices llama.cpp takes every GPU it finds, and makes buffers there (and starts
    the driver) also for a model of which no layer is on any.
    """
    params.n_gpu_layers = load.n_gpu_layers
    if load.n_gpu_layers == 0:
        params.devices = _device_list(None)
    elif load.device:
        params.devices = _device_list(gpu_handle(load.device))


@cache
def _device_list(gpu: int | None) -> Any:
    """`ggml_backend_dev_t[]` up to NULL. Cached: a model keeps the pointer for as long as it lives."""
    handles = [] if gpu is None else [gpu]
    return ctypes.cast((ctypes.c_void_p * (len(handles) + 1))(*handles), ctypes.c_void_p)


def context_params(load: Load, n_ctx: int) -> Any:
    """One unified KV cache of `n_ctx` cells for all sequences."""
    params = lib.llama_context_default_params()
    params.n_ctx = n_ctx
    # A step carries one row of every stream at least. The same for every size of the pool: a resize
    # must not change how anything is computed.
    params.n_batch = params.n_ubatch = max(load.n_batch, num_slots(load))
    params.n_seq_max = num_slots(load)
    # Logits of n_batch rows would be reserved otherwise; each sequence samples from one row a step.
    params.n_outputs_max = num_slots(load)
    params.n_threads = params.n_threads_batch = load.n_threads
    params.kv_unified = True
    params.no_perf = True
    # Models with a sliding window: all positions stay, so that a prefix can be shared and a tail dropped.
    params.swa_full = True
    params.type_k = params.type_v = GGML_TYPES[load.kv_type]
    if load.flash_attention == "on" or load.kv_type != "f16":  # quantised V needs it
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
    return params
