"""The MQTT contract as a device sees it: a real mosquitto, a real daemon, a fake model."""

import hashlib
import json
from collections.abc import Callable

import pytest

from tests.integration.conftest import BASE
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, wait_until

MINE = f"{BASE}/response/me/#"
REQUEST = f"{BASE}/request/me"


@pytest.mark.parametrize("is_v5", [True, False], ids=["mqtt5", "mqtt3.1.1"])
def test_a_prompt_is_accepted_streamed_and_done(daemon: Daemon, broker: Mosquitto, is_v5: bool) -> None:
    """The deltas' offsets add up to the text of `done`, and every frame names box and request."""
    with Device(broker.port, MINE, is_v5=is_v5) as device:
        device.publish(REQUEST, {"v": 1, "id": "r1", "prompt": "hello", "max_tokens": 30, "seed": 3})
        done = device.wait_end("r1")
        frames = device.frames()
    assert done["type"] == "done"
    assert done["usage"]["completion"] <= 30
    assert frames[0]["type"] == "accepted"
    assert (frames[0]["seed"], frames[0]["max_tokens"]) == (3, 30)
    text = b""
    for frame in frames[1:-1]:
        assert frame["type"] == "delta"
        assert frame["off"] == len(text)
        text += frame["text"].encode()
    assert text.decode() == done["text"] != ""
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert {(frame["node"], frame["run"], frame["id"]) for frame in frames} == {("box", 1, "r1")}


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_the_daemon_speaks_either_version(
    start_daemon: Callable[..., Daemon], broker: Mosquitto, protocol: str
) -> None:
    """A box told to speak 3.1.1 answers as one that speaks 5."""
    daemon = start_daemon(mqtt={"port": broker.port, "protocol": protocol})
    assert daemon.status()["mqtt"].endswith(f"MQTT {protocol}")
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "hello"})
        assert device.wait_end("r1")["type"] == "done"


def test_plain_text_is_a_prompt(daemon: Daemon, broker: Mosquitto) -> None:
    """`mosquitto_pub -m 'hi'` is enough; the id is made by the box."""
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, "hi there")
        done = device.wait_frame(type="done")
    assert len(done["id"]) == 16


def test_an_answer_keeps_to_the_schema_that_came_with_it(daemon: Daemon, broker: Mosquitto) -> None:
    """And one that cannot be kept is refused with the place that is wrong."""
    count = {"type": "integer", "minimum": 10, "maximum": 99}
    schema = {"type": "object", "properties": {"b": {"const": "x"}, "a": count}, "required": ["b", "a"]}
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "hello", "schema": schema, "max_tokens": 100})
        done = device.wait_end("r1")
        device.publish(REQUEST, {"id": "r2", "prompt": "hello", "schema": {"items": {"pattern": "x"}}})
        error = device.wait_end("r2")
    said = json.loads(done["text"])
    assert list(said) == ["b", "a"]
    assert 10 <= said["a"] <= 99
    assert done["finish_reason"] == "stop"
    assert (error["code"], error["message"][:20]) == ("bad_request", "schema.items.pattern")


def test_without_stream_there_are_no_deltas(daemon: Daemon, broker: Mosquitto) -> None:
    """`stream: false` brings accepted and done."""
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "hello", "stream": False})
        device.wait_end("r1")
        assert [frame["type"] for frame in device.frames()] == ["accepted", "done"]


def test_bare_text_streams_and_ends_with_an_empty_done(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """For readers without JSON: the text, then `<reply>/done`, and nothing else."""
    start_daemon(step_s=0.01)
    text = {"max_tokens": 30, "format": "text", "reply_qos": 1}
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "LONG", "temperature": 0, **text})
        wait_until(lambda: device.messages and device.messages[-1].topic.endswith("/done"), "the end")
        device.publish(REQUEST, {"id": "r2", "prompt": "LONG", "temperature": 0, "max_tokens": 30})
        whole = device.wait_end("r2")["text"]
        texts = [m for m in device.messages if m.topic == f"{BASE}/response/me/r1"]
    assert b"".join(m.payload for m in texts).decode() == whole
    assert len(texts) > 1


