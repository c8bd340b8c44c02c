"""The CPU as one value, from whichever of cpuinfo, lscpu and sysfs there are."""

from collections.abc import Sequence
from pathlib import Path

from agent.hardware.cpu import arch, arm_cores, cpuinfo, lscpu, riscv, topology, x86_cores
from agent.hardware.cpu.core import Core
from agent.hardware.cpu.features import names
from agent.hardware.kernel import ARCHS
from agent.hardware.machine import Cpu

# Cores by chip, where neither kernel nor lscpu can name them.
CHIPS = {
    "nvidia,tegra194": "Carmel",
    "nvidia,tegra234": "Cortex-A78AE",
    "nvidia,tegra264": "Neoverse-V3AE",
    "apple,t8103": "Firestorm + Icestorm",
    "apple,t8112": "Avalanche + Blizzard",
}
# What ARM kernels write for want of a name.
NO_NAME = ("ARMv", "AArch64 Processor")


def read_cpu(
    cpu_text: str, lscpu_text: str, root: Path, *, kernel_arch: str = "", compatible: tuple[str, ...] = ()
) -> Cpu:
    """The CPU of a box. `kernel_arch` is our name of the architecture if the kernel's own word is known;
    `compatible` its device tree's. Raises nothing; `arch` is "" where nothing tells."""
    info, listed = cpuinfo.parse(cpu_text), lscpu.parse(lscpu_text)
    seats = topology.read_seats(root)
    cores = info.cores or listed.groups
    named = [(_name(core, compatible), core) for core in cores]
    counted = sum(core.cpus for core in cores)
    # An old kernel's cpuinfo without a single number speaks of one CPU, however many there are.
    is_counted = bool(info.cores) and any(core.number is not None for core in info.cores)
    cpus = counted if is_counted else listed.cpus or len(seats.online) or counted
    physical = min(max(1, cpus), topology.physical_cores(_richer(info.cores, listed.groups), seats))
    kinds = topology.clusters(named, seats, _hybrid(named), physical)
    vendors = dict.fromkeys(vendor for core in cores if (vendor := _vendor(core)))
    return Cpu(
        arch=ARCHS.get(listed.machine, "") or kernel_arch or next(map(arch.of_core, cores), ""),
        vendor=" + ".join(vendors),
        model=_model(info.cores, listed.groups),
        microarchitecture=" + ".join(
            dict.fromkeys(kind.microarchitecture for kind in kinds if kind.microarchitecture)
        ),
        features=names(core.words for core in cores),
        cpus=max(1, cpus),
        cores=physical,
        clusters=kinds,
        offline=max(seats.offline, listed.offline),
        is_64bit=_is_64bit(named),
    )


def _richer(cores: Sequence[Core], groups: Sequence[Core]) -> Sequence[Core]:
    """Whichever knows about hyperthreads: a cpuinfo of ARM or POWER does not."""
    knows = any(core.core or core.siblings for core in cores)
    return cores if knows or not groups else groups


def _name(core: Core, compatible: tuple[str, ...]) -> str:
    if core.implementer is not None:
        found = arm_cores.look_up(core.implementer, core.part).name
    elif core.isa or core.uarch:
        found = riscv.microarchitecture(core)
    elif core.family is not None:
        found = x86_cores.microarchitecture(_vendor(core), core.family, core.model, core.words)
    else:
        # On ARM lscpu has looked the name up itself, `Icestorm-M1` with the chip.
        found = next((name for name in (core.name, core.name.split("-M")[0]) if name in arm_cores.NAMES), "")
    return found or next((CHIPS[word] for word in compatible if word in CHIPS), "")


def _vendor(core: Core) -> str:
    if core.implementer is not None:
        return arm_cores.look_up(core.implementer, core.part).vendor
    # lscpu writes numbers that it has no name for.
    return "" if core.vendor.startswith("0x") else x86_cores.vendor_name(core.vendor)


def _model(cores: Sequence[Core], groups: Sequence[Core]) -> str:
    """The maker's name of the chip; "" where the kernel has none."""
    all_names = [core.name for core in (*cores, *groups)]
    no_names = arm_cores.NAMES | {""}
    return next((name for name in all_names if name not in no_names and not name.startswith(NO_NAME)), "")


def _hybrid(named: Sequence[tuple[str, Core]]) -> tuple[str, str] | None:
    return next((x86_cores.HYBRID[name] for name, _ in named if name in x86_cores.HYBRID), None)


def _is_64bit(named: Sequence[tuple[str, Core]]) -> bool | None:
    known = {arch.is_64bit(core, name) for name, core in named} - {None}
    return None if not known else all(known)
