"""One file's way into the models folder: whole, hashed on the way, and over no other one unasked."""

import contextlib
from pathlib import Path

from agent.catalog import files
from agent.catalog.entries import Variant
from agent.catalog.files import Progress
from agent.catalog.gguf import COPY_AGAIN, read_header
from agent.errors import ModelFileError


def put(
    source: Path, target: Path, is_forced: bool, progress: Progress, expected: Variant | None = None
) -> str:
    """Make `target` hold what `source` holds, which may be `target` itself; its sha256.

    Another file there is replaced only if `is_forced`; a symbolic link there is replaced and never
    written through. With `expected`, the content must be that variant's. Raises ModelFileError and
    OSError; `target` is then as it was.
    """
    if _is_same_file(source, target):
        return _checked(source, files.sha256_of(target, progress), expected)
    if target.is_symlink():
        _ask_for_force(target, "a symbolic link", is_forced)
    elif target.exists():
        if sha256 := _same_content(source, target, progress):
            return _checked(source, sha256, expected)
        _ask_for_force(target, "another file", is_forced)
    return _copy(source, target, progress, expected)


def _is_same_file(source: Path, target: Path) -> bool:
    """Added where it lies: put into the folder by hand, and now to be known by a name."""
    with contextlib.suppress(FileNotFoundError):
        return not target.is_symlink() and source.samefile(target)
    return False


def _same_content(source: Path, target: Path, progress: Progress) -> str | None:
    """The sha256 of both, None when they differ."""
    if source.stat().st_size != target.stat().st_size:
        return None
    sha256 = files.sha256_of(target, progress)
    return sha256 if sha256 == files.sha256_of(source, progress) else None


def _copy(source: Path, target: Path, progress: Progress, expected: Variant | None) -> str:
    with source.open("rb") as content:
        total_bytes = source.stat().st_size
        files.require_space(target.parent, total_bytes)
        with files.written_whole(target) as file:
            sha256 = files.copy_hashed(content, file, total_bytes, progress, "copying")
            file.flush()
            # What was copied, not what was there a moment ago: somebody may still be writing it.
            read_header(Path(file.name), COPY_AGAIN)
            return _checked(source, sha256, expected)


def _checked(source: Path, sha256: str, expected: Variant | None) -> str:
    if expected is not None and sha256 != expected.sha256:
        raise ModelFileError(
            f"{source}: not the {expected.file} of the manifest (its sha256 is {sha256}, not "
            f"{expected.sha256}); give the file another name to add it as a model of its own"
        )
    return sha256


def _ask_for_force(target: Path, what: str, is_forced: bool) -> None:
    if not is_forced:
        raise ModelFileError(
            f"{target}: {what} is there already; say --force to replace it, or give the file another name"
        )
