"""The GPU inside an x86 processor, told by the processor's name where no PCI bus can be looked at."""

import re

from agent.hardware.machine import Cpu, Gpu

# Servers, AMD's desktop parts before the 7000 series, and Intel's F, X and first-generation ones.
NO_GRAPHICS = re.compile(
    r"xeon|epyc|opteron|threadripper|\bfx-\d|atom (cpu )?c\d{4}"
    r"|core i[3579]-\d{4,5}(k?f|xe?)\b|core ultra \d \d{3}k?f\b"
    r"|core i[57] cpu ([qx] )?[789]\d\d\b|core i7 cpu [qx] \d"
    r"|ryzen \d ([1-6]\d{3}\w* [\w-]+-core|\d{4}f\b)"
)
# Name of the processor -> its graphics. The first match wins.
INTEL = (
    (r"atom (cpu )?n2[78]0", "Intel GMA 950"),
    (r"atom (cpu )?[dn][45]\d\d", "Intel GMA 3150"),
    (r"atom x[57]-z8|(celeron|pentium) (cpu )?[nj]3\d{3}", "Intel HD Graphics 400"),
    (r"i\d-l1\dg\d", "Intel UHD Graphics (Gen11)"),
    (r"core ultra", "Intel Arc Graphics"),
    (r"i[57]-11\d\dg7|i[579]-1[234]\d{2,3}(p|h|hk)\b|i[57]-1[23]\d\du\b", "Intel Iris Xe Graphics"),
    (
        r"1[1234]th gen|i[3579]-1[1234]\d{3}|core [357] [12]\d\d|\bn(50|95|97|[12]\d\d)\b",
        "Intel UHD Graphics",
    ),
    (r"(celeron|pentium) (silver )?(cpu )?[nj][456]\d{3}|i[357]-10\d\dg\d", "Intel UHD Graphics"),
    (r"core i[3579]|celeron|pentium (gold|silver|cpu g|g\d)", "Intel HD Graphics"),
)
AMD = re.compile(r"(?:with|w/) (radeon.*)|\b(radeon r\d.*)")
# What a Steam Deck calls its processor.
VAN_GOGH = re.compile(r"amd custom apu (0405|0932)\b")
# A graphics core with two compute units, there to show a screen.
RAPHAEL = re.compile(r"ryzen \d [79]\d{3}\w* [\w-]+-core")


def integrated(cpu: Cpu) -> Gpu | None:
    """The GPU on the processor, or None where it has none or the name does not tell. Raises nothing."""
    name = _plain(cpu.model)
    if has_none(cpu):
        return None
    if "intel" in name or "intel" in cpu.vendor.lower():
        graphics = next((graphics for pattern, graphics in INTEL if re.search(pattern, name)), "")
        return _part(graphics, "intel") if graphics else None
    if match := AMD.search(name):
        return _part(f"AMD {(match.group(1) or match.group(2)).title()}", "amd")
    if VAN_GOGH.search(name):
        return _part("AMD Radeon Graphics (Van Gogh)", "amd")
    return _part("AMD Radeon Graphics (Raphael)", "amd") if RAPHAEL.search(name) else None


def has_none(cpu: Cpu) -> bool:
    """True when a processor of this name is known to have no graphics in it."""
    return bool(NO_GRAPHICS.search(_plain(cpu.model)))


def _plain(model: str) -> str:
    """`intel core i5-8250u cpu @ 1.60ghz`: lower case, no trade marks, single spaces."""
    return " ".join(re.sub(r"\((r|tm)\)", "", model.lower()).split())


def _part(name: str, vendor: str) -> Gpu:
    return Gpu(name=name, vendor=vendor, api="vulkan", kind="integrated", is_unified=True)
