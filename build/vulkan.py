"""What the target `vulkan` needs beyond packages of this Debian: newer headers, and a GPU for the tests.

The headers are Debian 13's. apt fetches them with a configuration of its own, so that this box's package
sources stay as they are; it checks the package's hash against the list, and the list's signature against
Debian's keys.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import apt
from exclusive import exclusive
from steps import CommandFailed, Trouble, run, show_tail, step

# A GPU made of the CPU's cores (llvmpipe, "lavapipe"): real Vulkan, and no faster than they are.
LAVAPIPE_PACKAGES = ("libvulkan1", "mesa-vulkan-drivers")

# llama.cpp names this extension, which Vulkan's headers have since 1.3.272.
NEEDED_NAME = "VK_EXT_layer_settings"
HEADER = Path("vulkan/vulkan_core.h")
SYSTEM_INCLUDE = Path("/usr/include")
RELEASE = "trixie"  # Debian 13: 1.4.309

_PACKAGE = "libvulkan-dev"
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SOURCE = f"deb [signed-by={_KEYS}] http://deb.debian.org/debian {RELEASE} main\n"
_MEND = f"unpack {_PACKAGE} 1.4 and name it with TAMPU_CMAKE_ARGS=-DVulkan_INCLUDE_DIR=FOLDER/usr/include"


def header_flags(cache: Path) -> list[str]:
    """CMake's flag for headers that are new enough; none where the system's are."""
    return [] if _is_new_enough(SYSTEM_INCLUDE) else [f"-DVulkan_INCLUDE_DIR={_include(cache)}"]


def ensure_headers(cache: Path) -> None:
    """Fetch them into the cache, unless the system's will do or that was done. Raises Trouble."""
    if _is_new_enough(SYSTEM_INCLUDE) or _is_new_enough(_include(cache)):
        return
    parent = cache / "vulkan-headers"
    parent.mkdir(parents=True, exist_ok=True)
    with exclusive(parent, "another download of the Vulkan headers"):
        if _is_new_enough(_include(cache)):  # the other one made it meanwhile
            return
        for leftover in parent.iterdir():
            shutil.rmtree(leftover)
        with step("Vulkan headers"), tempfile.TemporaryDirectory(prefix="unpacking-", dir=parent) as work:
            unpacked = _unpacked(Path(work))
            # The rename is what makes the folder exist: whoever is stopped before leaves no half of one.
            unpacked.rename(parent / RELEASE)


def ensure_lavapipe() -> None:
    """Have Mesa's drivers, the software one among them. Raises Trouble."""
    apt.ensure("the Vulkan tests", LAVAPIPE_PACKAGES)


def _include(cache: Path) -> Path:
    return cache / "vulkan-headers" / RELEASE / "usr" / "include"


def _unpacked(work: Path) -> Path:
    log = work / "apt.log"
    for program in ("apt-get", "dpkg"):
        if not shutil.which(program):
            raise Trouble(f"the Vulkan headers here are too old and there is no {program}: {_MEND}")
    if not _KEYS.exists():
        raise Trouble(
            f"{_KEYS} is missing: run 'sudo apt-get install debian-archive-keyring', then try again"
        )
    options = _apt_options(work)
    try:
        run(["apt-get", *options, "update"], log)
        run(["apt-get", *options, "download", _PACKAGE], log, cwd=work)
        run(["dpkg", "-x", next(work.glob("*.deb")), work / "unpacked"], log)
    except CommandFailed as failure:
        show_tail(failure.log)
        raise Trouble(
            f"the Vulkan headers could not be fetched from Debian: check the network, or {_MEND}"
        ) from None
    if not _is_new_enough(work / "unpacked" / "usr" / "include"):
        raise Trouble(f"the headers of Debian's {_PACKAGE} have no {NEEDED_NAME}: {_MEND}")
    return work / "unpacked"


def _apt_options(work: Path) -> list[str]:
    """Lists, cache and sources under `work`; proxies and the like stay as the box has them."""
    source = work / "sources.list"
    source.write_text(_SOURCE)
    status = work / "status"
    status.touch()
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True)
    settings = {
        "Dir::Etc::SourceList": source,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": work / "state",
        "Dir::State::status": status,
        "Dir::Cache": work / "cache",
        # Without this an unverifiable list is a warning, and so is one that could not be fetched.
        "APT::Update::Error-Mode": "any",
    }
    return [f"--option={name}={value}" for name, value in settings.items()]


def _is_new_enough(include: Path) -> bool:
    header = include / HEADER
    return header.exists() and NEEDED_NAME in header.read_text(errors="replace")
