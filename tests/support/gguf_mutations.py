"""Model files of several kinds, and damage to them: repeatable from a seed."""

import random
import struct
from pathlib import Path
from typing import NamedTuple

from tests.support.gguf_builder import DEFAULT_KEYS, F32_TENSOR, STRING, U8, U16, U32, U64, Key, Tensor, build

# Around every bound that a reader, ours or llama.cpp's, may have.
NUMBERS = [
    *(0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 13, 31, 32, 33, 63, 64, 65, 255, 256, 4095, 4096, 4097),
    *(
        near
        for bits in (15, 16, 21, 27, 31, 32, 62, 63)
        for near in ((1 << bits) - 1, 1 << bits, (1 << bits) + 1)
    ),
    (1 << 64) - 1,
]
WIDTHS = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}
# Where a real header has its counts and its tensors: before and behind the vocabulary.
EDGE_BYTES = 2048


class Base(NamedTuple):
    """A file to be damaged: its header, and how many bytes of tensors follow (a hole, never written)."""

    name: str
    header: bytes
    data_bytes: int = 0


def small_bases() -> list[Base]:
    """Both versions, another alignment, a vocabulary alone, many keys, many tensors."""
    aligned = (*DEFAULT_KEYS, Key("general.alignment", U32, 64))
    numbered = [Key(f"key.{number}", kind, 1) for number, kind in enumerate((U8, U16, U32, U64) * 30)]
    layers = [Tensor(f"blk.{number}.weight", (32, 2), F32_TENSOR, 256) for number in range(80)]
    return [
        Base("version 3", build()),
        Base("version 2", build(version=2)),
        Base("alignment 64", build(aligned, alignment=64)),
        Base("vocabulary", build(tensors=())),
        Base("many keys", build(numbered)),
        Base("many tensors", build(tensors=layers)),
    ]


def many_strings() -> Base:
    """A vocabulary of 20,000 words with their merges."""
    words = [f"word{number}" for number in range(20_000)]
    lists = (Key("tokenizer.ggml.tokens", STRING, words), Key("tokenizer.ggml.merges", STRING, words))
    return Base("many strings", build([*DEFAULT_KEYS[:4], *lists]))


def real_header(path: Path, header_bytes: int) -> Base:
    """The beginning of a model file; its tensors are a hole."""
    with path.open("rb") as file:
        return Base(path.name, file.read(header_bytes), path.stat().st_size - header_bytes)


def mutate(rng: random.Random, header: bytes) -> bytes:
    """One to four pieces of damage."""
    content = bytearray(header)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice((_flip, _flip, _number, _number, _number, _shift, _splice, _remove, _end))(rng, content)
    return bytes(content)


def write(path: Path, header: bytes, data_bytes: int) -> int:
    """Write the file, its tensors as a hole; its size in bytes."""
    path.touch()
    # Never cut to nothing: some file systems put a file that was on the disk before it is closed again.
    with path.open("r+b") as file:
        file.write(header)
        file.truncate()
        file.truncate(len(header) + data_bytes)
    return len(header) + data_bytes


def _position(rng: random.Random, content: bytearray) -> int:
    most = max(1, len(content))
    match rng.randrange(4):
        case 0:
            return rng.randrange(most)
        case 1:
            return max(0, most - 1 - rng.randrange(10 * EDGE_BYTES))
        case _:
            return rng.randrange(min(most, EDGE_BYTES))


def _flip(rng: random.Random, content: bytearray) -> None:
    if content:
        content[_position(rng, content) % len(content)] ^= 1 << rng.randrange(8)


def _number(rng: random.Random, content: bytearray) -> None:
    """Overwrite a field, or what lies across two, with a number somebody has a bound for."""
    width = rng.choice((1, 2, 4, 8, 8))
    at = _position(rng, content)
    content[at : at + width] = struct.pack(WIDTHS[width], rng.choice(NUMBERS) % (1 << 8 * width))


def _shift(rng: random.Random, content: bytearray) -> None:
    """Count something up or down by one, as a wrong writer would."""
    at = _position(rng, content)
    if at < len(content):
        content[at] = (content[at] + rng.choice((-1, 1))) % 256


def _splice(rng: random.Random, content: bytearray) -> None:
    begin, at = _position(rng, content), _position(rng, content)
    piece = content[begin : begin + rng.randrange(1, 200)]
    content[at : at + rng.choice((0, len(piece)))] = piece


def _remove(rng: random.Random, content: bytearray) -> None:
    at = _position(rng, content)
    del content[at : at + rng.randrange(1, 40)]


def _end(rng: random.Random, content: bytearray) -> None:
    del content[_position(rng, content) :]
