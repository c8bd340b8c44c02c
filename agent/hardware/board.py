"""Which board this is: from the device tree, from DMI, from cpuinfo's last lines, or from a note."""

import re
from pathlib import Path

from agent.hardware import families, raspberry_pi
from agent.hardware.cpu.cpuinfo import CpuInfo
from agent.hardware.machine import Board
from agent.hardware.text import clean, read, read_clean

DEVICE_TREES = (Path("proc/device-tree"), Path("sys/firmware/devicetree/base"))
DMI = (Path("sys/class/dmi/id"), Path("sys/devices/virtual/dmi/id"))
# What makers leave in DMI.
UNFILLED = re.compile(
    r"to be filled|default string|system (product|manufacturer|version)|o\.e\.m"
    r"|not (applicable|specified|available)|^(none|unknown|empty|n/?a|x+|0+|invalid|type1\w*)$",
    re.IGNORECASE,
)
# # R36 (release), REVISION: 4.7, GCID: ...
TEGRA_RELEASE = re.compile(r"#\s*(R\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
# Every Raspberry Pi before Linux 6.x says the first.
LYING_HARDWARE = ("BCM2835", "BCM2708", "BCM2709", "BCM2711", "Generic DT based system", "Generic")
MAX_COMPATIBLE = 64
VENDORS = {
    "raspberry-pi": "Raspberry Pi",
    "jetson": "NVIDIA",
    "dgx": "NVIDIA",
    "apple": "Apple",
}


def read_board(
    root: Path,
    info: CpuInfo,
    arch: str,
    *,
    compatible: tuple[str, ...] = (),
    model: str = "",
    tegra_release: str = "",
    is_jetson: bool = False,
) -> Board:
    """The board under `root`; the texts are those of a recording. "" where nothing tells; raises nothing."""
    tree_name = next((name for tree in DEVICE_TREES if (name := read_clean(root / tree / "model"))), "")
    words = read_compatible(root) or compatible
    dmi_vendor, dmi_name = _dmi(root)
    hardware = info.hardware if info.hardware not in LYING_HARDWARE else ""
    pi_name = raspberry_pi.board_name(info.revision) if info.hardware.startswith("BCM2") else ""
    names = (tree_name, dmi_name, info.model, _note(model), pi_name, hardware, info.machine)
    name = next((name for name in names if name), "")
    release = parse_tegra_release(tegra_release)
    family = families.by_compatible(words) or ("jetson" if release or is_jetson else "")
    family = family or _family_by_name((*names, dmi_vendor, info.hardware), arch, is_dmi=bool(dmi_name))
    return Board(
        name=name,
        vendor=VENDORS.get(family, dmi_vendor),
        family=family,
        compatible=words,
        release=release,
    )


def read_compatible(root: Path) -> tuple[str, ...]:
    """The words of the device tree's `compatible`, the board's own first; empty without a device tree."""
    return next(
        (words for tree in DEVICE_TREES if (words := parse_compatible(read(root / tree / "compatible")))), ()
    )


def parse_compatible(text: str) -> tuple[str, ...]:
    """Words that end in zero bytes, or lines."""
    words = (clean(word) for word in text[:65536].replace("\0", "\n").splitlines())
    return tuple(word for word in words if word)[:MAX_COMPATIBLE]


def parse_tegra_release(text: str) -> str:
    """/etc/nv_tegra_release -> R36.4.7, the release of Jetson Linux; "" for anything else."""
    match = TEGRA_RELEASE.search(text[:65536])
    return f"{match[1]}.{match[2]}" if match else ""


def _dmi(root: Path) -> tuple[str, str]:
    """Vendor and name of a PC or server. A Lenovo's product_name is a number, its version the name."""
    for folder in DMI:
        vendor = _filled(read_clean(root / folder / "sys_vendor"))
        keys = ("product_name", "product_version", "board_name")
        if vendor.upper() == "LENOVO":
            keys = ("product_version", "product_name", "board_name")
        name = next((name for key in keys if (name := _filled(read_clean(root / folder / key)))), "")
        if vendor or name:
            name = name.replace("_", " ")
            return vendor, name if name.lower().startswith(vendor.lower()) else f"{vendor} {name}".strip()
    return "", ""


def _filled(value: str) -> str:
    return "" if UNFILLED.search(value) else value


def _note(text: str) -> str:
    """A recorded model: some end in words about the recording itself."""
    return clean(text).removesuffix(" review").rstrip()


def _family_by_name(names: tuple[str, ...], arch: str, *, is_dmi: bool) -> str:
    if family := next((family for name in names if name and (family := families.by_name(name))), ""):
        return family
    return "pc" if is_dmi or arch in {"x86_64", "i686"} else ""
