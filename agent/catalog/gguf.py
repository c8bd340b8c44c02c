"""A bounded look at a GGUF file's header, before any C++ parser sees it.

Every rule of llama.cpp's own reader is checked here (names, shapes, types, alignment, offsets,
tensors inside the file), and some it does not have: counts, lengths and the bytes read are bounded.
Whatever the bytes, `read_header` soon returns a header or raises ModelFileError.
The format: ggml/src/gguf.cpp and docs/gguf.md in llama.cpp.
"""

import stat
from pathlib import Path

from msgspec import Struct

from agent.catalog.ggml_types import GGML_TYPES
from agent.catalog.gguf_bytes import SCALARS, U32, U64, Invalid, Reader, damaged, truncated
from agent.errors import ModelFileError

MAGIC = b"GGUF"
# As the bytes stand in the file: little-endian 'ggml', 'ggmf' and 'ggjt'.
MAGICS_BEFORE_GGUF = {b"lmgg": "GGML", b"fmgg": "GGMF", b"tjgg": "GGJT"}
VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
TOKENS_KEY = "tokenizer.ggml.tokens"
# docs/gguf.md: a multiple of 8; the largest number would lie unaligned in memory otherwise.
MIN_ALIGNMENT = 8

MAX_METADATA = 4096
MAX_TENSORS = 65536
MAX_KEY_BYTES = 65535
MAX_KEPT_STRING_BYTES = 4096
# llama.cpp's own: GGML_MAX_NAME with its terminator, GGML_MAX_DIMS, and a signed count of values.
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMS = 4
MAX_VALUES = (1 << 63) - 1

STRING, ARRAY = 8, 9

FETCH = "fetch it with: tampu models fetch"
FETCH_AGAIN = "fetch it again with: tampu models fetch"
# For files that no manifest knows: they came from elsewhere.
COPY_AGAIN = "copy it again from where it came from"
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


def read_header(path: Path, remedy: str = FETCH_AGAIN) -> GgufHeader:
    """The checked header of a GGUF file. Raises ModelFileError with the reason and the remedy.

    `remedy` is the step for a file that is damaged; other kinds of wrong files have their own.
    """
    try:
        # Asked before opening: opening a pipe would wait for its other end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise Invalid("not a regular file", "name a GGUF file")
        with path.open("rb", buffering=0) as file:
            return _read(Reader(file, path.stat().st_size))
    except Invalid as error:
        raise ModelFileError(f"{path}: {error.reason}; {error.remedy or remedy}") from None
    except FileNotFoundError as error:
        wanted = FETCH if remedy == FETCH_AGAIN else "name one that is there"
        raise ModelFileError(f"{path}: no such model file; {wanted}") from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); check owner and mode") from error


def _read(reader: Reader) -> GgufHeader:
    version = _read_version(reader)
    num_tensors = _read_count(reader, "tensors", MAX_TENSORS)
    num_metadata = _read_count(reader, "metadata keys", MAX_METADATA)
    metadata, lengths = _read_metadata(reader, num_metadata)
    _refuse_split(metadata)
    alignment = _alignment(metadata)
    tensors = _read_tensors(reader, num_tensors, alignment)
    data_offset = _padded(reader.position, alignment) if tensors else reader.position
    if tensors and (needed := data_offset + tensors[-1].offset + tensors[-1].num_bytes) > reader.file_bytes:
        raise truncated(reader.file_bytes, needed)
    return GgufHeader(version, metadata, lengths, tensors, alignment, data_offset)


def _read_version(reader: Reader) -> int:
    if reader.file_bytes < len(MAGIC):
        raise Invalid(f"not a GGUF file, it has {reader.file_bytes} bytes")
    magic = reader.take(len(MAGIC))
    if old := MAGICS_BEFORE_GGUF.get(magic):
        raise Invalid(f"a {old} file, from before GGUF", CONVERT_AGAIN)
    if magic != MAGIC:
        raise Invalid(f"not a GGUF file, it begins with {magic!r}")
    version = reader.number(U32)
    if version and version & 0xFFFF == 0:
        raise Invalid("a big-endian GGUF file", f"{CONVERT_AGAIN}, without --bigendian")
    if version == 1:
        raise Invalid("GGUF version 1 is no longer read", CONVERT_AGAIN)
    if version not in VERSIONS:
        raise Invalid(f"GGUF version {version} is not known, only 2 and 3 are", CONVERT_AGAIN)
    return version


def _read_count(reader: Reader, what: str, most: int) -> int:
    count = reader.number(U64)
    if count > most:
        raise damaged(f"{count} {what}, at most {most} are allowed")
    return count


