"""Recordings of real boxes: every row of the index of dumps, read through the one door."""

from pathlib import Path

import pytest
from msgspec import Struct

from agent.errors import ProbeError
from agent.hardware.probe import probe

DUMPS = Path(__file__).parents[3] / "shared" / "devices"
TREES, TEXTS, CPUINFO = "derived/fsroot", "derived/sbc-bench", "ThomasKaiser_sbc-bench/results/cpuinfo"
VOCABULARY = {
    "neon", "dotprod", "fp16", "i8mm", "bf16", "sve", "sve2", "sse2", "ssse3", "sse4_2", "avx", "f16c", "fma",
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "rvv",
}  # fmt: skip
SSE4 = "sse2 ssse3 sse4_2"
AVX2 = f"{SSE4} avx f16c fma avx2"
GIB = 1 << 30
MIB = 1 << 20
# `free -h` rounds to two digits.
ROUNDING = 0.05

pytestmark = pytest.mark.skipif(not DUMPS.exists(), reason="no recorded machines here")


class Row(Struct, frozen=True):
    """What a recording has to come out as; `total` in bytes, None where the dump does not say."""

    path: str
    arch: str
    cpus: int
    cores: int
    features: str
    total: float | None = None
    family: str = ""


ROWS = (
    Row(f"{TEXTS}/461n", "i686", 2, 1, "sse2 ssse3", 992 * MIB, "pc"),
    Row(f"{TEXTS}/1HnC", "x86_64", 4, 4, SSE4, 1.9 * GIB, "pc"),
    Row(f"{TEXTS}/3HUd", "x86_64", 4, 4, SSE4, 7.6 * GIB, "pc"),
    Row(f"{TREES}/5intel64-hybrid-lakefield", "x86_64", 5, 5, SSE4, 3857124 * 1024, "pc"),
    Row(f"{TREES}/x86_64-dell_e4310", "x86_64", 4, 2, SSE4, None, "pc"),
    Row(f"{TREES}/40intel64-2g2n4c+pcilocality", "x86_64", 40, 40, SSE4, 529428392 * 1024, "pc"),
    # Two threads of a Piledriver module share its vector unit.
    Row(f"{TREES}/vmware_fpe", "x86_64", 16, 8, f"{SSE4} avx f16c fma", None, "pc"),
    Row(f"{TEXTS}/2tQQ", "x86_64", 4, 2, AVX2, 3.3 * GIB, "pc"),
    Row(f"{TEXTS}/4E5J", "x86_64", 16, 12, f"{AVX2} avx_vnni", 31 * GIB, "pc"),
    Row(f"{TREES}/32intel64-2p8co2t+8ve", "x86_64", 32, 16, f"{AVX2} avx512f", 97445600 * 1024, "pc"),
    Row(
        f"{TEXTS}/8hUb", "x86_64", 32, 16, f"{AVX2} avx512f avx512_vnni avx_vnni avx512_bf16", 125 * GIB, "pc"
    ),
    Row(f"{CPUINFO}/BCM2835-5.10.63+.cpuinfo", "armv6l", 1, 1, "", None, "raspberry-pi"),
    Row(f"{TEXTS}/3Njz", "armv6l", 1, 1, "", 477 * MIB, "raspberry-pi"),
    Row(f"{CPUINFO}/BCM2837_BCM2709-4.1.19-v7.cpuinfo", "armv7l", 4, 4, "neon", None, "raspberry-pi"),
    Row(f"{TEXTS}/3DeL", "armv7l", 4, 4, "neon", 427 * MIB, "raspberry-pi"),
    Row(f"{TEXTS}/2Cyi", "armv7l", 4, 4, "neon", 3.7 * GIB, "raspberry-pi"),
    Row(f"{CPUINFO}/Nvidia-Tegra-K1-Tegra124-3.10.40.cpuinfo", "armv7l", 4, 4, "neon", None, "jetson"),
    Row(f"{CPUINFO}/Nvidia-Jetson-TX2-4.4.15-tegra-mode-0.cpuinfo", "aarch64", 6, 6, "neon"),
    Row(f"{TEXTS}/4rLX", "aarch64", 4, 4, "neon", 3.9 * GIB, "jetson"),
    Row(f"{TEXTS}/3Ufc", "aarch64", 4, 4, "neon", 1.9 * GIB, "jetson"),
    Row(f"{TEXTS}/4ebH", "aarch64", 8, 8, "neon fp16", 31 * GIB, "jetson"),
    Row(f"{TEXTS}/4Ebd", "aarch64", 6, 6, "neon dotprod fp16", 7.2 * GIB, "jetson"),
    Row(f"{TEXTS}/87lq", "aarch64", 6, 6, "neon dotprod fp16", 7.4 * GIB, "jetson"),
    Row(
        f"{TREES}/nvidia-dgx-gb10",
        "aarch64",
        20,
        20,
        "neon dotprod i8mm bf16 sve sve2 fp16",
        125508468 * 1024,
        "dgx",
    ),
    Row(f"{TEXTS}/4D0a", "aarch64", 8, 8, "neon dotprod fp16", 7.8 * GIB, "rockchip"),
    Row(f"{CPUINFO}/RK3588-5.10.66.cpuinfo", "aarch64", 8, 8, "neon dotprod fp16"),
    Row(f"{CPUINFO}/RK3568-5.16.17-rk35xx.cpuinfo", "aarch64", 4, 4, "neon dotprod fp16"),
    Row(f"{CPUINFO}/Qualcomm-QCS6490-6.15.7.cpuinfo", "aarch64", 8, 8, "neon dotprod fp16"),
    Row(f"{CPUINFO}/Qualcomm-Snapdragon-8-Gen-3.cpuinfo", "aarch64", 8, 8, "neon dotprod i8mm bf16 fp16"),
    Row(f"{TEXTS}/3GnC", "armv7l", 8, 8, "neon", 1.9 * GIB, "exynos"),
    Row(f"{CPUINFO}/AWS-Graviton.cpuinfo", "aarch64", 16, 16, "neon"),
    Row(
        f"{CPUINFO}/AWS-c7g.medium-Graviton3-5.11.12-300.fc34.aarch64.cpuinfo",
        "aarch64",
        1,
        1,
        "neon dotprod i8mm bf16 sve fp16",
    ),
    Row(f"{TEXTS}/XUpQ", "aarch64", 192, 192, "neon dotprod i8mm bf16 fp16", 510 * GIB),
    Row(f"{CPUINFO}/Apple-M1.cpuinfo", "aarch64", 8, 8, "neon dotprod fp16"),
    Row(f"{TEXTS}/4sjK", "aarch64", 10, 10, "neon dotprod fp16", 3.8 * GIB, "virtual"),
    Row(f"{TREES}/rv64-visionfive2", "riscv64", 4, 4, ""),
    Row(f"{TREES}/rv64-milkvpioneer", "riscv64", 64, 64, "rvv"),
    Row(f"{TREES}/ppc64-POWER7", "ppc64", 16, 16, ""),
    Row(f"{TREES}/loongarch-loongson_3a5000_hv", "loongarch64", 4, 4, ""),
    Row(
        "sysctl/sysctl_hw_M1_MacBookAir_J313_16GB.txt",
        "aarch64",
        8,
        8,
        "neon dotprod fp16",
        16 * GIB,
        "apple",
    ),
    Row(
        "sysctl/sysctl_hw_M3Max_MacBookPro_J516c_128GB.txt",
        "aarch64",
        16,
        16,
        "neon dotprod fp16 i8mm bf16",
        128 * GIB,
        "apple",
    ),
    Row(
        "excerpts/sysctl/machdep.cpu_M1Pro_macOS26.txt", "aarch64", 10, 10, "neon dotprod fp16", None, "apple"
    ),
    Row(
        "excerpts/cpuinfo/xeon-8480C-sapphire-rapids_dgx-h100_one-cpu.txt",
        "x86_64",
        1,
        1,
        f"{AVX2} avx512f avx512_vnni avx_vnni avx512_bf16",
        None,
        "pc",
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.path.rsplit("/", 1)[1])
def test_a_recorded_box_is_told_as_it_is(row: Row) -> None:
    """Architecture, CPUs, cores, extensions, memory and family, each exactly."""
    if not (DUMPS / row.path).exists():
        pytest.skip("this recording is not here")
    machine = probe(DUMPS / row.path)
    cpu = machine.cpu
    assert (cpu.arch, cpu.cpus, cpu.cores) == (row.arch, row.cpus, row.cores)
    assert set(cpu.features) & VOCABULARY == set(row.features.split())
    assert machine.board.family == row.family
    total = machine.memory.total_bytes
    assert (total is None) == (row.total is None)
    if row.total is not None:
        assert total == pytest.approx(row.total, rel=ROUNDING)


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        (f"{TEXTS}/4D0a", {"Cortex-A76": 4, "Cortex-A55": 4}),
        (f"{CPUINFO}/RK3588-5.10.66.cpuinfo", {"Cortex-A76": 4, "Cortex-A55": 4}),
        (f"{CPUINFO}/Nvidia-Jetson-TX2-4.4.15-tegra-mode-0.cpuinfo", {"Cortex-A57": 4, "Denver 2": 2}),
        (f"{TREES}/nvidia-dgx-gb10", {"Cortex-X925": 10, "Cortex-A725": 10}),
        (f"{TEXTS}/4E5J", {"Raptor Cove": 8, "Gracemont": 8}),
        (f"{TEXTS}/4ebH", {"Carmel": 8}),
    ],
)
def test_kinds_of_cores_are_counted_fast_ones_first(path: str, kinds: dict[str, int]) -> None:
    """Whether the dump is a cpuinfo or an lscpu."""
    if not (DUMPS / path).exists():
        pytest.skip("this recording is not here")
    clusters = probe(DUMPS / path).cpu.clusters
    assert [(kind.microarchitecture, kind.cpus) for kind in clusters] == list(kinds.items())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"{TEXTS}/87lq", "AAEON BOXER-8654AI_RefKit platform"),
        (f"{CPUINFO}/BCM2835-5.10.63+.cpuinfo", "Raspberry Pi Model B Rev 2"),
        (f"{CPUINFO}/BCM2837_BCM2709-4.1.19-v7.cpuinfo", "Raspberry Pi 3 Model B"),
        (f"{TREES}/nvidia-dgx-gb10", "NVIDIA DGX Spark"),
        (f"{TREES}/40intel64-2g2n4c+pcilocality", "Dell Inc. PowerEdge R910"),
    ],
)
def test_boards_have_their_own_names(path: str, name: str) -> None:
    """Not BCM2835, not a stray backtick, not the vendor twice."""
    if not (DUMPS / path).exists():
        pytest.skip("this recording is not here")
    assert probe(DUMPS / path).board.name == name


def test_whatever_lies_beside_the_dumps_is_read_or_refused_by_name() -> None:
    """Every file and folder: a Machine, or a ProbeError that names it and the next step."""
    num_read = 0
    for path in sorted(DUMPS.rglob("*")):
        try:
            probe(path)
            num_read += 1
        except ProbeError as error:
            assert str(path) in str(error)
            assert "; " in str(error)
    assert num_read > len(ROWS)
