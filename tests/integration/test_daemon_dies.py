"""The daemon is killed at every stage of a request: what it had accepted, it answers after its return."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.history import Frame, decode
from tests.faults.receiver import Receiver
from tests.integration.conftest import BASE
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, wait_until

MINE = f"{BASE}/response/me/#"
REQUEST = f"{BASE}/request/me"
NUM_TOKENS = 60


@pytest.fixture
def device(broker: Mosquitto) -> Iterator[Device]:
    """The client `me`."""
    with Device(broker.port, MINE) as device:
        yield device


@pytest.fixture
def start(start_daemon: Callable[..., Daemon], tmp_path: Path) -> Callable[..., Daemon]:
    """A daemon with a journal of its own on disk, slow enough to be killed in mid-answer."""

    def start(*, mode: str = "disk", **sections: Any) -> Daemon:
        journal = {"mode": mode, "folder": str(tmp_path / "journal")}
        return start_daemon(step_s=0.03, journal=journal, **sections)

    return start


def ask(device: Device, request_id: str, **fields: Any) -> dict[str, Any]:
    """Publish a request that is sampled for long; what was published."""
    request = {"id": request_id, "prompt": "a LONG story", "max_tokens": NUM_TOKENS, "temperature": 0.9}
    request = {**request, **fields}
    device.publish(REQUEST, request)
    return request


def frames(device: Device, request_id: str) -> list[Frame]:
    """Everything said about a request so far, in order of arrival."""
    return [decode(m.payload) for m in list(device.messages) if m.topic == f"{BASE}/response/me/{request_id}"]


def ends(device: Device, request_id: str) -> list[bytes]:
    """Its terminal frames, byte for byte."""
    topic = f"{BASE}/response/me/{request_id}"
    payloads = [bytes(m.payload) for m in list(device.messages) if m.topic == topic]
    return [payload for payload in payloads if decode(payload).is_end]


def wait_for_text(device: Device, request_id: str) -> None:
    wait_until(lambda: any(f.type == "delta" and f.off for f in frames(device, request_id)), "some text")


def die(daemon: Daemon) -> None:
    """SIGKILL and a new start, as systemd does."""
    daemon.kill()
    daemon.start()
    daemon.wait_online()


def test_an_answer_in_progress_begins_again_in_a_second_run(
    start: Callable[..., Daemon], device: Device
) -> None:
    """Nobody asks again; the text is the undisturbed one, and there is one result."""
    daemon = start()
    ask(device, "whole", seed=11)
    whole = device.wait_end("whole")
    ask(device, "killed", seed=11)
    wait_for_text(device, "killed")
    die(daemon)
    end = device.wait_end("killed")
    assert (end["type"], end["run"], end["text"]) == ("done", 2, whole["text"])
    heard = frames(device, "killed")
    assert [frame.run for frame in heard] == sorted(frame.run for frame in heard)
    receiver = Receiver()
    for frame in heard:
        receiver.take(frame)
    assert receiver.buffer.decode() == whole["text"]
    assert len(set(ends(device, "killed"))) == 1


def test_a_seed_that_the_box_drew_is_kept(start: Callable[..., Daemon], device: Device) -> None:
    """The second run says the seed of the first, and its text is that seed's."""
    daemon = start()
    ask(device, "drawn")
    wait_for_text(device, "drawn")
    die(daemon)
    end = device.wait_end("drawn")
    (seed,) = {frame.seed for frame in frames(device, "drawn") if frame.type == "accepted"}
    ask(device, "same", seed=seed)
    assert device.wait_end("same")["text"] == end["text"]
    assert end["run"] == 2


