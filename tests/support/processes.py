"""Real processes for tests: a mosquitto and a daemon, started, stopped, killed and looked into."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from agent.cli.demo_broker import find_mosquitto
from agent.cli.socket_client import SocketClient
from agent.errors import TampuError

STARTS_WITHIN_S = 20.0
FIRST_PORT, PORTS_PER_WORKER, NUM_RANGES = 20_000, 1_000, 12


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has now, nor another worker's tests: each has a range of its own,
    below those the kernel gives to whoever connects."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = FIRST_PORT + worker % NUM_RANGES * PORTS_PER_WORKER
    for port in random.sample(range(first, first + PORTS_PER_WORKER), PORTS_PER_WORKER):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no port is free from {first} on")


def wait_until(check: Callable[[], Any], what: str, timeout_s: float = STARTS_WITHIN_S) -> Any:
    """Poll until `check` gives something true, and give that."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if result := check():
            return result
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what}")


class Mosquitto:
    """A broker on a port of its own that survives restarts."""

    def __init__(
        self, folder: Path, *, persistence: bool = True, extra: str = "", is_open: bool = True
    ) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        user = "user root\n" if os.geteuid() == 0 else ""
        anonymous = str(is_open).lower()
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous {anonymous}\nset_tcp_nodelay true\n{user}"
            f"persistence {str(persistence).lower()}\npersistence_location {folder}/\n"
            f"autosave_interval 1\n{extra}"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def including(cls, folder: Path, included: str, port: int, main: str = "") -> "Mosquitto":
        """One whose configuration lies in conf.d, under a main file like Debian's; it listens on `port`."""
        conf_d = folder / "conf.d"
        conf_d.mkdir()
        (conf_d / "tampu.conf").write_text(included)
        made = cls(folder)
        made.port = port
        user = "user root\n" if os.geteuid() == 0 else ""
        made._config.write_text(
            f"{user}persistence true\npersistence_location {folder}/\n{main}include_dir {conf_d}\n"
        )
        return made

    def start(self) -> None:
        binary = find_mosquitto()
        assert binary, "mosquitto is not installed; run: sudo apt-get install mosquitto mosquitto-clients"
        self._process = subprocess.Popen([binary, "-c", str(self._config)], stderr=subprocess.DEVNULL)
        wait_until(self._listens, "mosquitto listens")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It accepts connections and reads nothing: SIGSTOP, and SIGCONT at the end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process:
            # Mosquitto 2.0 loses a SIGTERM between its listening and its main loop: it gets another.
            for _ in range(10):
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(2)
                    break
            else:
                raise AssertionError("mosquitto does not end")
            self._process = None

    def kill(self) -> None:
        """SIGKILL: what it has not saved is lost."""
        if self._process:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    @property
    def may_lose(self) -> bool:
        """This version may lose what it holds for sessions over a restart: those after 2.0.11 to 2.0.21."""
        said = subprocess.run(
            [find_mosquitto() or "mosquitto", "-h"], capture_output=True, text=True, check=False
        )
        version = re.search(r"version (\d+)\.(\d+)\.(\d+)", said.stdout)
        return version is None or (2, 0, 11) < tuple(map(int, version.groups())) <= (2, 0, 21)

    def forget(self) -> None:
        """Lose what it has saved; only while it does not run."""
        (self._config.parent / "mosquitto.db").unlink(missing_ok=True)

    def signal(self, number: int) -> None:
        """To the running broker."""
        assert self._process is not None
        self._process.send_signal(number)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
            return True
        return False


class Daemon:
    """`command` gets the configuration's path put after it."""

    def __init__(
        self, folder: Path, command: list[str], tree: dict[str, Any], after: tuple[str, ...] = ()
    ) -> None:
        self.socket = folder / "t.sock"
        self.log = folder / "daemon.log"
        config = folder / "tampu.yaml"
        # Its own journal: the ids of tests are the same again and again.
        own = {"api": {"socket": str(self.socket)}, "journal": {"folder": str(folder / "state")}}
        config.write_text(yaml.safe_dump({**own, **tree}))
        self._command = [*command, str(config), *after]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TAMPU_")}
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self._command, stdout=out, stderr=out, env=environment)

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM and wait; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(10)

    def status(self) -> dict[str, Any]:
        """What /health says, or nothing when it cannot be asked."""
        try:
            answer: dict[str, Any] = json.loads(SocketClient(str(self.socket)).get_json("/health"))
        except TampuError:
            return {}
        return answer

    def wait_online(self) -> None:
        def is_online() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            status = self.status()
            return status.get("state") == "online" and str(status.get("mqtt")).startswith("connected")

        wait_until(is_online, "the daemon is online")

    def engine_pid(self) -> int:
        """The engine child's process id."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children()
        return int(children[0].pid) if children else 0

    def kill_engine(self, number: int = signal.SIGKILL) -> None:
        os.kill(wait_until(self.engine_pid, "an engine process"), number)


def fake_daemon(folder: Path, tree: dict[str, Any], step_s: float = 0.0, root: Path = Path("/")) -> Daemon:
    """The daemon over the fake engine; `root` holds the /proc in which it reads about memory."""
    script = Path(__file__).parent / "fake_daemon.py"
    return Daemon(folder, [sys.executable, str(script)], tree, after=(str(step_s), str(root)))


def real_daemon(folder: Path, tree: dict[str, Any]) -> Daemon:
    """The daemon as installed."""
    return Daemon(folder, [sys.executable, "-m", "agent", "run", "--config"], tree)
