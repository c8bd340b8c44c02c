"""A box on paper: files under a folder, written by a test."""

from pathlib import Path


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write files under a root; the root."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def arm_cpuinfo(*parts: int, features: str = "fp asimd", implementer: int = 0x41) -> str:
    """A 64-bit ARM kernel's cpuinfo with one CPU per part."""
    return "".join(
        f"processor\t: {at}\nBogoMIPS\t: 48.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: {implementer:#04x}\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part:#05x}\nCPU revision\t: 0\n\n"
        for at, part in enumerate(parts)
    )


def x86_cpuinfo(
    *pairs: tuple[int, int], flags: str = "fpu tsc lm sse2", vendor: str = "GenuineIntel", model: int = 60
) -> str:
    """An x86 cpuinfo with one CPU per (package, core)."""
    threads = len(pairs) // max(1, len(set(pairs)))
    cores = len({core for _, core in pairs})
    return "".join(
        f"processor\t: {at}\nvendor_id\t: {vendor}\ncpu family\t: 6\nmodel\t\t: {model}\n"
        f"model name\t: A CPU\nphysical id\t: {package}\nsiblings\t: {cores * threads}\ncore id\t\t: {core}\n"
        f"cpu cores\t: {cores}\nflags\t\t: {flags}\n\n"
        for at, (package, core) in enumerate(pairs)
    )
