"""lscpu, sysctl, free and what else is pasted into bug reports, written by hand."""

from pathlib import Path

import pytest

from agent.hardware import kernel
from agent.hardware.cpu import lscpu, sysctl, tegrastats
from agent.hardware.cpu.processor import read_cpu
from agent.hardware.kernel import Kernel
from agent.hardware.ram import parse_free, parse_meminfo

NOWHERE = Path("/nowhere")
GIB = 1 << 30
FLAGS = "fpu tsc lm sse2 ssse3 sse4_2 avx"
ENGLISH = f"""\
Architecture:          x86_64
CPU op-mode(s):        32-bit, 64-bit
CPU(s):                8
On-line CPU(s) list:   0-5
Off-line CPU(s) list:  6,7
Thread(s) per core:    2
Core(s) per socket:    3
Socket(s):             1
Vendor ID:             GenuineIntel
CPU family:            6
Model:                 58
Model name:            Intel(R) Core(TM)   i7
CPU max MHz:           2265,6001
Flags:                 {FLAGS}
"""
GERMAN = f"""\
Architektur:                   x86_64
  CPU Operationsmodus:         32-bit, 64-bit
  Adressgrößen:                39 bits physical, 48 bits virtual
  Byte-Reihenfolge:            Little Endian
CPU(s):                        4
  Liste der Online-CPU(s):     0-3
Anbieterkennung:               GenuineIntel
  Modellname:                  Intel(R) Celeron(R)
    Prozessorfamilie:          6
    Modell:                    156
    Thread(s) pro Kern:        1
    Kern(e) pro Sockel:        4
    Sockel:                    1
    Markierungen:              {FLAGS}
"""
FINNISH = f"""\
Arkkitehtuuri:                x86_64
Suorittimia:                  4
Käytössä olevat:              0-3
Jotain:                       {FLAGS}
"""
BIG_LITTLE = """\
Architecture:                    aarch64
CPU(s):                          6
On-line CPU(s) list:             0-5
Vendor ID:                       ARM
Model name:                      Cortex-A53
Thread(s) per core:              1
Core(s) per socket:              4
Socket(s):                       1
CPU max MHz:                     1512.0000
Flags:                           fp asimd crc32 asimddp
Model name:                      Cortex-A72
Thread(s) per core:              1
Core(s) per socket:              2
Socket(s):                       1
CPU max MHz:                     2016.0000
Flags:                           fp asimd crc32
"""


def test_english() -> None:
    """CPUs that are on, those that are off, cores, and a locale's comma."""
    cpu = read_cpu("", ENGLISH, NOWHERE)
    assert (cpu.arch, cpu.cpus, cpu.cores, cpu.offline) == ("x86_64", 6, 3, 2)
    assert (cpu.model, cpu.microarchitecture) == ("Intel(R) Core(TM) i7", "Ivy Bridge")
    assert cpu.clusters[0].max_mhz == 2265


@pytest.mark.parametrize(("text", "core"), [(GERMAN, "Jasper Lake"), (FINNISH, "")])
def test_other_languages(text: str, core: str) -> None:
    """Known ones in full; of unknown ones what values alone tell."""
    cpu = read_cpu("", text, NOWHERE)
    assert (cpu.arch, cpu.cpus, cpu.cores, cpu.microarchitecture) == ("x86_64", 4, 4, core)
    assert cpu.features == ("sse2", "ssse3", "sse4_2", "avx")


def test_json() -> None:
    """`lscpu -J`, with fields inside fields."""
    text = (
        '{"lscpu": [{"field": "Architecture:", "data": "aarch64"}, {"field": "CPU(s):", "data": "4",'
        ' "children": [{"field": "On-line CPU(s) list:", "data": "0-3"}]},'
        ' {"field": "Vendor ID:", "data": "ARM", "children": [{"field": "Model name:", "data": "Cortex-A76",'
        ' "children": [{"field": "Core(s) per cluster:", "data": "4"}, {"field": "Socket(s):", "data": "-"},'
        ' {"field": "Flags:", "data": "fp asimd asimddp"}]}]}]}'
    )
    cpu = read_cpu("", text, NOWHERE)
    assert (cpu.arch, cpu.cpus, cpu.cores) == ("aarch64", 4, 4)
    assert (cpu.microarchitecture, cpu.features) == ("Cortex-A76", ("neon", "dotprod"))


def test_kinds_of_cores_follow_each_other() -> None:
    """Only what both have counts."""
    cpu = read_cpu("", BIG_LITTLE, NOWHERE)
    kinds = [(kind.microarchitecture, kind.cpus, kind.max_mhz) for kind in cpu.clusters]
    assert kinds == [("Cortex-A72", 2, 2016), ("Cortex-A53", 4, 1512)]
    assert (cpu.cpus, cpu.cores, cpu.features) == (6, 6, ("neon",))


