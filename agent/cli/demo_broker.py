"""A broker for the demo: the installed mosquitto, else the embedded one."""

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import TampuError

PREFERRED_PORT = 1883
LISTENS_WITHIN_S = 15.0

MOSQUITTO_CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
log_dest none
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker on 127.0.0.1 and the MQTT version to speak with it."""

    name: str
    port: int
    protocol: str


@contextlib.contextmanager
def start_broker(folder: Path, *, embedded: bool) -> Iterator[Broker]:
    """Run a broker until the end of the block. Raises TampuError when there is none to run."""
    port = _free_port()
    mosquitto = None if embedded else find_mosquitto()
    if mosquitto:
        config = folder / "mosquitto.conf"
        config.write_text(MOSQUITTO_CONFIG.format(port=port))
        command, broker = [mosquitto, "-c", str(config)], Broker("mosquitto", port, "auto")
    elif importlib.util.find_spec("amqtt"):
        command = [sys.executable, "-m", "agent.cli.embedded_broker", str(port)]
        broker = Broker("embedded amqtt", port, "3.1.1")
    else:
        raise TampuError("there is no MQTT broker to run; install one with: sudo apt-get install mosquitto")
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for_port(port, process)
        yield broker
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()


def find_mosquitto() -> str | None:
    """The installed broker; Debian puts it where users' PATH does not look."""
    return shutil.which("mosquitto") or shutil.which(
        "mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
    )


def _free_port() -> int:
    """1883 if nobody has it, so that mosquitto_pub needs no option; else any."""
    for port in (PREFERRED_PORT, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                free: int = sock.getsockname()[1]
                return free
    raise TampuError("no port is free on 127.0.0.1")


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LISTENS_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.05)
    raise TampuError(f"the demo's broker did not start on port {port}; is something else listening there?")
