"""What this build of llama.cpp is, and which devices it can compute on."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from agent.engine.llama.bindings import lib
from agent.engine.messages import Device
from agent.errors import ModelUnavailable

_DIST_INFO = "llama_cpp_python-*.dist-info"
# enum ggml_backend_dev_type in ggml-backend.h.
_DEVICE_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel", 4: "meta"}
GPU_KINDS = ("gpu", "igpu")


def initialise() -> None:
    """Once per process, before anything else here."""
    lib.llama_backend_init()


def build() -> str:
    """The bindings' version; llama.cpp's own commit is fixed by it."""
    # importlib.metadata would cost every start 20 ms.
    folder = Path(lib.__file__).parents[1]
    found = [path.name.split("-")[1].removesuffix(".dist") for path in folder.glob(_DIST_INFO)]
    return f"llama-cpp-python {found[0] if found else 'unknown'}"


def system_info() -> str:
    """The instruction sets and libraries this build can use here, in llama.cpp's own words."""
    text: str = lib.llama_print_system_info().decode()
    return text


def devices() -> tuple[Device, ...]:
    """ggml's device registry: what this build can really compute on."""
    ggml = _ggml()
    return tuple(_device(ggml, handle) for handle in _handles(ggml))


def gpu_handle(name: str) -> int:
    """The `ggml_backend_dev_t` of a GPU, by its name in the registry.

    Raises ModelUnavailable with the names there are.
    """
    ggml = _ggml()
    gpus = {_name(ggml, handle): handle for handle in _handles(ggml) if _kind(ggml, handle) in GPU_KINDS}
    if name not in gpus:
        there = ", ".join(gpus) or "none: llama.cpp was built without, or no driver is installed"
        raise ModelUnavailable(f"there is no GPU {name!r} here; those there are: {there}")
    return gpus[name]


@cache
def _ggml() -> Any:
    """The registry's functions, looked up through libllama, whose dependency libggml is.

    Opening libggml.so by name would load a second copy with an empty registry.
    """
    ggml = lib._lib
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        getattr(ggml, name).restype = ctypes.c_char_p
        getattr(ggml, name).argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_dev_type.restype = ctypes.c_int
    ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    size_p = ctypes.POINTER(ctypes.c_size_t)
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size_p, size_p]
    ggml.ggml_backend_dev_memory.restype = None
    return ggml


def _handles(ggml: Any) -> list[int]:
    return [ggml.ggml_backend_dev_get(i) for i in range(ggml.ggml_backend_dev_count())]


def _name(ggml: Any, device: int) -> str:
    name: bytes = ggml.ggml_backend_dev_name(device)
    return name.decode(errors="replace")


def _kind(ggml: Any, device: int) -> str:
    return _DEVICE_KINDS.get(ggml.ggml_backend_dev_type(device), "other")


def _device(ggml: Any, device: int) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    return Device(
        name=_name(ggml, device),
        description=ggml.ggml_backend_dev_description(device).decode(errors="replace"),
        kind=_kind(ggml, device),
        total_bytes=total.value,
        free_bytes=free.value,
    )
