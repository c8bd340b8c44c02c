"""Models that are all shape: a real vocabulary, and weights that are holes in a sparse file.

They take exactly the memory a model of their shape takes, and nobody has to fetch gigabytes. What they
say is nothing.
"""

import struct
from pathlib import Path
from typing import NamedTuple

from agent.catalog.ggml_types import GGML_TYPES
from agent.catalog.gguf import GgufHeader, read_header

U32 = 4
NUMBERS = {kind.name: number for number, kind in GGML_TYPES.items()}
ALIGNMENT = 32


class Hollow(NamedTuple):
    """The shape of a known model; `tied`: its embeddings are its output's weights as well."""

    name: str
    vocabulary: str
    layers: int
    width: int
    ff: int
    heads: int
    kv_heads: int
    head_size: int
    quant: str
    output_quant: str
    tied: bool


HOLLOWS = (
    Hollow("qwen2.5-0.5b-shape", "qwen2", 24, 896, 4864, 14, 2, 64, "Q4_0", "Q8_0", True),
    Hollow("llama3.2-1b-shape", "llama-bpe", 16, 2048, 8192, 32, 8, 64, "Q4_K", "Q6_K", True),
    Hollow("openllama-3b-shape", "llama-spm", 26, 3200, 8640, 32, 32, 100, "Q4_0", "Q4_0", False),
)


class Entry(NamedTuple):
    """One tensor of the file to be."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def num_bytes(self) -> int:
        kind = GGML_TYPES[NUMBERS[self.type]]
        count = 1
        for length in self.shape:
            count *= length
        return count // kind.block_values * kind.block_bytes


def make(hollow: Hollow, vocabularies: Path, folder: Path) -> Path:
    """Write the file; it has holes where the weights would be."""
    source = vocabularies / f"ggml-vocab-{hollow.vocabulary}.gguf"
    header = read_header(source)
    count, metadata = _patched(source.read_bytes(), header, _numbers(hollow))
    entries = _entries(hollow, header)
    infos, end = b"", 0
    for entry in entries:
        infos += _info(entry, end)
        end += -(-entry.num_bytes // ALIGNMENT) * ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), count) + metadata + infos
    head += bytes(-len(head) % ALIGNMENT)
    path = folder / f"{hollow.name}.gguf"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + end)
    return path


def _numbers(hollow: Hollow) -> dict[str, int]:
    return {
        "block_count": hollow.layers,
        "embedding_length": hollow.width,
        "feed_forward_length": hollow.ff,
        "attention.head_count": hollow.heads,
        "attention.head_count_kv": hollow.kv_heads,
        "rope.dimension_count": hollow.head_size,
    }


def _patched(content: bytes, header: GgufHeader, numbers: dict[str, int]) -> tuple[int, bytes]:
    """The vocabulary file's metadata with other numbers; how many there are, and their bytes."""
    (count,) = struct.unpack_from("<Q", content, 16)
    # A vocabulary has no tensors: its metadata end where the file does.
    metadata = bytearray(content[24 : header.data_offset])
    for key, value in numbers.items():
        name = _text(f"{header.metadata['general.architecture']}.{key}") + struct.pack("<I", U32)
        at = metadata.find(name)
        if at >= 0:
            struct.pack_into("<I", metadata, at + len(name), value)
        else:
            metadata += name + struct.pack("<I", value)
            count += 1
    return count, bytes(metadata)


def _entries(hollow: Hollow, header: GgufHeader) -> list[Entry]:
    width, rows = hollow.width, header.lengths["tokenizer.ggml.tokens"]
    queries, keys = hollow.heads * hollow.head_size, hollow.kv_heads * hollow.head_size
    entries = [Entry("token_embd.weight", (width, rows), hollow.output_quant)]
    entries += [] if hollow.tied else [Entry("output.weight", (width, rows), hollow.output_quant)]
    entries.append(Entry("output_norm.weight", (width,), "F32"))
    matrices = {
        "attn_q": (width, queries),
        "attn_k": (width, keys),
        "attn_v": (width, keys),
        "attn_output": (queries, width),
        "ffn_gate": (width, hollow.ff),
        "ffn_up": (width, hollow.ff),
        "ffn_down": (hollow.ff, width),
    }
    biases = {"attn_q": queries, "attn_k": keys, "attn_v": keys} if hollow.vocabulary == "qwen2" else {}
    for layer in range(hollow.layers):
        begin = f"blk.{layer}"
        entries += [Entry(f"{begin}.{name}.weight", (width,), "F32") for name in ("attn_norm", "ffn_norm")]
        entries += [Entry(f"{begin}.{name}.weight", shape, hollow.quant) for name, shape in matrices.items()]
        entries += [Entry(f"{begin}.{name}.bias", (size,), "F32") for name, size in biases.items()]
    return entries


def _info(entry: Entry, offset: int) -> bytes:
    shape = struct.pack("<I", len(entry.shape)) + b"".join(struct.pack("<Q", n) for n in entry.shape)
    return _text(entry.name) + shape + struct.pack("<IQ", NUMBERS[entry.type], offset)


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw
