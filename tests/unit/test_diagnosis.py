"""What is brought up about a box, and what is not."""

import re

import pytest

from agent.findings import Severity
from agent.hardware.cpu.riscv import DRAFT_VECTOR_CORE
from agent.hardware.diagnosis import diagnose
from agent.hardware.machine import Board, Cluster, Cpu, Heat, Machine, Memory, Power

MIB = 1 << 20
GIB = 1 << 30
X86 = ("sse2", "ssse3", "sse4_2", "avx", "avx2")
PI4 = Cpu(arch="aarch64", microarchitecture="Cortex-A72", features=("neon",), is_64bit=True)
GOOD = Cpu(arch="x86_64", microarchitecture="Zen 4", features=X86, is_64bit=True)
BIG_LITTLE = (
    Cluster(microarchitecture="Cortex-A76", cpus=4),
    Cluster(microarchitecture="Cortex-A55", cpus=4),
)

CASES = {
    "nothing about a good box": (Machine(cpu=GOOD, memory=Memory(total_bytes=8 * GIB, swap_bytes=0)), {}),
    "nothing where nothing is told": (Machine(cpu=Cpu(arch="")), {}),
    "ARMv6": (Machine(cpu=Cpu(arch="armv6l", is_64bit=False)), {"cpu_without_neon": "error"}),
    "a 32-bit ARM": (
        Machine(cpu=Cpu(arch="armv7l", features=("neon",), is_64bit=False)),
        {"cpu_32bit": "error"},
    ),
    "a Tegra 2": (
        Machine(cpu=Cpu(arch="armv7l", is_64bit=False)),
        {"cpu_32bit": "error", "cpu_without_neon": "error"},
    ),
    "a 32-bit Atom": (
        Machine(cpu=Cpu(arch="i686", features=("sse2",), is_64bit=False)),
        {"cpu_32bit": "error"},
    ),
    "a 32-bit system on a 64-bit core": (
        Machine(cpu=Cpu(arch="armv7l", features=("neon",), is_64bit=True)),
        {"system_32bit": "warning"},
    ),
    "no AVX": (Machine(cpu=Cpu(arch="x86_64", features=X86[:3])), {"cpu_without_avx": "warning"}),
    "no AVX2": (Machine(cpu=Cpu(arch="x86_64", features=X86[:4])), {"cpu_without_avx2": "warning"}),
    "no dot product": (Machine(cpu=PI4), {"cpu_without_dotprod": "note"}),
    "POWER": (Machine(cpu=Cpu(arch="ppc64le")), {"no_build_for_architecture": "warning"}),
    "the vector draft by its core": (
        Machine(cpu=Cpu(arch="riscv64", features=("rvv",), microarchitecture=DRAFT_VECTOR_CORE)),
        {"no_build_for_architecture": "warning", "vector_draft": "warning"},
    ),
    "the vector draft by its chip": (
        Machine(cpu=Cpu(arch="riscv64", features=("rvv",)), board=Board(compatible=("thead,th1520",))),
        {"no_build_for_architecture": "warning", "vector_draft": "warning"},
    ),
    "the ratified vector": (
        Machine(cpu=Cpu(arch="riscv64", features=("rvv",)), board=Board(compatible=("spacemit,k1",))),
        {"no_build_for_architecture": "warning"},
    ),
    "big and little cores": (
        Machine(cpu=Cpu(arch="aarch64", features=("neon", "dotprod"), clusters=BIG_LITTLE)),
        {"mixed_cores": "note"},
    ),
    "cores that are off": (Machine(cpu=Cpu(arch="x86_64", cpus=2, offline=2)), {"offline_cores": "warning"}),
    "hardly any memory": (
        Machine(cpu=GOOD, memory=Memory(total_bytes=256 * MIB, swap_bytes=GIB)),
        {"too_little_memory": "error"},
    ),
    "a tight container": (
        Machine(cpu=GOOD, memory=Memory(total_bytes=8 * GIB, limit_bytes=256 * MIB, swap_bytes=GIB)),
        {"too_little_memory": "error"},
    ),
    "a tight container without swap": (
        Machine(cpu=GOOD, memory=Memory(total_bytes=8 * GIB, limit_bytes=512 * MIB, swap_bytes=0)),
        {"little_memory": "note"},
    ),
    "a roomy container": (
        Machine(cpu=GOOD, memory=Memory(total_bytes=8 * GIB, limit_bytes=2 * GIB)),
        {"memory_limited": "note"},
    ),
    "little memory without swap": (
        Machine(cpu=GOOD, memory=Memory(total_bytes=512 * MIB, swap_bytes=0)),
        {"little_memory": "note", "no_swap": "note"},
    ),
    "swap on zram": (
        Machine(cpu=GOOD, memory=Memory(total_bytes=4 * GIB, swap_bytes=GIB, zram_bytes=GIB)),
        {"swap_on_zram": "note"},
    ),
    "throttled, and too little voltage": (
        Machine(
            cpu=GOOD, heat=Heat(celsius=84.0, trip_celsius=85.0, throttled=("under_voltage", "throttled"))
        ),
        {"under_voltage": "warning", "throttled": "warning"},
    ),
    "throttled before": (
        Machine(cpu=GOOD, heat=Heat(celsius=50.0, throttled_before=("throttled",))),
        {"throttled_before": "warning"},
    ),
    "low voltage before": (
        Machine(cpu=GOOD, heat=Heat(throttled_before=("under_voltage",))),
        {"under_voltage_before": "warning"},
    ),
    "hot": (Machine(cpu=GOOD, heat=Heat(celsius=82.0, trip_celsius=85.0)), {"hot": "warning"}),
    "warm": (Machine(cpu=GOOD, heat=Heat(celsius=70.0, trip_celsius=85.0)), {}),
    "on battery": (
        Machine(cpu=GOOD, power=Power(source="battery", battery_percent=80)),
        {"on_battery": "note"},
    ),
    "an empty battery": (
        Machine(cpu=GOOD, power=Power(source="battery", battery_percent=5)),
        {"on_battery": "warning"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_findings(case: str) -> None:
    """Each with its weight, and nothing besides."""
    machine, expected = CASES[case]
    assert {finding.code: finding.severity.value for finding in diagnose(machine)} == expected


def test_findings_read_as_sentences_with_a_step() -> None:
    """Codes are for programs; whoever is warned is told what to do."""
    findings = [finding for machine, _ in CASES.values() for finding in diagnose(machine)]
    for finding in findings:
        assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", finding.code)
        assert finding.what
        assert not finding.what.endswith(".")
        assert finding.remedy or finding.severity is Severity.NOTE


def test_the_remedy_is_the_boards_own() -> None:
    """A Raspberry Pi 4 has a successor."""
    on_a_pi = diagnose(Machine(cpu=PI4, board=Board(family="raspberry-pi")))
    assert "Raspberry Pi 5" in on_a_pi[0].remedy
    assert "Raspberry Pi 5" not in diagnose(Machine(cpu=PI4))[0].remedy