def _read_metadata(reader: Reader, count: int) -> tuple[dict[str, Scalar], dict[str, int]]:
    metadata: dict[str, Scalar] = {}
    lengths: dict[str, int] = {}
    for _ in range(count):
        key = reader.name(MAX_KEY_BYTES, "a metadata key")
        if not key or key in metadata or key in lengths:
            raise damaged(f"the metadata key {key[:64]!r} is empty or there twice")
        kind = reader.number(U32)
        if key == ALIGNMENT_KEY and SCALARS.get(kind) is not U32:
            raise damaged(f"{key!r} has type {kind}")
        if kind == ARRAY:
            lengths[key] = _skip_array(reader, key)
        elif kind == STRING:
            _read_string(reader, key, metadata, lengths)
        elif kind in SCALARS:
            metadata[key] = reader.number(SCALARS[kind])
        else:
            raise damaged(f"{key[:64]!r} has the unknown type {kind}")
    return metadata, lengths


def _read_string(reader: Reader, key: str, metadata: dict[str, Scalar], lengths: dict[str, int]) -> None:
    length = reader.number(U64)
    if length > MAX_KEPT_STRING_BYTES:
        reader.skip(length)
        lengths[key] = length
    else:
        metadata[key] = reader.keep(length)


def _skip_array(reader: Reader, key: str) -> int:
    kind = reader.number(U32)
    count = reader.number(U64)
    if kind == STRING and key == TOKENS_KEY:
        # llama.cpp holds them to be so with an assertion, which ends the process.
        if not reader.are_unique(count):
            raise damaged("two tokens of the vocabulary are the same")
    elif kind == STRING:
        reader.skip_strings(count)
    elif kind in SCALARS:
        reader.skip(count * SCALARS[kind].size)
    else:  # arrays of arrays too: llama.cpp has none
        raise damaged(f"{key[:64]!r} is an array of the unknown type {kind}")
    return count


def _refuse_split(metadata: dict[str, Scalar]) -> None:
    count = metadata.get("split.count", 1)
    if isinstance(count, int) and count > 1:
        raise Invalid(f"one of {count} parts of a split model", "join them with: llama-gguf-split --merge")


def _alignment(metadata: dict[str, Scalar]) -> int:
    alignment = int(metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT))
    if alignment.bit_count() != 1:
        raise damaged(f"an alignment of {alignment} is no power of two")
    if alignment < MIN_ALIGNMENT:
        raise damaged(f"an alignment of {alignment} is no multiple of {MIN_ALIGNMENT}")
    return alignment


def _read_tensors(reader: Reader, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    tensors: list[TensorInfo] = []
    names: set[str] = set()
    expected_offset = 0
    for _ in range(count):
        tensor = _read_tensor(reader)
        if tensor.name in names:
            raise damaged(f"the tensor {tensor.name!r} is there twice")
        if tensor.offset != expected_offset:
            raise damaged(f"the tensor {tensor.name!r} lies at {tensor.offset}, not at {expected_offset}")
        expected_offset += _padded(tensor.num_bytes, alignment)
        names.add(tensor.name)
        tensors.append(tensor)
    return tuple(tensors)


def _read_tensor(reader: Reader) -> TensorInfo:
    name = reader.name(MAX_TENSOR_NAME_BYTES, "a tensor name")
    if not name:
        raise damaged("a tensor without a name")
    num_dims = reader.number(U32)
    if num_dims > MAX_DIMS:
        raise damaged(f"the tensor {name!r} has {num_dims} dimensions, at most {MAX_DIMS} are allowed")
    shape = tuple(reader.number(U64) for _ in range(num_dims))
    number = reader.number(U32)
    offset = reader.number(U64)
    type_name, num_bytes = _measure(name, shape, number)
    return TensorInfo(name, type_name, shape, offset, num_bytes)


def _measure(name: str, shape: tuple[int, ...], number: int) -> tuple[str, int]:
    """The type's name and the tensor's size in bytes."""
    if number not in GGML_TYPES:
        raise Invalid(f"the tensor {name!r} has the unknown type {number}", CONVERT_AGAIN)
    kind = GGML_TYPES[number]
    row_values, num_values = shape[0] if shape else 1, 1
    for length in shape:
        num_values *= length
        # Each length too: a zero among them would hide one that llama.cpp reads as negative.
        if length > MAX_VALUES or num_values > MAX_VALUES:
            raise damaged(f"the tensor {name!r} is too large: {shape}")
    if row_values % kind.block_values:
        raise damaged(f"the tensor {name!r} ({kind.name}) has rows of {row_values} values")
    return kind.name, num_values // kind.block_values * kind.block_bytes


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
