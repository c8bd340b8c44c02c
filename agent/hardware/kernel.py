"""Which kernel runs, and for which architecture: from /proc/version, `uname -a` and notes of them."""

import re

from msgspec import Struct

from agent.hardware.text import MAX_CLEAN_CHARS, clean

# What `uname -m` says -> ours.
ARCHS = {
    "x86_64": "x86_64", "amd64": "x86_64", "i386": "i686", "i486": "i686", "i586": "i686", "i686": "i686",
    "aarch64": "aarch64", "aarch64_be": "aarch64", "arm64": "aarch64", "armv8l": "armv7l", "armv8b": "armv7l",
    "armv7l": "armv7l", "armv7": "armv7l", "armhf": "armv7l", "armv6l": "armv6l", "armv6": "armv6l",
    "armv5tel": "armv5tel", "armv5tejl": "armv5tel", "armel": "armv5tel", "riscv64": "riscv64",
    "riscv32": "riscv32", "ppc64": "ppc64", "ppc64le": "ppc64le", "ppc": "ppc", "s390x": "s390x",
    "s390": "s390", "loongarch64": "loongarch64", "mips": "mips", "mips64": "mips64", "sparc64": "sparc64",
    "alpha": "alpha",
}  # fmt: skip
MACHINE = re.compile("|".join(sorted(ARCHS, key=len, reverse=True)))
RELEASE = re.compile(
    r"Linux version (\S+)|Kernel:\s*([^\s/]+)|Linux \S+ (\d\S*)|^\s*(\d+\.\d+\.\S+)\s*$", re.M
)
# `uname -m` stands alone: between blanks, after a slash, or at the end of a release.
ALONE = re.compile(rf"(?:(?<=\s)|(?<=/)|(?<=\.))({MACHINE.pattern})(?=[\s/()]|$)")
# The compiler that made the kernel, and what distributions append to releases.
COMPILER = re.compile(r"\b(x86_64|aarch64|riscv64|loongarch64|powerpc64le|s390x)-[\w-]*(?:gcc|clang|linux)")
SUFFIXES = (
    (re.compile(r"-(?:arm64|v8\+|v8-16k\+|rpi-v8|rpi-2712)"), "aarch64"),
    (re.compile(r"-(?:v7l?\+|rpi-v7l?|armmp)"), "armv7l"),
    (re.compile(r"-(?:rpi-v6)"), "armv6l"),
    (re.compile(r"-(?:amd64|cloud-amd64)\b"), "x86_64"),
    (re.compile(r"-(?:686(?:-pae)?|586)\b"), "i686"),
)


class Kernel(Struct, frozen=True):
    """Its release (`uname -r`) and our name of its architecture; "" where the text does not say."""

    release: str = ""
    arch: str = ""


def parse(text: str) -> Kernel:
    """What a line about the kernel tells. Raises nothing."""
    match = RELEASE.search(text[:4096])
    release = clean(next((group for group in match.groups() if group), "")) if match else ""
    return Kernel(release[:MAX_CLEAN_CHARS], _arch(text[:4096], release))


def _arch(text: str, release: str) -> str:
    # Who built a kernel, and where, is in the first brackets: `(buildd@lcy01-amd64-009)` is no architecture.
    without_builder = re.sub(r"\(\S+@[^)]*\)", "", text)
    if found := ALONE.findall(without_builder):
        return ARCHS[found[-1]]
    if compiler := COMPILER.search(without_builder):
        return ARCHS.get(compiler[1].replace("powerpc", "ppc"), "")
    return next((arch for pattern, arch in SUFFIXES if pattern.search(release)), "")
