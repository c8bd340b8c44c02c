"""Looks at everything at once, and lets each room judge what it saw."""

import asyncio
from pathlib import Path

import msgspec
from msgspec import Struct

import agent
from agent import places
from agent.catalog.budget import Budget
from agent.catalog.placement import Placement, Resources
from agent.config import Config
from agent.doctor import (
    backends,
    broker,
    broker_verdict,
    build,
    choice,
    clock,
    daemon,
    door,
    folders,
    slowness,
)
from agent.doctor.report import BoxReport, Build, LiveReport, of_machine
from agent.engine.messages import Hello
from agent.errors import InsufficientMemory, ModelUnavailable
from agent.findings import Finding, Severity, by_severity
from agent.hardware.diagnosis import diagnose
from agent.hardware.gpu.ask_drivers import ask
from agent.hardware.gpu.gpus import confirmed, unified_memory
from agent.hardware.machine import Machine, Storage
from agent.hardware.memory import ROOT
from agent.hardware.probe import probe
from agent.hardware.storage import storage
from agent.resources import read_resources

# How long the GPUs' own drivers may take.
DRIVERS_WITHIN_S = 5.0


class Seen(Struct, frozen=True, kw_only=True):
    """What was read, before anybody judged it; `unasked` is why a GPU's driver could not be asked.

    `machine` has its GPUs as their drivers name them, `probed` as the kernel does: so the daemon knows
    the box, and `tampu bench` keeps its figures.
    """

    machine: Machine
    probed: Machine
    unasked: str
    heard: Hello | build.Silence
    greeting: broker.Greeting
    door: door.Door
    clock: clock.Clock
    models: folders.Folder
    state: folders.Folder
    journal: folders.Folder
    storage: Storage
    load: slowness.Load


def examine_recording(root: Path) -> BoxReport:
    """A box that was recorded under `root`: nothing live is asked. Raises TampuError."""
    machine = probe(root)
    findings = [*_untold(machine), *diagnose(machine), *backends.advise(machine)]
    return of_machine(machine, by_severity(findings))


def _untold(machine: Machine) -> list[Finding]:
    """A recording without its processor is no box in which all is well."""
    if machine.cpu.arch or machine.cpu.features:
        return []
    what = "This recording does not tell which processor the box has: what is said of its cores is a guess."
    return [Finding(Severity.WARNING, "cpu_not_recorded", what, "Add what /proc/cpuinfo or lscpu says.")]


async def examine(
    config: Config,
    *,
    socket: str | None = None,
    root: Path = ROOT,
    engine_command: tuple[str, ...] | None = None,
) -> LiveReport:
    """This box as it is now; some seconds at most. `socket` is where the daemon is asked."""
    config = _as_the_daemon(config, socket)
    seen = await _look(config, root, engine_command)
    resources, outcome = await asyncio.to_thread(_choose, config, seen, root)
    placement = outcome if isinstance(outcome, Placement) else None
    findings = [
        *diagnose(seen.machine),
        *build.judge(seen.machine, seen.heard),
        *_compared(seen),
        *_chosen(config, seen, outcome),
        *folders.judge_state(seen.state, _daemon_user(seen.door)),
        *folders.judge_journal(config.journal, seen.journal, _daemon_user(seen.door)),
        *broker_verdict.judge(config.mqtt, seen.greeting),
        *door.judge(seen.door, config.api.group),
        *(daemon.judge(seen.door.status, seen.machine) if seen.door.status else ()),
        *clock.judge(seen.clock, has_tls=config.mqtt.tls is not None),
    ]
    box = of_machine(seen.machine, by_severity(findings))
    return LiveReport(
        **msgspec.structs.asdict(box),
        storage=seen.storage,
        build=_build(seen.heard),
        devices=seen.heard.devices if isinstance(seen.heard, Hello) else (),
        budget=_room(seen, resources, placement) if resources else None,
        choice=choice.summary(placement) if placement else None,
        candidates=placement.candidates if placement else (),
        models_folder=config.models.folder,
        broker=seen.greeting,
        daemon=seen.door,
    )


def _as_the_daemon(config: Config, socket: str | None) -> Config:
    """The folders of the daemon that is asked, where they are left to their defaults."""
    path = socket or places.socket_to_ask(config.api.socket)
    folder, journal = config.models.folder, config.journal.folder
    if places.is_system_socket(path) and folder == str(places.state_folder() / "models"):
        folder = str(places.SYSTEM_STATE / "models")
    if places.is_system_socket(path) and journal == str(places.state_folder()):
        journal = str(places.SYSTEM_STATE)
    return msgspec.structs.replace(
        config,
        journal=msgspec.structs.replace(config.journal, folder=journal),
        api=msgspec.structs.replace(config.api, socket=path),
        models=msgspec.structs.replace(config.models, folder=folder),
    )


