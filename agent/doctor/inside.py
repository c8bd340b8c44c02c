"""What the doctor can look at from inside a running daemon: no engine child, no second connection.

`tampu doctor` starts an engine and knocks at the broker; a daemon on a small board has neither the memory
nor the need: its engine has said Hello, and its own connection tells of the broker.
"""

from pathlib import Path

from agent import places
from agent.config import Config
from agent.doctor import backends, broker_verdict, build, clock, daemon, folders
from agent.engine.messages import Hello
from agent.findings import Finding, by_severity
from agent.hardware.diagnosis import diagnose
from agent.hardware.memory import ROOT
from agent.hardware.probe import probe
from agent.status import Status


def examine_inside(
    config: Config, status: Status, hello: Hello | None, root: Path = ROOT
) -> tuple[Finding, ...]:
    """The findings, worst first. Reads the box and a few folders: some tens of milliseconds, and seconds
    where timedatectl hangs; for a thread. Raises ProbeError."""
    machine = probe(root)
    models = Path(config.models.folder)
    user = folders.this_user()
    found = [
        *diagnose(machine),
        *daemon.judge(status, machine),
        *folders.judge_models(folders.look(models)),
        *folders.judge_state(folders.look(places.state_folder()), user),
        *folders.judge_journal(config.journal, folders.look(Path(config.journal.folder)), user),
        *broker_verdict.judge_settings(config.mqtt),
        *clock.judge(clock.look(folders.model_files(models)), has_tls=config.mqtt.tls is not None),
    ]
    if hello is not None:
        found += build.judge(machine, hello)
        found += backends.compare(machine, hello.devices, f"{hello.build} {hello.system}")
    return by_severity(found)
