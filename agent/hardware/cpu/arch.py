"""The architecture of a box told from its cpuinfo alone, and whether its cores could run a wider system.

Names are those of `uname -m` on Linux, macOS's arm64 as aarch64: x86_64 i686 aarch64 armv7l armv6l
armv5tel riscv64 riscv32 ppc64 ppc64le s390x loongarch64 mips.
"""

import re

from agent.hardware.cpu import arm_cores
from agent.hardware.cpu.core import Core

ARM_32_BIT_WORDS = {"half", "thumb", "fastmult", "swp", "vfp", "edsp", "neon", "vfpv3"}
ARM_64_BIT_WORDS = {"asimd", "fp", "cpuid"}
ARM_VERSION = re.compile(r"\(v(\d)\w*\)|ARMv(\d)|ARM(11|9)\d\d", re.IGNORECASE)
ARM_6_PARTS = {0xB02, 0xB36, 0xB56, 0xB76}
# POWER7 and older run big-endian; distributions for what came later are little-endian.
BIG_ENDIAN_POWER = re.compile(r"POWER[4-7]|PPC970|Cell|e[56]500", re.IGNORECASE)


def of_core(core: Core) -> str:
    """The architecture of the kernel that wrote this; "" where nothing tells."""
    words = core.words
    if core.isa.startswith("rv"):
        return "riscv32" if core.isa.startswith("rv32") else "riscv64"
    if {"lm", "fpu"} <= words:
        return "x86_64"
    if {"fpu", "tsc"} <= words or {"fpu", "cx8"} <= words:
        return "i686"
    if "lsx" in words or "loongson-3a5000" in core.name.lower() or "cpucfg" in words:
        return "loongarch64"
    if "esan3" in words or core.vendor == "IBM/S390":
        return "s390x"
    if core.implementer is not None or words & (ARM_32_BIT_WORDS | ARM_64_BIT_WORDS) or "ARM" in core.name:
        return _arm(core)
    if "power" in core.name.lower() or "ppc" in core.name.lower() or "altivec" in core.name.lower():
        return "ppc64" if BIG_ENDIAN_POWER.search(core.name) else "ppc64le"
    return "mips" if "mips" in core.name.lower() else ""


def is_64bit(core: Core, name: str) -> bool | None:
    """Whether the core, of the microarchitecture `name`, runs 64-bit code; None where nothing tells."""
    if of_core(core) in {"x86_64", "aarch64", "riscv64", "loongarch64", "s390x", "ppc64", "ppc64le"}:
        return True
    if of_core(core) == "i686":
        return False
    # What a 32-bit kernel says of the core: only ARMv8 has crc32 and aes.
    if core.words & {"crc32", "aes", "pmull"} or "v8l" in core.name:
        return True
    return arm_cores.is_64bit(name)


def _arm(core: Core) -> str:
    """An old kernel says `CPU architecture: 7` of an ARMv6: its name and part are surer."""
    if "asimd" in core.words or core.architecture.lower() == "aarch64":
        return "aarch64"
    match = ARM_VERSION.search(core.name)
    version = (match[1] or match[2] or match[3]) if match else ""
    if version in {"6", "11"} or (core.implementer == 0x41 and core.part in ARM_6_PARTS):
        return "armv6l"
    if version in {"5", "9", "4"} or core.architecture.startswith("5"):
        return "armv5tel"
    is_64_bit_text = core.architecture == "8" and not core.words & ARM_32_BIT_WORDS
    return "aarch64" if is_64_bit_text else "armv7l"
