"""Where the power comes from: sys/class/power_supply."""

from itertools import islice
from pathlib import Path

from agent.hardware.machine import Power
from agent.hardware.text import read_clean, read_int

SUPPLIES = Path("sys/class/power_supply")
MAX_SUPPLIES = 64


def read_power(root: Path) -> Power:
    """Mains or battery, and how full it is; nothing where the kernel does not say. Raises nothing."""
    try:
        folders = sorted(islice((root / SUPPLIES).iterdir(), MAX_SUPPLIES))
    except OSError:
        return Power()
    # The battery of a mouse or pen has the scope Device.
    own = [folder for folder in folders if read_clean(folder / "scope") != "Device"]
    batteries = [folder for folder in own if read_clean(folder / "type") == "Battery"]
    mains = [folder for folder in own if read_clean(folder / "type") in {"Mains", "USB", "Wireless"}]
    is_plugged = any((read_int(folder / "online") or 0) > 0 for folder in mains)
    percents = [percent for folder in batteries if (percent := read_int(folder / "capacity")) is not None]
    percent = min(100, max(0, sum(percents) // len(percents))) if percents else None
    if is_plugged or not batteries:
        return Power(source="mains" if is_plugged else "", battery_percent=percent)
    statuses = {read_clean(folder / "status") for folder in batteries}
    return Power(source="battery" if "Discharging" in statuses else "mains", battery_percent=percent)
