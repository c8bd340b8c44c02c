"""What a person should know about a box, from its probes alone: each finding with the step that mends it."""

from collections.abc import Iterator

from agent.findings import Finding, Severity
from agent.hardware.cpu.riscv import DRAFT_VECTOR_CHIPS, DRAFT_VECTOR_CORE
from agent.hardware.machine import Cpu, Machine

MIB = 1 << 20
GIB = 1 << 30
# The smallest model with its context and the two processes need about so much; and what is comfortable.
TOO_LITTLE_RAM, LITTLE_RAM = 384 * MIB, 900 * MIB
# Without swap a box below this has no slack when something else grows.
WANTS_SWAP = GIB
# So close to where it slows down, the next long prompt will take it there.
NEARLY_HOT_CELSIUS = 5.0
LOW_BATTERY_PERCENT = 20
# Architectures that there is a build of llama.cpp for.
BUILT_FOR = {"x86_64", "aarch64"}
COOL = "give it a heat sink or a fan, or fewer threads with engine.threads"
SUPPLY = "use the power supply made for the board and a short thick cable"
Findings = Iterator[Finding]


def diagnose(machine: Machine) -> list[Finding]:
    """All that the probes bring up, in no order of weight (agent/findings.py sorts)."""
    return [
        *_architecture(machine.cpu),
        *_x86(machine.cpu),
        *_arm(machine),
        *_risc_v(machine),
        *_cores(machine.cpu),
        *_memory(machine),
        *_heat(machine),
        *_power(machine),
    ]


def _error(code: str, what: str, remedy: str = "") -> Finding:
    return Finding(Severity.ERROR, code, what, remedy)


def _warning(code: str, what: str, remedy: str = "") -> Finding:
    return Finding(Severity.WARNING, code, what, remedy)


def _note(code: str, what: str, remedy: str = "") -> Finding:
    return Finding(Severity.NOTE, code, what, remedy)


def _name(cpu: Cpu) -> str:
    return cpu.microarchitecture or cpu.model or cpu.arch


def _architecture(cpu: Cpu) -> Findings:
    if cpu.arch in {"armv6l", "armv5tel"}:
        yield _error(
            "cpu_without_neon",
            f"this CPU ({_name(cpu)}, {cpu.arch}) has no NEON, which every build of llama.cpp for ARM needs",
            "use a board with a 64-bit CPU: a Raspberry Pi Zero 2 W is the smallest",
        )
    elif cpu.arch in {"armv7l", "i686"} and cpu.is_64bit:
        yield _warning(
            "system_32bit",
            f"this CPU ({_name(cpu)}) has 64 bits and runs a 32-bit system, which has no build of llama.cpp",
            "install the 64-bit edition of the system on the card or disk",
        )
    elif cpu.arch in {"armv7l", "i686", "riscv32", "mips", "ppc", "s390"}:
        yield _error(
            "cpu_32bit",
            f"this CPU ({_name(cpu)}, {cpu.arch}) runs 32-bit code only, and the builds are for 64 bits",
            "use a box with a 64-bit CPU, or build llama-cpp-python on this one and expect seconds per token",
        )
    elif cpu.arch and cpu.arch not in BUILT_FOR:
        yield _warning(
            "no_build_for_architecture",
            f"there is no ready build for {cpu.arch}",
            "build llama-cpp-python on the box; a C++ compiler and cmake are enough",
        )


def _x86(cpu: Cpu) -> Findings:
    if cpu.arch != "x86_64" or not cpu.features:
        return
    build = "build llama.cpp on this very box, in a checkout: ./build/quickstart"
    if "avx" not in cpu.features:
        yield _warning(
            "cpu_without_avx",
            f"this CPU ({_name(cpu)}) has no AVX: a usual build dies with SIGILL, and it computes slowly",
            build,
        )
    elif "avx2" not in cpu.features:
        yield _warning(
            "cpu_without_avx2",
            f"this CPU ({_name(cpu)}) has no AVX2: a usual build dies with SIGILL, and it computes slowly",
            build,
        )


def _arm(machine: Machine) -> Findings:
    cpu = machine.cpu
    if cpu.arch == "armv7l" and cpu.features == () and not cpu.is_64bit:
        yield _error(
            "cpu_without_neon",
            f"this CPU ({_name(cpu)}) has no NEON, which every build of llama.cpp for ARM needs",
            "use a board with a 64-bit CPU",
        )
    if cpu.arch == "aarch64" and "neon" in cpu.features and "dotprod" not in cpu.features:
        yield _note(
            "cpu_without_dotprod",
            f"this CPU ({_name(cpu)}) has no dot product instructions, so prompts are read slowly",
            "prefer short and shared prompts; a Raspberry Pi 5 reads them several times as fast"
            if machine.board.family == "raspberry-pi"
            else "prefer short and shared prompts",
        )


