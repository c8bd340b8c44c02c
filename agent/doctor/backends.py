"""What the box has beside what the installed llama.cpp can use: where they differ, and the remedy.

The targets named here are those of build/targets.yaml.
"""

import re
from collections.abc import Iterator

from agent.engine.messages import Device
from agent.findings import Finding, Severity
from agent.hardware.gpu.vendors import is_software, of_name
from agent.hardware.gpu.worth import OLDEST_CAPABILITY, capability
from agent.hardware.machine import Gpu, GpuApi, Machine

# Names of devices in ggml's registry, and words of builds and targets.
BACKENDS: dict[GpuApi, str] = {"cuda": r"cuda", "vulkan": r"vulkan", "metal": r"metal|mtl"}
WORDS: dict[GpuApi, str] = {"cuda": "CUDA", "vulkan": "Vulkan", "metal": "Metal", "": "GPU"}
# Capability of a Jetson's GPU -> its target. The TX2 (6.2) has none.
JETSONS = {(5, 3): "cuda-nano", (7, 2): "cuda-xavier", (8, 7): "cuda-orin", (11, 0): "cuda-thor"}
# The oldest card that the target `cuda` is compiled for: Turing.
OLDEST_CARD = (7, 5)
# Jetson Linux of JetPack 4: its CUDA 10.2 has no C++17, which llama.cpp is written in.
JETPACK_4 = re.compile(r"\bR(2\d|3[0-2])\b")
# MemTotal of the boards sold with 8 GB lies between 6.3 and 7.7 GiB.
SMALL_JETSON_BYTES = 9 << 30
NO_VMM = re.compile(r"NO_VMM(=ON| = 1)|cuda-(nano|xavier|orin)")


def compare(machine: Machine, devices: tuple[Device, ...], build: str) -> list[Finding]:
    """Where box and build differ. Pure; raises nothing.

    `devices` is ggml's registry as the engine says it in Hello. `build` is any text about the build that may
    name its backends or target (Hello's `build` and `system`): a backend that finds no device is not
    among the devices, and only such a text tells that it is there.
    """
    backends = backends_of(devices, build)
    found = [finding for gpu in machine.gpus for finding in _look_at(gpu, machine, devices, backends)]
    found += [_software(device.description) for device in devices if is_software(device.description)]
    if "cuda" in backends and _is_small_jetson(machine) and not NO_VMM.search(build):
        found.append(_vmm(machine))
    return list(dict.fromkeys(found))


def advise(machine: Machine) -> list[Finding]:
    """What a recorded box's GPUs are good for, and which build they want. Pure; raises nothing."""
    found = [finding for gpu in machine.gpus for finding in _look_at(gpu, machine, (), set())]
    return [_as_advice(finding) for finding in dict.fromkeys(found)]


def _as_advice(finding: Finding) -> Finding:
    """Of a recording nobody knows what is installed there."""
    what = finding.what.replace("this build of llama.cpp has no", "that takes a build of llama.cpp with")
    return Finding(
        Severity.NOTE, finding.code.replace("gpu_no_backend", "gpu_wants_build"), what, finding.remedy
    )


def backends_of(devices: tuple[Device, ...], build: str) -> set[GpuApi]:
    """The GPU backends that the build has, as far as its devices and its own words tell."""
    text = " ".join((build, *(device.name for device in devices)))
    return {api for api, pattern in BACKENDS.items() if re.search(rf"\b({pattern})", text, re.IGNORECASE)}


def target_of(gpu: Gpu) -> str:
    """The build target for a GPU, or "" where there is none."""
    if gpu.api == "metal":
        return "metal"
    found = capability(gpu)
    if gpu.vendor != "nvidia" or (gpu.kind == "discrete" and found and found < OLDEST_CARD):
        return "vulkan"
    if gpu.kind == "integrated" and found and found < (12, 0):
        return JETSONS.get(found, "")
    return "cuda"


def _look_at(
    gpu: Gpu, machine: Machine, devices: tuple[Device, ...], backends: set[GpuApi]
) -> Iterator[Finding]:
    if gpu.kind == "virtual":
        return
    if gpu.kind == "software":
        yield _software(gpu.name)
    elif not gpu.is_worth_it:
        yield _not_worth_it(gpu)
    elif device := _device_of(gpu, devices):
        if gpu.is_unified:
            yield _shares_ram(gpu)
        if not re.match(BACKENDS.get(gpu.api, ""), device.name, re.IGNORECASE) and target_of(gpu) == "cuda":
            yield _slower_way(gpu, device)
    elif backends & {gpu.api, _api_of_target(gpu)}:
        yield _no_device(gpu)
    else:
        yield _no_backend(gpu, machine)


def _device_of(gpu: Gpu, devices: tuple[Device, ...]) -> Device | None:
    """What the registry has of this GPU: a device of its own API, or of Vulkan and the same vendor."""
    real = [d for d in devices if d.kind in ("gpu", "igpu") and not is_software(d.description)]
    own = [d for d in real if gpu.api and re.match(BACKENDS[gpu.api], d.name, re.IGNORECASE)]
    same = [d for d in real if of_name(d.description) == gpu.vendor]
    # A Vulkan device is some other GPU's when it names another vendor.
    fitting = [d for d in own if gpu.api != "vulkan" or of_name(d.description) in ("", gpu.vendor)]
    return next(iter(fitting or same), None)


def _api_of_target(gpu: Gpu) -> GpuApi:
    return "vulkan" if target_of(gpu) == "vulkan" else gpu.api


def _software(name: str) -> Finding:
    what = f"Vulkan's {name} is the CPU under another name, and is not used."
    return Finding(Severity.NOTE, "gpu_software", what)


def _not_worth_it(gpu: Gpu) -> Finding:
    found = capability(gpu)
    is_old = gpu.vendor == "nvidia" and (found is None or found < OLDEST_CAPABILITY)
    code = "gpu_too_old" if is_old else "gpu_not_worth_it"
    return Finding(Severity.NOTE, code, f"The CPU answers alone, without {gpu.name}: {gpu.reason}.")


def _shares_ram(gpu: Gpu) -> Finding:
    what = f"{gpu.name} shares the RAM with the CPU: what lies on it counts against the same memory."
    return Finding(Severity.NOTE, "gpu_shares_ram", what)


def _slower_way(gpu: Gpu, device: Device) -> Finding:
    what = f"{gpu.name} is reached as {device.name}, and CUDA would be faster."
    return Finding(Severity.NOTE, "gpu_slower_way", what, _install("cuda"))


def _no_device(gpu: Gpu) -> Finding:
    api = WORDS[gpu.api]
    what = f"This build has {api}, but finds no device: {gpu.name} is there and does not answer."
    return Finding(Severity.WARNING, "gpu_no_device", what, _wake(gpu))


def _no_backend(gpu: Gpu, machine: Machine) -> Finding:
    target = target_of(gpu)
    is_jetson = gpu.vendor == "nvidia" and gpu.kind == "integrated"
    if not target or (is_jetson and target == "cuda-nano" and JETPACK_4.search(machine.board.release)):
        what = f"The CPU answers alone, without {gpu.name}: JetPack 4 is the last one for this board, and its"
        what += " CUDA 10.2 cannot compile llama.cpp."
        return Finding(Severity.NOTE, "gpu_no_toolkit", what)
    what = f"{gpu.name} would make answers faster, and this build of llama.cpp has no {_word(target)}."
    remedy = _install(target)
    if is_jetson and JETPACK_4.search(machine.board.release):
        remedy = f"Upgrade to JetPack 5; then {remedy[0].lower()}{remedy[1:]}"
    elif gpu.is_usable is False:
        remedy = f"{_wake(gpu)} Then {remedy[0].lower()}{remedy[1:]}"
    return Finding(Severity.WARNING, "gpu_no_backend", what, remedy)


def _vmm(machine: Machine) -> Finding:
    gpu = next(gpu for gpu in machine.gpus if gpu.vendor == "nvidia")
    target = target_of(gpu) or "cuda-orin"
    what = "CUDA reserves 32 GiB of addresses when llama.cpp is compiled without GGML_CUDA_NO_VMM, and a"
    what += " Jetson with 8 GB may refuse them."
    return Finding(Severity.NOTE, "cuda_vmm", what, f"If loading a model fails here: {_install(target)}")


def _is_small_jetson(machine: Machine) -> bool:
    total = machine.memory.total_bytes
    is_jetson = any(gpu.vendor == "nvidia" and gpu.kind == "integrated" for gpu in machine.gpus)
    return is_jetson and total is not None and total <= SMALL_JETSON_BYTES


def _install(target: str) -> str:
    return f"Build llama.cpp for the target {target}, in a checkout: TAMPU_TARGET={target} ./build/quickstart"


def _wake(gpu: Gpu) -> str:
    """The step by which a GPU that is there begins to answer."""
    if "may not open" in gpu.reason:
        return "Add the user of the daemon to the groups video and render, and start it again."
    if gpu.vendor == "nvidia" and gpu.driver == "nouveau":
        return "Install NVIDIA's own driver: nouveau has no CUDA."
    if gpu.reason.startswith("the kernel has no driver"):
        return "Load the kernel's driver for it: lspci -k names it."
    if gpu.vendor == "nvidia" and gpu.kind == "integrated":
        return "Add the user of the daemon to the groups video and render: /dev/nvmap is theirs."
    if gpu.vendor == "nvidia":
        return "Check that nvidia-smi lists it, and that the daemon's user may open /dev/nvidia*."
    if gpu.vendor == "apple":
        return "Start the daemon in a session that has the GPU."
    return (
        "Install Vulkan's loader and driver (Debian: libvulkan1 mesa-vulkan-drivers), and add the user of"
        " the daemon to the groups video and render."
    )


def _word(target: str) -> str:
    return WORDS["vulkan" if target == "vulkan" else "metal" if target == "metal" else "cuda"]
