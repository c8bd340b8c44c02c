"""What this build of llama.cpp is, and which devices it can compute on."""

import ctypes
from pathlib import Path
from typing import Any

from agent.engine.llama.bindings import lib
from agent.engine.messages import Device

_DIST_INFO = "llama_cpp_python-*.dist-info"
_DEVICE_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}


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
