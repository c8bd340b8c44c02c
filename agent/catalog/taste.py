"""Which of two quants of one model is the better one to have."""

from math import exp
from typing import Protocol

# What quantising without an importance matrix adds to the perplexity of Llama 3 8B, 6.2332 unquantised:
# llama.cpp's tools/quantize/quantize.cpp and tools/perplexity/README.md. Small models lose more.
REFERENCE_PERPLEXITY = 6.2332
ADDED_PERPLEXITY = {
    "F32": 0.0, "F16": 0.0, "BF16": 0.0, "Q8_0": 0.0026, "Q6_K": 0.0217, "Q5_K_M": 0.0569, "Q5_K_S": 0.1049,
    "Q5_1": 0.1062, "Q5_0": 0.1316, "Q4_K_M": 0.1754, "Q4_K_S": 0.2689, "Q4_1": 0.4511, "Q4_0": 0.4685,
    "Q3_K_L": 0.5562, "Q3_K_M": 0.6569, "Q3_K_S": 1.6321, "Q2_K_S": 3.1836, "Q2_K": 3.5199,
}  # fmt: skip
# Best first: four bits are the best use of a small box's memory and bandwidth, then a little more than
# that, then whole bytes, and below four bits only what is left.
TASTE = (
    "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_NL", "Q4_1", "IQ4_XS", "MXFP4", "Q5_K_M", "Q5_K_S", "Q5_0", "Q5_1",
    "Q6_K", "Q8_0", "BF16", "F16", "F32", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "Q2_K_S",
)  # fmt: skip
# The four-bit quants that come in a faster layout on some CPUs; a CPU that has none for one prefers another.
REPACKABLE_TASTES = TASTE[:4]
# Their lookup tables are slow on every CPU, and they lose the most: only where nothing else fits.
LOOKUP_QUANTS = ("IQ1", "IQ2", "IQ3")


class Measured(Protocol):
    """What a manifest says was measured of a quant against the unquantised model."""

    @property
    def kl_divergence(self) -> float | None: ...


def quality_of(quant: str, measured: Measured | None = None) -> float | None:
    """The share of the unquantised model's quality that is left, 0 to 1; None where nobody has measured.

    exp(-KL divergence) where the manifest has one; else the perplexity the table's model had before,
    over what it has after.
    """
    if measured is not None and measured.kl_divergence is not None:
        return exp(-measured.kl_divergence)
    if quant not in ADDED_PERPLEXITY:
        return None
    return REFERENCE_PERPLEXITY / (REFERENCE_PERPLEXITY + ADDED_PERPLEXITY[quant])


def taste_rank(quant: str, fast_types: frozenset[str] | None = None) -> int:
    """0 for the best. `fast_types` are those this CPU has a faster layout for, None where that is not to
    be used: of the four-bit quants those come first that profit by it."""
    if quant not in TASTE:
        return len(TASTE) + is_lookup(quant)
    if fast_types and quant in REPACKABLE_TASTES and not fast_types & {quant, quant[:4]}:
        return len(REPACKABLE_TASTES)
    return TASTE.index(quant)


def is_lookup(quant: str) -> bool:
    """True for the formats that no CPU is quick with."""
    return quant.startswith(LOOKUP_QUANTS)
