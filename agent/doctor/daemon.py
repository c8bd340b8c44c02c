"""What a running daemon says about itself, as findings."""

from agent import __version__
from agent.crash import Crash
from agent.doctor.remedies import explain
from agent.doctor.words import capital, parted, printable
from agent.engine_state import EngineState
from agent.findings import Finding, Severity
from agent.hardware.machine import Machine
from agent.status import OUT_OF_MEMORY, Status


def judge(status: Status, machine: Machine) -> list[Finding]:
    """Its state, its engine's deaths, its link to the broker, its memory, and what it says by itself."""
    looks = (_state, _crashes, _link, _memory, _version, _own_words)
    return [finding for look in looks for finding in look(status, machine)]


def _state(status: Status, machine: Machine) -> list[Finding]:
    if status.state != "degraded":
        return []
    reason = printable(status.reason)
    if status.engine.state == EngineState.FAILED:
        known = explain(status.reason, machine)
        what, step = parted(reason)
        remedy = known.remedy if known else capital(step)
        return [Finding(Severity.ERROR, "daemon_failed", f"The daemon answers no prompt: {what}.", remedy)]
    if status.memory.pressure >= OUT_OF_MEMORY or status.memory.level:
        return []  # said with the memory
    remedy = "See the daemon's log: journalctl -u tampu"
    return [Finding(Severity.WARNING, "daemon_degraded", f"The daemon is degraded: {reason}.", remedy)]


def _crashes(status: Status, machine: Machine) -> list[Finding]:
    last = status.last_crash
    if last is None or (not status.engine_restarts and not last.is_earlier):
        return []
    crash = printable(last.sentence)
    known = explain(last.sentence, machine)
    if last.is_earlier:
        return [_earlier_crash(last, crash, known)]
    often = "once" if status.engine_restarts == 1 else f"{status.engine_restarts} times"
    what = f"The engine was started again {often} (last: {crash})."
    if known is None:
        remedy = 'The reason stands in the daemon\'s log after "last words:" (`journalctl -u tampu`).'
        return [Finding(Severity.WARNING, "engine_restarts", what, remedy)]
    return [Finding(known.severity, known.code, f"{what} {known.what}", known.remedy)]


def _earlier_crash(last: Crash, crash: str, known: Finding | None) -> Finding:
    """It has not happened again since the daemon was started: good to know."""
    when = f" on {last.date}" if last.date else ""
    model = f" with {printable(last.model)}" if last.model else ""
    what = f"Before this daemon was started, the engine died{when}{model} ({crash})."
    return Finding(Severity.NOTE, "engine_died_before", what, known.remedy if known else "")


def _link(status: Status, _machine: Machine) -> list[Finding]:
    if status.mqtt.startswith("connected"):
        return []
    what = f"The running daemon is not connected to its broker ({printable(status.mqtt)})."
    remedy = "It tries again by itself within a minute; see what else is said here about the broker."
    if "this node's name" in status.mqtt:
        remedy = "Give each box its own `node`: another client has taken the connection."
    return [Finding(Severity.ERROR, "daemon_without_broker", what, remedy)]


def _memory(status: Status, _machine: Machine) -> list[Finding]:
    memory, found = status.memory, []
    if memory.pressure:
        is_out = memory.pressure >= OUT_OF_MEMORY
        does = "takes no new work" if is_out else "gives back what is idle"
        what = f"The box is short of memory, and the daemon {does}."
        severity = Severity.ERROR if is_out else Severity.WARNING
        remedy = "End other programs, set engine.memory lower, or choose a smaller quant with models.name."
        found.append(Finding(severity, "memory_pressure", what, remedy))
    if memory.level:
        what = f"The engine was killed for memory, and its budget is lowered to level {memory.level}."
        remedy = "Free memory or set engine.memory; an hour without trouble raises the budget again."
        found.append(Finding(Severity.WARNING, "budget_lowered", what, remedy))
    return found


def _version(status: Status, _machine: Machine) -> list[Finding]:
    if status.version == __version__:
        return []
    what = f"The running daemon is tampu {printable(status.version)}, and installed is {__version__}."
    remedy = "Start it again with: sudo systemctl restart tampu"
    return [Finding(Severity.WARNING, "daemon_of_another_version", what, remedy)]


def _own_words(status: Status, _machine: Machine) -> list[Finding]:
    return [
        Finding(each.severity, each.code, printable(each.what), printable(each.remedy))
        for each in status.findings
    ]
