"""The contract over a real broker: state and results again, small frames, operators, health, silence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import BASE
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, wait_until

MINE = f"{BASE}/response/me/#"
REQUEST = f"{BASE}/request/me"
GET = f"{BASE}/get/me"


def test_a_result_can_be_had_again(daemon: Daemon, broker: Mosquitto) -> None:
    """Byte for byte, on the response topic, or where the question wants it."""
    with Device(broker.port, f"{BASE}/response/#") as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "hello"})
        device.wait_end("r1")
        before = [m.payload for m in device.messages][-1]
        device.publish(GET, {"id": "r1"})
        wait_until(lambda: [m.payload for m in device.messages].count(before) == 2, "the result again")
        device.publish(GET, {"id": "r1"}, ResponseTopic=f"{BASE}/response/me/elsewhere", CorrelationData=b"c")
        again = wait_until(lambda: [m for m in device.messages if m.topic.endswith("elsewhere")], "elsewhere")
        assert again[0].payload == before
        assert again[0].properties.CorrelationData == b"c"


def test_a_live_request_tells_where_it_is_and_all_it_has_said(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """A progress frame, and a snapshot of the text so far."""
    start_daemon(step_s=0.03)
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "a LONG story", "max_tokens": 120})
        wait_until(lambda: device.received_text("r1"), "some text")
        device.publish(GET, {"id": "r1"})
        progress = device.wait_frame(type="progress")
        assert (progress["id"], progress["phase"]) == ("r1", "decode")
        assert progress["prompt_done"] == progress["prompt_total"] > 0
        snapshot = device.wait_frame(type="snapshot")
        assert snapshot["off"] == 0
        done = device.wait_end("r1")
        assert done["text"].startswith(snapshot["text"])
        assert device.received_text("r1") == done["text"]


def test_an_id_nobody_has_asked_under_is_not_found(daemon: Daemon, broker: Mosquitto) -> None:
    """Nor one of another client."""
    with Device(broker.port, f"{BASE}/response/#") as device:
        device.publish(f"{BASE}/request/you", {"id": "yours", "prompt": "hello"})
        device.wait_end("yours")
        device.publish(GET, {"id": "yours"})
        error = device.wait_frame(topic_part="/response/me/", type="error")
        assert (error["code"], error["id"]) == ("not_found", "yours")
        device.publish(GET, "what?")
        assert device.wait_frame(topic_part="/response/me/", code="bad_request")


@pytest.mark.parametrize("is_v5", [True, False], ids=["mqtt5", "mqtt3.1.1"])
def test_no_packet_to_a_small_device_is_larger_than_it_can_hold(
    start_daemon: Callable[..., Daemon], broker: Mosquitto, is_v5: bool
) -> None:
    """256 bytes with the topic: the text comes in deltas and chunks, and adds up."""
    start_daemon()
    with Device(broker.port, MINE, is_v5=is_v5) as device:
        asked = {"id": "r1", "prompt": "a LONG story", "max_tokens": 200, "max_frame": 256}
        device.publish(REQUEST, asked)
        done = device.wait_end("r1")
        sizes = [len(m.payload) + len(m.topic) + 8 for m in device.messages]
        assert max(sizes) <= 256
        assert "text" not in done
        assert done["chunks"] > 1
        assert len(device.received_text("r1")) > 256
        device.publish(REQUEST, {"id": "r2", "prompt": "x", "max_frame": 150})
        refused = device.wait_end("r2")
        assert refused["code"] == "bad_request"
        assert "at least" in refused["message"]


def test_a_small_device_that_asks_from_elsewhere_gets_small_frames_there(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """`get` brings another topic and nothing else."""
    start_daemon(step_s=0.01)
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "a LONG story", "max_tokens": 200, "max_frame": 256})
        wait_until(lambda: len(device.received_text("r1")) > 300, "more than a frame's text")
        topic = f"{BASE}/response/me/x"
        device.publish(f"{BASE}/get/me", {"id": "r1"}, ResponseTopic=topic)
        device.wait_end("r1")
        sizes = [len(m.payload) + len(m.topic) + 8 for m in device.messages if m.topic == topic]
        assert sizes
        assert max(sizes) <= 256


def test_a_request_that_waits_is_told_so_every_few_seconds(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """Without a stream, too: nobody waits unheard."""
    start_daemon(step_s=0.1, engine={"n_ctx": 1024, "threads": 1, "slots": 1})
    with Device(broker.port, MINE) as device:
        for number in range(2):
            asked = {"id": f"r{number}", "prompt": "a LONG story", "max_tokens": 80, "stream": False}
            device.publish(REQUEST, asked)
        decoding = device.wait_frame(type="progress", id="r0")
        waiting = device.wait_frame(type="progress", id="r1")
        assert decoding["phase"] == "decode"
        assert (waiting["phase"], waiting["queue_pos"]) == ("queued", 0)


def test_a_requester_who_is_gone_is_not_computed_for(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """Once a broker that names its subscribers has said three times that nobody listens."""
    daemon = start_daemon(step_s=0.05)
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r0", "prompt": "hello", "reply_qos": 1})
        device.wait_end("r0")
    with Device(broker.port, f"{BASE}/status") as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "a LONG story", "max_tokens": 900, "reply_qos": 1})
        wait_until(lambda: daemon.status()["live"] == 1, "it is taken in")
        wait_until(lambda: daemon.status()["live"] == 0, "it is given up")
    assert "nobody listens for me/r1" in daemon.log.read_text()


def test_a_duplicate_of_a_live_request_gets_all_the_text_again(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """A device that was restarted has nothing: `accepted`, a snapshot, and what follows."""
    start_daemon(step_s=0.03)
    asked = {"id": "r1", "prompt": "a LONG story", "max_tokens": 100}
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, asked)
        wait_until(lambda: len(device.received_text("r1")) > 30, "some text")
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, asked)
        device.wait_frame(type="accepted")
        device.wait_frame(type="snapshot")
        done = device.wait_end("r1")
        assert device.received_text("r1") == done["text"]
        assert done["run"] == 1


def test_a_new_connection_hears_of_acceptance_again(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """After a restart of the daemon it carries the new boot, and the next run."""
    daemon = start_daemon(step_s=0.03)
    with Device(broker.port, MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "a LONG story", "max_tokens": 150})
        first = device.wait_frame(type="accepted")
        wait_until(lambda: device.received_text("r1"), "some text")
        daemon.kill()
        daemon.start()
        again = device.wait_frame(type="accepted", run=2)
        assert again["boot_id"] != first["boot_id"]
        assert again["seed"] == first["seed"]
        done = device.wait_end("r1")
        assert device.received_text("r1") == done["text"]


def test_what_is_wrong_with_a_question_is_said_under_its_id(daemon: Daemon, broker: Mosquitto) -> None:
    """To whoever waits there."""
    with Device(broker.port, MINE, f"{BASE}/ctl/response/#") as device:
        device.publish(f"{BASE}/ctl/request/log", {"id": "o-3", "lines": 100_000})
        assert device.wait_frame(topic_part="/ctl/response/log/o-3")["code"] == "bad_request"
        device.publish(f"{BASE}/cancel/me", {"id": "c-3", "all": "yes"})
        assert device.wait_frame(topic_part="/response/me/c-3")["code"] == "bad_request"


def test_clearing_a_retained_request_is_no_request(daemon: Daemon, broker: Mosquitto) -> None:
    """Nobody is told anything."""
    with Device(broker.port, f"{BASE}/response/#") as device:
        device.publish(REQUEST, "", retain=True)
        device.publish(REQUEST, {"id": "r1", "prompt": "hello"})
        device.wait_end("r1")
        assert {frame["id"] for frame in device.frames()} == {"r1"}


# ---- operators -----------------------------------------------------------------------------------


def ask_operator(device: Device, verb: str, payload: dict[str, Any] | str = "") -> dict[str, Any]:
    """The answer to a question."""
    asked = payload if isinstance(payload, str) else json.dumps(payload)
    device.messages.clear()
    device.publish(f"{BASE}/ctl/request/{verb}", asked)
    return device.wait_frame(topic_part=f"/ctl/response/{verb}/")


def test_operators_may_look_and_not_change_by_default(daemon: Daemon, broker: Mosquitto) -> None:
    """Each verb answers in JSON; the writing ones are forbidden."""
    with Device(broker.port, f"{BASE}/ctl/response/#") as device:
        assert ask_operator(device, "info")["node"] == "box"
        assert ask_operator(device, "health", {"id": "h1"})["state"] == "online"
        assert any(model["is_chosen"] for model in ask_operator(device, "models")["models"])
        assert "findings" in ask_operator(device, "doctor")
        assert ask_operator(device, "log", {"lines": 3})["lines"]
        assert ask_operator(device, "reload")["code"] == "forbidden"
        assert ask_operator(device, "dance")["code"] == "not_found"
        assert ask_operator(device, "log", {"lines": "all"})["code"] == "bad_request"


def test_an_operator_who_may_loads_the_model_again(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """What is being answered is answered first, and nobody's request is lost."""
    daemon = start_daemon(step_s=0.02, mqtt={"port": broker.port, "operators": "write"})
    first = daemon.engine_pid()
    with Device(broker.port, f"{BASE}/ctl/response/#", MINE) as device:
        device.publish(REQUEST, {"id": "r1", "prompt": "a LONG story", "max_tokens": 60})
        wait_until(lambda: device.received_text("r1"), "some text")
        assert ask_operator(device, "reload")["name"] == "fake"
        device.publish(REQUEST, {"id": "r2", "prompt": "hello"})
        assert device.wait_end("r1")["finish_reason"] == "length"
        assert device.wait_end("r2")["type"] == "done"
    assert daemon.engine_pid() not in (0, first)
    assert daemon.status()["last_crash"] is None


