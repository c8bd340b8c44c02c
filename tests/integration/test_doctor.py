"""`tampu doctor` beside a real broker and a real daemon over the fake engine."""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import config_file
from agent.catalog.placement import Resources
from agent.cli.main import main
from agent.doctor.examine import examine
from agent.doctor.report import LiveReport
from agent.findings import Severity
from agent.hardware.gpu.driver_answer import Asked
from agent.hardware.machine import Gpu, Machine
from agent.hardware.probe import probe
from agent.resources import read_resources
from tests.support.processes import Daemon, Mosquitto, free_port, wait_until

ENGINE = (sys.executable, str(Path(__file__).parents[1] / "support" / "fake_engine.py"), "0")
SECRET = "correct horse"
# What a person waits for at most.
PATIENCE_S = 10.0


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that lets in the user `box` with its password and nobody else."""
    program = shutil.which("mosquitto_passwd")
    assert program, "mosquitto_passwd is not installed; run: sudo apt-get install mosquitto"
    folder = tmp_path / "guarded"
    folder.mkdir()
    passwords = folder / "passwords"
    subprocess.run([program, "-b", "-c", str(passwords), "box", SECRET], check=True, timeout=20)
    mosquitto = Mosquitto(folder, extra=f"password_file {passwords}\n", is_open=False)
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


def look(
    folder: Path, *, models: Path, engine: tuple[str, ...] = ENGINE, sock: Path | None = None, **mqtt: Any
) -> LiveReport:
    """Examine this machine, within the time a person waits."""
    tree = {
        "node": "box",
        "mqtt": mqtt,
        "models": {"folder": str(models), "name": "fake.gguf"},
        "engine": {"n_ctx": 1024, "threads": 1},
        "api": {"socket": str(sock or folder / "none.sock")},
    }
    config = config_file.from_tree(tree, "the test")
    started = time.monotonic()
    report = asyncio.run(examine(config, engine_command=engine))
    assert time.monotonic() - started < PATIENCE_S
    return report


def codes(report: LiveReport, severity: Severity = Severity.ERROR) -> list[str]:
    return [finding.code for finding in report.findings if finding.severity is severity]


def test_a_box_that_works_has_no_errors(
    tmp_path: Path, daemon: Daemon, broker: Mosquitto, model_folder: Path
) -> None:
    """Broker, daemon, model and engine are all there."""
    report = look(tmp_path, models=model_folder, sock=daemon.socket, port=broker.port)
    assert codes(report) == []
    assert (report.broker.trouble, report.broker.protocol) == ("", "5")
    assert report.daemon.status is not None
    assert report.daemon.status.state == "online"
    assert report.build is not None
    assert report.choice is not None
    assert report.choice.n_ctx == 1024
    assert report.budget is not None
    assert report.budget.hard_bytes == report.daemon.status.memory.hard_bytes
    assert daemon.status()["mqtt"].startswith("connected"), "the doctor took the daemon's place"


def test_figures_are_kept_under_the_names_that_the_kernel_has(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What drivers add or call otherwise is shown, and does not hide what `tampu bench` has measured."""
    machines: list[Machine | None] = []

    def read(*args: Any, machine: Machine | None = None, **options: Any) -> Resources:
        machines.append(machine)
        return read_resources(*args, machine=machine, **options)

    added = Asked((Gpu(name="llvmpipe", kind="software", api="vulkan"),))
    monkeypatch.setattr("agent.doctor.examine.ask", lambda _seconds: added)
    monkeypatch.setattr("agent.doctor.examine.read_resources", read)
    report = look(tmp_path, models=model_folder, port=free_port())
    assert "llvmpipe" in [gpu.name for gpu in report.gpus]
    assert [machine.gpus for machine in machines if machine] == [probe().gpus]


def test_an_old_protocol_is_spoken_where_it_is_asked_for(
    tmp_path: Path, broker: Mosquitto, model_folder: Path
) -> None:
    """As the daemon would."""
    report = look(tmp_path, models=model_folder, port=broker.port, protocol="3.1.1")
    assert (report.broker.trouble, report.broker.protocol) == ("", "3.1.1")
    assert "daemon_not_running" in codes(report, Severity.NOTE)


def test_without_a_broker_and_a_model_there_are_two_errors(tmp_path: Path) -> None:
    """Each is said once."""
    report = look(tmp_path, models=tmp_path / "none", port=free_port())
    assert sorted(codes(report)) == ["broker_no_listener", "models_folder_missing"]


