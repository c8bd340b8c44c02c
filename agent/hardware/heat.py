"""How hot the box is, and what it does about it."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from agent.hardware import raspberry_pi
from agent.hardware.machine import Heat
from agent.hardware.text import read, read_clean, read_int

ZONES = Path("sys/class/thermal")
PI_THROTTLED = (
    Path("sys/devices/platform/soc/soc:firmware/get_throttled"),
    Path("sys/devices/platform/axi/axi:firmware/get_throttled"),
)
# Zones that measure no processor; a Jetson Nano's PMIC-Die says 100 for ever.
IGNORED_ZONES = ("PMIC-Die", "PMIC", "iwlwifi", "battery", "ath10k", "nvme")
# Degrees Celsius outside of which a sensor is broken or off.
PLAUSIBLE = (-40.0, 150.0)
# Cooling devices that slow the CPU: cpufreq's, and ACPI's.
CPU_COOLERS = ("thermal-cpufreq", "cpufreq", "thermal-cpu", "cpu-", "Processor")
MAX_FOLDERS = 256
MAX_TRIPS = 16


def read_heat(root: Path, throttled_text: str = "") -> Heat:
    """The hottest zone, where it begins to slow down, and what the box does about it. Raises nothing.

    `throttled_text` is the output of `vcgencmd get_throttled` in a recording. A clock below its highest
    is no throttling: an idle box lowers it.
    """
    zone, celsius, trip = max(_zones(root), key=lambda found: found[1], default=("", None, None))
    firmware = next((text for path in PI_THROTTLED if (text := read(root / path))), "") or throttled_text
    now, before = raspberry_pi.throttled(firmware)
    if not now and _is_cooled_by_slowing(root):
        now = ("throttled",)
    if _has_low_voltage(root) and "under_voltage" not in now:
        now = ("under_voltage", *now)
    if not before and _has_been_throttled(root):
        before = ("throttled",)
    return Heat(zone=zone, celsius=celsius, trip_celsius=trip, throttled=now, throttled_before=before)


def _folders(root: Path, folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(islice((root / folder).glob(pattern), MAX_FOLDERS))
    except OSError:
        return []


def _zones(root: Path) -> Iterator[tuple[str, float, float | None]]:
    for folder in _folders(root, ZONES, "thermal_zone*"):
        name = read_clean(folder / "type")
        celsius = _celsius(folder / "temp")
        if celsius is not None and not name.startswith(IGNORED_ZONES):
            yield name, celsius, _trip(folder)


def _celsius(path: Path) -> float | None:
    """Files have thousandths of a degree."""
    value = read_int(path)
    if value is None or not PLAUSIBLE[0] < value / 1000 < PLAUSIBLE[1] or value == 0:
        return None
    return value / 1000


def _trip(folder: Path) -> float | None:
    """The lowest point at which the kernel slows the box down, else the one at which it switches it off."""
    trips: dict[str, float] = {}
    for at in range(MAX_TRIPS):
        kind = read_clean(folder / f"trip_point_{at}_type")
        celsius = _celsius(folder / f"trip_point_{at}_temp")
        if kind and celsius is not None and celsius > 0:
            trips[kind] = min(celsius, trips.get(kind, celsius))
    return trips.get("passive") or trips.get("hot") or trips.get("critical")


def _is_cooled_by_slowing(root: Path) -> bool:
    return any(
        read_clean(folder / "type").startswith(CPU_COOLERS) and (read_int(folder / "cur_state") or 0) > 0
        for folder in _folders(root, ZONES, "cooling_device*")
    )


def _has_low_voltage(root: Path) -> bool:
    """The Raspberry Pi's voltage sensor, which kernels without get_throttled have."""
    return any(
        read_clean(folder / "name") == "rpi_volt" and read_int(folder / "in0_lcrit_alarm") == 1
        for folder in _folders(root, Path("sys/class/hwmon"), "hwmon*")
    )


def _has_been_throttled(root: Path) -> bool:
    """x86 counts how often a core was slowed down for heat."""
    counters = _folders(
        root, Path("sys/devices/system/cpu"), "cpu[0-9]*/thermal_throttle/core_throttle_count"
    )
    return any((read_int(path) or 0) > 0 for path in counters)
