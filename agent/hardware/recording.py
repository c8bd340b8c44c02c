"""Somebody else's box on paper: the texts of a folder tree, of loose files, or of one file.

Loose files are told apart by what is in them; their names only help where the content says too little.
One file may hold several answers, as a bug report does.
"""

import re
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path

from msgspec import Struct

from agent.errors import ProbeError
from agent.hardware.cpu import lscpu
from agent.hardware.text import MAX_BYTES, printable_path, read

# Far more than anybody records of one box.
MAX_FILES = 256
# Of all files in a folder: what tells of a box is small, and goes first.
MAX_TOTAL_BYTES = 16 << 20
ASK = "record a box by what cat /proc/cpuinfo, lscpu and cat /proc/meminfo print, in files of one folder"
NUMBER_ROW = (
    r"^[ \t]*(?:Mem|Speicher|Pamięć|Память|Пам|内存|記憶體|メモリ)"
    r"[^\s:]*\s?:[ \t]+\d[\d.,]*[KMGTP]?i?B?[ \t]+\d"
)
# Kind of text -> what only it has. A pattern that may begin with line ends takes minutes on a file of
# empty lines.
MARKS = {
    "cpuinfo": re.compile(
        r"^(?:(?:processor|hart)\s*:\s*\d+\s*$|processor \d+:|vendor_id\s*:|CPU (?:implementer|part)\s*:"
        r"|isa\s*:\s*rv|Processor\s*:\s*A|model name\s*:|cpu model\s*:|flags\s*:|Features\s*:)",
        re.MULTILINE,
    ),
    "lscpu": re.compile(
        r"^[ \t]*\S[^:\n]*:[ \t]+"
        r"(?:x86_64|i[3-6]86|aarch64|armv\d\w+|riscv\d+|ppc64(?:le)?|s390x?|loongarch64|mips\w*)\s*$"
        r'|"lscpu"\s*:',
        re.MULTILINE,
    ),
    "sysctl": re.compile(r"^[ \t]*(?:hw\.(?:ncpu|memsize|model|optional\.)|machdep\.cpu\.)", re.MULTILINE),
    "meminfo": re.compile(r"^MemTotal:\s*\d", re.MULTILINE),
    "free": re.compile(NUMBER_ROW, re.MULTILINE),
    "tegrastats": re.compile(r"\bRAM \d+/\d+MB"),
    "kernel": re.compile(r"^[ \t]*(?:Linux version \S|Kernel:\s*\d|Linux \S+ \d+\.\d+)", re.MULTILINE),
    "tegra_release": re.compile(r"#\s*R\d+\s*\(release\)"),
    "os_release": re.compile(r"^PRETTY_NAME=", re.MULTILINE),
    "throttled": re.compile(r"^throttled=0x", re.MULTILINE),
    "vulkaninfo": re.compile(r"^[ \t]*deviceName\s*=|ggml_vulkan: |^VULKANINFO", re.MULTILINE),
    "nvidia_smi": re.compile(
        r"NVIDIA-SMI (?:(?:version\s*: )?\d|has failed)|<nvidia_smi_log>|=NVSMI LOG=|nvidia-smi --query"
        r"|^GPU \d+: [^\n]{1,200} \(UUID: GPU-|^[^\n]{0,500}\bmemory\.(?:total|free|used) \[MiB\]",
        re.MULTILINE,
    ),
}
COMPATIBLE = re.compile(r"(?:[\w.+-]+,[\w.+-]+(?:[\s\0]+|\Z)){1,64}", re.ASCII)
# Two of these are two boxes.
ONE_OF = ("cpuinfo", "lscpu", "sysctl")
# Where a tree has each kind.
IN_TREE = {
    "cpuinfo": ("proc/cpuinfo",),
    "meminfo": ("proc/meminfo",),
    "kernel": ("proc/version",),
    "tegra_release": ("etc/nv_tegra_release",),
    "os_release": ("etc/os-release", "usr/lib/os-release"),
}