def test_the_right_password_opens_the_broker(tmp_path: Path, guarded: Mosquitto, model_folder: Path) -> None:
    """From the configured file; others who may read it are a warning. It is never printed."""
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o644)
    report = look(tmp_path, models=model_folder, port=guarded.port, username="box", password_file=str(secret))
    assert report.broker.trouble == ""
    assert "password_file_open" in codes(report, Severity.WARNING)
    assert SECRET not in repr(report)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_wrong_password_or_none_is_an_error(
    tmp_path: Path, guarded: Mosquitto, model_folder: Path, protocol: str
) -> None:
    """With either version of MQTT."""
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    secret.chmod(0o600)
    settings = {"port": guarded.port, "protocol": protocol}
    wrong = look(tmp_path, models=model_folder, username="box", password_file=str(secret), **settings)
    assert codes(wrong) == ["broker_credentials"]
    assert codes(look(tmp_path, models=model_folder, **settings)) == ["broker_credentials"]


def test_a_password_file_that_is_not_there(tmp_path: Path, guarded: Mosquitto, model_folder: Path) -> None:
    """The path is named."""
    missing = str(tmp_path / "none")
    report = look(tmp_path, models=model_folder, port=guarded.port, username="box", password_file=missing)
    assert codes(report) == ["broker_unreadable"]
    assert missing in report.findings[0].what


def test_a_broker_without_names_is_open_to_this_box(
    tmp_path: Path, broker: Mosquitto, model_folder: Path
) -> None:
    """It listens on loopback alone: good to know, no more."""
    report = look(tmp_path, models=model_folder, port=broker.port)
    assert (report.broker.is_anonymous, report.broker.is_exposed) == (True, False)
    assert "broker_anonymous" in codes(report, Severity.NOTE)


def test_a_broker_that_listens_for_all_is_open_to_all(tmp_path: Path, model_folder: Path) -> None:
    """Reached by loopback and from the network alike: a warning."""
    folder = tmp_path / "open"
    folder.mkdir()
    broker = Mosquitto(folder)
    config = folder / "mosquitto.conf"
    config.write_text(config.read_text().replace(f"{broker.port} 127.0.0.1", f"{broker.port} 0.0.0.0"))
    broker.start()
    try:
        report = look(tmp_path, models=model_folder, port=broker.port)
    finally:
        broker.stop()
    assert report.broker.is_exposed is True
    assert "broker_anonymous" in codes(report, Severity.WARNING)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_name_of_ours_does_not_hide_that_others_need_none(
    tmp_path: Path, guarded: Mosquitto, broker: Mosquitto, model_folder: Path, is_open: bool
) -> None:
    """The doctor knocks a second time, as a stranger."""
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    port = broker.port if is_open else guarded.port
    report = look(tmp_path, models=model_folder, port=port, username="box", password_file=str(secret))
    assert report.broker.trouble == ""
    assert report.broker.is_anonymous is is_open
    assert ("broker_anonymous" in codes(report, Severity.NOTE)) is is_open


def test_tls_with_a_broker_that_has_none(tmp_path: Path, broker: Mosquitto, model_folder: Path) -> None:
    """The handshake fails, and the port is the likely reason."""
    report = look(tmp_path, models=model_folder, port=broker.port, tls={})
    assert codes(report) == ["broker_tls"]


def test_a_certificate_of_an_unknown_authority(tmp_path: Path, model_folder: Path) -> None:
    """Refused until its authority is named; then it is a broker like any other."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-days", "2", "-subj", "/CN=box", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
        timeout=20,
    )
    mosquitto = Mosquitto(tmp_path, extra=f"certfile {cert}\nkeyfile {key}\n")
    mosquitto.start()
    try:
        refused = look(tmp_path, models=model_folder, port=mosquitto.port, tls={})
        assert codes(refused) == ["broker_tls"]
        assert "mqtt.tls.ca" in refused.findings[0].remedy
        assert codes(look(tmp_path, models=model_folder, port=mosquitto.port)) == ["broker_silent"]
        known = look(tmp_path, models=model_folder, port=mosquitto.port, tls={"ca": str(cert)})
        assert codes(known) == []
    finally:
        mosquitto.stop()


def test_a_port_that_says_nothing_costs_a_few_seconds(tmp_path: Path, model_folder: Path) -> None:
    """Something listens, and is no broker; `look` bounds the time."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        report = look(tmp_path, models=model_folder, port=mute.getsockname()[1])
    assert codes(report) == ["broker_silent"]