def test_bare_text_without_stream_is_one_message(daemon: Daemon, broker: Mosquitto) -> None:
    """What a request/response tool that waits for one message wants; an error has a topic of its own."""
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "hi", "format": "text", "stream": False})
        device.publish(REQUEST, {"id": "r2", "prompt": "", "format": "text"})
        topics = {f"{BASE}/response/me/r1/done", f"{BASE}/response/me/r2/error"}
        wait_until(lambda: topics <= {m.topic for m in device.messages}, "both ends")
        texts = [m.payload for m in device.messages if m.topic == f"{BASE}/response/me/r1"]
        errors = [m.payload for m in device.messages if m.topic.endswith("/error")]
    assert len(texts) == 1
    assert errors == [b"bad_request: prompt: must not be empty"]


def test_response_topic_and_correlation_data_are_honoured(daemon: Daemon, broker: Mosquitto) -> None:
    """MQTT 5 request/response: frames go where asked and carry the correlation data back."""
    with Device(broker.port, MINE) as device:
        device.publish(
            REQUEST,
            {"id": "r1", "prompt": "x"},
            ResponseTopic=f"{BASE}/response/me/here",
            CorrelationData=b"\0\1c",
        )
        device.wait_end("r1")
        assert {m.topic for m in device.messages} == {f"{BASE}/response/me/here"}
        assert {m.properties.CorrelationData for m in device.messages} == {b"\0\1c"}


@pytest.mark.parametrize(
    "topic",
    [f"{BASE}/response/other/x", "somewhere", f"{BASE}/response/me/+", "$SYS/x", f"{BASE}/request/me"],
)
def test_a_reply_topic_that_is_not_the_clients_is_refused(
    daemon: Daemon, broker: Mosquitto, topic: str
) -> None:
    """The refusal goes to the default topic; nothing ever reaches the offered one."""
    with Device(broker.port, "#") as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "x", "reply_to": topic})
        error = device.wait_end("r1")
        topics = {m.topic for m in device.messages if b'"node"' in m.payload and "response" in m.topic}
    assert (error["code"], error["status"]) == ("bad_reply_topic", 400)
    assert topics == {f"{BASE}/response/me/r1"}


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ('{"prompt": "x"', "bad_request"),
        (b"\xff\xfe", "bad_request"),
        ("   ", "bad_request"),
        ('{"v": 2, "prompt": "x"}', "unsupported_version"),
        ('{"prompt": 5}', "bad_request"),
        ('{"prompt": "x", "temperature": "hot"}', "bad_request"),
        ('{"prompt": "x", "id": "a b"}', "bad_request"),
        ('{"prompt": "x", "id": ".."}', "bad_request"),
        ('{"prompt": "x", "messages": [{"role": "user", "content": "y"}]}', "bad_request"),
        ('{"messages": []}', "bad_request"),
        ('{"messages": [{"role": "tool", "content": "y"}]}', "bad_request"),
        ('{"prompt": "x", "schema": {"type": "thing"}}', "bad_request"),
        ('{"prompt": "x", "profile": "nobody"}', "not_found"),
        ("{" * 5000, "bad_request"),
        ('{"prompt": ' + "[" * 30000, "bad_request"),
        ("x" * 1_000_000, "too_large"),
        ("word " * 3000, "context_overflow"),
    ],
)
def test_a_bad_request_gets_its_named_error(
    daemon: Daemon, broker: Mosquitto, payload: str | bytes, code: str
) -> None:
    """Each wrong payload ends in its own code with a sentence, and the next request is answered."""
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, payload)
        error = device.wait_frame(type="error")
        device.publish(REQUEST, {"id": "after", "prompt": "still there?"})
        assert device.wait_end("after")["type"] == "done"
    assert error["code"] == code
    assert len(error["message"]) > 10


def test_context_overflow_says_the_numbers(daemon: Daemon, broker: Mosquitto) -> None:
    """The device learns how long its prompt was and how long it may be."""
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "x" * 2000})
        error = device.wait_end("r1")
    assert error["detail"]["n_ctx"] == 1024
    assert error["detail"]["n_prompt"] > 2000


