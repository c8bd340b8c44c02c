"""Writes the metrics where Prometheus's node exporter reads them (its textfile collector)."""

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

from agent.findings import Finding, Severity

log = logging.getLogger(__name__)

# The exporter is another user, and what stands in it is no secret.
MODE = 0o644
SUFFIX = ".prom"


class Textfile:
    """`text` is asked for what to write, on the loop; the disk is another thread's.

    A folder that cannot be written is a finding and no reason to end: answers do not need it, and it
    may be mounted later.
    """

    def __init__(self, path: str, every_s: float, text: Callable[[], str]) -> None:
        self._path = Path(path)
        self._every_s = every_s
        self._text = text
        self._trouble = ""

    async def run(self) -> None:
        """Write until cancelled; then the file goes: what it says would be true no more."""
        try:
            while True:
                await self._write_once()
                await asyncio.sleep(self._every_s)
        finally:
            with contextlib.suppress(OSError):
                if self._path.is_file():
                    self._path.unlink(missing_ok=True)

    def findings(self) -> tuple[Finding, ...]:
        """Why nobody reads metrics; nothing when all is well."""
        found = []
        if self._trouble:
            what = f"The metrics cannot be written to {self._path}: {self._trouble}."
            remedy = (
                f"See that the folder {self._path.parent} is there and writable for the daemon's user; under"
                " systemd also with"
                f" ReadWritePaths={self._path.parent} (`systemctl edit tampu`)."
            )
            found.append(Finding(Severity.WARNING, "metrics_not_written", what, remedy))
        if self._path.suffix != SUFFIX:
            what = f"The node exporter reads only files that end in {SUFFIX}, and not {self._path.name}."
            remedy = f"Set metrics.textfile to {self._path.with_suffix(SUFFIX)}"
            found.append(Finding(Severity.WARNING, "metrics_misnamed", what, remedy))
        return tuple(found)

    async def _write_once(self) -> None:
        text = self._text()
        try:
            await asyncio.to_thread(write, self._path, text)
        except OSError as error:
            trouble = error.strerror or str(error)
            if trouble != self._trouble:
                log.warning("metrics: %s cannot be written: %s", self._path, trouble)
            self._trouble = trouble
            return
        if self._trouble:
            log.info("metrics: %s is written again", self._path)
        self._trouble = ""


def write(path: Path, text: str) -> None:
    """Put the text there in one step: the exporter reads all of the old or all of the new.

    Raises OSError. Beside it a hidden file lies for a moment, which the exporter does not read.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "something that is no file is there")
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        # Only a file of our own: nothing is written through a link.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(part, flags, MODE), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), MODE)  # whatever the umask
            file.write(text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
