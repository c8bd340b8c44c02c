"""What one token takes in the KV cache, worked out from a model file's header.

llama.cpp's own sum (src/llama-hparams.cpp): layers x (key + value values of all KV heads).
"""

from msgspec import Struct

from agent.catalog.gguf import GgufHeader

F16_BYTES = 2
# ggml's quantised types are made of blocks of so many values; a head must be a whole number of them.
BLOCK_VALUES = 32
# Bytes per cell relative to f16.
KV_COST = {"f16": 1.0, "q8_0": 34 / 64, "q4_0": 18 / 64}
# Where the header does not say: between the small models' 12 and 112 KiB.
UNKNOWN_BYTES_PER_TOKEN = 64 << 10


class KvSize(Struct, frozen=True):
    """`bytes_per_token` at f16; `types` are the formats this model's cache can have, the best first."""

    bytes_per_token: int
    types: tuple[str, ...] = tuple(KV_COST)

    def cell_bytes(self, kv_type: str) -> float:
        """One token's bytes in that format."""
        return self.bytes_per_token * KV_COST[kv_type]


def kv_size(header: GgufHeader, bytes_per_token: int | None = None) -> KvSize:
    """From the header, or with `bytes_per_token` where the manifest has it.

    A sliding window or a compressed cache takes less than this says.
    """
    arch = header.metadata.get("general.architecture", "")

    def number(key: str, default: int = 0) -> int:
        value = header.metadata.get(f"{arch}.{key}", default)
        return value if isinstance(value, int) else 0

    heads = number("attention.head_count")
    head_size = number("embedding_length") // heads if heads > 0 else 0
    keys, values = number("attention.key_length", head_size), number("attention.value_length", head_size)
    computed = number("block_count") * number("attention.head_count_kv", heads) * (keys + values) * F16_BYTES
    has_whole_blocks = keys > 0 and keys % BLOCK_VALUES == 0 and values % BLOCK_VALUES == 0
    return KvSize(
        bytes_per_token or (computed if computed > 0 else UNKNOWN_BYTES_PER_TOKEN),
        tuple(KV_COST) if has_whole_blocks else ("f16",),
    )
