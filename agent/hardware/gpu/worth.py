"""Does this GPU beat the CPU beside it at our work? A verdict from its name, driver and capability.

Only what is known to help is worth it: a wrong yes costs every answer, a wrong no can be overruled
by a measurement.
"""

import re
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from agent.hardware.gpu.nvidia_names import capability_of
from agent.hardware.gpu.vendors import is_software
from agent.hardware.machine import Gpu

# The oldest NVIDIA generation (Maxwell) that CUDA 12 compiles for.
OLDEST_CAPABILITY = (5, 0)
# Xe with 80 execution units or more, and what came after it.
FAST_INTEL = re.compile(r"iris\(?r?\)? xe|iris xe|\barc\b|\((tgl|mtl|arl|lnl|bmg|dg2)\b")
# AMD before GCN, and its first embedded parts: no Vulkan, or less compute than their CPU.
OLD_AMD = re.compile(r"radeon( ?\(tm\))? (hd|r[2-5])\b|mullins|kabini")
# Two compute units, there to show a screen.
SMALL_AMD = re.compile(r"raphael|mendocino")


class Verdict(Struct, frozen=True):
    """`reason` is one sentence, without its full stop, why the GPU beats the CPU or does not."""

    is_worth_it: bool
    reason: str


def verdict(gpu: Gpu) -> Verdict:
    """Whether to compute on this GPU. Pure; raises nothing."""
    text = f"{gpu.name} {gpu.driver}".lower()
    if gpu.kind == "software" or is_software(text):
        return Verdict(False, "it is the CPU under another name, and slower than the CPU itself")
    if gpu.kind == "virtual":
        return Verdict(False, "a virtual display shows a screen and computes nothing")
    judge = BY_VENDOR.get(gpu.vendor, _unknown)
    return judge(gpu, text)


def judged(gpu: Gpu) -> Gpu:
    """The GPU with the verdict on it. A reason why it cannot be used at all stays."""
    found = verdict(gpu)
    reason = gpu.reason if gpu.is_usable is False and gpu.reason else found.reason
    return replace(gpu, is_worth_it=found.is_worth_it, reason=reason)


def capability(gpu: Gpu) -> tuple[int, int] | None:
    """CUDA's compute capability as numbers, by an old card's name where nothing says it; or None."""
    major, _, minor = gpu.compute_capability.partition(".")
    if major.isdecimal() and minor.isdecimal():
        return int(major), int(minor)
    return capability_of(gpu.name) if gpu.vendor == "nvidia" else None


def _nvidia(gpu: Gpu, _: str) -> Verdict:
    found = capability(gpu)
    if found and found < OLDEST_CAPABILITY:
        has = gpu.compute_capability or f"{found[0]}.x"
        return Verdict(False, f"it is too old: CUDA builds begin at capability 5.0, and this GPU has {has}")
    return Verdict(True, "CUDA prefills and decodes faster than the CPU")


def _amd(gpu: Gpu, text: str) -> Verdict:
    if OLD_AMD.search(text):
        return Verdict(False, "a Radeon of this age has no good Vulkan driver")
    if SMALL_AMD.search(text):
        return Verdict(False, "with two compute units it is there to show a screen")
    if gpu.kind == "discrete":
        return Verdict(True, "a card with its own memory is faster than the CPU")
    return Verdict(True, "Vulkan prefills faster than the CPU; decoding is bound by the RAM they share")


def _intel(gpu: Gpu, text: str) -> Verdict:
    if gpu.kind == "discrete":
        return Verdict(True, "a card with its own memory is faster than the CPU")
    if FAST_INTEL.search(text):
        return Verdict(True, "Vulkan prefills faster than the CPU; decoding is bound by the RAM they share")
    return Verdict(False, "an Intel GPU with so few execution units is slower than the CPU beside it")


def _apple(gpu: Gpu, _: str) -> Verdict:
    if gpu.api == "metal":
        return Verdict(True, "Metal prefills and decodes faster than the CPU")
    return _must_be_measured("Apple's GPU under Linux")


def _arm(_: Gpu, __: str) -> Verdict:
    # RK3588, Mali-G610 with panvk: 3.6 tokens/s against the CPU's 13.2 (ggml-org/llama.cpp#17783).
    return Verdict(False, "llama.cpp is slower on a Mali than on the CPU beside it")


def _broadcom(_: Gpu, __: str) -> Verdict:
    return Verdict(False, "a VideoCore is slower than the CPU beside it")


def _qualcomm(_: Gpu, __: str) -> Verdict:
    return _must_be_measured("an Adreno")


def _imagination(_: Gpu, __: str) -> Verdict:
    return Verdict(False, "its Vulkan driver is not fit for compute yet")


def _unknown(gpu: Gpu, _: str) -> Verdict:
    if gpu.kind == "discrete" and gpu.is_usable:
        return Verdict(True, "a card with its own memory is faster than the CPU")
    return Verdict(False, "nothing is known about how it computes")


def _must_be_measured(what: str) -> Verdict:
    return Verdict(False, f"whether {what} beats this CPU has to be measured first")


BY_VENDOR: dict[str, Callable[[Gpu, str], Verdict]] = {
    "nvidia": _nvidia,
    "amd": _amd,
    "intel": _intel,
    "apple": _apple,
    "arm": _arm,
    "broadcom": _broadcom,
    "qualcomm": _qualcomm,
    "imagination": _imagination,
    "vivante": _imagination,
}
