"""What a model file's quantisation is called: Q4_K_M, IQ2_XXS, F16."""

from collections import Counter

from agent.catalog.gguf import GgufHeader, TensorInfo

# llama_ftype in llama.cpp's include/llama.h; numbers that are missing were removed from the format.
FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}
# What llama.cpp's loader calls a file by its commonest type, where the file itself says nothing.
GUESSES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"}
UNQUANTISED = ("F32", "F16", "BF16", "F64")
# Often kept in a finer type than all the rest, and in a small model the most of it.
TABLES = ("token_embd.weight", "output.weight", "per_layer_token_embd.weight")


def quant_name(header: GgufHeader) -> str:
    """From `general.file_type`, unless the tensors show that it cannot be: then by the type of most weights.

    A file without weights is "UNKNOWN".
    """
    commonest = _commonest(header.tensors)
    named = _named(header)
    if named and (commonest is None or (named in UNQUANTISED) == (commonest in UNQUANTISED)):
        return named
    return GUESSES.get(commonest, commonest) if commonest else "UNKNOWN"


def num_params(header: GgufHeader) -> int:
    """How many weights the tensors hold."""
    return sum(map(_num_values, header.tensors))


def _named(header: GgufHeader) -> str | None:
    number = header.metadata.get("general.file_type")
    return FILE_TYPES.get(number) if isinstance(number, int) else None


def _commonest(tensors: tuple[TensorInfo, ...]) -> str | None:
    """The type of most values in matrices, the vocabulary's tables apart; of all when there are no others."""
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1 and tensor.name not in TABLES]
    values: Counter[str] = Counter()
    for tensor in matrices or tensors:
        values[tensor.type] += _num_values(tensor)
    return values.most_common(1)[0][0] if values else None


def _num_values(tensor: TensorInfo) -> int:
    count = 1
    for length in tensor.shape:
        count *= length
    return count
