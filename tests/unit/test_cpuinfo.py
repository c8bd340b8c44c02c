"""/proc/cpuinfo in all its dialects, written by hand after those of real kernels."""

from pathlib import Path

import pytest

from agent.hardware.cpu import cpuinfo
from agent.hardware.cpu.features import isa_words, names
from agent.hardware.cpu.processor import read_cpu
from agent.hardware.cpu.riscv import DRAFT_VECTOR_CORE
from agent.hardware.machine import Cpu
from tests.support.box import arm_cpuinfo, write, x86_cpuinfo

V8_2 = "fp asimd aes crc32 atomics fphp asimdhp asimddp"


def cpu_of(text: str, root: Path = Path("/nowhere"), lscpu: str = "") -> Cpu:
    return read_cpu(text, lscpu, root)


def test_an_old_arm_kernel_says_features_once_for_all() -> None:
    """Linux 3.4: the name first, CPUs with nothing but a number, what they are at the end."""
    cpu = cpu_of(
        "Processor\t: ARMv7 Processor rev 5 (v7l)\nprocessor\t: 0\nBogoMIPS\t: 1200.00\n\n"
        "processor\t: 1\nBogoMIPS\t: 1200.00\n\n"
        "Features\t: swp half thumb fastmult vfp edsp neon vfpv3\nCPU implementer\t: 0x41\n"
        "CPU architecture: 7\nCPU part\t: 0xc07\n\nHardware\t: sun7i\nSerial\t: 0\n"
    )
    assert (cpu.arch, cpu.cpus, cpu.features) == ("armv7l", 2, ("neon",))
    assert (cpu.microarchitecture, cpu.is_64bit) == ("Cortex-A7", False)


def test_features_at_the_last_cpu_speak_for_all() -> None:
    """Linux 3.10 on arm64 leaves no blank line between the last number and the features."""
    cpu = cpu_of(
        "Processor\t: AArch64 Processor rev 3 (aarch64)\nprocessor\t: 0\nprocessor\t: 1\nprocessor\t: 2\n"
        "Features\t: fp asimd aes crc32\nCPU implementer\t: 0x41\nCPU architecture: AArch64\n"
        "CPU part\t: 0xd03\n\nHardware\t: ODROID-C2\n"
    )
    assert (cpu.arch, cpu.cpus, cpu.features) == ("aarch64", 3, ("neon",))
    assert cpu.microarchitecture == "Cortex-A53"


def test_the_first_raspberry_pi_has_no_processor_zero() -> None:
    """One CPU, an ARMv6 whatever `CPU architecture: 7` says."""
    text = (
        "Processor\t: ARMv6-compatible processor rev 7 (v6l)\nBogoMIPS\t: 697.95\n"
        "Features\t: swp half thumb fastmult vfp edsp java tls\nCPU implementer\t: 0x41\n"
        "CPU architecture: 7\nCPU variant\t: 0x0\nCPU part\t: 0xb76\n\n"
        "Hardware\t: BCM2708\nRevision\t: 000e\nSerial\t\t: 0\n"
    )
    cpu = cpu_of(text)
    assert (cpu.arch, cpu.cpus, cpu.cores, cpu.features) == ("armv6l", 1, 1, ())
    assert cpuinfo.parse(text).revision == "000e"


def test_a_64_bit_core_under_a_32_bit_kernel() -> None:
    """The system is armv7l; the core could do more."""
    cpu = cpu_of(
        "processor\t: 0\nmodel name\t: ARMv7 Processor rev 4 (v7l)\n"
        "Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 crc32\n"
        "CPU implementer\t: 0x41\nCPU architecture: 7\nCPU part\t: 0xd03\n"
    )
    assert (cpu.arch, cpu.features, cpu.is_64bit) == ("armv7l", ("neon",), True)


def test_only_what_every_core_has_is_a_feature() -> None:
    """Code runs on any of them: the Exynos 9810 has cores with and without half precision."""
    cpu = cpu_of(arm_cpuinfo(0xD05, 0xD05, features=V8_2) + arm_cpuinfo(0xD0A, features="fp asimd asimddp"))
    assert cpu.features == ("neon", "dotprod")


def test_half_precision_needs_both_of_its_words() -> None:
    """fphp is the scalar half of it."""
    assert "fp16" not in names([frozenset({"asimd", "fphp"})])
    assert "fp16" in names([frozenset({"asimd", "fphp", "asimdhp"})])


def test_amds_memory_encryption_is_no_matrix_extension() -> None:
    """Both are called sme."""
    assert "sme" not in cpu_of(x86_cpuinfo((0, 0), flags="fpu lm sse2 sme")).features
    assert "sme" in cpu_of(arm_cpuinfo(0xD8B, features="fp asimd sme")).features


@pytest.mark.parametrize(
    ("pairs", "cores"),
    [
        ([(0, 0), (0, 1), (0, 0), (0, 1)], 2),
        ([(0, 0), (1, 0)], 2),
        ([(0, 0), (0, 1), (0, 8), (0, 9)], 4),
    ],
)
def test_hyperthreads_of_a_core_count_once(pairs: list[tuple[int, int]], cores: int) -> None:
    """By package and core."""
    cpu = cpu_of(x86_cpuinfo(*pairs))
    assert (cpu.cpus, cpu.cores) == (len(pairs), cores)


def test_a_virtual_machine_that_gives_all_cpus_one_core_id() -> None:
    """`siblings` equal to `cpu cores` says that they are no threads of one core."""
    block = "processor: {}\nphysical id: 0\nsiblings: 4\ncore id: 0\ncpu cores: 4\nflags: fpu tsc lm\n\n"
    assert cpu_of("".join(block.format(at) for at in range(4))).cores == 4


def test_x86_without_long_mode_is_a_32_bit_cpu() -> None:
    """And cannot become another."""
    cpu = cpu_of(x86_cpuinfo((0, 0), flags="fpu tsc cx8 sse2 ssse3"))
    assert (cpu.arch, cpu.is_64bit, cpu.features) == ("i686", False, ("sse2", "ssse3"))


@pytest.mark.parametrize(
    ("vendor", "model", "flags", "expected"),
    [
        ("GenuineIntel", 156, "", ("Intel", "Jasper Lake")),
        ("GenuineIntel", 85, "", ("Intel", "Skylake-SP")),
        ("GenuineIntel", 85, "avx512_vnni", ("Intel", "Cascade Lake")),
        ("CentaurHauls", 15, "", ("VIA", "Nano")),
        ("  Shanghai  ", 59, "", ("Zhaoxin", "")),
        ("HygonGenuine", 1, "", ("Hygon", "Dhyana")),
        ("Nobody", 1, "", ("Nobody", "")),
    ],
)
def test_x86_makers(vendor: str, model: int, flags: str, expected: tuple[str, str]) -> None:
    """Known ones by their names; unknown ones by what they call themselves."""
    cpu = cpu_of(x86_cpuinfo((0, 0), vendor=vendor, model=model, flags=f"fpu lm {flags}"))
    assert (cpu.vendor, cpu.microarchitecture) == expected


def test_big_and_little_cores_are_kinds_fast_ones_first(tmp_path: Path) -> None:
    """By part; cores of one part whose capacity differs are two kinds, those that nearly agree are one."""
    capacities = (350, 350, 900, 905, 1024)
    write(
        tmp_path,
        {
            "sys/devices/system/cpu/online": "0-4\n",
            "sys/devices/system/cpu/present": "0-5\n",
            **{f"sys/devices/system/cpu/cpu{at}/cpu_capacity": f"{c}\n" for at, c in enumerate(capacities)},
        },
    )
    cpu = cpu_of(arm_cpuinfo(0xD05, 0xD05, 0xD0D, 0xD0D, 0xD0D, features=V8_2), tmp_path)
    kinds = [(kind.microarchitecture, kind.cpus, kind.capacity) for kind in cpu.clusters]
    assert kinds == [("Cortex-A77", 1, 1024), ("Cortex-A77", 2, 905), ("Cortex-A55", 2, 350)]
    assert (cpu.microarchitecture, cpu.offline) == ("Cortex-A77 + Cortex-A55", 1)


def test_sysfs_knows_hyperthreads_best(tmp_path: Path) -> None:
    """POWER's cpuinfo says nothing of them."""
    siblings = {
        f"sys/devices/system/cpu/cpu{at}/topology/thread_siblings_list": f"{at // 4 * 4}-{at // 4 * 4 + 3}\n"
        for at in range(8)
    }
    write(tmp_path, {"sys/devices/system/cpu/online": "0-7\n", **siblings})
    text = "".join(f"processor\t: {at}\ncpu\t\t: POWER9, altivec supported\n\n" for at in range(8))
    cpu = cpu_of(text, tmp_path)
    assert (cpu.arch, cpu.cpus, cpu.cores) == ("ppc64le", 8, 2)


def test_intels_hybrid_chips_have_two_kinds(tmp_path: Path) -> None:
    """By sysfs's folders; a favoured core that clocks higher is no kind."""
    mhz = {
        f"sys/devices/system/cpu/cpu{at}/cpufreq/cpuinfo_max_freq": f"{5200 - at * 600}000\n"
        for at in range(4)
    }
    write(tmp_path, {"sys/devices/system/cpu/online": "0-3\n", **mhz})
    text = x86_cpuinfo((0, 0), (0, 1), (0, 2), (0, 3), model=154)
    assert [kind.cpus for kind in cpu_of(text, tmp_path).clusters] == [4]
    write(tmp_path, {"sys/devices/cpu_core/cpus": "0-1\n", "sys/devices/cpu_atom/cpus": "2-3\n"})
    kinds = [(kind.microarchitecture, kind.cpus) for kind in cpu_of(text, tmp_path).clusters]
    assert kinds == [("Golden Cove", 2), ("Gracemont", 2)]


