"""The GPU that comes with a system on a chip, told by device tree, board name or cores.

It is a fact of the chip, whether a driver for it is there or not. Capabilities: NVIDIA's table of CUDA GPUs.
"""

import re

from msgspec import Struct

from agent.hardware.gpu.vendors import of_name
from agent.hardware.machine import Board, Cpu, Gpu


class Soc(Struct, frozen=True):
    """`chips` begin an entry of the device tree's `compatible`; `boards` matches a board's name."""

    chips: tuple[str, ...]
    boards: str
    gpu: Gpu


def _part(name: str, capability: str = "") -> Gpu:
    """A GPU that shares the RAM with the CPU, as all of these do."""
    vendor = of_name(name)
    return Gpu(
        name=name,
        vendor=vendor,
        api="cuda" if vendor == "nvidia" else "vulkan",
        kind="integrated",
        compute_capability=capability,
        is_unified=True,
    )


TX2 = _part("NVIDIA Pascal GP10B", "6.2")
XAVIER = _part("NVIDIA Volta GV11B", "7.2")
GB10 = _part("NVIDIA GB10 (Blackwell)", "12.1")
JH7110 = _part("PowerVR IMG BXE-4-32")
APPLE = _part("Apple AGX")
METAL = Gpu(name="Apple GPU", vendor="apple", api="metal", kind="integrated", is_unified=True)

# The first match wins: narrower names stand before wider ones.
SOCS = (
    Soc(("tegra124",), r"jetson[- ]tk1", _part("NVIDIA Kepler GK20A", "3.2")),
    Soc(("tegra210",), r"jetson[- ](nano|tx1)", _part("NVIDIA Maxwell GM20B", "5.3")),
    Soc(("tegra186",), r"jetson[- ]tx2|quill", TX2),
    Soc(("tegra234", "tegra23x"), r"\borin\b", _part("NVIDIA Ampere GA10B", "8.7")),
    Soc(("tegra264",), r"\bthor\b", _part("NVIDIA Thor (Blackwell)", "11.0")),
    Soc(("tegra194",), r"xavier|jetson[- ]agx", XAVIER),
    Soc(("gb10",), r"dgx.spark", GB10),
    Soc(("bcm2712",), r"raspberry pi (5|cm5|compute module 5)", _part("VideoCore VII (V3D 7.1)")),
    Soc(("bcm2711",), r"raspberry pi (4|cm4|compute module 4)|bcm2711", _part("VideoCore VI (V3D 4.2)")),
    Soc(
        ("bcm2835", "bcm2836", "bcm2837", "bcm2708", "bcm2709", "bcm2710"),
        r"raspberry pi|bcm27(08|09|10)|bcm283[567]",
        _part("VideoCore IV"),
    ),
    Soc(("rk3588", "rk3582"), r"rk3588|orange pi 5|rock[- ]5\b", _part("Mali-G610")),
    Soc(("rk3566", "rk3568"), r"rk356[68]", _part("Mali-G52")),
    Soc(("rk3399",), r"rk3399|rockpro64", _part("Mali-T860")),
    Soc(("exynos5422", "exynos5800", "odroidxu"), r"odroid[- ]?(xu[34]|hc[12]|mc1)", _part("Mali-T628")),
    Soc(("qcs6490", "qcm6490", "sc7280"), r"qcs6490|rubik pi 3|dragon q6a", _part("Adreno 643")),
    Soc(("sm8650",), r"sm8650|snapdragon 8 gen 3", _part("Adreno 750")),
    Soc(("jh7110",), r"jh7110|visionfive 2|star64|milk-v mars", JH7110),
    Soc(("th1520", "light-"), r"th1520|lichee ?pi ?4a|beaglev-ahead", _part("PowerVR BXM-4-64")),
    Soc(("k1",), r"spacemit k1|banana ?pi[- ]f3|bpi-f3|orange ?pi rv2", _part("PowerVR BXE-2-32")),
    Soc(("sun50i-h616", "sun50i-h618"), r"\bh61[68]\b|orange ?pi ?zero ?[23]", _part("Mali-G31")),
    Soc(("am625", "am62x"), r"\bam625|beagleplay", _part("PowerVR AXE-1-16M")),
    Soc(("am33", "am335"), r"\bam33|beaglebone", _part("PowerVR SGX530")),
    *(
        Soc(chips, rf"\b({'|'.join(chips)})", _part(name))
        for name, chips in (
            ("Mali-G57", ("mt8195", "mt8395", "mt8188", "mt8390", "sun55i")),
            ("Mali-G72", ("mt8183",)),
            ("Mali-G52", ("rk3576", "rk3562", "s922x", "a311d", "g12b", "mt8365")),
            ("Mali-G31", ("rk3326", "px30", "s905x3", "s905d3", "s905y2", "s905x2", "sm1", "g12a")),
            ("Mali-T820", ("s912", "gxm")),
            ("Mali-T764", ("rk3288",)),
            ("Mali-T720", ("sun50i-h6",)),
            ("Mali-450", ("rk3328", "rk3528", "sun50i-h5", "gxbb", "gxl")),
            ("Mali-400", ("sun50i-a64", "sun7i", "sun8i-h3", "sun8i-h2")),
            ("Mali-G310", ("imx95",)),
            ("Immortalis-G720", ("sky1",)),
            ("Adreno X1-85", ("x1e7", "x1e8")),
            ("Adreno X1-45", ("x1p4", "x1p6")),
            ("Adreno 740", ("sm8550", "qcs8550")),
            ("Adreno 690", ("sc8280",)),
            ("Adreno 663", ("sa8775", "qcs9100")),
            ("Adreno 650", ("sm8250", "qrb5165")),
            ("Adreno 630", ("sdm845",)),
            ("Adreno 610", ("sm6115", "qrb4210")),
            ("Adreno 702", ("qrb2210", "qcm2290")),
            ("Adreno 530", ("msm8996", "apq8096")),
            ("Adreno 306", ("msm8916", "apq8016")),
            ("Vivante GC7000", ("imx8mp", "imx8mn", "imx8mq", "imx8q")),
            ("Vivante GCNanoUltra", ("imx8mm",)),
            ("Vivante GC2000", ("imx6q",)),
            ("PowerVR BXS-4-64", ("am62p", "am67", "j722s", "am68", "j721s2")),
            ("PowerVR AXM-8-256", ("eic770",)),
        )
    ),
)


