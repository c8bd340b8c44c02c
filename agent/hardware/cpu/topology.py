"""Which CPUs are there: what sysfs tells of each, physical cores, and kinds of cores (big.LITTLE)."""

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from agent.hardware.cpu import arm_cores
from agent.hardware.cpu.core import Core
from agent.hardware.machine import Cluster
from agent.hardware.text import cpu_list, read, read_int

CPUS = Path("sys/devices/system/cpu")
# Two clusters of the same cores whose figures differ by less are one kind: voltages are binned.
SAME_KIND = 0.1
# Intel's hybrid chips: the folders that list fast and slow CPUs.
HYBRID_FOLDERS = ("cpu_core", "cpu_atom", "cpu_lowpower")


class Seat(Struct, frozen=True, kw_only=True):
    """What sysfs says about one CPU. `siblings` is what its hyperthreads have in common, `kind` the number
    of Intel's hybrid folder it is in."""

    number: int
    siblings: str = ""
    capacity: int | None = None
    max_mhz: int | None = None
    kind: int | None = None


class Seats(Struct, frozen=True):
    """The CPUs that are on, and how many more are present and off."""

    online: tuple[Seat, ...] = ()
    offline: int = 0


def read_seats(root: Path) -> Seats:
    """What sysfs tells; nothing where it is missing. Raises nothing."""
    online = cpu_list(read(root / CPUS / "online"))
    present = cpu_list(read(root / CPUS / "present"))
    kinds = {
        cpu: kind
        for kind, folder in enumerate(HYBRID_FOLDERS)
        for cpu in cpu_list(read(root / "sys/devices" / folder / "cpus"))
    }
    seats = tuple(_seat(root, cpu, kinds.get(cpu)) for cpu in sorted(online))
    return Seats(seats, len(present - online) if online else 0)


def _seat(root: Path, cpu: int, kind: int | None) -> Seat:
    folder = root / CPUS / f"cpu{cpu}"
    siblings = read(folder / "topology/core_cpus_list") or read(folder / "topology/thread_siblings_list")
    khz = read_int(folder / "cpufreq/cpuinfo_max_freq")
    return Seat(
        number=cpu,
        siblings=siblings.strip(),
        capacity=read_int(folder / "cpu_capacity"),
        max_mhz=khz // 1000 if khz else None,
        kind=kind,
    )


def physical_cores(cores: Sequence[Core], seats: Seats) -> int:
    """Physical cores: sysfs knows; else cpuinfo's (package, core) pairs; else lscpu's sum; else every CPU."""
    siblings = [seat.siblings for seat in seats.online]
    if siblings and all(siblings):
        return len(set(siblings))
    if cores and all(core.cores is not None for core in cores):
        return sum(core.cores or 0 for core in cores)
    pairs = {(core.package, core.core) for core in cores if core.core}
    # Some virtual machines give every CPU the same pair; `siblings` says that these are no hyperthreads.
    no_threads = any(core.siblings is not None and core.siblings == core.package_cores for core in cores)
    if len(pairs) > 1 and not no_threads:
        return len(pairs)
    threads = _threads_per_core(cores)
    return max(1, sum(core.cpus for core in cores) // threads)


def _threads_per_core(cores: Sequence[Core]) -> int:
    counts = {
        core.siblings // core.package_cores for core in cores if core.siblings and core.package_cores
    }  # fmt: skip
    return max(1, min(counts, default=1))


def clusters(
    named: Sequence[tuple[str, Core]], seats: Seats, hybrid: tuple[str, str] | None, physical: int
) -> tuple[Cluster, ...]:
    """Kinds of cores, the fastest first; one for a box of equal cores.

    `named` are cores with their microarchitecture, `physical` how many they are without hyperthreads. On
    x86 only Intel's `hybrid` chips have kinds: a favoured core with 200 MHz more is none.
    """
    by_number = {seat.number: seat for seat in seats.online}
    if hybrid is not None and any(seat.kind for seat in seats.online):
        return _hybrid(seats, hybrid)
    if hybrid is not None and (threads := sum(core.cpus for _, core in named)) > physical:
        return _by_hyperthreads(hybrid, threads, physical)
    is_arm = any(core.implementer is not None or arm_cores.is_64bit(name) is not None for name, core in named)
    kinds: list[Cluster] = []
    for at, (name, core) in enumerate(named):
        seat = by_number.get(core.number if core.number is not None else at)
        _add(kinds, name, core, seat, by_speed=is_arm)
    return tuple(sorted(kinds, key=_speed))


def _hybrid(seats: Seats, names: tuple[str, str]) -> tuple[Cluster, ...]:
    kinds = []
    for kind in range(len(HYBRID_FOLDERS)):
        own = [seat for seat in seats.online if (seat.kind or 0) == kind]
        if own:
            mhz = max((seat.max_mhz or 0 for seat in own), default=0)
            kinds.append(Cluster(microarchitecture=names[min(kind, 1)], cpus=len(own), max_mhz=mhz or None))
    return tuple(kinds)


def _by_hyperthreads(names: tuple[str, str], threads: int, physical: int) -> tuple[Cluster, ...]:
    """Of a hybrid chip only the fast cores have two threads: every thread too many is one of them."""
    fast = 2 * (threads - physical)
    counts = (fast, threads - fast)
    return tuple(
        Cluster(microarchitecture=name, cpus=count)
        for name, count in zip(names, counts, strict=True)
        if count > 0
    )


def _add(kinds: list[Cluster], name: str, core: Core, seat: Seat | None, *, by_speed: bool) -> None:
    """Count a core to the kind it is of, or begin one."""
    capacity = seat.capacity if seat else None
    mhz = core.max_mhz or (seat.max_mhz if seat else None)
    for at, kind in enumerate(kinds):
        is_same = kind.microarchitecture == name
        if is_same and (not by_speed or (_near(kind.capacity, capacity) and _near(kind.max_mhz, mhz))):
            kinds[at] = Cluster(
                microarchitecture=name,
                cpus=kind.cpus + core.cpus,
                capacity=max(kind.capacity or 0, capacity or 0) or None,
                max_mhz=max(kind.max_mhz or 0, mhz or 0) or None,
            )
            return
    kinds.append(Cluster(microarchitecture=name, cpus=core.cpus, capacity=capacity, max_mhz=mhz))


def _near(one: int | None, other: int | None) -> bool:
    if one is None or other is None:
        return True
    return abs(one - other) <= SAME_KIND * max(one, other)


def _speed(kind: Cluster) -> tuple[int, int, int]:
    return (-(kind.capacity or 0), arm_cores.rank(kind.microarchitecture), -(kind.max_mhz or 0))
