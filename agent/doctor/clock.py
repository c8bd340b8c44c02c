"""Is the box's clock right: boards without a battery start in the past."""

import shutil
import subprocess
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from agent.findings import Finding, Severity

# Before this program was written.
FIRST_YEAR = 2024
# Files of our own that are so much newer than now come from a clock that was right.
BEHIND_S = 24 * 3600.0
ASKED_WITHIN_S = 2.0
MATTERS = (
    "certificates of TLS are judged by it, and dates in the log, in `status` and in prompts are wrong;"
    " `ttl_s` counts on another clock and is not harmed"
)


class Clock(Struct, frozen=True):
    """Seconds since 1970: `now`, and `newest` of our own files. `is_synchronised` None: nobody tells."""

    now: float
    newest: float
    is_synchronised: bool | None = None


def look(files: Iterable[Path]) -> Clock:
    """Compare with when these files were written, and ask systemd."""
    return Clock(time.time(), max(map(_written, files), default=0.0), _ask_systemd())


def judge(clock: Clock, *, has_tls: bool) -> list[Finding]:
    """A clock in the past, or one that nobody keeps right."""
    now = datetime.fromtimestamp(clock.now, UTC)
    if now.year < FIRST_YEAR or clock.newest - clock.now > BEHIND_S:
        what = f"The clock says {now:%Y-%m-%d}, which is past: {MATTERS}."
        remedy = "Set it (`sudo timedatectl set-ntp true`, or `sudo date -s ...` without a network)."
        return [Finding(Severity.WARNING, "clock_in_the_past", what, remedy)]
    if clock.is_synchronised is not False:
        return []
    severity = Severity.WARNING if has_tls else Severity.NOTE
    what = f"Nothing keeps the clock right: {MATTERS}."
    remedy = "Switch time synchronisation on with: sudo timedatectl set-ntp true"
    return [Finding(severity, "clock_not_synchronised", what, remedy)]


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _ask_systemd() -> bool | None:
    """The kernel's word on it, whoever sets the clock; None where timedatectl is not there."""
    program = shutil.which("timedatectl")
    if program is None:
        return None
    command = [program, "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASKED_WITHIN_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())