def test_kinds_of_two_makers() -> None:
    """A vendor line begins the next kind."""
    text = BIG_LITTLE.replace(
        "Model name:                      Cortex-A72", "Vendor ID: NVIDIA\nModel name: Denver 2"
    )
    cpu = read_cpu("", text, NOWHERE)
    assert {kind.microarchitecture: kind.cpus for kind in cpu.clusters} == {"Cortex-A53": 4, "Denver 2": 2}
    assert cpu.vendor == "ARM + NVIDIA"


def test_a_name_that_is_a_dash() -> None:
    """A virtual machine on a Mac: no name is better than that."""
    text = (
        "Architecture: aarch64\nCPU(s): 2\nOn-line CPU(s) list: 0,1\nVendor ID: 0x00\nModel name: -\n"
        "Flags: fp asimd\n"
    )
    cpu = read_cpu("", text, NOWHERE)
    assert (cpu.model, cpu.vendor, cpu.microarchitecture, cpu.cpus) == ("", "", "", 2)


def test_lscpu_knows_the_kernel_and_cpuinfo_the_cpus() -> None:
    """Both are there: each for what it knows."""
    cpu = read_cpu("processor : 0\nflags : fpu tsc lm sse2\n", ENGLISH.replace("x86_64", "i686"), NOWHERE)
    assert (cpu.arch, cpu.is_64bit, cpu.features) == ("i686", True, ("sse2",))


@pytest.mark.parametrize("text", ["", "Architecture:", "x: x86_64", '{"lscpu": ' + "[" * 5000, "\0"])
def test_what_is_no_lscpu_has_no_groups(text: str) -> None:
    """However deep."""
    assert lscpu.parse(text).groups == ()


# ---- macOS ---------------------------------------------------------------------------------------


def test_a_mac_with_a_prompt_and_a_fence_around_it() -> None:
    """As people paste it."""
    found = sysctl.parse(
        "```\n% sysctl hw\nhw.ncpu: 8\nhw.memsize: 8589934592\n"
        "hw.perflevel0.logicalcpu: 4\nhw.perflevel1.logicalcpu: 4\n"
        "hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\nhw.optional.arm.FEAT_FP16: 1\n"
        "hw.optional.AdvSIMD: 1\nhw.cpufamily: 458787763\n```\n"
    )
    assert found is not None
    cpu, total, board = found
    assert (cpu.arch, cpu.cpus, cpu.features) == ("aarch64", 8, ("neon", "dotprod", "fp16"))
    assert (cpu.model, total, board.family) == ("Apple M1", 8 * GIB, "apple")
    assert [(kind.microarchitecture, kind.cpus) for kind in cpu.clusters] == [
        ("Firestorm", 4),
        ("Icestorm", 4),
    ]


@pytest.mark.parametrize(
    ("brand", "more"),
    [("Apple M1 Ultra", set()), ("Apple M2", {"i8mm", "bf16"}), ("Apple M4 Pro", {"i8mm", "bf16", "sme"})],
)
def test_a_mac_that_tells_its_name_only(brand: str, more: set[str]) -> None:
    """What every chip of the generation has."""
    found = sysctl.parse(f"machdep.cpu.brand_string: {brand}\n")
    assert found is not None
    assert set(found[0].features) == {"neon", "dotprod", "fp16"} | more


