"""The CUDA capability of NVIDIA's older cards by name: nvidia-smi's table and the PCI bus tell no other.

Only what is older than Turing: newer ones run every build. Source: NVIDIA's table of CUDA GPUs.
"""

import re

# In names, lower case -> capability. The first match wins: narrower names stand before wider ones.
GENERATIONS = tuple(
    (re.compile(pattern), capability)
    for pattern, capability in (
        (r"\bgv1\d\d|\bv100\b|titan v\b", (7, 0)),
        (r"\bgp10\db?\b|\bgtx? 10\d0|\bmx(1[1357]0|2[35]0|3[135]0)\b|titan xp|titan x \(pascal\)", (6, 1)),
        (r"quadro (p\d|gp100)|\bp(4|6|40|100)\b", (6, 1)),
        (r"\bgm[12]\d\d|\bgtx 9\d\d|\bgtx? 7(45|50)|\bgtx 8[56]0m|geforce (9[34]\dmx?|920mx)\b", (5, 0)),
        (r"titan x\b|quadro m\d|quadro k(620|1200|2200)\b|tesla m(4|6|10|40|60)\b", (5, 0)),
        (r"kepler|\bgk\d{2}|geforce gtx? [67]\d\d|gtx titan|quadro k\d|tesla k\d|\bgt 7\d\dm?\b", (3, 0)),
        (r"fermi|\bgf1\d\d|geforce (gtx?|gts) [2-5]\d\d|quadro [2456]000\b|tesla m20\d\d", (2, 0)),
    )
)


def capability_of(name: str) -> tuple[int, int] | None:
    """The least that cards of such a name have; None for one that is not older than Turing, or not known."""
    text = " ".join(name.lower().split())
    return next((capability for pattern, capability in GENERATIONS if pattern.search(text)), None)
