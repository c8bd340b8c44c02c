"""What `nvidia-smi` printed: its table, list (-L), log (-q, -x), or what --query-gpu answers as CSV."""

import re

from msgspec.structs import replace

from agent.hardware.machine import Gpu

# Three cells; a process, which may end in N/A as well, has one.
ROW = re.compile(r"\|\s*\d+\s+([^|]+?)\s{2,}(?:On|Off|N/A|WDDM|TCC|MCDM)\s*\|[^|]+\|")
MEMORY = re.compile(r"\|\s*(\d+)MiB\s*/\s*(\d+)MiB\s*\|")
DRIVER = re.compile(r"Driver Version:\s*([\d.]+)")
# A line of the log as XML, and what is read of either.
TAG = re.compile(r"<(\w+)>([^<]*)")
LOG_KEYS = {"product_name", "driver_version", "total", "free", "fb_memory_usage", "bar1_memory_usage"}
# What stands in the place of a name when a card has fallen off its bus.
NO_NAME = "ERR!"
LISTED = re.compile(r"GPU \d+: (.+?) \(UUID: ")
# Those that share the RAM with the CPU, and their capability: nvidia-smi has no memory to report.
ON_CHIP = ((r"\bGB10\b", "12.1"), (r"\bOrin\b", "8.7"), (r"\bThor\b", "11.0"), (r"\bXavier\b", "7.2"))
# A table is narrow; a CSV of every property has lines of 8,000 characters.
MAX_ROW, MAX_LINE = 300, 20_000
MIB = 1 << 20
FAILED = re.compile(r"NVIDIA-SMI has failed because it couldn't communicate")
NO_DRIVER = "the kernel has no driver of NVIDIA's that answers"


def parse(text: str) -> tuple[Gpu, ...]:
    """The GPUs in their order; none for any other text. Sizes that are "N/A" are None. Raises nothing."""
    lines = [line[:MAX_LINE] for line in text.splitlines()]
    driver = next((match.group(1) for line in lines if (match := DRIVER.search(line[:MAX_ROW]))), "")
    return _of_csv(lines) or _of_log(lines) or _of_table(lines, driver) or _of_list(lines, driver)


def without_driver(text: str, known: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Where it could not reach the driver: the NVIDIA GPUs that are known otherwise, or one that is not,
    as GPUs that cannot be used. None for any other text."""
    if not FAILED.search(text[:MAX_LINE]):
        return ()
    nvidia = tuple(gpu for gpu in known if gpu.vendor == "nvidia")
    found = nvidia or (Gpu(name="NVIDIA GPU", vendor="nvidia", api="cuda"),)
    return tuple(replace(gpu, is_usable=False, reason=NO_DRIVER) for gpu in found)


def _of_table(lines: list[str], driver: str) -> tuple[Gpu, ...]:
    """Two lines a GPU: the name in the first, `used / total` memory in the second."""
    rows = [(at, match.group(1)) for at, line in enumerate(lines) if (match := ROW.match(line[:MAX_ROW]))]
    gpus = []
    for at, name in rows:
        if name == NO_NAME:
            continue
        memory = MEMORY.search(lines[at + 1][:MAX_ROW]) if at + 1 < len(lines) else None
        used, total = (int(number) * MIB for number in memory.groups()) if memory else (None, None)
        free = total - used if total is not None and used is not None else None
        gpus.append(_gpu(name, driver, total, free))
    return tuple(gpus)


def _of_log(lines: list[str]) -> tuple[Gpu, ...]:
    """One value a line; those of memory below the heading of their kind."""
    rows: list[dict[str, str]] = []
    driver = heading = ""
    for line in lines:
        text = line[:MAX_ROW].strip()
        tag = TAG.match(text)
        name, _, value = (tag[1], "", tag[2]) if tag else text.partition(":")
        key, value = name.strip().lower().replace(" ", "_"), value.strip()
        if key not in LOG_KEYS:
            continue
        if key == "product_name":
            rows.append({"name": value})
        elif key == "driver_version":
            driver = value
        elif key.endswith("_usage"):
            heading = key
        elif rows and heading == "fb_memory_usage":
            rows[-1].setdefault(key, value)
    return tuple(
        _gpu(row["name"], driver, _mebibytes(row.get("total", "")), _mebibytes(row.get("free", "")))
        for row in rows
        if row["name"] not in ("", NO_NAME)
    )


def _of_list(lines: list[str], driver: str) -> tuple[Gpu, ...]:
    return tuple(_gpu(match.group(1), driver) for line in lines if (match := LISTED.match(line[:MAX_ROW])))


def _of_csv(lines: list[str]) -> tuple[Gpu, ...]:
    """A heading with `name` among its columns; `memory.total [MiB]` says its unit, or each value does."""
    at = next((at for at, line in enumerate(lines) if "name" in _cells(line)), None)
    if at is None:
        return ()
    columns = [cell.split(" [")[0] for cell in _cells(lines[at])]
    gpus = []
    for line in lines[at + 1 :]:
        cells = _cells(line)
        if len(cells) != len(columns):
            break
        row = dict(zip(columns, cells, strict=True))
        total, free = (_mebibytes(row.get(f"memory.{what}", "")) for what in ("total", "free"))
        driver, capability = row.get("driver_version", ""), row.get("compute_cap", "")
        gpus.append(_gpu(row["name"], driver, total, free, capability))
    return tuple(gpus)


def _gpu(
    name: str, driver: str, total: int | None = None, free: int | None = None, capability: str = ""
) -> Gpu:
    known = next((cap for pattern, cap in ON_CHIP if re.search(pattern, name)), "")
    is_on_chip = bool(known) or "nvgpu" in name
    return Gpu(
        name=name,
        vendor="nvidia",
        api="cuda",
        kind="integrated" if is_on_chip else "discrete",
        driver=f"nvidia {driver}".strip(),
        compute_capability=capability if re.fullmatch(r"\d+\.\d+", capability) else known,
        is_unified=is_on_chip,
        total_bytes=total,
        free_bytes=free,
        is_usable=True,
    )


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split(",")]


def _mebibytes(value: str) -> int | None:
    """The bytes in `81559 MiB` or `81559`; None for `[N/A]` and the like."""
    number = value.removesuffix("MiB").strip()
    return int(number) * MIB if number.isascii() and number.isdecimal() else None
