"""ARM cores by implementer and part, the numbers of MIDR_EL1.

Sources: Linux's arch/arm64/include/asm/cputype.h, util-linux's sys-utils/lscpu-arm.c, and the
Technical Reference Manuals of Arm's cores.
"""

from typing import NamedTuple

ARM = {
    0x926: "ARM926", 0xB02: "ARM11 MPCore", 0xB36: "ARM1136", 0xB56: "ARM1156", 0xB76: "ARM1176",
    0xC05: "Cortex-A5", 0xC07: "Cortex-A7", 0xC08: "Cortex-A8", 0xC09: "Cortex-A9", 0xC0D: "Cortex-A17",
    0xC0E: "Cortex-A17", 0xC0F: "Cortex-A15", 0xD01: "Cortex-A32", 0xD02: "Cortex-A34", 0xD03: "Cortex-A53",
    0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD06: "Cortex-A65", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
    0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77",
    0xD0E: "Cortex-A76AE", 0xD40: "Neoverse-V1", 0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE",
    0xD43: "Cortex-A65AE", 0xD44: "Cortex-X1", 0xD46: "Cortex-A510", 0xD47: "Cortex-A710",
    0xD48: "Cortex-X2", 0xD49: "Neoverse-N2", 0xD4A: "Neoverse-E1", 0xD4B: "Cortex-A78C",
    0xD4C: "Cortex-X1C", 0xD4D: "Cortex-A715", 0xD4E: "Cortex-X3", 0xD4F: "Neoverse-V2",
    0xD80: "Cortex-A520", 0xD81: "Cortex-A720", 0xD82: "Cortex-X4", 0xD83: "Neoverse-V3AE",
    0xD84: "Neoverse-V3", 0xD85: "Cortex-X925", 0xD87: "Cortex-A725", 0xD88: "Cortex-A520AE",
    0xD89: "Cortex-A720AE", 0xD8A: "C1-Nano", 0xD8B: "C1-Pro", 0xD8C: "C1-Ultra", 0xD8E: "Neoverse-N3",
    0xD8F: "Cortex-A320", 0xD90: "C1-Premium",
}  # fmt: skip
APPLE = {
    0x001: "Cyclone", 0x002: "Typhoon", 0x004: "Twister", 0x006: "Hurricane", 0x008: "Monsoon",
    0x009: "Mistral", 0x00B: "Vortex", 0x00C: "Tempest", 0x012: "Lightning", 0x013: "Thunder",
    0x020: "Icestorm", 0x021: "Firestorm", 0x022: "Icestorm", 0x023: "Firestorm", 0x024: "Icestorm",
    0x025: "Firestorm", 0x028: "Icestorm", 0x029: "Firestorm", 0x030: "Blizzard", 0x031: "Avalanche",
    0x032: "Blizzard", 0x033: "Avalanche", 0x034: "Blizzard", 0x035: "Avalanche", 0x038: "Blizzard",
    0x039: "Avalanche", 0x042: "M3 efficiency", 0x043: "M3 performance", 0x044: "M3 efficiency",
    0x045: "M3 performance", 0x048: "M3 efficiency", 0x049: "M3 performance", 0x052: "M4 efficiency",
    0x053: "M4 performance", 0x054: "M4 efficiency", 0x055: "M4 performance", 0x058: "M4 efficiency",
    0x059: "M4 performance",
}  # fmt: skip
QUALCOMM = {
    0x00F: "Scorpion", 0x02D: "Scorpion", 0x04D: "Krait", 0x06F: "Krait", 0x001: "Oryon", 0x002: "Oryon",
    0x201: "Kryo", 0x205: "Kryo", 0x211: "Kryo", 0x800: "Kryo 2xx Gold", 0x801: "Kryo 2xx Silver",
    0x802: "Kryo 3xx Gold", 0x803: "Kryo 3xx Silver", 0x804: "Kryo 4xx Gold", 0x805: "Kryo 4xx Silver",
    0xC00: "Falkor", 0xC01: "Saphira",
}  # fmt: skip
# Implementer -> its name and its parts.
IMPLEMENTERS: dict[int, tuple[str, dict[int, str]]] = {
    0x41: ("ARM", ARM),
    0x42: ("Broadcom", {0x00F: "Brahma-B15", 0x100: "Brahma-B53", 0x516: "ThunderX2"}),
    0x43: ("Cavium", {0x0A0: "ThunderX", 0x0A1: "ThunderX", 0x0A2: "OcteonTX", 0x0A3: "OcteonTX",
                      0x0AF: "ThunderX2", 0x0B0: "OcteonTX2", 0x0B1: "OcteonTX2", 0x0B8: "ThunderX3"}),
    0x44: ("DEC", {}),
    0x46: ("Fujitsu", {0x001: "A64FX", 0x003: "MONAKA"}),
    0x48: ("HiSilicon", {0xD01: "TaiShan v110", 0xD02: "TaiShan v120", 0xD22: "TaiShan v120 little",
                         0xD40: "Cortex-A76", 0xD41: "Cortex-A77", 0xD42: "TaiShan v200"}),
    0x4E: ("NVIDIA", {0x000: "Denver", 0x003: "Denver 2", 0x004: "Carmel", 0x010: "Olympus"}),
    0x50: ("APM", {0x000: "X-Gene"}),
    0x51: ("Qualcomm", QUALCOMM),
    0x53: ("Samsung", {0x001: "Exynos M1", 0x002: "Exynos M3", 0x003: "Exynos M4", 0x004: "Exynos M5"}),
    0x56: ("Marvell", {0x131: "Feroceon", 0x581: "PJ4", 0x584: "PJ4B"}),
    0x61: ("Apple", APPLE),
    0x66: ("Faraday", {0x526: "FA526", 0x626: "FA626"}),
    0x69: ("Intel", {}),
    0x6D: ("Microsoft", {0xD49: "Azure Cobalt 100"}),
    0x70: ("Phytium", {0x303: "FTC310", 0x660: "FTC660", 0x661: "FTC661", 0x662: "FTC662", 0x663: "FTC663",
                       0x664: "FTC664", 0x862: "FTC862"}),
    0xC0: ("Ampere", {0xAC3: "Ampere-1", 0xAC4: "Ampere-1a", 0xAC5: "Ampere-1b"}),
}  # fmt: skip
ONLY_32_BIT = {
    "ARM926", "ARM11 MPCore", "ARM1136", "ARM1156", "ARM1176", "Cortex-A5", "Cortex-A7", "Cortex-A8",
    "Cortex-A9", "Cortex-A15", "Cortex-A17", "Cortex-A32", "Scorpion", "Krait", "Brahma-B15", "Feroceon",
    "PJ4", "PJ4B", "FA526", "FA626",
}  # fmt: skip
# Cores that are the slow ones wherever they stand beside others.
LITTLE = {
    "Cortex-A7", "Cortex-A34", "Cortex-A35", "Cortex-A53", "Cortex-A55", "Cortex-A510", "Cortex-A520",
    "Cortex-A520AE", "C1-Nano", "Icestorm", "Blizzard", "M3 efficiency", "M4 efficiency", "Kryo 2xx Silver",
    "Kryo 3xx Silver", "Kryo 4xx Silver", "TaiShan v120 little", "Mistral", "Tempest", "Thunder", "FTC310",
}  # fmt: skip
PRIME = ("Cortex-X", "C1-Ultra", "C1-Premium")
NAMES = {name for _, parts in IMPLEMENTERS.values() for name in parts.values()}


class ArmCore(NamedTuple):
    """Who designed a core, and its name; "" where the tables do not know."""

    vendor: str
    name: str


def look_up(implementer: int | None, part: int | None) -> ArmCore:
    """The core of these numbers."""
    vendor, parts = IMPLEMENTERS.get(implementer or 0, ("", {}))
    return ArmCore(vendor, parts.get(part if part is not None else -1, ""))


def is_64bit(name: str) -> bool | None:
    """Whether a core of this name runs 64-bit code; None for a name that is not known."""
    return name not in ONLY_32_BIT if name in NAMES else None


def rank(name: str) -> int:
    """0 for the fastest kind of a box, 2 for the slow one: an order where the kernel tells no capacity."""
    if name.startswith(PRIME):
        return 0
    return 2 if name in LITTLE else 1
