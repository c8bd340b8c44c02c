"""The daemon while its broker is absent, restarted, forgetful or frozen: it serves, comes back, and keeps
nothing of it but the session."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from agent.cli.socket_client import SocketClient
from tests.integration.conftest import BASE
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, wait_until

MINE = f"{BASE}/response/me/#"
REQUEST = f"{BASE}/request/me"
# A minute's pause at most lies between two tries, and a frozen broker has to be noticed first.
BACK_WITHIN_S = 80.0

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(params=[True, False], ids=["keeps its state", "forgets everything"])
def any_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mosquitto]:
    """A running mosquitto, with persistence and without."""
    folder = tmp_path / "any-broker"
    folder.mkdir()
    mosquitto = Mosquitto(folder, persistence=request.param)
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


def is_connected(daemon: Daemon) -> bool:
    return str(daemon.status().get("mqtt")).startswith("connected")


def held(daemon: Daemon) -> tuple[int, int]:
    """Open files and threads of the daemon."""
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    return process.num_fds(), process.num_threads()


def serves_its_socket(daemon: Daemon) -> bool:
    body = b'{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}'
    answer = SocketClient(str(daemon.socket)).post_json("/v1/chat/completions", body)
    return bool(answer)


def is_heard_and_hears(port: int, request_id: str) -> None:
    """Retained topics are there for whoever comes now, and a prompt is answered."""
    with Device(port, MINE, f"{BASE}/status", f"{BASE}/info") as device:
        device.wait_frame("/status", state="online")
        device.wait_frame("/info", v=1)
        device.publish(REQUEST, {"id": request_id, "prompt": "hello"})
        assert device.wait_end(request_id)["type"] == "done"


def test_a_broker_that_restarts_finds_the_box_again(
    start_daemon: Callable[..., Daemon], any_broker: Mosquitto
) -> None:
    """Subscriptions and retained topics are back even where the broker kept neither; nothing piles up."""
    daemon = start_daemon(mqtt={"port": any_broker.port})
    is_heard_and_hears(any_broker.port, "r0")
    rounds: list[tuple[int, int]] = []
    for number in range(1, 3):
        any_broker.stop()
        wait_until(lambda: not is_connected(daemon), "the loss is noticed")
        any_broker.start()
        wait_until(lambda: is_connected(daemon), "the daemon is back", BACK_WITHIN_S)
        is_heard_and_hears(any_broker.port, f"r{number}")
        rounds.append(held(daemon))
    (files, threads), (files_after, threads_after) = rounds
    assert files_after <= files
    # A pool of threads may still be filling.
    assert threads_after <= threads + 2


def test_a_broker_that_comes_late_is_found(
    start_daemon: Callable[..., Daemon], any_broker: Mosquitto
) -> None:
    """The socket answers meanwhile; several tries fail and leave nothing behind."""
    any_broker.stop()
    daemon = start_daemon(mqtt={"port": any_broker.port}, online=False)
    wait_until(lambda: daemon.status().get("state") == "online", "the socket answers")
    assert serves_its_socket(daemon)
    wait_until(lambda: "cannot be reached" in daemon.log.read_text(), "a try has failed")
    any_broker.start()
    wait_until(lambda: is_connected(daemon), "the daemon is there", BACK_WITHIN_S)
    is_heard_and_hears(any_broker.port, "r1")


def test_a_frozen_broker_is_left_and_found_again(
    start_daemon: Callable[..., Daemon], any_broker: Mosquitto
) -> None:
    """It accepts connections and says nothing. An answer that was under way then is told whole."""
    daemon = start_daemon(step_s=0.05, mqtt={"port": any_broker.port, "keepalive_s": 5})
    with Device(any_broker.port, MINE, f"{BASE}/status") as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "a LONG story", "max_tokens": 60})
        device.wait_frame(type="delta")
        with any_broker.frozen():
            wait_until(lambda: not is_connected(daemon), "the silence is noticed", 40)
            assert serves_its_socket(daemon)
        wait_until(lambda: is_connected(daemon), "the daemon is back", BACK_WITHIN_S)
        end = device.wait_end("r1", BACK_WITHIN_S)
        assert end["type"] == "done"
        assert device.received_text("r1") == end["text"]
    is_heard_and_hears(any_broker.port, "r2")
    assert daemon.status()["mqtt"].endswith("MQTT 5")


def test_what_was_asked_while_the_box_was_cut_off_is_answered(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """A broker that keeps its state keeps it for the box; the device asks while the box is still away."""
    daemon = start_daemon(mqtt={"port": broker.port})
    broker.stop()
    wait_until(lambda: not is_connected(daemon), "the loss is noticed")
    assert daemon.process is not None
    process = psutil.Process(daemon.process.pid)
    process.suspend()
    try:
        broker.start()
        with Device(broker.port, MINE) as device:
            for number in range(5):
                device.publish(REQUEST, {"id": f"r{number}", "prompt": "hello"})
            process.resume()
            for number in range(5):
                assert device.wait_end(f"r{number}", BACK_WITHIN_S)["type"] == "done"
    finally:
        process.resume()


def test_the_daemon_stops_in_time_while_its_broker_is_frozen(
    start_daemon: Callable[..., Daemon], any_broker: Mosquitto
) -> None:
    """The goodbye cannot be said; exit code 0 all the same."""
    daemon = start_daemon(mqtt={"port": any_broker.port})
    with any_broker.frozen():
        assert daemon.stop(30) == 0