def test_a_retained_request_is_never_run(daemon: Daemon, broker: Mosquitto) -> None:
    """Live it is refused by name; replayed at subscribe it is not even seen."""
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "x"}, retain=True)
        error = device.wait_end("r1")
        assert "retain" in error["message"]
        device.publish(REQUEST, "", retain=True)


def test_status_and_info_are_retained(daemon: Daemon, broker: Mosquitto) -> None:
    """Whoever comes later learns that the box is online and what it can do."""
    with Device(broker.port, f"{BASE}/status", f"{BASE}/info") as device:
        status = device.wait_frame("/status", state="online")
        info = device.wait_frame("/info", v=1)
        assert all(message.retain for message in device.messages)
    assert set(status) == {"state", "reason", "boot_id", "since"}
    assert info["model"]["n_ctx"] == 1024
    assert info["limits"]["queue"] == 64


def test_a_stopped_daemon_says_offline(daemon: Daemon, broker: Mosquitto) -> None:
    """SIGTERM: offline with its reason, exit code 0."""
    assert daemon.stop() == 0
    with Device(broker.port, f"{BASE}/status") as device:
        assert device.wait_frame("/status", state="offline")["reason"] == "shutdown"


def test_a_killed_daemon_is_said_to_be_offline_by_the_broker(daemon: Daemon, broker: Mosquitto) -> None:
    """The last will speaks for it, five seconds later."""
    with Device(broker.port, f"{BASE}/status") as device:
        daemon.kill()
        assert device.wait_frame("/status", state="offline")["reason"] == "connection lost"


def test_a_cancel_ends_the_answer_with_what_there_is(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """After the first token: done, cancelled, the partial text. Others' ids are not touched."""
    start_daemon(step_s=0.02)
    with Device(broker.port, f"{BASE}/response/#") as device:
        device.publish(f"{BASE}/request/other", {"id": "r1", "prompt": "a LONG story", "max_tokens": 60})
        device.publish(REQUEST, {"id": "r1", "prompt": "a LONG story", "max_tokens": 60})
        wait_until(lambda: len([f for f in device.frames("/me/") if f["type"] == "delta"]) > 1, "some text")
        device.publish(f"{BASE}/cancel/me", {"id": "r1"})
        mine = device.wait_frame("/me/", type="done")
        others = device.wait_frame("/other/", type="done")
    assert mine["finish_reason"] == "cancelled"
    assert mine["text"]
    assert others["finish_reason"] == "length"


def test_a_cancel_that_overtakes_its_request_is_remembered(daemon: Daemon, broker: Mosquitto) -> None:
    """The request is answered `cancelled` when it comes."""
    with Device(broker.port, MINE) as device:
        device.publish(f"{BASE}/cancel/me", {"id": "early"})
        device.publish(REQUEST, {"id": "early", "prompt": "x"})
        assert device.wait_end("early")["code"] == "cancelled"


def test_a_broken_cancel_is_told_so(daemon: Daemon, broker: Mosquitto) -> None:
    """Neither id nor all: bad_request."""
    with Device(broker.port, MINE) as device:
        device.publish(f"{BASE}/cancel/me", "{}")
        assert device.wait_frame(type="error")["code"] == "bad_request"


def test_the_same_id_is_answered_once(daemon: Daemon, broker: Mosquitto) -> None:
    """A duplicate gets the same terminal frame byte for byte; the id with another payload is a conflict."""
    request = {"id": "r1", "prompt": "hello"}
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, request)
        device.wait_end("r1")
        num_before, before = len(device.messages), device.messages[-1].payload
        device.publish(REQUEST, request)
        wait_until(lambda: len(device.messages) > num_before, "the repeat")
        assert device.messages[-1].payload == before
        assert sum(f["type"] == "accepted" for f in device.frames()) == 1
        device.publish(REQUEST, {"id": "r1", "prompt": "something else"})
        assert device.wait_frame(type="error")["code"] == "id_conflict"


