"""Tampu and llama-server as two of a kind: processes that answer OpenAI's API on a unix socket."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from agent.cli.socket_client import SocketClient
from agent.errors import TampuError
from tests.bench.memory import Memory, memory_of
from tests.bench.variants import Variant
from tests.support.processes import Daemon, Mosquitto

STOPS_WITHIN_S = 30.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two, ready to answer. `pids` are its processes now; llama-server has no broker."""

    name: str
    socket: str
    pids: Callable[[], Sequence[int]]
    broker_port: int = 0

    def memory(self) -> Memory:
        """Of all its processes together. Raises psutil.NoSuchProcess when one of them has just ended."""
        parts = [memory_of(pid) for pid in self.pids()]
        anonymous = [part.anonymous for part in parts if part.anonymous is not None]
        return Memory(
            sum(part.rss for part in parts), sum(anonymous) if len(anonymous) == len(parts) else None
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """How both sides are started. `wrap` goes before their commands, to put them into a cgroup."""

    folder: Path
    model: Path
    server: Path
    num_threads: int
    wrap: tuple[str, ...] = ()
    starts_within_s: float = 120.0


# ---- Tampu ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def tampu(setting: Setting, tree: Mapping[str, Any], state: Path | None = None) -> Iterator[Side]:
    """The daemon as installed, with a broker, until the end of the block; `state` outlives it if given."""
    with launched_tampu(setting, tree, state) as (side, daemon):
        assert daemon.process is not None
        wait_ready(lambda: is_online(daemon), daemon.process, daemon.log, setting.starts_within_s)
        yield side


@contextlib.contextmanager
def launched_tampu(
    setting: Setting, tree: Mapping[str, Any], state: Path | None = None
) -> Iterator[tuple[Side, Daemon]]:
    """The same, not waited for."""
    with _folder(setting.folder, "tampu") as folder, _broker(folder) as broker:
        # A state folder of its own: nothing that an earlier daemon kept may help this one.
        home = state or folder / "state"
        home.mkdir(exist_ok=True)
        command = ["env", f"STATE_DIRECTORY={home}", f"XDG_CACHE_HOME={home / 'cache'}"]
        command += [*setting.wrap, sys.executable, "-m", "agent", "run", "--config"]
        daemon = Daemon(folder, command, _configuration(setting, tree, broker.port))
        try:
            daemon.start()
            yield _side_of(daemon, broker.port), daemon
        finally:
            _end(daemon.process)


def is_online(daemon: Daemon) -> bool:
    """Does it answer now? With the broker too, as its devices need it."""
    status = daemon.status()
    return status.get("state") == "online" and str(status.get("mqtt")).startswith("connected")


def _side_of(daemon: Daemon, broker_port: int) -> Side:
    def pids() -> list[int]:
        assert daemon.process is not None
        children = psutil.Process(daemon.process.pid).children(recursive=True)
        return [daemon.process.pid, *(child.pid for child in children)]

    return Side("Tampu", str(daemon.socket), pids, broker_port)


def _configuration(setting: Setting, tree: Mapping[str, Any], port: int) -> dict[str, Any]:
    engine = {"threads": setting.num_threads, **tree.get("engine", {})}
    models = {"folder": str(setting.model.parent)}
    return {"node": "box", "mqtt": {"port": port}, "models": models, **tree, "engine": engine}


@contextlib.contextmanager
def _broker(folder: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(folder, persistence=False)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


# ---- llama-server --------------------------------------------------------------------------------


@contextlib.contextmanager
def llama_server(setting: Setting, variant: Variant) -> Iterator[Side]:
    """llama-server, on as many threads as Tampu, until the end of the block."""
    with launched_server(setting, variant) as (side, process):
        log = Path(side.socket).with_name("server.log")
        wait_ready(lambda: is_healthy(side.socket), process, log, setting.starts_within_s)
        yield side


@contextlib.contextmanager
def launched_server(setting: Setting, variant: Variant) -> Iterator[tuple[Side, subprocess.Popen[bytes]]]:
    """The same, not waited for."""
    with _folder(setting.folder, "server") as folder, (folder / "server.log").open("wb") as log:
        socket = str(folder / "s.sock")
        command = [*setting.wrap, str(setting.server), "-m", str(setting.model)]
        command += ["-t", str(setting.num_threads), "--host", socket, *variant.options]
        environment = {**os.environ, **variant.environment}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            yield Side("llama-server", socket, lambda: [process.pid]), process
        finally:
            _end(process)


def is_healthy(socket: str) -> bool:
    """Does it say that it would answer now?"""
    try:
        SocketClient(socket).get_json("/health")
    except TampuError:
        return False
    return True


# ---- both ----------------------------------------------------------------------------------------


def wait_ready(
    check: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, within_s: float
) -> None:
    """Poll until `check` is true. Raises ValueError when the process ends instead, or takes too long."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if check():
            return
        if process.poll() is not None:
            raise ValueError(f"it ended at its start with status {process.returncode}: {_tail(log)}")
        time.sleep(POLL_S)
    raise ValueError(f"it did not come up within {within_s:.0f} s: {_tail(log)}")


def _tail(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").splitlines()[-3:])


def _end(process: subprocess.Popen[bytes] | None) -> None:
    """SIGTERM, and SIGKILL to what does not go."""
    if process is None or process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(STOPS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


@contextlib.contextmanager
def _folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder with a short path, for sockets have room for 107 bytes; it stays for its log."""
    yield Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