def gpu(cpu: Cpu, board: Board) -> Gpu | None:
    """The GPU on the chip, or None where none is known. Raises nothing."""
    return _of_compatible(board) or _of_name(board) or _of_cores(cpu, board)


def cores(cpu: Cpu) -> list[str]:
    """The microarchitectures, in lower case and without what people spell differently: cortexa76, denver2."""
    names = [cluster.microarchitecture for cluster in cpu.clusters] or [cpu.microarchitecture]
    return [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]


def _of_compatible(board: Board) -> Gpu | None:
    chips = [entry.rpartition(",")[2].lower() for entry in board.compatible]
    if any(entry.startswith("apple,") for entry in board.compatible):
        return APPLE
    return next((soc.gpu for soc in SOCS if any(chip.startswith(soc.chips) for chip in chips)), None)


def _of_name(board: Board) -> Gpu | None:
    text = f"{board.name} {board.vendor}".lower().replace("_", " ")
    return next((soc.gpu for soc in SOCS if re.search(soc.boards, text)), None)


def _of_cores(cpu: Cpu, board: Board) -> Gpu | None:
    """Some chips are the only ones with their cores."""
    names = set(cores(cpu))
    if cpu.vendor.lower() == "apple":
        return METAL if _is_macos(cpu, board) else APPLE
    if any("denver" in name for name in names):
        return TX2
    if any("carmel" in name for name in names):
        return XAVIER
    if {"cortexx925", "cortexa725"} <= names and cpu.cpus == 20:
        return GB10
    if (_count(cpu, "X4"), _count(cpu, "A720"), _count(cpu, "A520")) == (1, 5, 2):
        return _part("Adreno 750")
    # SiFive's own chip with four U74 has no GPU.
    is_jh7110 = cpu.cpus == 4 and not board.compatible and any("u74" in name for name in names)
    return JH7110 if is_jh7110 else None


def _is_macos(cpu: Cpu, board: Board) -> bool:
    """Linux has no name for Apple's chips, but a device tree; macOS the other way round."""
    return cpu.arch == "arm64" or (bool(cpu.model or board.name) and not board.compatible)


def _count(cpu: Cpu, name: str) -> int:
    return sum(cluster.cpus for cluster in cpu.clusters if cluster.microarchitecture == f"Cortex-{name}")
