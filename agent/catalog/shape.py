"""What of a model file's header decides how much memory it takes and how fast it is."""

from msgspec import Struct

from agent.catalog.facts import has_chat_template
from agent.catalog.gguf import GgufHeader
from agent.catalog.isa import EMBEDDING, OUTPUT
from agent.catalog.kv_size import KvSize, kv_size


class Shape(Struct, frozen=True, kw_only=True):
    """Counts as llama.cpp has them; `weights_bytes` is all tensors, of which `layers_bytes` are in the
    repeated layers, and `output_bytes` those a finished row is multiplied with. `n_attn` is the width of all
    heads together, in some families more than the model's."""

    num_layers: int
    n_embd: int
    n_attn: int
    n_ff: int
    n_ctx_train: int
    num_vocabulary: int
    num_merges: int
    weights_bytes: int
    layers_bytes: int
    embedding_bytes: int
    output_bytes: int
    has_chat_template: bool
    num_masks: int
    kv: KvSize

    @property
    def read_bytes(self) -> int:
        """What computing one token reads: all but the embeddings, of which it looks up one row."""
        return self.layers_bytes + self.output_bytes

    @property
    def layer_bytes(self) -> int:
        """One layer, rounded up; they differ by little."""
        return -(-self.layers_bytes // max(self.num_layers, 1))


def shape_of(header: GgufHeader, kv_bytes_per_token: int | None = None) -> Shape:
    """From a header; `kv_bytes_per_token` is what the manifest knows better. What is missing counts as 0."""
    arch = header.metadata.get("general.architecture", "")

    def number(key: str) -> int:
        value = header.metadata.get(f"{arch}.{key}", 0)
        return value if isinstance(value, int) and value > 0 else 0

    sizes = {tensor.name: tensor.num_bytes for tensor in header.tensors}
    embedding = sizes.get(EMBEDDING, 0)
    return Shape(
        num_layers=number("block_count"),
        n_embd=number("embedding_length"),
        n_attn=number("attention.head_count") * number("attention.key_length"),
        n_ff=number("feed_forward_length"),
        n_ctx_train=number("context_length"),
        num_vocabulary=header.lengths.get("tokenizer.ggml.tokens", 0),
        num_merges=header.lengths.get("tokenizer.ggml.merges", 0),
        weights_bytes=sum(sizes.values()),
        layers_bytes=sum(size for name, size in sizes.items() if name.startswith("blk.")),
        embedding_bytes=embedding,
        # Without an output of its own a model multiplies with its embeddings.
        output_bytes=sizes.get(OUTPUT, embedding),
        has_chat_template=has_chat_template(header),
        num_masks=2 if number("attention.sliding_window") else 1,
        kv=kv_size(header, kv_bytes_per_token),
    )