def test_a_mac_with_an_intel() -> None:
    """Its features have names of their own."""
    found = sysctl.parse(
        "hw.ncpu: 8\nhw.physicalcpu: 4\nhw.logicalcpu: 8\nhw.model: MacBookPro11,3\n"
        "machdep.cpu.brand_string: Intel(R) Core(TM) i7-4850HQ\n"
        "machdep.cpu.features: FPU SSE2 SSSE3 SSE4.2 AVX1.0 FMA F16C\nmachdep.cpu.leaf7_features: BMI2 AVX2\n"
    )
    assert found is not None
    cpu, total, board = found
    assert (cpu.arch, cpu.cpus, cpu.cores, total) == ("x86_64", 8, 4, None)
    assert cpu.features == ("sse2", "ssse3", "sse4_2", "avx", "f16c", "fma", "bmi2", "avx2")
    assert board.name == "MacBookPro11,3"


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "total", "available", "swap"),
    [
        ("Mem:  7.4Gi 829Mi 6.1Gi 29Mi 513Mi 6.4Gi\nSwap: 3.7Gi 0B 3.7Gi\n", 7.4, 6.4, 3.7),
        ("Mem:  3,8Gi 642Mi 3,1Gi 6,0Mi 128Mi 3,1Gi\nSwap: 2,1Gi 0B 2,1Gi\n", 3.8, 3.1, 2.1),
        ("Speicher:  3,9G 642M 3,1G 6,0M 128M 3,0G\nAuslager: 0B 0B 0B\n", 3.9, 3.0, 0),
        ("Mem: 1048576 400000 300000 0 248576 524288\nSwap: 0 0 0\n", 1, 0.5, 0),
        ("Mem: 2048 400 300 0 248 1024\n", 2, 1, None),
        ("Mem: 1.0G 900M 100M 0B 200M 212M\n-/+ buffers/cache: 512M 512M\nSwap: 0B 0B 0B\n", 1, 0.5, 0),
    ],
)
def test_free_in_its_dialects(text: str, total: float, available: float, swap: float | None) -> None:
    """Suffixes, commas, languages, bare KiB and MiB, and the columns before 2014; here in GiB."""
    header = "              total        used        free      shared  buff/cache   available\n"
    memory = parse_free(header + text)
    assert memory is not None
    figures = (memory.total_bytes, memory.available_bytes, memory.swap_bytes)
    expected = tuple(
        None if gib is None else pytest.approx(gib * GIB, rel=0.01) for gib in (total, available, swap)
    )
    assert figures == expected


@pytest.mark.parametrize(
    "text", ["", "Mem: much\n", "Mem:\n", "0 1 2 3", "MemTotal: -5 kB", "MemTotal: 99999999999999999999 kB"]
)
def test_what_says_nothing_about_memory_is_none(text: str) -> None:
    """Not zero."""
    assert parse_free(text) is None
    assert parse_meminfo(text) is None


def test_meminfo_before_memavailable() -> None:
    """Only what is free is sure."""
    memory = parse_meminfo("MemTotal: 1024 kB\nMemFree: 512 kB\nSwapTotal: 64 kB\n")
    assert memory is not None
    assert (memory.total_bytes, memory.available_bytes, memory.swap_bytes) == (1 << 20, 1 << 19, 1 << 16)


def test_tegrastats_counts_cores_that_are_off() -> None:
    """And has the memory of the Jetson."""
    line = "RAM 1409/3964MB (lfb 28x4MB) SWAP 0/1982MB (cached 0MB) CPU [22%@518,67%@518,off,off] EMC_FREQ 0%"
    cpu, memory = tegrastats.parse_cpu(line), tegrastats.parse_memory(line)
    assert (cpu.cpus, cpu.offline) == (2, 2)
    assert memory is not None
    assert memory.total_bytes == 3964 << 20
    assert tegrastats.parse_memory("RAM") is None


# ---- the kernel ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "release", "arch"),
    [
        ("Kernel: 5.15.148-tegra/aarch64", "5.15.148-tegra", "aarch64"),
        ("Kernel: 5.10.63+/armv6l", "5.10.63+", "armv6l"),
        ("Kernel: 4.19.0-13-686-pae/i686", "4.19.0-13-686-pae", "i686"),
        ("Kernel: 5.19.0-38-generic/aarch64 (apple-hypervisor v1)", "5.19.0-38-generic", "aarch64"),
        ("Linux pi 6.1.0-rpi-v8 #1 SMP Debian aarch64 GNU/Linux", "6.1.0-rpi-v8", "aarch64"),
        ("Linux version 6.8.0-31 (buildd@lcy02-arm64-080) (x86_64-linux-gnu-gcc-13)", "6.8.0-31", "x86_64"),
        ("Linux version 6.17.0-1 (buildd@bos03-amd64-009) (aarch64-linux-gnu-gcc-13)", "6.17.0-1", "aarch64"),
        ("Linux version 3.10.0-1.el7.x86_64 (mockbuild@x) (gcc 4.8.5)", "3.10.0-1.el7.x86_64", "x86_64"),
        ("Linux version 5.10.63-v7l+ (dom@x86_64-box) (gcc-8)", "5.10.63-v7l+", "armv7l"),
        ("Linux version 6.1.21-v8+ (dom@box) (gcc-8)", "6.1.21-v8+", "aarch64"),
        ("Linux version 5.3.0-28-generic (buildd@lcy01-amd64-009) (gcc 7.4.0)", "5.3.0-28-generic", ""),
        ("5.4.0", "5.4.0", ""),
        ("", "", ""),
    ],
)  # fmt: skip
def test_a_line_about_the_kernel(text: str, release: str, arch: str) -> None:
    """Where it was built does not matter."""
    assert kernel.parse(text) == Kernel(release, arch)