async def _look(config: Config, root: Path, engine_command: tuple[str, ...] | None) -> Seen:
    models = Path(config.models.folder)
    is_system = places.is_system_socket(config.api.socket)
    state = places.SYSTEM_STATE if is_system else places.state_folder()
    load = await asyncio.to_thread(slowness.read_load, root)
    (machine, probed, unasked), heard, greeting, knocked, told = await asyncio.gather(
        asyncio.to_thread(_machine, root),
        build.hear(engine_command),
        broker.greet(config.mqtt),
        asyncio.to_thread(door.look, config.api.socket),
        asyncio.to_thread(clock.look, _own_files(models)),
    )
    return Seen(
        machine=machine,
        probed=probed,
        unasked=unasked,
        heard=heard,
        greeting=greeting,
        door=knocked,
        clock=told,
        models=folders.look(models),
        state=folders.look(state),
        journal=folders.look(Path(config.journal.folder)),
        storage=storage(models, root),
        load=load,
    )


def _machine(root: Path) -> tuple[Machine, Machine, str]:
    """The box with what its drivers say of its GPUs, the box without; and why not all could be asked."""
    machine = probe(root)
    if root != ROOT:
        return machine, machine, ""
    asked = ask(DRIVERS_WITHIN_S)
    gpus = confirmed(machine.gpus, asked)
    is_unified = unified_memory(machine.cpu, machine.board, gpus)
    told = msgspec.structs.replace(machine, gpus=gpus, has_unified_memory=is_unified)
    return told, machine, asked.reason


def _own_files(models: Path) -> tuple[Path, ...]:
    """Files that were written here, by a clock that may have been right."""
    return (Path(agent.__file__), *folders.model_files(models))


Outcome = Placement | ModelUnavailable | InsufficientMemory


def _choose(config: Config, seen: Seen, root: Path) -> tuple[Resources | None, Outcome]:
    """What a running daemon has taken is ours to place in."""
    status = seen.door.status
    hello = seen.heard if isinstance(seen.heard, Hello) else None
    own = level = 0
    if status is not None:
        taken = (status.memory.daemon_anonymous_bytes, status.memory.engine_anonymous_bytes)
        own, level = sum(count or 0 for count in taken), status.memory.level
    try:
        resources = read_resources(
            root, (), level, own_bytes=own, machine=seen.probed, hello=hello, config=config
        )
    except OSError as error:
        return None, ModelUnavailable(f"this box does not tell how much memory it has: {error}")
    return resources, choice.outcome(config, resources)


def _chosen(config: Config, seen: Seen, outcome: Outcome) -> list[Finding]:
    """About the models folder, the choice in it, and how fast it will be."""
    found = folders.judge_models(seen.models)
    if not isinstance(outcome, Placement):
        is_said = any(finding.severity is Severity.ERROR for finding in found)
        is_same = is_said and isinstance(outcome, ModelUnavailable)
        return found if is_same else [*found, choice.judge_refusal(outcome)]
    facts = slowness.Facts(
        machine=seen.machine,
        n_threads=outcome.load.n_threads,
        is_cold=not outcome.budget.is_warm,
        storage=seen.storage,
        load=_load_of_others(seen),
        swapped_bytes=seen.load.swapped_bytes,
        device=_device(seen, outcome),
    )
    slow = slowness.slow(facts)
    judged = choice.judge(choice.header_of(outcome), seen.machine)
    wish = choice.judge_gpu_wish(config.engine.gpu, outcome)
    return [*found, *judged, *wish, *([slow] if slow else ())]


def _room(seen: Seen, resources: Resources, placement: Placement | None) -> choice.Room:
    """A running daemon's budget is the one in force; else what ours would be."""
    memory = seen.door.status.memory if seen.door.status else None
    budget = placement.budget if placement else None
    if memory and memory.hard_bytes is not None and memory.hot_file_bytes is not None:
        budget = Budget(memory.hard_bytes, memory.hot_file_bytes, memory.is_warm, memory.level, why="")
    return choice.room(seen.machine.memory.total_bytes, resources, budget)


def _load_of_others(seen: Seen) -> float | None:
    """How busy others are; None where it may be our own daemon."""
    status = seen.door.status
    return seen.load.busy if status is None or not (status.running or status.waiting) else None


def _device(seen: Seen, placement: Placement) -> str:
    """The description of the device that layers are computed on; "" for the CPU."""
    load = placement.load
    if not load.n_gpu_layers or not isinstance(seen.heard, Hello):
        return ""
    return next((device.description for device in seen.heard.devices if device.name == load.device), "")


def _compared(seen: Seen) -> list[Finding]:
    """What the box has beside what this llama.cpp can use of it."""
    found = []
    if seen.unasked:
        what = f"Not every GPU's driver could be asked: {seen.unasked}."
        found.append(Finding(Severity.WARNING, "driver_does_not_answer", what))
    if isinstance(seen.heard, Hello):
        # Backends without a device are told by the build's own words alone.
        about = f"{seen.heard.build} {seen.heard.system}"
        found += backends.compare(seen.machine, seen.heard.devices, about)
    return found


def _daemon_user(knocked: door.Door) -> str:
    """Whose the daemon is: the socket's owner; without one it would be ours."""
    return knocked.owner or folders.this_user()


def _build(heard: Hello | build.Silence) -> Build | None:
    if not isinstance(heard, Hello):
        return None
    return Build(version=heard.build, features=build.features(heard), sandbox=heard.sandbox)
