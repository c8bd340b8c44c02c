"""Families of boards: what decides how a box is cooled, cut and computed on.

Told by the device tree's `compatible` first, which names the chip; names are for dumps without one.
"""

import re

# The beginning of a word in `compatible` -> family. Chips stand before their makers' other lines.
BY_COMPATIBLE = (
    ("raspberrypi,", "raspberry-pi"),
    ("brcm,bcm2", "raspberry-pi"),
    ("nvidia,tegra", "jetson"),
    ("nvidia,p3", "jetson"),
    ("rockchip,", "rockchip"),
    ("allwinner,", "allwinner"),
    ("amlogic,", "amlogic"),
    ("samsung,exynos", "exynos"),
    ("qcom,", "qualcomm"),
    ("apple,", "apple"),
    ("starfive,", "starfive"),
    ("sophgo,", "sophgo"),
    ("cvitek,", "sophgo"),
    ("thead,", "thead"),
    ("xuantie,", "thead"),
    ("spacemit,", "spacemit"),
    ("ky,x1", "spacemit"),
    ("sifive,", "sifive"),
    ("canaan,", "canaan"),
    ("microchip,", "microchip"),
    ("mediatek,", "mediatek"),
    ("fsl,", "nxp"),
    ("nxp,", "nxp"),
    ("ti,", "ti"),
    ("xlnx,", "xilinx"),
    ("st,stm32", "stm32"),
    ("renesas,", "renesas"),
    ("marvell,", "marvell"),
    ("hisilicon,", "hisilicon"),
    ("realtek,", "realtek"),
    ("google,", "tensor"),
    ("cix,", "cix"),
    ("linux,dummy-virt", "virtual"),
    ("qemu,", "virtual"),
    ("riscv-virtio", "virtual"),
)
# In names of boards and chips, lower case.
BY_NAME = tuple(
    (re.compile(pattern), family)
    for pattern, family in (
        (r"raspberry|bcm27\d\d|bcm2835|compute module [345]", "raspberry-pi"),
        (r"jetson|tegra|nvidia orin|\borin\b|agx|boxer-8\d", "jetson"),
        (r"dgx.?spark|gb10", "dgx"),
        (r"virtual|qemu|kvm|vmware|bochs|xen\b|hyper-v|hvm domu|amazon ec2|google compute engine", "virtual"),
        (r"odroid.?(xu|hc1|mc1)|exynos", "exynos"),
        (r"rockchip|\brk3\d\d\d|rock ?(pi|4|5|3)|orange pi (5|4|cm4|cm5|3b)|nanopc-t[46]"
         r"|nanopi (r[2-6]|m[45])", "rockchip"),
        (r"khadas vim|odroid.?(n2|c[124]|m2)|amlogic|meson", "amlogic"),
        (r"allwinner|\bsun\d+i|orange pi|banana pi|pine64|nanopi", "allwinner"),
        (r"snapdragon|qualcomm|dragonboard|\bsm8\d\d\d|\bsc8\d|\bqcs\d|\bqcm\d|rb[35]", "qualcomm"),
        (r"visionfive|starfive", "starfive"),
        (r"milk-?v (pioneer|duo)|sg20\d\d|sophgo", "sophgo"),
        (r"licheepi|beaglev-ahead|th1520", "thead"),
        (r"mediatek|\bmt\d{4}", "mediatek"),
        (r"freescale|i\.mx", "nxp"),
        (r"beaglebone|am33xx|omap|\bti am", "ti"),
        (r"^macbook|^macmini|^mac studio|^mac1|^imac|^apple (mac|imac)", "apple"),
    )
)  # fmt: skip


def by_compatible(words: tuple[str, ...]) -> str:
    """The family of a device tree; "" where none is known. The last words, which name the chip, first."""
    for word in reversed(words):
        for beginning, family in BY_COMPATIBLE:
            if word.startswith(beginning):
                return family
    return ""


def by_name(name: str) -> str:
    """The family that a board's or chip's name gives away; "" where none is known."""
    return next((family for pattern, family in BY_NAME if pattern.search(name.lower())), "")
