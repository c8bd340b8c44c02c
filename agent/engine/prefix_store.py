"""Computed profiles on disk, so that a box that starts need not compute them again.

One file per prefix. llama.cpp's state says nothing of the model it belongs to, so the name is a hash
of everything it depends on; a CRC finds what a dying SD card did to it. Files are written beside and
renamed, so that a power cut leaves the old one or none. A file that is not what it should be is
removed and computed anew: nothing here is worth an error.
"""

import hashlib
import logging
import mmap
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from agent.engine.backend import Buffer
from agent.engine.messages import Load

log = logging.getLogger(__name__)

SUFFIX = ".kv"
# All files together. A thousand tokens of a model of 135M parameters take 23 MB.
MAX_BYTES = 512 << 20
# llama.cpp's state begins on a page of its own.
HEADER_BYTES = 4096
_MAGIC = "tampu-kv-1"
_BLOCK_BYTES = 1 << 20


class Header(Struct, frozen=True):
    """The first HEADER_BYTES of a file: JSON, padded with blanks."""

    magic: str
    key: str
    num_tokens: int
    state_bytes: int
    crc32: int


class PrefixStore:
    """A folder of saved prefixes of one model as it is loaded now."""

    def __init__(self, folder: Path, load: Load, build: str) -> None:
        self._folder = folder
        # Another device, or another layout of the weights, computes other roundings.
        how = f"{load.kv_type}|{load.n_gpu_layers}|{load.device}|{load.is_repacked}"
        self._about = f"{build}|{load.model_key}|{how}"

    def has(self, tokens: list[int]) -> bool:
        """True when there is a file for these."""
        return self._path(tokens).exists()

    def load(self, tokens: list[int]) -> Buffer | None:
        """The state of these tokens, or None when it is not here or not whole."""
        path = self._path(tokens)
        try:
            with path.open("rb") as file:
                if complaint := self._complaint(file, tokens):
                    log.warning("%s %s; the profile is computed again", path, complaint)
                    self._remove(path)
                    return None
                # Private and writable: llama.cpp's binding asks for that, and nothing is copied.
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read (%s); the profile is computed again", path, error)
            self._remove(path)
            return None
        return memoryview(content)[HEADER_BYTES:]

    def save(self, tokens: list[int], state: Buffer) -> None:
        """Write atomically. A disk that is full or read-only is said in the log."""
        path = self._path(tokens)
        header = Header(_MAGIC, self._key(tokens), len(tokens), len(state), zlib.crc32(state))
        unfinished = path.with_suffix(".part")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(msgspec.json.encode(header).ljust(HEADER_BYTES))
                file.write(state)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(path)
            _sync_folder(self._folder)
        except OSError as error:
            log.warning("%s cannot be written: %s", path, error.strerror)
            self._remove(unfinished)

    def tidy(self, wanted: Iterable[list[int]]) -> None:
        """Remove what is neither wanted nor recent, oldest first, until the folder is within bounds."""
        keep = {self._path(tokens).name for tokens in wanted}
        try:
            files = [path for path in self._folder.iterdir() if path.suffix in (SUFFIX, ".part")]
            sizes = {path: path.stat() for path in files}
        except OSError:
            return
        total = sum(stat.st_size for stat in sizes.values())
        for path in sorted(sizes, key=lambda path: sizes[path].st_mtime):
            is_debris = path.suffix == ".part"
            if is_debris or (path.name not in keep and total > MAX_BYTES):
                self._remove(path)
                total -= sizes[path].st_size

    def _complaint(self, file: BinaryIO, tokens: list[int]) -> str:
        """What is wrong with a file, or nothing. Reads all of it: a bad block of an SD card is an OSError
        here, and the end of the process in mapped memory."""
        try:
            header = msgspec.json.decode(file.read(HEADER_BYTES), type=Header)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "has no header"
        if header.magic != _MAGIC or header.key != self._key(tokens) or header.num_tokens != len(tokens):
            return "is another one's"
        num_bytes, crc = 0, 0
        while block := file.read(_BLOCK_BYTES):
            num_bytes, crc = num_bytes + len(block), zlib.crc32(block, crc)
        if num_bytes != header.state_bytes:
            return f"has a state of {num_bytes} bytes instead of {header.state_bytes}"
        return "" if crc == header.crc32 else "is damaged"

    def _key(self, tokens: list[int]) -> str:
        return hashlib.sha256(f"{self._about}|{tokens}".encode()).hexdigest()

    def _path(self, tokens: list[int]) -> Path:
        return self._folder / f"{self._key(tokens)[:32]}{SUFFIX}"

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be removed: %s", path, error.strerror)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