def test_a_result_that_the_broker_did_not_acknowledge_is_sent_again(
    start: Callable[..., Daemon], broker: Mosquitto, device: Device
) -> None:
    """It is not computed again: it is of the first run, and whoever asks again gets the same bytes."""
    daemon = start()
    request = ask(device, "r1")
    wait_for_text(device, "r1")
    broker.signal(signal.SIGSTOP)
    wait_until(lambda: daemon.status().get("live") == 0, "the answer's end")
    daemon.kill()
    num_subscribed = device.num_subscribed
    broker.kill()
    broker.start()
    wait_until(lambda: device.num_subscribed > num_subscribed, "the device is back")
    daemon.start()
    end = device.wait_end("r1")
    assert (end["type"], end["run"]) == ("done", 1)
    device.publish(REQUEST, request)
    wait_until(lambda: len(ends(device, "r1")) > 1, "the result again")
    assert len(set(ends(device, "r1"))) == 1


def test_a_request_killed_before_its_acknowledgement_is_redelivered(
    start: Callable[..., Daemon], device: Device
) -> None:
    """The broker has it still: it is run for the first time."""
    daemon = start()
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    ask(device, "r1")
    die(daemon)
    end = device.wait_end("r1")
    assert (end["type"], end["run"]) == ("done", 1)
    assert len(ends(device, "r1")) == 1


def test_what_waited_in_the_queue_is_answered_too(start: Callable[..., Daemon], device: Device) -> None:
    """Every accepted request has one result, in the end and without being asked again."""
    daemon = start(engine={"n_ctx": 1024, "threads": 1, "slots": 1})
    names = [f"r{number}" for number in range(6)]
    for name in names:
        ask(device, name, max_tokens=12)
    for name in names:
        device.wait_frame(id=name, type="accepted")
    die(daemon)
    for name in names:
        assert device.wait_end(name, 40)["type"] == "done"
        assert len(set(ends(device, name))) == 1


def test_a_conversation_goes_on_where_it_was(start: Callable[..., Daemon], device: Device) -> None:
    """The next prompt of the session has the turns from before the death in front of it."""
    daemon = start()
    options = {"max_tokens": 12, "temperature": 0}
    ask(device, "1", prompt="one", session="kitchen", **options)
    first = device.wait_end("1")["text"]
    die(daemon)
    ask(device, "2", prompt="two", session="kitchen", **options)
    written_out = [("user", "one"), ("assistant", first), ("user", "two")]
    messages = [{"role": role, "content": content} for role, content in written_out]
    device.publish(REQUEST, {"id": "3", "messages": messages, **options})
    assert device.wait_end("2")["text"] == device.wait_end("3")["text"]


def test_what_ran_out_of_time_meanwhile_is_expired(start: Callable[..., Daemon], device: Device) -> None:
    """It waited behind another one when the daemon died, and is never computed."""
    daemon = start(engine={"n_ctx": 1024, "threads": 1, "slots": 1})
    ask(device, "long", max_tokens=200)
    wait_for_text(device, "long")
    ask(device, "late", ttl_s=1.5)
    device.wait_frame(id="late", type="accepted")
    daemon.kill()
    time.sleep(2)
    daemon.start()
    assert device.wait_end("late")["code"] == "expired"
    assert not [frame for frame in frames(device, "late") if frame.type == "delta"]
    assert device.wait_end("long", 40)["run"] == 2


def test_a_cancel_before_the_death_counts_after_it(start: Callable[..., Daemon], device: Device) -> None:
    """A request that was cancelled has had its result: it is not run again, whoever sends it."""
    daemon = start()
    device.publish(f"{BASE}/cancel/me", json.dumps({"id": "r1"}))
    request = ask(device, "r1")
    assert device.wait_end("r1")["code"] == "cancelled"
    die(daemon)
    device.publish(REQUEST, request)
    wait_until(lambda: len(ends(device, "r1")) > 1, "an answer to the duplicate")
    assert len(set(ends(device, "r1"))) == 1


def test_a_journal_in_memory_dies_with_the_daemon(start: Callable[..., Daemon], device: Device) -> None:
    """As the setting says: the request is unknown afterwards, and runs for the first time when sent again."""
    daemon = start(mode="memory")
    request = ask(device, "r1")
    wait_for_text(device, "r1")
    die(daemon)
    ask(device, "r2", max_tokens=5)
    assert device.wait_end("r2")["type"] == "done"
    assert not ends(device, "r1")
    device.publish(REQUEST, request)
    assert device.wait_end("r1")["run"] == 1
