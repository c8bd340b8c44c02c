"""RISC-V cores by name, and which of them have the 0.7.1 draft of the vector extension."""

from agent.hardware.cpu.core import Core

T_HEAD = 0x5B7
# Cores whose "v" is the draft, and the boards' chips that carry them: code for RVV 1.0 dies on them.
DRAFT_VECTOR_CORE = "T-Head C9xx with the vector draft 0.7.1"
DRAFT_VECTOR_CHIPS = ("sophgo,sg2042", "thead,th1520", "xuantie,th1520", "allwinner,sun20i-d1", "sophgo,cv18")
SPACEMIT = 0x710
UARCHS = {
    "sifive,u54-mc": "SiFive U54",
    "sifive,u74-mc": "SiFive U74",
    "sifive,bullet0": "SiFive U74",
    "spacemit,x60": "SpacemiT X60",
    "thead,c908": "T-Head C908",
    "thead,c920v2": "T-Head C920v2",
}


def microarchitecture(core: Core) -> str:
    """The name of a core; "" where nothing tells.

    T-Head's cores with the ratified vector have a marchid, those with the draft have 0: the rule of
    Linux's riscv_fill_hwcap (arch/riscv/kernel/cpufeature.c).
    """
    is_t_head = core.mvendorid == T_HEAD or core.uarch.startswith("thead,")
    if is_t_head and not core.marchid and "rvv" in core.words and core.uarch not in UARCHS:
        return DRAFT_VECTOR_CORE
    if core.mvendorid == SPACEMIT and not core.uarch:
        return "SpacemiT X60"
    return UARCHS.get(core.uarch, core.uarch)
