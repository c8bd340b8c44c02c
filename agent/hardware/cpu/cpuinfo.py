"""/proc/cpuinfo of every architecture: x86, ARM, RISC-V, POWER, LoongArch, s390, MIPS.

Lines `key : value`. Most kernels write a paragraph per CPU and, at the end, one about the box. Old ARM
kernels write flags and part once for all, before, after or at the last CPU; the oldest no
`processor : 0` at all; s390 has lines `processor 0: version = ...`.
"""

import re

from msgspec import Struct

from agent.hardware.cpu.core import Core
from agent.hardware.cpu.features import isa_words
from agent.hardware.text import MAX_CPUS, clean, number

S390_CPU = re.compile(r"processor (\d+)$")
# About the box wherever they stand; `model` only where it is no x86 model number.
BOX_KEYS = {"hardware", "serial", "machine", "platform", "system type", "cpu serial"}
CPU_KEYS = {
    "vendor_id", "cpu family", "model name", "flags", "features", "cpu implementer", "cpu part",
    "cpu architecture", "isa", "cpu model", "uarch", "bogomips per cpu",
}  # fmt: skip

Fields = dict[str, str]


class CpuInfo(Struct, frozen=True, kw_only=True):
    """The CPUs, and what is said about the box: Hardware, Model and Revision of ARM boards, the machine
    of POWER and MIPS."""

    cores: tuple[Core, ...] = ()
    hardware: str = ""
    model: str = ""
    revision: str = ""
    machine: str = ""


def parse(text: str) -> CpuInfo:
    """What the text says; no cores where it is no cpuinfo. Raises nothing."""
    cpus, box = _paragraphs(text)
    if not cpus and not box.keys() & CPU_KEYS:
        return CpuInfo()
    shared = box | _last_of_each(cpus)
    return CpuInfo(
        cores=tuple(_core(cpu, shared) for cpu in cpus or [{}]),
        hardware=clean(box.get("hardware", "")),
        model=clean(box.get("model", "")),
        revision=clean(box.get("revision", "")),
        machine=clean(box.get("machine", "") or box.get("system type", "")),
    )


def _paragraphs(text: str) -> tuple[list[Fields], Fields]:
    """The fields of each CPU, and those of no CPU."""
    lines = text.splitlines()
    # The first RISC-V kernels count harts only.
    counter = "processor" if any(line.startswith("processor") for line in lines) else "hart"
    cpus: list[Fields] = []
    box: Fields = {}
    current = box
    for line in lines:
        name, colon, value = line.partition(":")
        key, value = " ".join(name.lower().split()), value.strip()
        if not line.strip():
            current = box
        elif (key == counter and number(value) is not None) or S390_CPU.match(key):
            if len(cpus) == MAX_CPUS:
                break
            current = {"processor": value if key == counter else key.split()[1]}
            cpus.append(current)
        elif colon and key:
            is_box = key in BOX_KEYS or (key == "model" and number(value) is None)
            (box if is_box else current).setdefault(key, value)
    return cpus, box


def _last_of_each(cpus: list[Fields]) -> Fields:
    """For keys that one CPU alone has: it speaks for all."""
    if not cpus or len(cpus) == 1:
        return {}
    return {key: value for key, value in cpus[-1].items() if key not in cpus[0] and key != "processor"}


def _core(own: Fields, shared: Fields) -> Core:
    def field(*keys: str) -> str:
        return next((value for key in keys if (value := own.get(key) or shared.get(key, ""))), "")

    isa = field("isa", "hart isa")
    # "processor" of the box is the name that old ARM kernels give once; of a CPU it is its number.
    name = field("model name", "cpu model", "cpu") or shared.get("processor", "")
    return Core(
        number=number(own.get("processor", "")),
        name=clean(name),
        vendor=clean(field("vendor_id")),
        family=number(field("cpu family")),
        model=number(own.get("model", "")),
        implementer=number(field("cpu implementer")),
        part=number(field("cpu part")),
        architecture=clean(field("cpu architecture")),
        isa=clean(isa),
        # The vendor's kernel for TH1520 gives no ids, and the version of its vector unit.
        uarch="thead,c910" if field("cpu-vector").startswith("0.7") else clean(field("uarch")),
        mvendorid=number(field("mvendorid")),
        marchid=number(field("marchid")),
        words=frozenset(field("flags", "features").lower().split()) | isa_words(isa),
        package=field("physical id", "package"),
        core=own.get("core id", "") or own.get("core", ""),
        siblings=number(field("siblings")),
        package_cores=number(field("cpu cores")),
    )
