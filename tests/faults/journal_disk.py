"""A disk for the journal that is small enough to be filled: a tmpfs of a few MiB, where we may mount one."""

import contextlib
import os
import subprocess
from pathlib import Path

SIZE_BYTES = 12 << 20
BALLAST = "ballast"


class JournalDisk:
    """`why_not` says why it cannot be filled: then the folder is a plain one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.why_not = ""

    def mount(self) -> None:
        """Make the folder, on a disk of its own if that is allowed here."""
        self.folder.mkdir()
        if os.geteuid():
            self.why_not = "only root may mount a small disk"
            return
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=0700", "tmpfs", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.why_not = f"a small disk cannot be mounted here: {done.stderr.strip()}"

    def unmount(self) -> None:
        """Lazily: a daemon that was just killed may hold a file for a moment."""
        if not self.why_not:
            subprocess.run(["umount", "-l", str(self.folder)], capture_output=True, check=False)

    def fill(self) -> None:
        """Leave no free byte."""
        with contextlib.suppress(OSError), (self.folder / BALLAST).open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))

    def free(self) -> None:
        (self.folder / BALLAST).unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """What the journal has written there."""
        total = 0
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_file() and path.name != BALLAST:
                    total += path.stat().st_size
        return total
