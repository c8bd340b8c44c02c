"""Headers that were read already: a model file is read again only when it has changed."""

from pathlib import Path
from typing import NamedTuple

from agent.catalog.gguf import FETCH_AGAIN, GgufHeader, read_header
from agent.errors import ModelFileError

# Of all headers that are kept; a model has some hundreds, and each takes some hundred bytes.
MAX_TENSORS = 1 << 15
# Refused files are remembered too, and cost a sentence.
MAX_FILES = 256


class _Read(NamedTuple):
    """What came of one reading; exactly one of `header` and `refusal` is there."""

    stamp: tuple[int, int]
    header: GgufHeader | None
    refusal: str

    @property
    def num_tensors(self) -> int:
        return self.header.num_tensors if self.header else 0


class Shelf:
    """Reads headers and keeps them, by path, size in bytes and time of the last change. For one thread."""

    def __init__(self) -> None:
        self._read: dict[Path, _Read] = {}

    def header(self, path: Path, remedy: str = FETCH_AGAIN) -> GgufHeader:
        """As `read_header`, and at once for a file that has not changed. Raises ModelFileError."""
        stamp = _stamp(path)
        known = self._read.pop(path, None)
        if stamp is None:
            return read_header(path, remedy)
        if known is None or known.stamp != stamp:
            known = _look(path, stamp, remedy)
        self._keep(path, known)
        if known.header is None:
            raise ModelFileError(known.refusal)
        return known.header

    def _keep(self, path: Path, read: _Read) -> None:
        """The one asked for last stays longest."""
        self._read[path] = read
        num_tensors = sum(each.num_tensors for each in self._read.values())
        while len(self._read) > 1 and (num_tensors > MAX_TENSORS or len(self._read) > MAX_FILES):
            num_tensors -= self._read.pop(next(iter(self._read))).num_tensors


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _look(path: Path, stamp: tuple[int, int], remedy: str) -> _Read:
    try:
        return _Read(stamp, read_header(path, remedy), "")
    except ModelFileError as error:
        return _Read(stamp, None, str(error))