@pytest.mark.parametrize(
    ("isa", "words"),
    [
        ("rv64imafdcv", {"rvv"}),
        ("rv64imafdcv_zicsr_zve64d", {"rvv"}),
        ("rv64imafdc_zicsr_zve64d_svinval", set()),
        ("rv64imafdcsu", set()),
        ("rv64imafdczvfh", set()),
        ("rv64gc_v_zba", {"rvv"}),
        ("", set()),
    ],
)
def test_the_vector_letter_of_risc_v(isa: str, words: set[str]) -> None:
    """Neither the v in rv64 nor one in a longer name."""
    assert isa_words(isa) == words


@pytest.mark.parametrize(("marchid", "is_draft"), [("0x0", True), ("0x8000000009140d00", False)])
def test_the_draft_of_the_vector_extension_is_told_by_marchid(marchid: str, *, is_draft: bool) -> None:
    """T-Head's cores with the ratified one have a number there."""
    cpu = cpu_of(f"processor\t: 0\nhart\t: 0\nisa\t: rv64imafdcv\nmvendorid\t: 0x5b7\nmarchid\t: {marchid}\n")
    assert (cpu.arch, cpu.features) == ("riscv64", ("rvv",))
    assert (cpu.microarchitecture == DRAFT_VECTOR_CORE) == is_draft


def test_a_vendor_kernel_that_gives_the_version_of_its_vector_unit() -> None:
    """And no ids."""
    cpu = cpu_of("processor\t: 0\nisa\t: rv64imafdcvsu\ncpu-freq\t: 1.848Ghz\ncpu-vector\t: 0.7.1\n")
    assert (cpu.features, cpu.microarchitecture) == (("rvv",), DRAFT_VECTOR_CORE)


def test_a_first_risc_v_kernel_counts_harts_only() -> None:
    """Linux 4.15."""
    cpu = cpu_of("hart\t: 1\nisa\t: rv64imafdc\n\nhart\t: 2\nisa\t: rv64imafdc\nuarch\t: sifive,u54-mc\n")
    assert (cpu.cpus, cpu.microarchitecture) == (2, "SiFive U54")


def test_a_mainframe() -> None:
    """s390 has a line per CPU."""
    cpu = cpu_of(
        "vendor_id       : IBM/S390\n# processors    : 2\nbogomips per cpu: 3033.00\n"
        "features\t: esan3 zarch stfle msa vx\nprocessor 0: version = 00,  machine = 8561\n"
        "processor 1: version = 00,  machine = 8561\n\ncpu number      : 0\ncpu MHz dynamic : 5200\n"
    )
    assert (cpu.arch, cpu.cpus) == ("s390x", 2)


def test_a_router() -> None:
    """MIPS."""
    text = "system type\t: MT7621\nmachine\t: A router\nprocessor\t: 0\ncpu model\t: MIPS 1004Kc V2.15\n"
    assert cpu_of(text).arch == "mips"
    assert cpuinfo.parse(text).machine == "A router"


def test_windows_line_ends_change_nothing() -> None:
    """A recording that passed through a mail program."""
    text = arm_cpuinfo(0xD0B, 0xD0B, features=V8_2)
    assert cpu_of(text.replace("\n", "\r\n")) == cpu_of(text)


@pytest.mark.parametrize("text", ["", "\n\n", "hello", "a: b\nc: d", "\0" * 100, "processor : x", ":" * 50])
def test_what_is_no_cpuinfo_has_no_cores(text: str) -> None:
    """Nothing is made up."""
    assert cpuinfo.parse(text).cores == ()


@pytest.mark.parametrize(
    ("part", "implementer", "name"),
    [
        (0xD0B, 0x41, "Cortex-A76"),
        (0x003, 0x4E, "Denver 2"),
        (0x004, 0x4E, "Carmel"),
        (0xAC3, 0xC0, "Ampere-1"),
        (0x023, 0x61, "Firestorm"),
        (0x804, 0x51, "Kryo 4xx Gold"),
        (0xD01, 0x48, "TaiShan v110"),
        (0xFFF, 0x41, ""),
        (0x001, 0xEE, ""),
    ],
)
def test_arm_cores_by_number(part: int, implementer: int, name: str) -> None:
    """Unknown ones have no name, and are cores all the same."""
    cpu = cpu_of(arm_cpuinfo(part, implementer=implementer))
    assert (cpu.arch, cpu.microarchitecture, cpu.cpus) == ("aarch64", name, 1)
