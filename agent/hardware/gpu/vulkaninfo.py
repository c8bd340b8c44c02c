"""What `vulkaninfo` printed, any version of it or an excerpt; and llama.cpp's own list of devices."""

import re

from agent.hardware.gpu.vendors import ONLY_INTEGRATED, is_software, of_name, of_number
from agent.hardware.machine import Gpu, GpuKind

KEYS = frozenset({"vendorID", "deviceType", "deviceName", "driverName", "driverInfo"})
# Each device says these once; a second one is another device. Driver's names come twice in long outputs.
ONCE = frozenset({"vendorID", "deviceType", "deviceName"})
HEADING = re.compile(r"\s*GPU\d+:\s*")
BANNER = re.compile(r"ggml_vulkan: \d+ = ([^|]*)(.*)")
KINDS: dict[str, GpuKind] = {
    "INTEGRATED_GPU": "integrated",
    "DISCRETE_GPU": "discrete",
    "VIRTUAL_GPU": "virtual",
    "CPU": "software",
}
MAX_LINE = 500


def parse(text: str) -> tuple[Gpu, ...]:
    """The devices in the order they are listed; none for any other text. Raises nothing."""
    lines = [line[:MAX_LINE] for line in text.splitlines()]
    banners = [match for line in lines if (match := BANNER.search(line))]
    if banners:
        return tuple(_of_banner(match.group(1).strip(), match.group(2)) for match in banners)
    return tuple(_gpu(device) for device in _devices(lines) if device.get("deviceName"))


def _devices(lines: list[str]) -> list[dict[str, str]]:
    devices: list[dict[str, str]] = [{}]
    for line in lines:
        if HEADING.fullmatch(line):
            devices.append({})
            continue
        key, _, value = (part.strip() for part in line.partition("="))
        if key in ONCE and key in devices[-1]:
            devices.append({})
        if key in KEYS:
            devices[-1].setdefault(key, value)
    return devices


def _gpu(device: dict[str, str]) -> Gpu:
    name = device["deviceName"]
    vendor = of_number(_number(device.get("vendorID", ""))) or of_name(name)
    kind = KINDS.get(device.get("deviceType", "").removeprefix("PHYSICAL_DEVICE_TYPE_"), "")
    driver = " ".join(device[key] for key in ("driverName", "driverInfo") if device.get(key))
    return gpu(name, vendor, kind, driver)


def gpu(name: str, vendor: str, kind: GpuKind, driver: str, total_bytes: int | None = None) -> Gpu:
    """A device that Vulkan lists; its kind is completed from vendor and name."""
    if is_software(name):
        kind = "software"
    elif not kind and vendor in ONLY_INTEGRATED:
        kind = "integrated"
    return Gpu(
        name=name,
        vendor=vendor,
        api="vulkan",
        kind=kind,
        driver=driver,
        is_unified=kind == "integrated",
        total_bytes=total_bytes,
        is_usable=True,
    )


def _of_banner(name: str, rest: str) -> Gpu:
    """`Mali-G610 (panvk)` and ` | uma: 1 | fp16: 1 ...`."""
    driver = name.rpartition("(")[2].removesuffix(")") if name.endswith(")") else ""
    plain = name.removesuffix(f"({driver})").strip() or name
    kind: GpuKind = "integrated" if re.search(r"\buma: 1\b", rest) else "discrete"
    return gpu(plain, of_name(name), kind, driver)


def _number(value: str) -> int:
    """`0x8086`, `32902 (0x8086)`; 0 for anything else."""
    try:
        return int(value.split()[0], 0)
    except (ValueError, IndexError):
        return 0
