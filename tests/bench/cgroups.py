"""Memory cgroups of our own, version 1 or 2: a limit for a process, its children and their page cache."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
REMOVED_WITHIN_S = 10.0
# Moves the shell into the group named by its $0, then becomes the command.
_ENTER = 'echo $$ > "$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class Version:
    """The names that differ. `swap_limit` counts memory and swap in version 1, swap alone in version 2."""

    limit: str
    swap_limit: str
    peak: str
    counts_both: bool


V1 = Version("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max_usage_in_bytes", True)
V2 = Version("memory.max", "memory.swap.max", "memory.peak", False)


@dataclass(frozen=True, slots=True)
class Group:
    """A cgroup with a limit."""

    folder: Path
    version: Version

    @property
    def wrap(self) -> tuple[str, ...]:
        """Goes before a command, which then runs in the group with all its children."""
        return ("sh", "-c", _ENTER, str(self.folder / "cgroup.procs"))


def candidates(root: Path = ROOT) -> list[tuple[Path, Version]]:
    """Folders in which a group with a memory limit might be made, the most modest first.

    Version 1 lets groups be made within our own. In version 2 a group with processes has no such
    children, so there it is the one above our own, then the root.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    base = root / "sys/fs/cgroup"
    found: list[tuple[Path, Version]] = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            found += [(base / "memory" / path.lstrip("/"), V1), (base / "memory", V1)]
        elif number == "0":
            for top in (base, base / "unified"):
                found += [((top / path.lstrip("/")).parent, V2), (top, V2)]
    return [(folder, version) for folder, version in found if folder.is_dir() and folder.is_relative_to(base)]


def why_not(root: Path = ROOT) -> str:
    """Empty if groups can be made, else a reason."""
    try:
        with limited(64 << 20, root):
            return ""
    except OSError as error:
        return f"no memory cgroup can be made here ({error.strerror or error})"


@contextlib.contextmanager
def limited(limit_bytes: int, root: Path = ROOT) -> Iterator[Group]:
    """A new group with this limit and no swap, removed at the end. Raises OSError when none can be made."""
    group = _made(limit_bytes, root)
    try:
        yield group
    finally:
        _remove(group.folder)


def _made(limit_bytes: int, root: Path) -> Group:
    error: OSError = FileNotFoundError(errno.ENOENT, "there is no memory controller")
    for parent, version in candidates(root):
        folder = parent / f"tampu-bench-{os.getpid()}"
        try:
            folder.mkdir()
            try:
                _limit(folder, version, limit_bytes)
            except OSError:
                folder.rmdir()
                raise
        except OSError as failure:
            error = failure
            continue
        return Group(folder, version)
    raise error


def _limit(folder: Path, version: Version, limit_bytes: int) -> None:
    # Opened without creating: in a group without the controller the file is missing.
    for name, value in ((version.limit, limit_bytes), (version.swap_limit, limit_bytes)):
        try:
            with (folder / name).open("r+") as file:
                file.write(str(value if name == version.limit or version.counts_both else 0))
        except FileNotFoundError:
            if name == version.limit:  # a kernel without swap accounting has no other file
                raise


def _remove(folder: Path) -> None:
    """Once the last process is gone; killed ones take a moment."""
    deadline = time.monotonic() + REMOVED_WITHIN_S
    while True:
        try:
            folder.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
