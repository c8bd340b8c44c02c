"""A bounded look at a GGUF file's header, before any C++ parser sees it.

Every rule of llama.cpp's own reader is checked here (names, shapes, types, alignment, offsets,
tensors inside the file), and some it does not have: counts, lengths and the bytes read are bounded.
Whatever the bytes, `read_header` soon returns a header or raises ModelFileError.
The format: ggml/src/gguf.cpp and docs/gguf.md in llama.cpp.
"""

import stat
import struct
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from agent.catalog.ggml_types import GGML_TYPES
from agent.errors import ModelFileError

MAGIC = b"GGUF"
# As the bytes stand in the file: little-endian 'ggml', 'ggmf' and 'ggjt'.
MAGICS_BEFORE_GGUF = {b"lmgg": "GGML", b"fmgg": "GGMF", b"tjgg": "GGJT"}
VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32

# Far above real files (the largest header seen has 16 MB, a 262k vocabulary with its merges
# 0.8 M strings), and low enough to be walked through in a second.
MAX_HEADER_BYTES = 128 << 20
MAX_METADATA = 4096
MAX_TENSORS = 65536
MAX_STRINGS = 1 << 21
MAX_KEY_BYTES = 65535
MAX_KEPT_STRING_BYTES = 4096
# llama.cpp's own: GGML_MAX_NAME with its terminator, GGML_MAX_DIMS, and a signed count of values.
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMS = 4
MAX_VALUES = (1 << 63) - 1

WINDOW_BYTES = 1 << 18

SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
U32, U64 = SCALARS[4], SCALARS[10]
STRING, ARRAY = 8, 9

FETCH = "fetch it with: tampu models fetch"
FETCH_AGAIN = "fetch it again with: tampu models fetch"
CONVERT_AGAIN = "convert the model again with llama.cpp's convert_hf_to_gguf.py"

Scalar = int | float | bool | str