class Texts(Struct, frozen=True, kw_only=True):
    """What there is in writing of one box; "" for what is not."""

    cpuinfo: str = ""
    lscpu: str = ""
    sysctl: str = ""
    meminfo: str = ""
    free: str = ""
    tegrastats: str = ""
    kernel: str = ""
    tegra_release: str = ""
    os_release: str = ""
    throttled: str = ""
    vulkaninfo: str = ""
    nvidia_smi: str = ""
    compatible: str = ""
    model: str = ""


def of_tree(root: Path) -> Texts:
    """The texts of a live box, or of a tree with proc/, sys/ and etc/."""
    found = {
        kind: next((text for name in names if (text := read(root / name))), "")
        for kind, names in IN_TREE.items()
    }
    return Texts(**found)


def load(path: Path) -> Texts:
    """The texts of a recording. Raises ProbeError, with the next step, for one that cannot be used."""
    shown = printable_path(path)
    if _is_dir(path):
        tree = of_tree(path)
        found = _of_files(path, _small_ones(path))
        found |= {kind: text for kind in IN_TREE if (text := getattr(tree, kind))}
        has_tree = any(_is_dir(path / name) for name in ("proc", "sys"))
        if not found and not has_tree:
            raise ProbeError(f"{shown}: nothing in this folder tells of a box; {ASK}")
        if found.get("cpuinfo") and not MARKS["cpuinfo"].search(found["cpuinfo"]) and len(found) == 1:
            raise ProbeError(f"{shown}: its proc/cpuinfo tells nothing; {ASK}")
        return Texts(**found)
    text = read(path)
    found = _kinds(path.name, text)
    if not found:
        what = "there is no such recording" if not _exists(path) else "this file tells nothing of a box"
        raise ProbeError(f"{shown}: {what}; {ASK}")
    return Texts(**found)


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _files(folder: Path) -> Iterator[Path]:
    try:
        for path in islice(folder.iterdir(), MAX_FILES):
            if not path.name.startswith(".") and path.is_file():
                yield path
    except OSError:
        return


def _small_ones(folder: Path) -> list[Path]:
    """The smallest files first, as many as can be read in a second or two; of one size by name."""
    sizes = sorted((min(path.stat().st_size, MAX_BYTES), path) for path in _files(folder))
    totals = accumulate(size for size, _ in sizes)
    return [path for (_, path), total in zip(sizes, totals, strict=True) if total <= MAX_TOTAL_BYTES]


def _of_files(folder: Path, paths: list[Path]) -> dict[str, str]:
    """Each kind once; a file that bears the kind's name goes before one that does not."""
    found: dict[str, tuple[bool, str]] = {}
    doubles = set()
    for path in paths:
        for kind, text in _kinds(path.name, read(path)).items():
            is_named = kind.replace("_", "-") in path.name.lower().replace("_", "-")
            if kind in found and text != found[kind][1] and is_named == found[kind][0]:
                doubles.add(kind)
            if kind not in found or (is_named and not found[kind][0]):
                found[kind] = (is_named, text)
                doubles.discard(kind)
    if several := next((kind for kind in ONE_OF if kind in doubles), ""):
        raise ProbeError(
            f"{printable_path(folder)}: several files hold a {several}; name the one of your box"
        )
    return {kind: text for kind, (_, text) in found.items()}


def _kinds(name: str, text: str) -> dict[str, str]:
    """What a text is; "" is nothing."""
    kinds = {kind: text for kind, mark in MARKS.items() if mark.search(text)}
    if "lscpu" in kinds and not lscpu.parse(text).groups:
        del kinds["lscpu"]
    if "sysctl" in kinds or "lscpu" in kinds:
        # Their lines look like those of a cpuinfo in other letters.
        kinds = {kind: text for kind in kinds if kind != "cpuinfo" or _has_numbers(text)}
    if kinds:
        return kinds
    if COMPATIBLE.fullmatch(text.strip()[:8192]):
        return {"compatible": text}
    is_note = "model" in name.lower() and len(text) < 4096
    return {"model": text} if is_note and len(text.strip().splitlines()) == 1 else {}


def _has_numbers(text: str) -> bool:
    return re.search(r"^processor\s*:\s*\d+\s*$", text, re.MULTILINE) is not None
