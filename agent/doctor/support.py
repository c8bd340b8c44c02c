"""What `tampu report` puts together: everything that tells why a box does not do what it should.

Whatever cannot be had is a sentence in `troubles`: a report is wanted most where something is broken.
"""

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from agent import __version__, config_file, places
from agent.cli.socket_client import SocketClient
from agent.config import Config, Profile, to_tree
from agent.crash import Crash
from agent.doctor.examine import examine
from agent.doctor.report import LiveReport
from agent.doctor.words import counted, printable
from agent.errors import TampuError
from agent.fitting import fitted
from agent.model_list import ModelHere, models_here
from agent.status import ModelIdentity, Status

T = TypeVar("T")

FORMAT = 1
MAX_BYTES = 1 << 20
HIDDEN = "(hidden)"


class Report(Struct, frozen=True, kw_only=True):
    """`system` is the kernel's line; `config` has every key, with names and prompts hidden. A None could
    not be had, and `troubles` say why. `left_out` counts log lines that did not fit."""

    format: int = FORMAT
    made_at: str
    version: str
    python: str
    system: str
    node: str = ""
    config: dict[str, Any] | None = None
    status: Status | None = None
    last_crash: Crash | None = None
    doctor: LiveReport | None = None
    models: tuple[ModelHere, ...] = ()
    log: tuple[str, ...] = ()
    left_out: int = 0
    troubles: tuple[str, ...] = ()


class _Lines(Struct, frozen=True):
    lines: tuple[str, ...]


async def collect(named: str | None, overrides: Iterable[str], socket: str | None) -> Report:
    """Look at all of it; some seconds, as the doctor takes. Raises nothing."""
    troubles: list[str] = []
    empty = Report(
        made_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        version=__version__,
        python=sys.version.split()[0],
        system=" ".join(filter(None, platform.uname())),
    )
    config = _tried(troubles, "configuration", lambda: config_file.load(named, overrides))
    if config is None:
        return msgspec.structs.replace(empty, troubles=tuple(troubles))
    client = SocketClient(socket or places.socket_to_ask(config.api.socket))
    status = _tried(troubles, "status", lambda: _status(client))
    log = _tried(troubles, "log", lambda: _log(client)) if status else None
    try:
        doctor = await examine(config, socket=socket)
    except Exception as error:  # noqa: BLE001 - what the doctor stumbles over is worth reporting
        troubles.append(f"doctor: {error!r}")
        doctor = None
    folder = doctor.models_folder if doctor else config.models.folder
    models = msgspec.structs.replace(config.models, folder=folder)
    report = msgspec.structs.replace(
        empty,
        node=config.node,
        config=hidden(config),
        status=status,
        last_crash=status.last_crash if status else None,
        doctor=doctor,
        models=_tried(troubles, "models", lambda: models_here(models, _chosen(status))) or (),
        log=log or (),
        troubles=tuple(troubles),
    )
    username = config.mqtt.username
    return report if username is None else _without_name(report, username)


def encode(report: Report) -> bytes:
    """The JSON, at most 1 MiB: first old log lines are left out, then the models and the doctor's candidates.

    Raises TampuError where not even that helps.
    """
    doctor = report.doctor and msgspec.structs.replace(report.doctor, candidates=())
    small = msgspec.structs.replace(report, models=(), doctor=doctor)
    for each in (report, small, msgspec.structs.replace(small, doctor=None, config=None)):
        content = fitted(partial(_with_log, each), len(report.log), MAX_BYTES)
        if content is not None:
            return content
    raise TampuError("the report does not fit into 1 MiB; send what tampu doctor --json prints instead")


def _with_log(report: Report, num_lines: int) -> bytes:
    lines = report.log[len(report.log) - num_lines :]
    cut = msgspec.structs.replace(report, log=lines, left_out=len(report.log) - num_lines)
    return msgspec.json.format(msgspec.json.encode(cut), indent=1)


def _without_name(report: Report, username: str) -> Report:
    """Sentences have the broker's user name in quotes."""
    return msgspec.convert(_without(msgspec.to_builtins(report), repr(username)), Report)


def _without(value: Any, name: str) -> Any:
    """The tree without a quoted name in its sentences."""
    match value:
        case str():
            return value.replace(name, HIDDEN)
        case dict():
            return {key: _without(inner, name) for key, inner in value.items()}
        case list() | tuple():
            return [_without(inner, name) for inner in value]
        case _:
            return value


def save(content: bytes, output: str | None, node: str) -> Path:
    """Write the file so that nobody else may read it; its path. Raises TampuError."""
    name = f"tampu-report-{node or 'box'}-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path = Path(output or name)
    try:
        # A device or a pipe would be replaced: as root that is the end of /dev/null for everybody.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise TampuError(f"{path} is no file to write a report to; name another one with --output")
        # Made with mode 0600 under a name of its own: nothing is written through a link, nor half.
        handle, part = tempfile.mkstemp(prefix=".tampu-report-", dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(content)
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise TampuError(f"{path} cannot be written: {why}; name another file with --output") from error
    return path


def contents(report: Report) -> tuple[str, ...]:
    """What is in it, in a few lines for a person."""
    doctor = report.doctor
    crash = report.last_crash
    lines = (
        "the configuration" if report.config is not None else "",
        f"the state of the daemon: {report.status.state}" if report.status else "",
        f"the engine's last death: {crash.sentence}" if crash else "",
        f"the doctor's findings: {counted(doctor.num_errors, 'error')},"
        f" {counted(doctor.num_warnings, 'warning')}"
        if doctor
        else "",
        counted(len(report.models), "model") if report.models else "",
        f"the last {counted(len(report.log), 'line')} of the log" if report.log else "",
        *(f"not there: {printable(trouble)}" for trouble in report.troubles),
    )
    return (f"tampu {report.version} on {printable(report.system)}", *filter(None, lines))


def hidden(config: Config) -> dict[str, Any]:
    """The configuration as a tree, without the broker's user name and without prompts."""
    profiles = {
        name: Profile(system=f"{HIDDEN}: {len(profile.system)} characters")
        for name, profile in config.profiles.items()
    }
    username = HIDDEN if config.mqtt.username is not None else None
    mqtt = msgspec.structs.replace(config.mqtt, username=username)
    return to_tree(msgspec.structs.replace(config, profiles=profiles, mqtt=mqtt))


def _tried(troubles: list[str], what: str, look: Callable[[], T]) -> T | None:
    try:
        return look()
    except (TampuError, OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        troubles.append(f"{what}: {error}")
        return None


def _status(client: SocketClient) -> Status:
    return msgspec.json.decode(client.get_json("/health"), type=Status)


def _log(client: SocketClient) -> tuple[str, ...]:
    return msgspec.json.decode(client.get_json("/log"), type=_Lines).lines


def _chosen(status: Status | None) -> ModelIdentity | None:
    model = status.model if status else None
    return ModelIdentity(model.name, model.quant, model.sha256) if model else None
