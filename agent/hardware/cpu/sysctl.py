"""The output of macOS's `sysctl hw machdep.cpu`: CPU, memory and which Mac.

Lines `name: value`, or `name = value`; anything else around them, as in a pasted session, is passed over.
"""

import re

from agent.hardware.cpu.features import names
from agent.hardware.machine import Board, Cluster, Cpu
from agent.hardware.text import MAX_CPUS, clean, number

LINE = re.compile(r"^[ \t]*((?:hw|machdep|kern)\.[\w.]+)[ \t]*[:=][ \t]*(.*)$", re.MULTILINE)
# hw.optional names -> the words of Linux that features.py knows.
OPTIONAL = {
    "arm.advsimd": "asimd", "advsimd": "asimd", "neon": "asimd", "arm.feat_dotprod": "asimddp",
    "arm.feat_i8mm": "i8mm", "arm.feat_bf16": "bf16", "arm.feat_sme": "sme", "arm.feat_sve": "sve",
    "avx1_0": "avx", "avx2_0": "avx2", "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512vl": "avx512vl",
    "avx512vnni": "avx512_vnni", "sse2": "sse2", "supplementalsse3": "ssse3", "sse4_2": "sse4_2",
    "fma": "fma", "bmi2": "bmi2", "f16c": "f16c",
}  # fmt: skip
# macOS 11 had other names for half precision.
HALF_PRECISION = {"arm.feat_fp16", "neon_fp16", "neon_hpfp"}
# machdep.cpu.features of Intel Macs.
INTEL_WORDS = {"avx1.0": "avx", "sse4.2": "sse4_2", "avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16"}
# hw.cpufamily (osfmk/mach/machine.h of XNU) -> the chip and its cores, fast ones first.
FAMILIES = {
    0x1B588BB3: ("Apple M1", "Firestorm", "Icestorm"),
    0xDA33D83D: ("Apple M2", "Avalanche", "Blizzard"),
    0xFA33415E: ("Apple M3", "M3 performance", "M3 efficiency"),
    0x5F4DEA93: ("Apple M3 Pro", "M3 performance", "M3 efficiency"),
    0x72015832: ("Apple M3 Max", "M3 performance", "M3 efficiency"),
    0x6F5129AC: ("Apple M4", "M4 performance", "M4 efficiency"),
    0x17D5B93A: ("Apple M4 Pro or Max", "M4 performance", "M4 efficiency"),
    0x1D5A87E8: ("Apple M5", "M5 performance", "M5 efficiency"),
}
GENERATION = re.compile(r"Apple M(\d+)")
# What every chip of a generation has: for a listing without hw.optional.
BASELINE = frozenset({"asimd", "asimddp", "asimdhp", "fphp"})
FROM_M2, FROM_M4 = frozenset({"i8mm", "bf16"}), frozenset({"sme"})

Fields = dict[str, str]


def parse(text: str) -> tuple[Cpu, int | None, Board] | None:
    """The CPU, the RAM in bytes and the board; None where it is no such output. Raises nothing."""
    fields = {name.lower(): value.strip() for name, value in LINE.findall(text)}
    if not fields:
        return None
    brand = clean(fields.get("machdep.cpu.brand_string", ""))
    family = FAMILIES.get((number(fields.get("hw.cpufamily", "")) or 0) & 0xFFFFFFFF)
    brand = brand or (family[0] if family else "")
    is_arm = "apple" in brand.lower() or any(name.startswith("hw.optional.arm") for name in fields)
    clusters = _clusters(fields, brand) if is_arm else ()
    cpus = _count(fields, "hw.logicalcpu", "hw.ncpu", "hw.activecpu", "machdep.cpu.thread_count")
    # A recording may hold one half of what belongs together: there are never more cores than CPUs.
    cores = min(cpus, _count(fields, "hw.physicalcpu", "machdep.cpu.core_count", "hw.ncpu"))
    cpu = Cpu(
        arch="aarch64" if is_arm else "x86_64",
        vendor="Apple" if is_arm else "Intel",
        model=brand,
        microarchitecture=" + ".join(dict.fromkeys(c.microarchitecture for c in clusters)) if family else "",
        features=names([_words(fields, brand)]),
        cpus=cpus,
        cores=cores,
        clusters=clusters,
        is_64bit=True,
    )
    model = clean(fields.get("hw.model", ""))
    board = Board(name=model or "Mac", vendor="Apple", family="apple")
    total = number(fields.get("hw.memsize", ""))
    return cpu, total if total and total > 0 else None, board


def _count(fields: Fields, *keys: str) -> int:
    levels = [number(fields.get(f"hw.perflevel{level}.{keys[0][3:]}", "")) or 0 for level in range(4)]
    counts = [*(number(fields.get(key, "")) for key in keys[:1]), sum(levels)]
    counts += [number(fields.get(key, "")) for key in keys[1:]]
    return next((count for count in counts if count and 0 < count <= MAX_CPUS), 1)


def _clusters(fields: Fields, brand: str) -> tuple[Cluster, ...]:
    """One per performance level, the fastest first."""
    cores = next((family[1:] for family in FAMILIES.values() if brand.startswith(family[0])), ("", ""))
    counts = [number(fields.get(f"hw.perflevel{level}.logicalcpu", "")) for level in range(2)]
    return tuple(
        Cluster(microarchitecture=core, cpus=count)
        for core, count in zip(cores, counts, strict=True)
        if count and 0 < count <= MAX_CPUS
    )


def _words(fields: Fields, brand: str) -> frozenset[str]:
    optional = {name.removeprefix("hw.optional.") for name, value in fields.items() if value == "1"}
    words = {word for name, word in OPTIONAL.items() if name in optional}
    if optional & HALF_PRECISION:
        words |= {"asimdhp", "fphp"}
    for key in ("machdep.cpu.features", "machdep.cpu.leaf7_features"):
        words |= {INTEL_WORDS.get(word, word) for word in fields.get(key, "").lower().split()}
    if words & {"asimddp", "asimdhp"} or "arm.feat_dotprod" in optional:
        return frozenset(words | {"asimd"})
    match = GENERATION.match(brand)
    return frozenset(words) | _of_generation(int(match[1][:3])) if match else frozenset(words)


def _of_generation(generation: int) -> frozenset[str]:
    words = BASELINE | (FROM_M2 if generation >= 2 else frozenset())
    return words | (FROM_M4 if generation >= 4 else frozenset())
