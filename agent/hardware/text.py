"""Reading what a box says about itself: bounded, and whatever lies there, a string comes back."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

# The largest honest text seen is a cpuinfo of 192 CPUs (300 kB).
MAX_BYTES = 4 << 20
MAX_CLEAN_CHARS = 160
# The largest NR_CPUS that a Linux kernel is built with.
MAX_CPUS = 8192
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
NUMBER = re.compile(r"[+-]?(0x[0-9a-f]{1,16}|\d{1,18})", re.ASCII | re.IGNORECASE)


_bounds: ContextVar[str] = ContextVar("bounds", default="/")


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """While it lasts nothing outside of `folder` is read, whatever links lead there.

    A recording comes from somebody else: its links must not show files of this box as its own.
    """
    try:
        token = _bounds.set(os.path.realpath(folder))
    except ValueError:  # a path with a null byte, which nothing can be read from
        token = _bounds.set(str(folder))
    try:
        yield
    finally:
        _bounds.reset(token)


def is_kept() -> bool:
    """Whether a recording is being read: what we may do here says nothing about that box."""
    return _bounds.get() != "/"


def may_read(path: Path) -> bool:
    """Whether a path, links and all, lies where we are kept."""
    bounds = _bounds.get()
    return bounds == "/" or Path(os.path.realpath(path)).is_relative_to(bounds)


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """The first bytes of a regular file; none of anything else, and where it cannot be read."""
    try:
        # Asked before opening: opening a pipe would wait for its other end.
        if not stat.S_ISREG(path.stat().st_mode) or not may_read(path):
            return b""
        with path.open("rb") as file:
            return file.read(most)
    except (OSError, ValueError):  # ValueError: a path with a null byte
        return b""


def read(path: Path) -> str:
    """The first 4 MiB of a regular file; "" for anything else, and where it cannot be read.

    Bytes that are no UTF-8 come back as replacement characters, so the text can be printed. What
    PowerShell has redirected is UTF-16.
    """
    data = read_bytes(path)
    encoding = BYTE_ORDER_MARKS.get(data[:2], "utf-8")
    return data.decode(encoding, "replace").removeprefix("\ufeff")


def read_clean(path: Path) -> str:
    """The first line of a file, `clean`."""
    return clean(read(path))


def read_int(path: Path) -> int | None:
    """The whole number in a file, None without one."""
    return number(read(path))


def clean(text: str) -> str:
    """The first line that says something, fit for a terminal: printable, and at most 160 characters.

    Device trees end their strings with a zero byte; dumps carry stray backticks.
    """
    lines = text.replace("\0", "\n").replace("`", "").splitlines()
    first = next((line for line in lines if line.strip()), "")
    printable = "".join(char if char.isprintable() else " " for char in first)
    return " ".join(printable.split())[:MAX_CLEAN_CHARS]


def number(text: str) -> int | None:
    """A whole number, decimal or with 0x; None for anything else."""
    match = NUMBER.fullmatch(text.strip())
    return int(match[0], 16 if "x" in match[0].lower() else 10) if match else None


def cpu_list(text: str) -> frozenset[int]:
    """The CPUs in `0-3,8`, as the kernel writes them; what is no number is left out."""
    cpus: set[int] = set()
    for part in text.strip().split(",")[:MAX_CPUS]:
        first, _, last = part.partition("-")
        start, end = number(first), number(last or first)
        if start is not None and end is not None and 0 <= start <= end < MAX_CPUS:
            cpus.update(range(start, end + 1))
    return frozenset(cpus)


def printable_path(path: Path) -> str:
    """A path as it can be printed, whatever its bytes are."""
    return os.fsencode(path).decode("utf-8", "replace")
