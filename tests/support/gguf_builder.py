"""Builds small GGUF files, right by default and wrong where a test says so."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

U8, U16, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 2, 4, 5, 6, 7, 8, 9, 10
F32_TENSOR, Q4_1_TENSOR = 0, 3

FORMATS = {U8: "B", U16: "H", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q"}


class Key(NamedTuple):
    """One metadata pair; for an array `kind` is its elements' type and `value` a list."""

    name: str
    kind: int
    value: object


class Tensor(NamedTuple):
    """One tensor's info; `offset` None lays it right after the one before."""

    name: str
    shape: Sequence[int]
    type: int
    data_bytes: int
    offset: int | None = None


DEFAULT_KEYS = (
    Key("general.architecture", STRING, "llama"),
    Key("llama.block_count", U32, 2),
    Key("llama.rope.freq_base", F32, 10000.0),
    Key("tokenizer.ggml.add_bos_token", BOOL, False),
    Key("tokenizer.ggml.tokens", STRING, ["<s>", "</s>", "a", "b"]),
    Key("tokenizer.ggml.token_type", U32, [3, 3, 1, 1]),
)
# What every model says of itself, and what most do.
MODEL_KEYS = (
    Key("general.architecture", STRING, "llama"),
    Key("general.name", STRING, "Tiny Model"),
    Key("general.license", STRING, "mit"),
    Key("general.file_type", U32, 3),
    Key("llama.block_count", U32, 2),
    Key("llama.context_length", U32, 2048),
    Key("tokenizer.chat_template", STRING, "{{ messages }}"),
)
DEFAULT_TENSORS = (
    Tensor("output_norm.weight", (8,), F32_TENSOR, 32),
    Tensor("token_embd.weight", (32, 4), Q4_1_TENSOR, 80),
)


def build(
    keys: Sequence[Key] = DEFAULT_KEYS,
    tensors: Sequence[Tensor] = DEFAULT_TENSORS,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    alignment: int = 32,
    byte_order: str = "<",
) -> bytes:
    """The bytes of a GGUF file; `alignment` lays out the data, a test adds the key that says so."""
    pack = _Packer(byte_order)
    head = magic + pack.number(U32, version) + pack.number(U64, len(tensors)) + pack.number(U64, len(keys))
    head += b"".join(pack.key(key) for key in keys)
    infos, end = [], 0
    for tensor in tensors:
        infos.append(pack.tensor(tensor, end))
        end += -(-tensor.data_bytes // alignment) * alignment
    return _pad(head + b"".join(infos), alignment) + bytes(end) if tensors else head


class _Packer:
    def __init__(self, byte_order: str) -> None:
        self._byte_order = byte_order

    def number(self, kind: int, value: object) -> bytes:
        return struct.pack(self._byte_order + FORMATS[kind], value)

    def text(self, value: str) -> bytes:
        raw = value.encode()
        return self.number(U64, len(raw)) + raw

    def key(self, key: Key) -> bytes:
        if isinstance(key.value, list):
            head = self.number(U32, ARRAY) + self.number(U32, key.kind) + self.number(U64, len(key.value))
            return self.text(key.name) + head + b"".join(self._value(key.kind, each) for each in key.value)
        return self.text(key.name) + self.number(U32, key.kind) + self._value(key.kind, key.value)

    def tensor(self, tensor: Tensor, end_of_data: int) -> bytes:
        offset = end_of_data if tensor.offset is None else tensor.offset
        shape = self.number(U32, len(tensor.shape)) + b"".join(self.number(U64, n) for n in tensor.shape)
        return self.text(tensor.name) + shape + self.number(U32, tensor.type) + self.number(U64, offset)

    def _value(self, kind: int, value: object) -> bytes:
        return self.text(str(value)) if kind == STRING else self.number(kind, value)


def _pad(raw: bytes, alignment: int) -> bytes:
    return raw + bytes(-len(raw) % alignment)
