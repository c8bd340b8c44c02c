"""NVIDIA's GPUs as libcuda lists them. Called in a child only: the library takes memory and may crash."""

import ctypes
from typing import Any

from agent.hardware.gpu.driver_answer import Asked
from agent.hardware.gpu.driver_library import open_library, text
from agent.hardware.machine import Gpu

LIBRARIES = ("libcuda.so.1", "libcuda.so")
# CUresult and CUdevice_attribute in cuda.h.
SUCCESS, NO_DEVICE = 0, 100
INTEGRATED, MAJOR, MINOR = 18, 75, 76
NAME_BYTES = 256


def ask(library: Any = None) -> Asked:
    """The GPUs, or why there is no answer. Raises nothing that the library does not do to the process."""
    library = library or open_library(LIBRARIES)
    if library is None:
        return Asked()
    status = library.cuInit(0)
    if status == NO_DEVICE:
        return Asked()
    if status != SUCCESS:
        # It answers like this when the kernel's part is missing, of another version, or closed to us.
        return Asked(reason=f"NVIDIA's driver does not start (cuInit: {status}); check that nvidia-smi works")
    count = ctypes.c_int()
    library.cuDeviceGetCount(ctypes.byref(count))
    version = _version(library)
    return Asked(tuple(_gpu(library, number, version) for number in range(count.value)))


def _gpu(library: Any, number: int, version: str) -> Gpu:
    device = ctypes.c_int()
    library.cuDeviceGet(ctypes.byref(device), number)
    name = ctypes.create_string_buffer(NAME_BYTES)
    library.cuDeviceGetName(name, NAME_BYTES, device)
    total = ctypes.c_size_t()
    library.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    is_integrated = bool(_attribute(library, INTEGRATED, device))
    return Gpu(
        name=text(name.raw),
        vendor="nvidia",
        api="cuda",
        kind="integrated" if is_integrated else "discrete",
        driver=version,
        compute_capability=f"{_attribute(library, MAJOR, device)}.{_attribute(library, MINOR, device)}",
        is_unified=is_integrated,
        total_bytes=total.value or None,
        is_usable=True,
    )


def _attribute(library: Any, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value


def _version(library: Any) -> str:
    """`CUDA 12.6`: the newest that the driver can run, which it says as 12060."""
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    return f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"
