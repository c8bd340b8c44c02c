"""What one device can send must not cost another its answer: each of these once did."""

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.integration.conftest import BASE
from tests.support import hostile
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, wait_until

MINE = f"{BASE}/response/me/#"
REQUEST = f"{BASE}/request/me"


def still_answers(device: Device) -> bool:
    device.publish(REQUEST, {"id": f"still-{time.monotonic_ns()}", "prompt": "hello"})
    return bool(device.wait_frame(type="done"))


@pytest.mark.parametrize("qos", [0, 1])
def test_a_property_the_library_cannot_read_is_dropped(daemon: Daemon, broker: Mosquitto, qos: int) -> None:
    """U+FEFF in a user property is legal MQTT; unacknowledged it would come again for ever."""
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, "x", qos=qos, UserProperty=("name", "\ufeff"))
        assert still_answers(device)
    assert "cannot be read" in daemon.log.read_text()
    assert "the connection to the broker broke" not in daemon.log.read_text()


@pytest.mark.parametrize("end", ["\x7f", "\uffff", "/" * 220, "\u200b"])
def test_a_reply_topic_the_broker_would_call_malformed_is_refused(
    daemon: Daemon, broker: Mosquitto, end: str
) -> None:
    """Publishing to it would cost us the connection, again and again."""
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "x", "reply_to": f"{BASE}/response/me/{end}"})
        assert device.wait_end("r1")["code"] == "bad_reply_topic"
        assert still_answers(device)


def test_what_the_broker_kept_is_answered_whole_good_or_bad(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """Messages that come with the CONNACK get `accepted` and errors like all others."""
    assert start_daemon(name="first").stop() == 0
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "bad", "prompt": 5})
        for number in range(10):
            device.publish(REQUEST, {"id": f"r{number}", "prompt": "x"})
        start_daemon(name="second")
        assert device.wait_end("bad")["code"] == "bad_request"
        ends = [device.wait_end(f"r{number}") for number in range(10)]
        accepted = {frame["id"] for frame in device.frames() if frame["type"] == "accepted"}
    assert {end["id"] for end in ends if end["type"] == "done"} == accepted
    assert all(end["type"] == "done" or end["code"] == "rate_limited" for end in ends)


def test_a_hung_engine_keeps_nobody_from_an_end_at_shutdown(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """Done with the text there is, or the error; then exit 0 and `offline` retained."""
    daemon = start_daemon(step_s=0.02)
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "text", "prompt": "LONG", "max_tokens": 900})
        wait_until(lambda: device.received_text("text"), "some text")
        device.publish(REQUEST, {"id": "hung", "prompt": "HANG"})
        wait_until(lambda: [f for f in device.frames() if f["id"] == "hung"], "accepted")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        assert device.wait_end("text", 30)["finish_reason"] == "cancelled"
        assert device.wait_end("hung", 30)["code"] == "cancelled"
        assert daemon.process.wait(30) == 0
    with Device(broker.port, f"{BASE}/status") as device:
        assert device.wait_frame("/status")["state"] == "offline"


def test_a_deadline_is_kept_behind_a_hung_engine(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """Expired when its time is up, not when the engine is found to hang."""
    start_daemon()
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "hung", "prompt": "HANG"})
        device.publish(REQUEST, {"id": "behind", "prompt": "x", "ttl_s": 1})
        assert device.wait_end("behind", 10)["code"] == "expired"


def test_an_engine_dies_with_a_daemon_that_was_killed(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """Also one that hangs and does not read its pipe."""
    daemon = start_daemon()
    pid = daemon.engine_pid()
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "hung", "prompt": "HANG"})
        wait_until(lambda: device.frames(), "accepted")
    daemon.kill()
    wait_until(lambda: not psutil.pid_exists(pid), "the engine is gone")


def test_a_cancelled_id_stays_cancelled(daemon: Daemon, broker: Mosquitto) -> None:
    """The request that comes twice after its cancel is refused twice."""
    with Device(broker.port, MINE) as device:
        device.publish(f"{BASE}/cancel/me", {"id": "r1"})
        for number in (1, 2):
            device.publish(REQUEST, {"id": "r1", "prompt": "x"})
            wait_until(lambda n=number: len(device.frames()) == n, "the refusal")
        assert {frame["code"] for frame in device.frames()} == {"cancelled"}