def test_a_broker_that_cannot_be_reached_costs_a_few_seconds(tmp_path: Path, model_folder: Path) -> None:
    """A full backlog drops the SYN, as a firewall does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address, waiting = full.getsockname(), []
        for _ in range(3):
            waiting.append(sock := socket.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
        report = look(tmp_path, models=model_folder, port=address[1])
        for sock in waiting:
            sock.close()
    assert codes(report) == ["broker_unreachable"]


def test_an_engine_of_another_cpu(tmp_path: Path, broker: Mosquitto, model_folder: Path) -> None:
    """It dies by SIGILL before its Hello."""
    dying = (sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(signal.SIGILL)})")
    report = look(tmp_path, models=model_folder, port=broker.port, engine=dying)
    assert codes(report) == ["built_for_another_cpu"]
    assert report.build is None


def test_an_engine_that_cannot_be_started(tmp_path: Path, broker: Mosquitto, model_folder: Path) -> None:
    """An error, and no traceback."""
    report = look(tmp_path, models=model_folder, port=broker.port, engine=(str(tmp_path / "none"),))
    assert codes(report) == ["engine_silent"]


def test_an_engine_that_aborted_is_explained(
    tmp_path: Path, daemon: Daemon, broker: Mosquitto, model_folder: Path
) -> None:
    """The running daemon tells of it, and the doctor knows what it means."""
    daemon.kill_engine(signal.SIGABRT)
    wait_until(lambda: daemon.status().get("last_crash"), "the crash is noticed")
    daemon.wait_online()
    report = look(tmp_path, models=model_folder, sock=daemon.socket, port=broker.port)
    assert codes(report) == []
    assert "llama_stopped_itself" in codes(report, Severity.WARNING)


def test_a_daemon_that_lost_its_broker(
    tmp_path: Path, daemon: Daemon, broker: Mosquitto, model_folder: Path
) -> None:
    """Both sides are told."""
    broker.stop()
    wait_until(lambda: not daemon.status()["mqtt"].startswith("connected"), "the loss is noticed")
    report = look(tmp_path, models=model_folder, sock=daemon.socket, port=broker.port)
    assert sorted(codes(report)) == ["broker_no_listener", "daemon_without_broker"]


def test_a_daemon_that_died(tmp_path: Path, daemon: Daemon, broker: Mosquitto, model_folder: Path) -> None:
    """Its socket is left behind, which harms nobody."""
    daemon.kill()
    report = look(tmp_path, models=model_folder, sock=daemon.socket, port=broker.port)
    assert "socket_stale" in codes(report, Severity.NOTE)
    assert codes(report) == []


def test_a_daemon_that_hangs(tmp_path: Path, daemon: Daemon, broker: Mosquitto, model_folder: Path) -> None:
    """It takes connections and says nothing; it is not waited for long."""
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        report = look(tmp_path, models=model_folder, sock=daemon.socket, port=broker.port)
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert codes(report) == ["daemon_silent"]


def test_the_command_prints_it_all(
    daemon: Daemon, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON with the box at the top level, as a screen with sections; the exit code tells of errors."""
    monkeypatch.setattr("agent.engine_process.COMMAND", ENGINE)
    config = str(daemon.socket.parent / "tampu.yaml")
    assert main(["doctor", "--json", "--config", config]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["cores"] >= 1
    assert said["devices"][0]["name"] == "FAKE"
    assert said["daemon"]["status"]["state"] == "online"
    broker.stop()
    assert main(["doctor", "--config", config]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert {"Box", "Engine", "Memory", "Model", "Service"} <= set(lines)
    assert any(line.startswith("ERROR  No broker listens") for line in lines)


StartDaemon = Callable[..., Daemon]


def test_a_daemon_without_a_model_says_why(
    tmp_path: Path, start_daemon: StartDaemon, broker: Mosquitto
) -> None:
    """The folder is empty: the daemon fails, and the doctor names the command that mends it."""
    empty = tmp_path / "empty"
    empty.mkdir()
    daemon = start_daemon(online=False, models={"folder": str(empty), "name": "fake.gguf"})
    wait_until(lambda: daemon.status().get("state") == "degraded", "the daemon has given up")
    report = look(tmp_path, models=empty, sock=daemon.socket, port=broker.port)
    assert sorted(codes(report)) == ["daemon_failed", "models_folder_empty"]