def test_health_is_published_again_and_again(start_daemon: Callable[..., Daemon], broker: Mosquitto) -> None:
    """Retained on MQTT 5, so that a dashboard that comes later has it at once."""
    start_daemon(mqtt={"port": broker.port, "health_s": 1})
    with Device(broker.port, f"{BASE}/health") as device:
        wait_until(lambda: len(device.messages) >= 3, "three of them")
        health = json.loads(device.messages[-1].payload)
    assert health["state"] == "online"
    assert health["cells_total"] > 0
    assert health["drops"] == 0


# ---- pools ---------------------------------------------------------------------------------------


def test_a_pool_shares_its_work_and_a_full_member_says_busy(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """Each prompt is answered by one of three boxes, which names itself."""
    for node in ("north", "south", "west"):
        start_daemon(
            name=node,
            node=node,
            step_s=0.02,
            mqtt={"port": broker.port, "pools": ["garden"]},
            limits={"queue": 2},
        )
    answers = "tampu/v1/pool/garden/response/+/+"
    with Device(broker.port, answers) as device:
        for number in range(12):
            topic = f"tampu/v1/pool/garden/request/c{number}"
            device.publish(topic, {"id": f"r{number}", "prompt": f"a LONG story {number}", "max_tokens": 60})
        ends = [device.wait_end(f"r{number}") for number in range(12)]
        accepted = [frame for frame in device.frames() if frame["type"] == "accepted"]
    assert {frame["node"] for frame in ends} == {"north", "south", "west"}
    assert {frame.get("code", "done") for frame in ends} == {"busy", "done"}
    assert all(frame["retry_after_ms"] > 0 for frame in ends if frame["type"] == "error")
    done = {frame["id"]: frame["node"] for frame in ends if frame["type"] == "done"}
    assert {frame["id"]: frame["node"] for frame in accepted} == done
    assert len(done) >= 6


def pool_nodes(broker: Mosquitto, number: int) -> set[str]:
    """Which boxes answer so many requests to the pool; none may be refused."""
    pool = "tampu/v1/pool/garden"
    with Device(broker.port, f"{pool}/response/me/#") as device:
        for one in range(number):
            device.publish(
                f"{pool}/request/me", {"id": f"{number}-{one}", "prompt": "hello", "max_tokens": 2}
            )
        ends = [device.wait_end(f"{number}-{one}") for one in range(number)]
    assert {frame["type"] for frame in ends} == {"done"}
    return {frame["node"] for frame in ends}


def wait_in_pool(daemon: Daemon) -> None:
    """Until its second connection is there, too."""
    wait_until(lambda: daemon.log.read_text().count("connected to the broker with") == 2, "two connections")


def test_a_box_without_a_model_is_dealt_nothing_of_its_pools(
    start_daemon: Callable[..., Daemon], broker: Mosquitto, tmp_path: Path, model_folder: Path
) -> None:
    """It would refuse faster than others answer; once it has a model it takes its share."""
    mqtt = {"port": broker.port, "pools": ["garden"]}
    empty = tmp_path / "empty"
    empty.mkdir()
    wait_in_pool(start_daemon(name="north", node="north", mqtt=mqtt))
    models = {"folder": str(empty), "name": "fake.gguf"}
    south = start_daemon(name="south", node="south", mqtt=mqtt, models=models, online=False)
    wait_until(lambda: south.status().get("state") == "degraded", "there is no model")
    wait_in_pool(south)
    assert pool_nodes(broker, 6) == {"north"}
    shutil.copy(model_folder / "fake.gguf", empty)
    wait_until(lambda: south.status().get("state") == "online", "there is a model", 40)
    assert pool_nodes(broker, 7) == {"north", "south"}


def test_a_box_that_stops_is_dealt_nothing_of_its_pools(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """While it ends what it has."""
    mqtt = {"port": broker.port, "pools": ["garden"]}
    north = start_daemon(name="north", node="north", step_s=0.05, mqtt=mqtt)
    wait_in_pool(start_daemon(name="south", node="south", mqtt=mqtt))
    with Device(broker.port, "tampu/v1/north/#") as device:
        device.publish("tampu/v1/north/request/me", {"id": "r1", "prompt": "a LONG story", "max_tokens": 100})
        device.wait_frame(type="delta")
        assert north.process is not None
        north.process.terminate()
        device.wait_frame("/status", state="stopping")
        assert pool_nodes(broker, 6) == {"south"}
        assert device.wait_end("r1")["type"] == "done"


def test_an_answer_of_a_pool_is_stopped_on_the_topic_of_the_box_that_has_it(
    start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """`accepted` names it."""
    start_daemon(step_s=0.03, mqtt={"port": broker.port, "pools": ["garden"]})
    with Device(broker.port, "tampu/v1/pool/garden/response/me/#") as device:
        asked = {"id": "r1", "prompt": "a LONG story", "max_tokens": 500}
        device.publish("tampu/v1/pool/garden/request/me", asked)
        node = device.wait_frame(type="accepted")["node"]
        wait_until(lambda: device.received_text("r1"), "some text")
        device.publish(f"tampu/v1/{node}/cancel/me", {"id": "r1"})
        assert device.wait_end("r1")["finish_reason"] == "cancelled"