def test_text_asked_for_again_is_the_whole_text(daemon: Daemon, broker: Mosquitto) -> None:
    """A duplicate of a finished bare-text request is not just its empty end."""
    request = {"id": "r1", "prompt": "LONG", "max_tokens": 30, "format": "text", "reply_qos": 1}
    with Device(broker.port, MINE) as device:

        def ends() -> int:
            return sum(message.topic.endswith("/done") for message in device.messages)

        device.publish(REQUEST, request)
        wait_until(lambda: ends() == 1, "the end")
        text = b"".join(m.payload for m in device.messages)
        seen = len(device.messages)
        device.publish(REQUEST, request)
        wait_until(lambda: ends() == 2, "the repeated end")
        assert b"".join(m.payload for m in device.messages[seen:]) == text


def test_device_text_cannot_write_log_lines(daemon: Daemon, broker: Mosquitto) -> None:
    """Line ends and escape codes come out escaped."""
    with Device(broker.port, MINE) as device:
        turn = {"role": "user", "content": "x", "bad\nFORGED line \x1b[2J": 1}
        device.publish(REQUEST, {"id": "r1", "messages": [turn]})
        device.wait_end("r1")
    log = daemon.log.read_text()
    assert "FORGED" in log
    assert not any(line.startswith("FORGED") for line in log.splitlines())
    assert "\x1b" not in log


def test_more_refusals_than_can_be_under_way_are_all_told(daemon: Daemon, broker: Mosquitto) -> None:
    """The broker is made to wait; nobody is left without a word."""
    with Device(broker.port, MINE) as device:
        for number in range(700):
            device.publish_soon(REQUEST, {"id": f"r{number}", "prompt": 5})
        wait_until(lambda: len(device.frames()) >= 700, "all refusals", 40)
        assert len({frame["id"] for frame in device.frames()}) == 700


# What may stand in MQTT 5's properties besides a payload.
PROPERTIES: Iterator[dict[str, Any]] = itertools.cycle(
    [
        {},
        {"ResponseTopic": f"{BASE}/response/you/x"},
        {"ResponseTopic": "x" * 60_000, "CorrelationData": b"c" * 60_000},
        {"CorrelationData": b"\x00\xff" * 64, "ContentType": "application/json"},
        {"ContentType": "application/json; charset=\U0001f999", "MessageExpiryInterval": 1},
        {"MessageExpiryInterval": (1 << 32) - 1, "UserProperty": [("a", "b")] * 50},
        {"ContentType": "text/plain", "PayloadFormatIndicator": 1},
    ]
)
VERBS = itertools.cycle(["request", "request", "request", "cancel", "get", "ctl/request"])
MAX_GROWTH_BYTES = 64 << 20


def flood(device: Device, number: int) -> None:
    """Some hundreds of hostile payloads to every topic of a box, from twenty clients."""
    for index, payload in enumerate(hostile.some(every=5)):
        topic = f"{BASE}/{next(VERBS)}/flood-{number}-{index % 20}"
        properties = next(PROPERTIES) if device.is_v5 else {}
        device.publish_soon(topic, payload, qos=index % 3 % 2, **properties)


@pytest.mark.parametrize("is_v5", [True, False])
def test_a_flood_of_payloads_no_program_would_write_costs_nothing(
    daemon: Daemon, broker: Mosquitto, is_v5: bool
) -> None:
    """The daemon answers after it, no thread has died, and memory has not grown with it."""
    assert daemon.process is not None
    with Device(broker.port, MINE, is_v5=is_v5) as device:
        flood(device, 0)
        assert still_answers(device)
        before = psutil.Process(daemon.process.pid).memory_info().rss
        for number in (1, 2):
            flood(device, number)
        assert still_answers(device)
        after = psutil.Process(daemon.process.pid).memory_info().rss
    assert after - before < MAX_GROWTH_BYTES
    assert "Traceback" not in daemon.log.read_text()


def test_a_client_s_burst_does_not_hold_another_one_up(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """By the order of first words: the single prompt that came last is not behind the burst."""
    start_daemon(step_s=0.01, limits={"per_client": 30}, engine={"n_ctx": 1024, "slots": 2, "threads": 1})
    with Device(broker.port, f"{BASE}/response/#") as device:
        for number in range(30):
            device.publish_soon(REQUEST, {"id": f"r{number}", "prompt": "LONG", "max_tokens": 20})
        device.publish(f"{BASE}/request/other", {"id": "single", "prompt": "LONG", "max_tokens": 20})
        for number in range(30):
            assert device.wait_end(f"r{number}")["type"] == "done"
        device.wait_end("single")
        said = device.frames()
    taken_in = next(i for i, f in enumerate(said) if f["id"] == "single" and f["type"] == "accepted")
    first_words = [f["id"] for f in said[taken_in:] if f["type"] == "delta" and f["off"] == 0]
    # Two slots were taken, their answers may be said late, and one more may have been due.
    assert len(first_words) > 20
    assert first_words.index("single") < 6
