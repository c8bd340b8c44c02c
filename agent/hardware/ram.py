"""The memory of the box as one value: RAM, swap, compressed swap, and the tightest limit above us."""

import re
from pathlib import Path

from agent.hardware.cpu import tegrastats
from agent.hardware.machine import Memory
from agent.hardware.memory import cgroup_rooms
from agent.hardware.process import table_of
from agent.hardware.text import number, read, read_int

# `free -h` writes powers of 1024 as 7.4Gi, or 7.4G before procps 3.3.16; some locales 7,4Gi.
AMOUNT = re.compile(r"(\d{1,15}(?:[.,]\d{1,6})?)\s*([KMGTP])?i?B?", re.IGNORECASE)
ROW = re.compile(
    r"^[ \t]*[^\s:0-9][^\s:]*\s?:((?:[ \t]+\d[\d.,]*[KMGTP]?i?B?){3,6})\s*$", re.MULTILINE | re.IGNORECASE
)
MAX_DISKS = 64
OLD_CACHE = re.compile(r"^-/\+", re.MULTILINE)
UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
# Bare numbers are KiB, or MiB under -m: no box that runs us has less than so many KiB.
LEAST_KIB = 200_000
# No box has a pebibyte; a figure above is damage.
MOST_BYTES = 1 << 50


def read_memory(root: Path, meminfo: str, free: str, tegra: str = "") -> Memory:
    """From the texts of /proc/meminfo, else `free`, else tegrastats; limits from `root`. Raises nothing."""
    memory = parse_meminfo(meminfo) or parse_free(free) or tegrastats.parse_memory(tegra) or Memory()
    return Memory(
        total_bytes=memory.total_bytes,
        available_bytes=memory.available_bytes,
        swap_bytes=memory.swap_bytes,
        zram_bytes=_zram_bytes(root),
        limit_bytes=_limit_bytes(root, memory.total_bytes),
    )


def parse_meminfo(text: str) -> Memory | None:
    """/proc/meminfo; None where it does not say how much there is."""
    table = table_of(text.splitlines())
    total = _kilobytes(table.get("MemTotal", ""))
    if not total:
        return None
    available = _kilobytes(table.get("MemAvailable", ""))
    return Memory(
        total_bytes=total,
        # Before Linux 3.14 only what is free is told.
        available_bytes=available if available is not None else _kilobytes(table.get("MemFree", "")),
        swap_bytes=_kilobytes(table.get("SwapTotal", "")),
    )


def parse_free(text: str) -> Memory | None:
    """The output of `free`, in any language: the first row is memory, the last one swap."""
    rows = [[_amount(*amount) for amount in AMOUNT.findall(row)] for row in ROW.findall(text)]
    if not rows or not rows[0][0] or max(map(max, rows)) > MOST_BYTES:
        return None
    first, last = rows[0], rows[-1]
    return Memory(
        total_bytes=first[0],
        available_bytes=_available(first, text),
        swap_bytes=last[0] if len(rows) > 1 else None,
    )


def _available(row: list[int], text: str) -> int:
    """Columns: total used free shared buff/cache available; before procps 3.3.10 buffers and cached at the
    end, and what is free without them in a row of its own."""
    if len(row) == 6:
        return row[2] + row[4] + row[5] if OLD_CACHE.search(text) else row[5]
    return row[2]


def _kilobytes(value: str) -> int | None:
    kib = number(value.strip().removesuffix("kB"))
    return kib * 1024 if kib is not None and 0 <= kib < MOST_BYTES >> 10 else None


def _amount(figure: str, unit: str) -> int:
    value = float(figure.replace(",", "."))
    if unit or not value:
        return int(value * (1 << UNITS[unit.upper()]))
    return int(value) * (1024 if value >= LEAST_KIB else 1 << 20)


def _zram_bytes(root: Path) -> int | None:
    """Compressed swap: what /proc/swaps says, else the size of every zram disk; None without any."""
    swaps = [line.split() for line in read(root / "proc/swaps").splitlines()]
    sizes = [_kilobytes(row[2]) or 0 for row in swaps if len(row) > 2 and row[0].startswith("/dev/zram")]
    if swaps:
        return sum(sizes) or None
    try:
        disks = list((root / "sys/block").glob("zram*"))
    except OSError:
        return None
    sizes = [read_int(disk / "disksize") or 0 for disk in disks[:MAX_DISKS]]
    return sum(size for size in sizes if 0 < size < MOST_BYTES) or None


def _limit_bytes(root: Path, total: int | None) -> int | None:
    """The tightest limit of our cgroups, if it binds at all."""
    limit = min((room.total_bytes for room in cgroup_rooms(root)), default=None)
    return limit if limit is not None and (total is None or limit < total) else None
