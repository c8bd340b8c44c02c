"""Does somebody keep the box's clock right: the kernel's word on it, or systemd-timesyncd's."""

import ctypes
import time
from pathlib import Path

# As systemd judges: more than 16 s of possible error is an unknown time. The kernel lets the error grow
# by 0.5 ms a second, so that a clock which is no longer set counts as lost after nine hours.
MAX_ERROR_US = 16_000_000
# timesyncd touches it when it has set the clock; the folder is there as long as it runs.
TIMESYNC = "run/systemd/timesync"


class _Timex(ctypes.Structure):
    """The head of the kernel's `struct timex`; no member behind `esterror` is of interest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("rest", ctypes.c_byte * 512),
    )


def is_synchronised(root: Path = Path("/")) -> bool | None:
    """True while the clock can be believed; None where nobody tells. Takes microseconds.

    The kernel is asked on the live box only, as a recording (another root) has its files alone.
    """
    told = _ask_kernel() if root == Path("/") else None
    return _ask_timesyncd(root) if told is None else told


def believed_time() -> float | None:
    """Unix time; None while nobody keeps this box's clock right."""
    return time.time() if is_synchronised() else None


def _ask_kernel() -> bool | None:
    """None where there is no adjtimex (macOS), or a sandbox forbids it."""
    timex = _Timex()
    try:
        if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:
            return None
    except (AttributeError, OSError):
        return None
    return bool(timex.maxerror < MAX_ERROR_US)


def _ask_timesyncd(root: Path) -> bool | None:
    folder = root / TIMESYNC
    try:
        return (folder / "synchronized").exists() or (False if folder.is_dir() else None)
    except OSError:
        return None
