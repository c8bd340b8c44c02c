"""Driver libraries behind their C interfaces, and the child that asks them: it may crash, hang or talk."""

import ctypes
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from agent.hardware.gpu import cuda, metal, vulkan
from agent.hardware.gpu.ask_drivers import COMMAND, DRIVERS, ask
from agent.hardware.gpu.driver_answer import Asked
from agent.hardware.gpu.driver_library import open_library
from agent.hardware.machine import Gpu

ROOT = Path(__file__).parents[2]
GIB = 1 << 30
# The checkout's own module, wherever the installed package is.
REAL = (
    sys.executable,
    "-I",
    "-c",
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1));"
    "runpy.run_module('agent.hardware.gpu.ask_drivers', run_name='__main__')",
    str(ROOT),
)


def out(argument: Any, value: Any) -> None:
    """Write through what was passed by reference."""
    argument._obj.value = value


def child(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-c", code)


# ---- CUDA ----------------------------------------------------------------------------------------


class FakeCuda:
    """libcuda with one GPU of a Jetson."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        out(count, 1)
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:
        out(device, 7 + number)
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:
        name.value = b"Orin"
        return 0

    def cuDeviceTotalMem_v2(self, total: Any, device: ctypes.c_int) -> int:
        out(total, 7 * GIB)
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        assert device.value == 7
        out(value, {18: 1, 75: 8, 76: 7}[attribute])
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        out(version, 12060)
        return 0


def test_cuda_names_its_gpus() -> None:
    """With capability, memory, whether it is the RAM, and the newest CUDA the driver runs."""
    (gpu,) = cuda.ask(FakeCuda()).gpus
    assert (gpu.name, gpu.compute_capability, gpu.driver) == ("Orin", "8.7", "CUDA 12.6")
    assert (gpu.kind, gpu.is_unified, gpu.total_bytes, gpu.is_usable) == ("integrated", True, 7 * GIB, True)


def test_cuda_without_a_gpu_is_an_answer_and_a_broken_driver_a_reason() -> None:
    """100 is CUDA_ERROR_NO_DEVICE, 803 a driver of another version than the library."""
    assert cuda.ask(FakeCuda(status=100)) == Asked()
    assert "cuInit: 803" in cuda.ask(FakeCuda(status=803)).reason


# ---- Vulkan --------------------------------------------------------------------------------------


class OldVulkan:
    """A loader of Vulkan 1.0 with one card, whose memory it shows as two heaps beside the RAM."""

    HANDLE = 0x7FFF_1234_5678
    status = 0
    is_destroyed = False
    api_version = 0

    def vkCreateInstance(self, info: Any, allocator: None, instance: Any) -> int:
        self.api_version = info._obj.application.contents.api_version
        out(instance, 1)
        return self.status

    def vkEnumeratePhysicalDevices(self, instance: Any, count: Any, handles: Any) -> int:
        handles[0] = self.HANDLE
        out(count, 1)
        return 0

    def vkGetPhysicalDeviceProperties(self, device: Any, properties: Any) -> None:
        assert device.value == self.HANDLE
        properties._obj.vendor = 0x1002
        properties._obj.kind = 2
        properties._obj.name = b"AMD Radeon RX 7900 XT (RADV NAVI31)"

    def vkGetPhysicalDeviceMemoryProperties(self, device: Any, memory: Any) -> None:
        memory._obj.num_heaps = 3
        for heap, (size, flags) in zip(memory._obj.heaps, [(19, 1), (32, 0), (1, 3)], strict=False):
            heap.size, heap.flags = size * GIB, flags

    def vkDestroyInstance(self, instance: Any, allocator: None) -> None:
        self.is_destroyed = True


class NewVulkan(OldVulkan):
    """The same with Vulkan 1.1."""

    def vkEnumerateInstanceVersion(self, version: Any) -> int:
        raise AssertionError("only that it is there counts")

    def vkGetPhysicalDeviceProperties2(self, device: Any, more: Any) -> None:
        driver = ctypes.cast(more._obj.next, ctypes.POINTER(vulkan._Driver)).contents
        driver.name, driver.info = b"radv", b"Mesa 25.2.8"


def test_vulkan_names_its_devices() -> None:
    """With the memory that is their own, and the driver where the loader can be asked for it."""
    old, new = OldVulkan(), NewVulkan()
    (gpu,), (newer,) = vulkan.ask(old).gpus, vulkan.ask(new).gpus
    assert (gpu.name, gpu.vendor, gpu.kind) == ("AMD Radeon RX 7900 XT (RADV NAVI31)", "amd", "discrete")
    assert (gpu.total_bytes, gpu.is_unified, gpu.driver) == (20 * GIB, False, "")
    assert newer.driver == "radv Mesa 25.2.8"
    assert old.is_destroyed
    assert (old.api_version, new.api_version) == (0x400000, 0x401000)


def test_a_loader_without_drivers_is_an_answer_and_a_failure_a_reason() -> None:
    """-9 is VK_ERROR_INCOMPATIBLE_DRIVER."""
    loader = OldVulkan()
    loader.status = -9
    assert vulkan.ask(loader) == Asked()
    loader.status = -1
    assert "vkCreateInstance: -1" in vulkan.ask(loader).reason


def test_the_structures_are_as_large_as_vulkans() -> None:
    """On 64 bits; for properties there is room to spare."""
    assert ctypes.sizeof(vulkan.Memory) == 520
    assert ctypes.sizeof(vulkan.Properties) >= 824
    assert vulkan.Properties.name.offset == 20


# ---- Metal ---------------------------------------------------------------------------------------


class FakeObjc:
    """The Objective-C runtime: selectors are numbers, and one C function answers all messages."""

    SELECTORS = (b"hasUnifiedMemory", b"name", b"UTF8String", b"recommendedMaxWorkingSetSize")

    def __init__(self) -> None:
        self.label = ctypes.create_string_buffer(b"Apple M1")
        kind = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)
        self.objc_msgSend = kind(self.send)
        self.sel_registerName = Callable(lambda name: self.SELECTORS.index(name) + 1)

    def send(self, receiver: int, selector: int) -> int:
        answers = {
            b"hasUnifiedMemory": 1,
            b"name": 42,
            b"UTF8String": ctypes.addressof(self.label),
            b"recommendedMaxWorkingSetSize": 11453251584,
        }
        name = self.SELECTORS[selector - 1]
        assert receiver == (42 if name == b"UTF8String" else 7)
        return answers[name]


class Callable:
    """A function that can be given types, as ctypes' can."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.restype = self.argtypes = None

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class FakeMetal:
    def __init__(self, device: int | None) -> None:
        self.MTLCreateSystemDefaultDevice = Callable(lambda: device)


def test_metal_says_how_much_memory_it_recommends() -> None:
    """Less than the RAM, which it shares."""
    (gpu,) = metal.ask(metal.Libraries(FakeMetal(7), FakeObjc())).gpus
    assert (gpu.name, gpu.vendor, gpu.api) == ("Apple M1", "apple", "metal")
    assert (gpu.total_bytes, gpu.is_unified, gpu.kind) == (11453251584, True, "integrated")


def test_a_mac_without_a_gpu_is_an_answer() -> None:
    """Some virtual machines have none; other systems have no Metal."""
    assert metal.ask(metal.Libraries(FakeMetal(None), FakeObjc())) == Asked()
    assert metal.ask(metal.Libraries(None, None)) == Asked()


# ---- the child -----------------------------------------------------------------------------------


def test_the_drivers_of_this_machine_are_asked() -> None:
    """With drivers or without, within the time; what Vulkan's loader has is in the answer."""
    began = time.monotonic()
    asked = ask(20, command=REAL)
    assert time.monotonic() - began < 22
    assert asked.reason == ""
    assert all(gpu.name and gpu.api and gpu.is_usable for gpu in asked.gpus)
    assert asked == ask(20, command=REAL)


def test_mesas_software_device_is_found_and_known_for_what_it_is() -> None:
    """llvmpipe computes on the CPU."""
    if open_library(vulkan.LIBRARIES) is None or not list(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*")):
        pytest.skip("no Vulkan loader with Mesa's software driver here")
    names = {gpu.name.split()[0]: gpu for gpu in ask(20, command=REAL).gpus}
    assert names["llvmpipe"].kind == "software"
    assert names["llvmpipe"].total_bytes


def test_a_crash_costs_one_drivers_answer() -> None:
    """The others are asked all the same, and the reason names the driver and how to see it."""
    code = (
        "import os, sys\n"
        "for name in sys.argv[1:]:\n"
        "    if name == 'Metal': os.kill(os.getpid(), 11)\n"
        '    print(\'{"gpus": [{"name": "GPU of \' + name + \'"}]}\', flush=True)'
    )
    asked = ask(10, command=child(code))
    assert asked.gpus == (Gpu(name="GPU of CUDA"), Gpu(name="GPU of Vulkan"))
    assert asked.reason.startswith("the Metal driver crashed (SIGSEGV); try it with: ")
    assert asked.reason.endswith("-m agent.hardware.gpu.ask_drivers Metal")


def test_a_hang_ends_in_time() -> None:
    """And takes nothing with it, not even what it started and left holding its output."""
    code = "import subprocess, time; subprocess.Popen(['sleep', '8']);"
    began = time.monotonic()
    asked = ask(0.5, command=child(f"{code} time.sleep(60)"))
    assert time.monotonic() - began < 6
    assert asked.gpus == ()
    assert asked.reason.startswith("the CUDA driver did not answer within 1 s;")


@pytest.mark.parametrize("word", ["", "hello", "{}", '{"gpus": 1}', "[]\\n[]", "\\xff"])
def test_a_child_that_says_something_else_is_no_answer(word: str) -> None:
    """An empty object is an empty answer; one driver's is then missing."""
    asked = ask(10, command=child(f"print('{word}')"))
    assert asked.gpus == ()
    assert "driver said nothing; try it with" in asked.reason


def test_a_chatty_driver_does_not_spoil_the_answers() -> None:
    """What a library prints on standard output goes elsewhere."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import os, agent.hardware.gpu.ask_drivers as a;"
        "a.DRIVERS['CUDA'] = lambda: (os.write(1, b'WARNING: lavapipe'), a.Asked())[1]; a.main()"
    )
    assert ask(20, command=child(code)).reason == ""


def test_a_library_without_its_functions_costs_one_drivers_answer() -> None:
    """Somebody's stub is no driver."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import agent.hardware.gpu.ask_drivers as a;"
        "a.DRIVERS['CUDA'] = lambda: object().cuInit; a.main()"
    )
    assert "the CUDA library is not as it should be" in ask(20, command=child(code)).reason


def test_the_child_sees_little_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret; but where libraries lie and which devices are ours."""
    monkeypatch.setenv("MQTT_PASSWORD", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    names = "','.join(sorted(os.environ))"
    asked = ask(10, command=child(f"import os, json; print(json.dumps({{'reason': {names}}}))"))
    assert "MQTT_PASSWORD" not in asked.reason
    assert "CUDA_VISIBLE_DEVICES" in asked.reason


def test_a_command_that_is_not_there_is_a_reason() -> None:
    """And no exception."""
    assert "could not be asked" in ask(1, command=("/nowhere/python",)).reason


def test_the_module_that_is_started_is_this_one() -> None:
    """By name, isolated from the user's own modules."""
    assert COMMAND[1:] == ("-I", "-m", ask.__module__)
    assert list(DRIVERS) == ["CUDA", "Metal", "Vulkan"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has files in memory")
def test_no_disk_has_to_be_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with a read-only root has no folder for temporary files."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    said = "print('{}\\n' * 3)"
    assert ask(command=(sys.executable, "-c", said)) == Asked()
