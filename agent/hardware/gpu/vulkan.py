"""The devices that Vulkan's loader lists. Called in a child only: Mesa's drivers take 50 MB, any may crash.

Structures and numbers: vulkan_core.h of the Vulkan specification.
"""

import ctypes
from typing import Any, ClassVar

from agent.hardware.gpu.driver_answer import Asked
from agent.hardware.gpu.driver_library import open_library, text
from agent.hardware.gpu.vendors import of_name, of_number
from agent.hardware.gpu.vulkaninfo import gpu
from agent.hardware.machine import Gpu, GpuKind

LIBRARIES = ("libvulkan.so.1", "libvulkan.so")
SUCCESS, INCOMPATIBLE_DRIVER = 0, -9
API_1_1 = 1 << 22 | 1 << 12
DEVICE_LOCAL = 1
KINDS: dict[int, GpuKind] = {1: "integrated", 2: "discrete", 3: "virtual", 4: "software"}
MAX_DEVICES = 64
INSTANCE_INFO, PROPERTIES_2, DRIVER_PROPERTIES = 1, 1000059001, 1000196000


class _ApplicationInfo(ctypes.Structure):
    _fields_: ClassVar = [
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("application", ctypes.c_char_p),
        ("application_version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    ]


class _InstanceInfo(ctypes.Structure):
    _fields_: ClassVar = [
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_ApplicationInfo)),
        ("num_layers", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("num_extensions", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    ]


class Properties(ctypes.Structure):
    """VkPhysicalDeviceProperties; the limits at its end, which we do not read, have 524 bytes."""

    _fields_: ClassVar = [
        ("api_version", ctypes.c_uint32),
        ("driver_version", ctypes.c_uint32),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("kind", ctypes.c_int),
        ("name", ctypes.c_char * 256),
        ("cache_id", ctypes.c_uint8 * 16),
        ("limits", ctypes.c_uint64 * 256),
    ]


class _Driver(ctypes.Structure):
    _fields_: ClassVar = [
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("id", ctypes.c_int),
        ("name", ctypes.c_char * 256),
        ("info", ctypes.c_char * 256),
        ("conformance", ctypes.c_uint8 * 4),
    ]


class _Properties2(ctypes.Structure):
    _fields_: ClassVar = [("type", ctypes.c_int), ("next", ctypes.c_void_p), ("properties", Properties)]


class _Heap(ctypes.Structure):
    _fields_: ClassVar = [("size", ctypes.c_uint64), ("flags", ctypes.c_uint32)]


class Memory(ctypes.Structure):
    """VkPhysicalDeviceMemoryProperties."""

    _fields_: ClassVar = [
        ("num_types", ctypes.c_uint32),
        ("types", ctypes.c_uint32 * 64),
        ("num_heaps", ctypes.c_uint32),
        ("heaps", _Heap * 16),
    ]


def ask(library: Any = None) -> Asked:
    """The devices, or why there is no answer. Raises nothing that a driver does not do to the process."""
    library = library or open_library(LIBRARIES)
    if library is None:
        return Asked()
    application = _ApplicationInfo(type=0, api_version=_api_version(library))
    info = _InstanceInfo(type=INSTANCE_INFO, application=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    status = library.vkCreateInstance(ctypes.byref(info), None, ctypes.byref(instance))
    if status == INCOMPATIBLE_DRIVER:  # a loader without any driver
        return Asked()
    if status != SUCCESS:
        return Asked(
            reason=f"Vulkan does not start (vkCreateInstance: {status}); check that vulkaninfo works"
        )
    try:
        return Asked(tuple(_gpu(library, device) for device in _devices(library, instance)))
    finally:
        library.vkDestroyInstance(instance, None)


def _devices(library: Any, instance: ctypes.c_void_p) -> list[ctypes.c_void_p]:
    """Handles, as pointers: a bare number would be cut to 32 bits in a call."""
    count = ctypes.c_uint32(MAX_DEVICES)
    handles = (ctypes.c_void_p * MAX_DEVICES)()
    library.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    return [ctypes.c_void_p(handle) for handle in handles[: count.value]]


def _gpu(library: Any, device: ctypes.c_void_p) -> Gpu:
    properties = Properties()
    library.vkGetPhysicalDeviceProperties(device, ctypes.byref(properties))
    name = text(properties.name)
    vendor = of_number(properties.vendor) or of_name(name)
    return gpu(
        name, vendor, KINDS.get(properties.kind, ""), _driver(library, device), _local(library, device)
    )


def _driver(library: Any, device: ctypes.c_void_p) -> str:
    """`radv Mesa 25.2.8`; "" where loader or driver are older than the question."""
    ask_more = getattr(library, "vkGetPhysicalDeviceProperties2", None)
    if ask_more is None or _api_version(library) < API_1_1:
        return ""
    driver = _Driver(type=DRIVER_PROPERTIES)
    more = _Properties2(type=PROPERTIES_2, next=ctypes.cast(ctypes.pointer(driver), ctypes.c_void_p))
    ask_more(device, ctypes.byref(more))
    return " ".join(part for part in (text(driver.name), text(driver.info)) if part)


def _local(library: Any, device: ctypes.c_void_p) -> int | None:
    """Bytes of the device's own heaps; a card without a resizable window shows them as two."""
    memory = Memory()
    library.vkGetPhysicalDeviceMemoryProperties(device, ctypes.byref(memory))
    heaps = memory.heaps[: memory.num_heaps]
    return sum(heap.size for heap in heaps if heap.flags & DEVICE_LOCAL) or None


def _api_version(library: Any) -> int:
    """1.1, or 1.0 where the loader knows nothing newer and would refuse it."""
    is_newer = getattr(library, "vkEnumerateInstanceVersion", None) is not None
    return API_1_1 if is_newer else 1 << 22
