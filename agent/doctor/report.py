"""All that was found, as one value: what `--json` prints and the screen is drawn from."""

from msgspec import Struct

from agent.catalog.candidate import Candidate
from agent.doctor.broker import Greeting
from agent.doctor.choice import Choice, Room
from agent.doctor.door import Door
from agent.engine.messages import Device
from agent.findings import Finding, Severity
from agent.hardware.machine import Gpu, Heat, Machine, Memory, Power, Storage


class BoxReport(Struct, frozen=True, kw_only=True):
    """The box alone: all there is of a recording. A None or "" is not known; sizes are in bytes.

    `cpus` are hardware threads, and so are those that `clusters` counts of each kind.
    """

    arch: str
    features: tuple[str, ...]
    cpus: int
    cores: int
    memory_bytes: int | None
    board: str
    gpus: tuple[Gpu, ...]
    unified_memory: bool | None
    findings: tuple[Finding, ...]
    cpu: str
    microarchitecture: str
    clusters: tuple[str, ...]
    memory: Memory
    heat: Heat
    power: Power
    kernel: str
    system: str

    @property
    def num_errors(self) -> int:
        return sum(finding.severity is Severity.ERROR for finding in self.findings)

    @property
    def num_warnings(self) -> int:
        return sum(finding.severity is Severity.WARNING for finding in self.findings)


class Build(Struct, frozen=True, kw_only=True):
    """The installed llama.cpp: its version, what it uses of the CPU, and what it has given up."""

    version: str
    features: tuple[str, ...]
    sandbox: str


class LiveReport(BoxReport, frozen=True, kw_only=True):
    """The box and all that Tampu needs on it. A None did not answer, or cannot be had."""

    storage: Storage
    build: Build | None
    devices: tuple[Device, ...]
    budget: Room | None
    choice: Choice | None
    candidates: tuple[Candidate, ...]
    models_folder: str
    broker: Greeting
    daemon: Door


def of_machine(machine: Machine, findings: tuple[Finding, ...]) -> BoxReport:
    """The report on a box."""
    cpu = machine.cpu
    return BoxReport(
        arch=cpu.arch,
        features=cpu.features,
        cpus=cpu.cpus,
        cores=cpu.cores,
        memory_bytes=machine.memory.total_bytes,
        board=machine.board.name,
        gpus=machine.gpus,
        unified_memory=machine.has_unified_memory,
        findings=findings,
        cpu=cpu.model,
        microarchitecture=cpu.microarchitecture,
        clusters=tuple(
            f"{cluster.cpus} x {cluster.microarchitecture or 'unnamed core'}" for cluster in cpu.clusters
        ),
        memory=machine.memory,
        heat=machine.heat,
        power=machine.power,
        kernel=machine.kernel,
        system=machine.system,
    )
