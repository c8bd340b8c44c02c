"""Engine, broker and name are lost in the middle of answers: a pause for the reader, never a loss."""

import signal
from collections.abc import Callable

from tests.integration.conftest import BASE
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, wait_until

MINE = f"{BASE}/response/me/#"
REQUEST = f"{BASE}/request/me"


def ask(device: Device, request_id: str, temperature: float = 0.0) -> None:
    """A prompt whose answer has 60 tokens."""
    request = {"prompt": "a LONG story", "max_tokens": 60, "seed": 11, "temperature": temperature}
    device.publish(REQUEST, {"id": request_id, **request})


def wait_for_text(device: Device, request_id: str, num_bytes: int = 10) -> None:
    what = f"text of {request_id}"
    wait_until(lambda: len(device.received_text(request_id).encode()) >= num_bytes, what)


def test_an_engine_killed_in_mid_answer_goes_on_where_it_stopped(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """Sampled and greedy answers are the same with the kill as without it, in the same run."""
    daemon = start_daemon(step_s=0.02)
    with Device(broker.port, MINE) as device:
        for temperature in (0.8, 0.0):
            ask(device, f"whole-{temperature}", temperature)
            whole = device.wait_end(f"whole-{temperature}")
            name = f"killed-{temperature}"
            ask(device, name, temperature)
            wait_for_text(device, name)
            daemon.kill_engine()
            killed = device.wait_end(name)
            assert killed["text"] == whole["text"]
            # What was resident died with the process; what was asked and answered did not.
            for count in ("prompt", "completion"):
                assert killed["usage"][count] == whole["usage"][count]
            assert device.received_text(name) == whole["text"]
    status = daemon.status()
    assert status["engine_restarts"] == 2
    assert "SIGKILL" in status["last_crash"]["how"]


def test_many_answers_survive_an_engine_death(start_daemon: Callable[..., Daemon], broker: Mosquitto) -> None:
    """Running ones and waiting ones alike end in exactly one result."""
    daemon = start_daemon(step_s=0.01)
    with Device(broker.port, f"{BASE}/response/#") as device:
        for number in range(20):
            device.publish(f"{BASE}/request/c{number % 5}", {"id": f"r{number}", "prompt": f"say {number}"})
        wait_until(lambda: any(f["type"] == "delta" for f in device.frames()), "some text")
        daemon.kill_engine()
        for number in range(20):
            end = device.wait_end(f"r{number}", 40)
            assert end["type"] == "done"
            assert device.received_text(f"r{number}") == end["text"]
        ends = [f["id"] for f in device.frames() if f["type"] in {"done", "error"}]
    assert len(ends) == len(set(ends)) == 20


def test_a_request_that_kills_the_engine_twice_is_poison(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """It ends in `internal`; those beside it are answered."""
    start_daemon(step_s=0.01)
    with Device(broker.port, f"{BASE}/response/#") as device:
        device.publish(f"{BASE}/request/good", {"id": "good", "prompt": "go on"})
        device.publish(REQUEST, {"id": "bad", "prompt": "POISON"})
        device.publish(f"{BASE}/request/late", {"id": "late", "prompt": "and me"})
        error = device.wait_end("bad")
        assert error["code"] == "internal"
        assert "twice" in error["message"]
        for name in ("good", "late"):
            assert device.wait_end(name)["type"] == "done"


def test_a_stopped_engine_process_does_not_stop_the_daemon(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """SIGSTOP: health still answers; SIGCONT: the answer goes on."""
    daemon = start_daemon(step_s=0.02)
    with Device(broker.port, MINE) as device:
        ask(device, "r1")
        wait_for_text(device, "r1")
        daemon.kill_engine(signal.SIGSTOP)
        assert daemon.status()["state"] == "online"
        daemon.kill_engine(signal.SIGCONT)
        assert device.wait_end("r1")["type"] == "done"


def test_a_broker_restarted_in_mid_stream_costs_no_text(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """After the gap a snapshot brings the receiver up to date; done has the whole text."""
    start_daemon(step_s=0.05)
    with Device(broker.port, MINE, f"{BASE}/status") as device:
        ask(device, "whole")
        whole = device.wait_end("whole")
        ask(device, "r1")
        wait_for_text(device, "r1")
        broker.stop()
        broker.start()
        end = device.wait_end("r1", 40)
        assert end["text"] == whole["text"]
        assert device.received_text("r1") == whole["text"]
        device.wait_frame("/status", state="online")


def test_a_daemon_started_before_its_broker_waits_for_it(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """The socket answers meanwhile."""
    broker.stop()
    daemon = start_daemon(online=False)
    wait_until(lambda: daemon.status().get("state") == "online", "the socket answers")
    assert not daemon.status()["mqtt"].startswith("connected")
    broker.start()
    daemon.wait_online()


def test_requests_sent_while_the_daemon_was_away_are_answered_when_it_is_back(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """The broker keeps them for the daemon's session."""
    first = start_daemon(name="first")
    assert first.stop() == 0
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "kept", "prompt": "are you back?"})
        start_daemon(name="second")
        assert device.wait_end("kept")["type"] == "done"


def test_a_second_daemon_on_the_same_socket_is_refused(
    start_daemon: Callable[..., Daemon], broker: Mosquitto, daemon: Daemon
) -> None:
    """It says so in one sentence and exits; the first goes on."""
    second = start_daemon(name="second", online=False, api={"socket": str(daemon.socket)})
    assert second.process is not None
    assert second.process.wait(20) == 1
    assert "another tampu" in second.log.read_text()
    assert daemon.status()["state"] == "online"


def test_two_daemons_on_one_node_name_do_not_fight(
    start_daemon: Callable[..., Daemon], broker: Mosquitto, daemon: Daemon
) -> None:
    """After a few kicks one says that its name is taken and stays away; the other answers, once."""
    second = start_daemon(name="second")

    def one_gave_way() -> bool:
        return any("took the connection" in each.status()["mqtt"] for each in (daemon, second))

    wait_until(one_gave_way, "one daemon gives way", 40)
    assert "give each box its own" in daemon.log.read_text() + second.log.read_text()
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "x"})
        assert device.wait_end("r1")["type"] == "done"
        assert sum(f["type"] == "done" for f in device.frames()) == 1


def test_a_missing_model_is_named_and_taken_when_it_comes(
    start_daemon: Callable[..., Daemon], broker: Mosquitto, model_folder
) -> None:
    """Degraded with the reason; requests get model_unavailable; the file's arrival mends it."""
    data = (model_folder / "fake.gguf").read_bytes()
    (model_folder / "fake.gguf").unlink()
    daemon = start_daemon(online=False)
    with Device(broker.port, MINE, f"{BASE}/status") as device:
        status = device.wait_frame("/status", state="degraded")
        assert "no such model file" in status["reason"]
        device.publish(REQUEST, {"id": "r1", "prompt": "x"})
        assert device.wait_end("r1")["code"] == "model_unavailable"
        (model_folder / "fake.gguf").write_bytes(data)
        daemon.wait_online()
        device.publish(REQUEST, {"id": "r2", "prompt": "x"})
        assert device.wait_end("r2")["type"] == "done"


def test_old_and_truncated_models_are_named(
    start_daemon: Callable[..., Daemon], broker: Mosquitto, model_folder
) -> None:
    """GGML of old and a file cut short: each its own reason."""
    whole = (model_folder / "fake.gguf").read_bytes()
    for number, (data, word) in enumerate([(b"tjgg" + bytes(64), "GGJT"), (whole[:-40], "ends before")]):
        (model_folder / "fake.gguf").write_bytes(data)
        daemon = start_daemon(name=f"daemon{number}", online=False)
        status = wait_until(lambda d=daemon: d.status().get("state") == "degraded" and d.status(), "degraded")
        assert word in status["reason"]
        assert daemon.stop() == 0