def _risc_v(machine: Machine) -> Findings:
    chips = machine.board.compatible
    is_draft = DRAFT_VECTOR_CORE in machine.cpu.microarchitecture or (
        machine.cpu.arch == "riscv64" and any(word.startswith(DRAFT_VECTOR_CHIPS) for word in chips)
    )
    if is_draft and "rvv" in machine.cpu.features:
        yield _warning(
            "vector_draft",
            "the vector unit of this CPU is the 0.7.1 draft, on which code for RVV 1.0 dies with SIGILL",
            "use a build without RVV: GGML_RVV=OFF",
        )


def _cores(cpu: Cpu) -> Findings:
    if len(cpu.clusters) > 1:
        kinds = ", ".join(
            f"{kind.cpus} x {kind.microarchitecture or 'another core'}" for kind in cpu.clusters
        )
        yield _note(
            "mixed_cores",
            f"its CPUs are of several kinds ({kinds}), and threads wait for the slowest among them",
            "let engine.threads be chosen by: tampu bench",
        )
    if cpu.offline:
        yield _warning(
            "offline_cores",
            f"{cpu.offline} of its {cpu.cpus + cpu.offline} CPUs are switched off",
            "switch them on: on a Jetson with nvpmodel, else write 1 to /sys/devices/system/cpu/cpuN/online",
        )


def _memory(machine: Machine) -> Findings:
    memory = machine.memory
    total = min((size for size in (memory.total_bytes, memory.limit_bytes) if size), default=None)
    is_limited = memory.limit_bytes is not None and memory.limit_bytes == total
    if total is None:
        return
    if total < LITTLE_RAM:
        where = "its control group may use" if is_limited else "the box has"
        what = f"{where} {total // MIB} MiB of RAM"
        remedy = (
            "raise the limit of the service or container" if is_limited else "use a board with 1 GiB or more"
        )
        if total < TOO_LITTLE_RAM:
            yield _error("too_little_memory", f"{what}, too little for the smallest model", remedy)
        else:
            yield _note("little_memory", f"{what}, enough for the smallest models only", remedy)
    elif is_limited:
        yield _note(
            "memory_limited",
            f"its control group may use {total // MIB} MiB of the box's memory, and placement keeps to that",
            "raise the limit of the service or container for a larger model",
        )
    if memory.zram_bytes:
        yield _note(
            "swap_on_zram",
            f"{memory.zram_bytes // MIB} MiB of its swap are compressed memory and take RAM themselves",
        )
    elif memory.swap_bytes == 0 and total < WANTS_SWAP and not is_limited:
        yield _note(
            "no_swap",
            "the box has little memory and no swap, so anything that grows is killed",
            "give it 512 MiB of swap on zram: apt install zram-tools",
        )


def _heat(machine: Machine) -> Findings:
    heat = machine.heat
    if "under_voltage" in heat.throttled:
        yield _warning(
            "under_voltage", "the supply voltage is too low now, and the CPU is slowed down", SUPPLY
        )
    elif "under_voltage" in heat.throttled_before:
        yield _warning("under_voltage_before", "the supply voltage has been too low since the start", SUPPLY)
    now = [word for word in heat.throttled if word != "under_voltage"]
    before = [word for word in heat.throttled_before if word != "under_voltage"]
    if now:
        yield _warning("throttled", f"the CPU is slowed down now: {_words(now)}{_degrees(machine)}", COOL)
    elif before:
        yield _warning(
            "throttled_before", f"the CPU has been slowed down since the start: {_words(before)}", COOL
        )
    is_hot = (
        heat.celsius is not None
        and heat.trip_celsius is not None
        and heat.celsius >= heat.trip_celsius - NEARLY_HOT_CELSIUS
    )
    if is_hot and not now:
        yield _warning(
            "hot", f"the box is hot{_degrees(machine)} and slows down at {heat.trip_celsius:.0f} °C", COOL
        )


def _words(names: list[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in names)


def _degrees(machine: Machine) -> str:
    return "" if machine.heat.celsius is None else f" ({machine.heat.celsius:.0f} °C)"


def _power(machine: Machine) -> Findings:
    power = machine.power
    if power.source != "battery":
        return
    percent = f" ({power.battery_percent} % left)" if power.battery_percent is not None else ""
    is_low = power.battery_percent is not None and power.battery_percent < LOW_BATTERY_PERCENT
    weigh = _warning if is_low else _note
    yield weigh(
        "on_battery",
        f"the box runs on battery{percent}, where CPUs are slower",
        "plug it in for steady speed",
    )
