"""The folder of model files: what is there, whether it is whole, and how to get the rest."""

import shutil
import tempfile
from enum import StrEnum
from pathlib import Path

from agent.catalog import files, pypi
from agent.catalog.files import Progress, quiet
from agent.catalog.gguf import COPY_AGAIN, FETCH_AGAIN, GgufHeader, read_header
from agent.catalog.manifest import Variant
from agent.errors import ModelFileError

WORK_PREFIX = "fetch-"


class FileState(StrEnum):
    MISSING = "missing"
    WRONG_SIZE = "wrong size"
    PRESENT = "present"


class Store:
    """The model files in one folder. It is created by the first fetch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate(self, variant: Variant) -> Path:
        """Where the variant's file lies or would lie."""
        return self.folder / variant.file

    def status(self, variant: Variant) -> FileState:
        """A quick look at the size only; `verify` reads every byte. Raises ModelFileError."""
        path = self.locate(variant)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return FileState.MISSING
        except OSError as error:
            raise files.unusable(path, error) from error
        return FileState.PRESENT if size == variant.file_bytes else FileState.WRONG_SIZE

    def verify(self, variant: Variant, progress: Progress = quiet) -> GgufHeader:
        """Check size, sha256 and GGUF header; the header. Raises ModelFileError with what is wrong."""
        path = self.locate(variant)
        again = FETCH_AGAIN if variant.source else COPY_AGAIN
        # The header first: "the file ends before its tensors do" says more than a hash.
        header = read_header(path, again)
        with files.in_words(path):
            size = path.stat().st_size
            if size != variant.file_bytes:
                raise ModelFileError(f"{path}: {size} bytes, not {variant.file_bytes}; {again}")
            sha256 = files.sha256_of(path, progress)
        if sha256 != variant.sha256:
            raise ModelFileError(f"{path}: its sha256 is {sha256}, not {variant.sha256}; {again}")
        return header

    def fetch(self, variant: Variant, cache: Path, progress: Progress = quiet) -> Path:
        """Make the variant's file be there and whole: from `cache`, else from its source; its path.

        Does nothing when it is there already, replaces a damaged one, and never leaves a half file
        under the final name. One fetch runs at a time; another one waits. Raises ModelFileError.
        """
        target, downloads = self.locate(variant), cache / "models"
        with files.in_words(target):
            if _is_whole(target, variant, progress):
                return target
        with files.in_words(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            downloads.mkdir(parents=True, exist_ok=True)
            with files.exclusive(downloads, progress), files.exclusive(self.folder, progress):
                self._place(variant, downloads, progress)
        return target

    def _place(self, variant: Variant, downloads: Path, progress: Progress) -> None:
        cached = downloads / f"{variant.sha256}.gguf"
        if self.folder.stat().st_dev != downloads.stat().st_dev:
            files.require_space(self.folder, variant.file_bytes)
        if not _is_whole(cached, variant, progress):
            _download(variant, cached, progress)
        read_header(cached)
        files.place(cached, self.locate(variant), progress)


def _download(variant: Variant, cached: Path, progress: Progress) -> None:
    if variant.source is None:
        raise ModelFileError(f"{variant.file} has no source in the manifest; copy it into the models folder")
    cached.unlink(missing_ok=True)
    for left_over in cached.parent.glob(f"{WORK_PREFIX}*"):  # by a fetch that was killed: the lock is ours
        shutil.rmtree(left_over, ignore_errors=True)
    files.require_space(cached.parent, pypi.needed_bytes(variant, variant.source))
    with tempfile.TemporaryDirectory(prefix=WORK_PREFIX, dir=cached.parent) as work:
        pypi.download(variant, variant.source, Path(work).resolve(), cached, progress)


def _is_whole(path: Path, variant: Variant, progress: Progress) -> bool:
    try:
        return path.stat().st_size == variant.file_bytes and files.sha256_of(path, progress) == variant.sha256
    except FileNotFoundError:
        return False
