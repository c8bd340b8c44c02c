"""The instruction set extensions that llama.cpp computes faster with, by one name each.

Linux, lscpu and macOS write them differently; `names` knows the words of all three.
"""

import re
from collections.abc import Iterable

# Ours -> the sets of words of which one has to be there in full.
WORDS: dict[str, tuple[frozenset[str], ...]] = {
    **{
        name: (frozenset({name}),)
        for name in (
            "sse2",
            "ssse3",
            "sse4_2",
            "avx",
            "f16c",
            "fma",
            "bmi2",
            "avx2",
            "avx512f",
            "avx512bw",
            "avx512vl",
        )
    },
    "avx512_vnni": (frozenset({"avx512_vnni"}), frozenset({"avx512vnni"})),
    "avx512_bf16": (frozenset({"avx512_bf16"}), frozenset({"avx512bf16"})),
    "avx_vnni": (frozenset({"avx_vnni"}), frozenset({"avxvnni"})),
    "avx_vnni_int8": (frozenset({"avx_vnni_int8"}),),
    "amx_tile": (frozenset({"amx_tile"}),),
    "amx_int8": (frozenset({"amx_int8"}),),
    "amx_bf16": (frozenset({"amx_bf16"}),),
    "neon": (frozenset({"asimd"}), frozenset({"neon"})),
    "dotprod": (frozenset({"asimddp"}),),
    "fp16": (frozenset({"asimdhp", "fphp"}),),
    "i8mm": (frozenset({"i8mm"}),),
    # The second is what a 32-bit kernel calls it.
    "bf16": (frozenset({"bf16"}), frozenset({"asimdbf16"})),
    # AMD has an sme as well, of another kind.
    "sve": (frozenset({"asimd", "sve"}),),
    "sve2": (frozenset({"asimd", "sve2"}),),
    "sme": (frozenset({"asimd", "sme"}),),
    "rvv": (frozenset({"rvv"}),),
}
# Single-letter extensions come first in an isa string; z, s and x begin the names of longer ones.
ISA_LETTERS = re.compile(r"rv(?:32|64|128)([a-rt-wy]*)")


def names(words: Iterable[frozenset[str]]) -> tuple[str, ...]:
    """Our names of what is in every one of `words`: what uses an extension runs on any CPU of the box."""
    kinds = set(words)
    common = frozenset.intersection(*kinds) if kinds else frozenset()
    return tuple(name for name, ways in WORDS.items() if any(way <= common for way in ways))


def isa_words(isa: str) -> frozenset[str]:
    """The flags in a RISC-V isa string, `rv64imafdcv_zba_zbb`: of use to us is the vector letter alone.

    Cores of T-Head show the 0.7.1 draft of it in the same way: agent/hardware/riscv.py.
    """
    head, *longer = isa.strip().lower().split("_")
    match = ISA_LETTERS.match(head)
    has_vector = match is not None and ("v" in match[1] or "v" in longer)
    return frozenset({"rvv"}) if has_vector else frozenset()
