"""What an instruction set makes of a number format: which weights llama.cpp copies into a faster layout.

After `ggml_repack_get_optimal_repack_type` in ggml/src/ggml-cpu/repack.cpp and `qtype_has_amx_kernels`
in ggml-cpu/amx/common.h, llama.cpp 0c1e57098. The copy is anonymous memory of the same size.
"""

from collections.abc import Iterable, Iterator

from agent.catalog.gguf import GgufHeader, TensorInfo

# Feature that has to be there -> types that are copied, if their rows come in whole groups of so many.
REPACKED: tuple[tuple[str, dict[str, int]], ...] = (
    ("avx2", {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8}),
    ("avx512f", {"Q2_K": 8}),
    ("dotprod", {"Q4_0": 4, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8, "IQ4_NL": 4, "MXFP4": 4, "Q8_0": 4}),
)
AMX = frozenset(("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"))
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
# A table of positions or of norms is read row by row, not multiplied with.
_MATRIX_DIMS, _EXPERT_DIMS = 2, 3


def repacked_types(features: Iterable[str]) -> dict[str, int]:
    """Types that have a faster layout on a CPU with these features, each with the rows of a group."""
    have = set(features)
    groups: dict[str, int] = {}
    for feature, types in REPACKED:
        if feature in have:
            groups |= types
    if "amx_int8" in have:
        groups |= dict.fromkeys(AMX, 1)
    return groups


def repack_bytes(header: GgufHeader, features: Iterable[str]) -> int:
    """How large the copy of a model's weights would be."""
    groups = repacked_types(features)
    return sum(
        tensor.num_bytes
        for tensor in _multiplied(header)
        if (rows := groups.get(tensor.type)) and tensor.shape[1] % rows == 0
    )


def _multiplied(header: GgufHeader) -> Iterator[TensorInfo]:
    """Weights that a vector is multiplied with. Embeddings are looked up, and are also the output's
    weights where the file has none of its own."""
    has_output = any(tensor.name == OUTPUT for tensor in header.tensors)
    for tensor in header.tensors:
        if not tensor.name.endswith(".weight") or (tensor.name == EMBEDDING and has_output):
            continue
        if len(tensor.shape) == (_EXPERT_DIMS if "_exps" in tensor.name else _MATRIX_DIMS):
            yield tensor
