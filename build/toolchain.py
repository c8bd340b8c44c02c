"""What the box brings to a native build: its C++ compiler, its CPU, its free disk."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from steps import Trouble

# A venv for development takes about 0.4 GB, llama.cpp 0.4 GB while it is compiled; the rest is margin.
NEEDED_BYTES = 1_500_000_000

# For one compiler process, which takes 0.5 GB at the largest source; more than fit in RAM are killed.
JOB_BYTES = 600_000_000

# Lines of /proc/cpuinfo that decide what the compiler emits for -march=native (x86 first, then ARM).
_CPU_FIELDS = ("flags", "Features", "CPU implementer", "CPU part")

_PROGRAM = "#include <vector>\nint main() { return static_cast<int>(std::vector<int>{}.size()); }\n"


def cxx_compiler() -> str | None:
    """The compiler that CMake will take, in CMake's own order."""
    candidates = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def compiler_version() -> str:
    """First line of `c++ --version`, empty without a compiler."""
    compiler = cxx_compiler()
    return _version(compiler).partition("\n")[0] if compiler else ""


def search_path() -> str:
    """PATH, and the folder where NVIDIA's packages keep nvcc, which is on nobody's PATH at first."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"))


def find(tool: str) -> str | None:
    """Where a program besides the C++ compiler is."""
    return shutil.which(tool, path=search_path())


def version_of(tool: str) -> str:
    """All of `TOOL --version` (nvcc has its number on the fourth line), empty without the tool."""
    found = find(tool)
    return _version(found) if found else ""


def _version(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout


def check_compiler() -> None:
    """Compile and link one small program: a compiler without headers or linker is found out in a second."""
    compiler = cxx_compiler()
    if compiler is None or not _compiles(compiler):
        what = f"{compiler} cannot compile a C++ program" if compiler else "no C++ compiler was found"
        mend = "xcode-select --install" if sys.platform == "darwin" else "sudo apt-get install g++"
        raise Trouble(f"llama.cpp is compiled for this CPU and {what}: run '{mend}', then try again")


def _compiles(compiler: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="tampu-") as folder:
        source = Path(folder, "one.cpp")
        source.write_text(_PROGRAM)
        command = [compiler, "-std=c++17", str(source), "-o", str(source.with_suffix(""))]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def parallel_jobs() -> int:
    """How many compilers to run at once: one per core, fewer where RAM is short."""
    ram_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(os.cpu_count() or 1, ram_bytes // JOB_BYTES))


def cpu_identity() -> str:
    """A digest that differs between CPUs for which the compiler would emit different instructions."""
    if sys.platform == "darwin":
        facts = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True
        ).stdout
    else:
        # A set, for boards with two kinds of cores; sorted, so that their order does not matter.
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = "\n".join(sorted({line for line in lines if line.startswith(_CPU_FIELDS)}))
    return hashlib.sha256(f"{platform.machine()}\n{facts}".encode()).hexdigest()


def check_disk(*folders: Path) -> None:
    """Raises Trouble when a file system to be written to is nearly full. The folders need not exist yet."""
    for folder in folders:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < NEEDED_BYTES:
            raise Trouble(
                f"{existing} has {free / 1e9:.1f} GB free and {NEEDED_BYTES / 1e9:.1f} GB are needed: "
                "free some, or put the cache elsewhere with XDG_CACHE_HOME=/path ./build/quickstart"
            )