class TensorInfo(Struct, frozen=True):
    """One tensor: `offset` counts bytes from the start of the tensor data, `num_bytes` without padding."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class GgufHeader(Struct, frozen=True):
    """What a GGUF file says about itself.

    `metadata` holds scalars and strings of at most 4096 bytes; `lengths` what was skipped: elements
    of each array, bytes of each longer string. `data_offset` is where the tensor data begin.
    """

    version: int
    metadata: dict[str, Scalar]
    lengths: dict[str, int]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int

    @property
    def num_tensors(self) -> int:
        return len(self.tensors)


class _Invalid(Exception):
    """Why the file is refused; `read_header` puts its name in front."""


def read_header(path: Path) -> GgufHeader:
    """The checked header of a GGUF file. Raises ModelFileError with the reason and the remedy."""
    try:
        # Asked before opening: opening a pipe would wait for its other end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise _Invalid("not a regular file; name a GGUF file")
        with path.open("rb", buffering=0) as file:
            return _read(_Reader(file, path.stat().st_size))
    except _Invalid as reason:
        raise ModelFileError(f"{path}: {reason}") from None
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: no such model file; {FETCH}") from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); check owner and mode") from error


def _damaged(what: str) -> _Invalid:
    return _Invalid(f"not a valid GGUF file ({what}); {FETCH_AGAIN}")


def _truncated(file_bytes: int, needed: int | None = None) -> _Invalid:
    if needed is None:
        return _Invalid(f"the file ends inside its header, after {file_bytes} bytes; {FETCH_AGAIN}")
    return _Invalid(f"the file ends before its tensors do: {file_bytes} of {needed} bytes; {FETCH_AGAIN}")


class _Reader:
    """Walks forward over the header through a window of 256 KiB.

    Never maps the file: one that shrinks while it is copied into place would end a mapping's reader
    with SIGBUS; here it is a short read.
    """

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        self.file_bytes = file_bytes
        self._file = file
        self._start = 0  # of the window, in the file
        self._window = b""
        self._at = 0  # in the window
        self._num_strings = 0

    @property
    def position(self) -> int:
        return self._start + self._at

    def take(self, size: int) -> bytes:
        if self._at + size > len(self._window):
            self._fill(size)
        self._at += size
        return self._window[self._at - size : self._at]

    def number(self, kind: struct.Struct) -> int:
        value: int = kind.unpack(self.take(kind.size))[0]
        return value

    def text(self, max_bytes: int, what: str) -> str:
        length = self.number(U64)
        if length > max_bytes:
            raise _damaged(f"{what} of {length} bytes, at most {max_bytes} are allowed")
        return self.take(length).decode("utf-8", "replace")

    def skip(self, size: int) -> None:
        self._check(size)
        self._at += size
        if self._at > len(self._window):
            self._start, self._window, self._at = self.position, b"", 0

    def skip_strings(self, count: int) -> None:
        self._num_strings += count
        if self._num_strings > MAX_STRINGS:
            raise _damaged(f"more than {MAX_STRINGS} strings")
        # A vocabulary has hundreds of thousands of them: one unpack each, and no call inside the window.
        for _ in range(count):
            end_of_length = self._at + U64.size
            if end_of_length > len(self._window):
                self._fill(U64.size)
                end_of_length = U64.size
            length = U64.unpack_from(self._window, end_of_length - U64.size)[0]
            if end_of_length + length <= len(self._window):
                self._at = end_of_length + length
            else:
                self._at = end_of_length
                self.skip(length)

    def _fill(self, size: int) -> None:
        self._check(size)
        self._start, self._at = self.position, 0
        self._file.seek(self._start)
        self._window = self._file.read(max(size, WINDOW_BYTES))
        if len(self._window) < size:
            raise _truncated(self._start + len(self._window))

    def _check(self, size: int) -> None:
        if self.position + size > self.file_bytes:
            raise _truncated(self.file_bytes)
        if self.position + size > MAX_HEADER_BYTES:
            raise _damaged(f"a header of more than {MAX_HEADER_BYTES} bytes")


def _read(reader: _Reader) -> GgufHeader:
    version = _read_version(reader)
    num_tensors = _read_count(reader, "tensors", MAX_TENSORS)
    num_metadata = _read_count(reader, "metadata keys", MAX_METADATA)
    metadata, lengths = _read_metadata(reader, num_metadata)
    _refuse_split(metadata)
    alignment = _alignment(metadata)
    tensors = _read_tensors(reader, num_tensors, alignment)
    data_offset = _padded(reader.position, alignment) if tensors else reader.position
    if tensors and (needed := data_offset + tensors[-1].offset + tensors[-1].num_bytes) > reader.file_bytes:
        raise _truncated(reader.file_bytes, needed)
    return GgufHeader(version, metadata, lengths, tensors, alignment, data_offset)


def _read_version(reader: _Reader) -> int:
    if reader.file_bytes < len(MAGIC):
        raise _Invalid(f"not a GGUF file, it has {reader.file_bytes} bytes; {FETCH_AGAIN}")
    magic = reader.take(len(MAGIC))
    if old := MAGICS_BEFORE_GGUF.get(magic):
        raise _Invalid(f"a {old} file, from before GGUF; {CONVERT_AGAIN}")
    if magic != MAGIC:
        raise _Invalid(f"not a GGUF file, it begins with {magic!r}; {FETCH_AGAIN}")
    version = reader.number(U32)
    if version and version & 0xFFFF == 0:
        raise _Invalid(f"a big-endian GGUF file; {CONVERT_AGAIN}, without --bigendian")
    if version == 1:
        raise _Invalid(f"GGUF version 1 is no longer read; {CONVERT_AGAIN}")
    if version not in VERSIONS:
        raise _Invalid(f"GGUF version {version} is not known, only 2 and 3 are; {CONVERT_AGAIN}")
    return version


def _read_count(reader: _Reader, what: str, most: int) -> int:
    count = reader.number(U64)
    if count > most:
        raise _damaged(f"{count} {what}, at most {most} are allowed")
    return count


def _read_metadata(reader: _Reader, count: int) -> tuple[dict[str, Scalar], dict[str, int]]:
    metadata: dict[str, Scalar] = {}
    lengths: dict[str, int] = {}
    for _ in range(count):
        key = reader.text(MAX_KEY_BYTES, "a metadata key")
        if not key or key in metadata or key in lengths:
            raise _damaged(f"the metadata key {key[:64]!r} is empty or there twice")
        kind = reader.number(U32)
        if key == ALIGNMENT_KEY and SCALARS.get(kind) is not U32:
            raise _damaged(f"{key!r} has type {kind}")
        if kind == ARRAY:
            lengths[key] = _skip_array(reader, key)
        elif kind == STRING:
            _read_string(reader, key, metadata, lengths)
        elif kind in SCALARS:
            metadata[key] = reader.number(SCALARS[kind])
        else:
            raise _damaged(f"{key[:64]!r} has the unknown type {kind}")
    return metadata, lengths


def _read_string(reader: _Reader, key: str, metadata: dict[str, Scalar], lengths: dict[str, int]) -> None:
    length = reader.number(U64)
    if length > MAX_KEPT_STRING_BYTES:
        reader.skip(length)
        lengths[key] = length
    else:
        metadata[key] = reader.take(length).decode("utf-8", "replace")


def _skip_array(reader: _Reader, key: str) -> int:
    kind = reader.number(U32)
    count = reader.number(U64)
    if kind == STRING:
        reader.skip_strings(count)
    elif kind in SCALARS:
        reader.skip(count * SCALARS[kind].size)
    else:  # arrays of arrays too: llama.cpp has none
        raise _damaged(f"{key[:64]!r} is an array of the unknown type {kind}")
    return count


def _refuse_split(metadata: dict[str, Scalar]) -> None:
    count = metadata.get("split.count", 1)
    if isinstance(count, int) and count > 1:
        raise _Invalid(f"one of {count} parts of a split model; join them with: llama-gguf-split --merge")


def _alignment(metadata: dict[str, Scalar]) -> int:
    alignment = int(metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT))
    if alignment.bit_count() != 1:
        raise _damaged(f"an alignment of {alignment} is no power of two")
    return alignment


def _read_tensors(reader: _Reader, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    tensors: list[TensorInfo] = []
    names: set[str] = set()
    expected_offset = 0
    for _ in range(count):
        tensor = _read_tensor(reader)
        if tensor.name in names:
            raise _damaged(f"the tensor {tensor.name!r} is there twice")
        if tensor.offset != expected_offset:
            raise _damaged(f"the tensor {tensor.name!r} lies at {tensor.offset}, not at {expected_offset}")
        expected_offset += _padded(tensor.num_bytes, alignment)
        names.add(tensor.name)
        tensors.append(tensor)
    return tuple(tensors)


def _read_tensor(reader: _Reader) -> TensorInfo:
    name = reader.text(MAX_TENSOR_NAME_BYTES, "a tensor name")
    num_dims = reader.number(U32)
    if num_dims > MAX_DIMS:
        raise _damaged(f"the tensor {name!r} has {num_dims} dimensions, at most {MAX_DIMS} are allowed")
    shape = tuple(reader.number(U64) for _ in range(num_dims))
    number = reader.number(U32)
    offset = reader.number(U64)
    type_name, num_bytes = _measure(name, shape, number)
    return TensorInfo(name, type_name, shape, offset, num_bytes)


def _measure(name: str, shape: tuple[int, ...], number: int) -> tuple[str, int]:
    """The type's name and the tensor's size in bytes."""
    if number not in GGML_TYPES:
        raise _Invalid(f"the tensor {name!r} has the unknown type {number}; {CONVERT_AGAIN}")
    kind = GGML_TYPES[number]
    row_values, num_values = shape[0] if shape else 1, 1
    for length in shape:
        num_values *= length
        # Each length too: a zero among them would hide one that llama.cpp reads as negative.
        if length > MAX_VALUES or num_values > MAX_VALUES:
            raise _damaged(f"the tensor {name!r} is too large: {shape}")
    if row_values % kind.block_values:
        raise _damaged(f"the tensor {name!r} ({kind.name}) has rows of {row_values} values")
    return kind.name, num_values // kind.block_values * kind.block_bytes


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
