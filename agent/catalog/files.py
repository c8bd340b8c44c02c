"""Whole files only: hashing while streaming, and putting a file under its name in one step.

Every function raises OSError as the system gave it; within `in_words` it becomes a sentence.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from agent.errors import ModelFileError

Progress = Callable[[int, int, str], None]
"""Called with bytes done, bytes in all and what is being done, from the thread that does it."""

CHUNK_BYTES = 1 << 20


def quiet(done_bytes: int, total_bytes: int, label: str) -> None:
    """The progress nobody looks at."""


def copy_hashed(
    source: IO[bytes], target: IO[bytes] | None, total_bytes: int, progress: Progress, label: str
) -> str:
    """Stream `source` to its end into `target` (None only hashes); the sha256 in hex."""
    digest = hashlib.sha256()
    done = 0
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
        done += len(chunk)
        progress(done, total_bytes, label)
    return digest.hexdigest()


def sha256_of(path: Path, progress: Progress) -> str:
    """The sha256 of a file in hex, read in pieces of 1 MiB."""
    with path.open("rb") as file:
        return copy_hashed(file, None, path.stat().st_size, progress, "checking")


@contextlib.contextmanager
def written_whole(target: Path) -> Iterator[IO[bytes]]:
    """A file that gets the name `target` when the block ends without an error, and is on the disk by then.

    Until then it is hidden beside it; what an earlier, killed writer left there is removed.
    """
    part = _part_of(target)
    part.unlink(missing_ok=True)
    try:
        with part.open("xb") as file:  # only a file of our own: nothing is written through a link
            yield file
            file.flush()
            os.fsync(file.fileno())
        _rename(part, target)
    finally:
        part.unlink(missing_ok=True)


def place(source: Path, target: Path, progress: Progress) -> None:
    """Copy `source` to `target`.

    Not a hard link: a file that is damaged in one place would be damaged in all, under the daemons
    that have it mapped.
    """
    with source.open("rb") as content, written_whole(target) as file:
        copy_hashed(content, file, source.stat().st_size, progress, "copying")


@contextlib.contextmanager
def exclusive(folder: Path, progress: Progress) -> Iterator[None]:
    """One writer at a time in `folder`; others wait. The lock ends with the process that holds it, and
    whatever model file it was writing when it was killed is removed by the next."""
    # Not through a link, and whatever is in it stays.
    with open(os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644), "r+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(0, 1, "waiting for another fetch")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for part in folder.glob(".*.gguf.part"):
            part.unlink(missing_ok=True)
        yield


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raises ModelFileError when the disk of `folder` has less than `needed_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise ModelFileError(
            f"{folder}: {needed_bytes / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free; "
            "free some, or use another disk (--folder DIR for the models, XDG_CACHE_HOME for the cache)"
        )


@contextlib.contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Within the block an OSError becomes a ModelFileError; `path` is named where the error names none."""
    try:
        yield
    except OSError as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: OSError) -> ModelFileError:
    """The sentence for what the system refused."""
    return ModelFileError(
        f"{error.filename or path}: {error.strerror or error}; "
        "check the disk and the folder's owner, or name another folder with --folder DIR"
    )


def _part_of(target: Path) -> Path:
    # Hidden, and no *.gguf: whoever looks for models does not see it.
    return target.with_name(f".{target.name}.part")


def _rename(part: Path, target: Path) -> None:
    os.replace(part, target)
    # The new name is on the disk only when the folder is.
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