def test_more_than_a_clients_share_is_refused_at_once(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """Client's bound: rate_limited; box's bound: busy; both say when to come back."""
    start_daemon(step_s=0.02, limits={"queue": 6, "per_client": 3})
    with Device(broker.port, f"{BASE}/response/#") as device:
        for number in range(4):
            device.publish(REQUEST, {"id": f"a{number}", "prompt": "LONG", "max_tokens": 60})
        error = device.wait_end("a3")
        assert (error["code"], error["retryable"]) == ("rate_limited", True)
        assert error["retry_after_ms"] >= 500
        for number in range(4):
            device.publish(
                f"{BASE}/request/c{number}", {"id": f"b{number}", "prompt": "LONG", "max_tokens": 60}
            )
        assert device.wait_end("b3")["code"] == "busy"
        for name in ("a0", "a1", "a2", "b0", "b1", "b2"):
            assert device.wait_end(name)["type"] == "done"


def test_time_to_live_ends_an_answer(start_daemon: Callable[..., Daemon], broker: Mosquitto) -> None:
    """In the middle: done with `timeout`; before the first token: expired."""
    start_daemon(step_s=0.05, engine={"n_ctx": 1024, "threads": 1, "slots": 1})
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "slow", "prompt": "LONG", "ttl_s": 0.6})
        device.publish(REQUEST, {"id": "never", "prompt": "x", "ttl_s": 0.3})
        assert device.wait_end("slow").get("finish_reason") == "timeout"
        assert device.wait_end("never")["code"] == "expired"


def test_many_clients_are_answered_at_once(daemon: Daemon, broker: Mosquitto) -> None:
    """Twelve clients, four requests each: every id ends once and its deltas give the text of done."""
    with Device(broker.port, f"{BASE}/response/#") as device:
        for number in range(48):
            device.publish(f"{BASE}/request/c{number % 12}", {"id": f"r{number}", "prompt": f"say {number}"})
        for number in range(48):
            end = device.wait_end(f"r{number}")
            assert end["type"] == "done"
            assert device.received_text(f"r{number}") == end["text"]
        ends = [f["id"] for f in device.frames() if f["type"] in {"done", "error"}]
    assert len(ends) == len(set(ends)) == 48


def test_profiles_put_a_system_prompt_in_front(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """The same prompt has more tokens with the profile than without."""
    start_daemon(profiles={"greenhouse": {"system": "You look after a greenhouse."}})
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "with", "prompt": "x", "profile": "greenhouse"})
        device.publish(REQUEST, {"id": "without", "prompt": "x"})
        with_profile = device.wait_end("with")["usage"]["prompt"]
        assert with_profile > device.wait_end("without")["usage"]["prompt"] + 20


def test_an_answer_larger_than_a_publish_comes_in_chunks(
    start_daemon: Callable[..., Daemon], tmp_path, model_folder, broker: Mosquitto
) -> None:
    """The broker's packet limit is kept: chunks, then done with their number and hash."""
    broker.stop()
    small = Mosquitto(tmp_path, extra="max_packet_size 1400\n")
    small.start()
    try:
        start_daemon(mqtt={"port": small.port})
        with Device(small.port, MINE) as device:
            device.publish(REQUEST, {"id": "r1", "prompt": "LONG", "max_tokens": 400})
            end = device.wait_end("r1")
            whole = "".join(f["text"] for f in device.frames() if f["type"] == "chunk")
            assert end["chunks"] > 1
            assert end["sha256"] == hashlib.sha256(whole.encode()).hexdigest()
            assert device.received_text("r1") == whole
    finally:
        small.stop()


def test_what_is_not_ours_is_ignored(daemon: Daemon, broker: Mosquitto) -> None:
    """A client name that cannot be one costs nothing."""
    with Device(broker.port, MINE) as device:
        device.publish(f"{BASE}/request/bad name", "x")
        device.publish(f"{BASE}/request/..", "x")
        device.publish(REQUEST, {"id": "r1", "prompt": "x"})
        assert device.wait_end("r1")["type"] == "done"
    assert json.dumps(daemon.status())
