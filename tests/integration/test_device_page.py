"""The page for devices (agent/mqtt/README.md): what it shows is run, on stand-ins with the real limits."""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.integration.conftest import BASE, NODE
from tests.support import umqtt_simple
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, free_port, wait_until
from tests.support.pubsub_client import BUFFER_BYTES, PubSubClient

PAGE = Path(__file__).parents[2] / "agent" / "mqtt" / "README.md"
StartDaemon = Callable[..., Daemon]
Frame = dict[str, Any]


def blocks(language: str) -> list[str]:
    """The fenced code of the page in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def sketch(broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the MicroPython sketch, run as a board would, but for its addresses."""
    (code,) = [block for block in blocks("python") if "umqtt" in block]
    package = ModuleType("umqtt")
    monkeypatch.setitem(sys.modules, "umqtt", package)
    monkeypatch.setitem(sys.modules, "umqtt.simple", umqtt_simple)
    monkeypatch.setattr(umqtt_simple.MQTTClient, "max_message", 0)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "sketch"}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 - the page's own words
    names |= {"HOST": "127.0.0.1", "PORT": broker.port, "BASE": BASE, "NODE": NODE, "RESEND_S": 3}
    return names


def test_the_page_names_the_topics_as_they_are() -> None:
    """Those of the contract's table, filled in."""
    text = PAGE.read_text()
    for topic in ("request/sensor-7", "get/sensor-7", "cancel/sensor-7", "response/sensor-7/r-1"):
        assert f"`tampu/v1/greenhouse-1/{topic}`" in text


@pytest.mark.parametrize("max_frame", [320, 1024])
def test_the_micropython_sketch_gets_the_whole_answer(
    daemon: Daemon, broker: Mosquitto, sketch: dict[str, Any], max_frame: int
) -> None:
    """In frames that fit, with characters of several bytes; the file is gone afterwards."""
    sketch["MAX_FRAME"] = max_frame
    with Device(broker.port, f"{BASE}/response/#") as other:
        text = sketch["ask"]("a LONG story", "r-1", max_tokens=300, seed=1)
        other.publish(
            f"{BASE}/request/o", {"id": "r-1", "prompt": "a LONG story", "max_tokens": 300, "seed": 1}
        )
        assert text == other.wait_frame("/o/r-1", type="done")["text"]
    assert not text.isascii()
    assert 0 < umqtt_simple.MQTTClient.max_message <= max_frame
    assert sketch["finish"]() is None


def test_a_board_that_was_rebooted_asks_again_for_the_same(
    start_daemon: StartDaemon, broker: Mosquitto, sketch: dict[str, Any]
) -> None:
    """It died after it had asked; `finish` at boot has the answer, and the box computed once."""
    start_daemon(step_s=0.005)
    payload = json.dumps({"v": 1, "id": "r-1", "prompt": "LONG", "max_tokens": 100, "max_frame": 1024})
    Path(sketch["PENDING"]).write_text(payload)
    with Device(broker.port, f"{BASE}/response/#") as device:
        device.publish(f"{BASE}/request/sensor-7", payload)
        device.wait_frame(type="delta")
        text = sketch["finish"]()
        assert text == device.received_text("r-1") != ""
        assert {frame["run"] for frame in device.frames()} == {1}


def test_the_micropython_sketch_waits_for_broker_and_box(
    start_daemon: StartDaemon, broker: Mosquitto, sketch: dict[str, Any]
) -> None:
    """Neither is there when it asks."""
    broker.stop()
    texts: list[str] = []
    board = threading.Thread(target=lambda: texts.append(sketch["ask"]("a LONG story", "r-1", max_tokens=20)))
    board.start()
    broker.start()
    start_daemon()
    board.join(40)
    assert len(texts) == 1
    assert texts[0]


def test_the_micropython_sketch_says_what_an_error_was(daemon: Daemon, sketch: dict[str, Any]) -> None:
    """Its code and the box's sentence; nothing stays open."""
    with pytest.raises(ValueError, match="not_found: profile"):
        sketch["ask"]("hello", "r-1", profile="nobody")
    assert not os.path.exists(sketch["PENDING"])


def test_a_frame_too_small_for_the_names_is_refused_with_the_smallest_that_works(
    daemon: Daemon, sketch: dict[str, Any]
) -> None:
    """And that one does work."""
    sketch["MAX_FRAME"] = 180
    with pytest.raises(ValueError, match="bad_request: max_frame") as caught:
        sketch["ask"]("hello", "r-1")
    numbers = re.findall(r"at least (\d+)", str(caught.value))
    sketch["MAX_FRAME"] = int(numbers[0])
    assert sketch["ask"]("a LONG story", "r-2", max_tokens=40)
    sketch["MAX_FRAME"] = int(numbers[0]) - 1
    with pytest.raises(ValueError, match="bad_request"):
        sketch["ask"]("hello", "r-3")


class Arduino:
    """The message flow of the page's Arduino sketch, line by line."""

    resend_s = 3.0

    def __init__(self, port: int) -> None:
        self.mqtt = PubSubClient("sensor-7", "127.0.0.1", port, self.on_frame)
        self.text = b""
        self.run, self.end, self.send_at = 0, Frame(), 0.0
        self.id = self.request = ""

    def ask(self, prompt: str, number: int) -> None:
        self.id = f"r{number}"
        fields = {
            "id": self.id,
            "prompt": prompt,
            "max_tokens": 60,
            "max_frame": BUFFER_BYTES,
            "reply_qos": 1,
        }
        self.request = json.dumps(fields, separators=(",", ":"))
        self.text, self.run, self.end, self.send_at = b"", 0, {}, time.monotonic()

    def on_frame(self, _topic: bytes, payload: bytes) -> None:
        frame = json.loads(payload)
        if self.end or frame["id"] != self.id or frame["run"] < self.run:
            return
        if frame["run"] > self.run:
            self.run, self.text = frame["run"], b""
        self.send_at = time.monotonic() + self.resend_s
        piece, off = frame.get("text", "").encode(), frame.get("off", 0)
        if off <= len(self.text):
            self.text = self.text[:off] + piece + self.text[off + len(piece) :]
        if frame["type"] == "error" and frame["retryable"]:
            self.send_at = time.monotonic() + frame.get("retry_after_ms", 1000) / 1000
        elif frame["type"] in {"done", "error"}:
            self.end = frame

    def setup(self) -> None:
        assert self.mqtt.connect()
        self.mqtt.subscribe(f"{BASE}/response/sensor-7/+", 1)
        self.send_at = time.monotonic()

    def loop(self) -> bool:
        """Once around; True when the answer has ended."""
        self.mqtt.loop()
        if not self.end and time.monotonic() >= self.send_at:
            assert self.mqtt.publish(f"{BASE}/request/sensor-7", self.request)
            self.send_at = time.monotonic() + self.resend_s
        return bool(self.end)


def test_an_arduino_with_256_bytes_gets_the_whole_answer(daemon: Daemon, broker: Mosquitto) -> None:
    """No packet is larger than its buffer, `accepted` and `done` included, and nothing is missing."""
    board = Arduino(broker.port)
    board.ask("a LONG story", 1)
    with Device(broker.port, f"{BASE}/response/#") as other:
        board.setup()
        wait_until(board.loop, "the end")
        types = [frame["type"] for frame in other.frames()]
        whole = other.received_text("r1")
    board.mqtt.disconnect()
    assert board.mqtt.num_dropped == 0
    assert board.end["type"] == "done"
    assert board.text.decode() == whole != ""
    assert {"accepted", "delta", "chunk", "done"} <= set(types)


def test_an_arduino_that_was_away_asks_again(start_daemon: StartDaemon, broker: Mosquitto) -> None:
    """Its connection broke in mid-answer: the same request, the same answer."""
    start_daemon(step_s=0.02)
    board = Arduino(broker.port)
    board.ask("a LONG story", 1)
    board.setup()
    wait_until(lambda: board.loop() or board.text, "some text")
    board.mqtt.disconnect()
    board.setup()
    wait_until(board.loop, "the end")
    board.mqtt.disconnect()
    assert board.end["type"] == "done"
    assert board.end["run"] == 1
    assert len(board.text) > 60


def test_the_arduino_sketch_and_its_stand_in_say_the_same() -> None:
    """Fields and bounds of the C++ are those that were tried here."""
    (code,) = blocks("cpp")
    assert r"\"max_tokens\":60,\"max_frame\":256,\"reply_qos\":1" in code
    for word in ("run", "off", "text", "type", "retryable", "retry_after_ms", "id"):
        assert f'frame["{word}"]' in code
    assert "mqtt.subscribe(REPLY, 1)" in code


def test_the_python_of_the_page_runs(
    daemon: Daemon, broker: Mosquitto, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for the addresses, word by word."""
    (code,) = [block for block in blocks("python") if "TampuClient" in block]
    code = code.replace("from client import", "from agent.client import").replace("greenhouse-1", NODE)
    code = code.replace('"192.168.1.10"', f'"127.0.0.1", port={broker.port}')
    exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102 - the page's own words
    assert "'completion':" in capsys.readouterr().out


def test_no_broker_is_an_os_error_for_the_sketch(sketch: dict[str, Any]) -> None:
    """What it was about to ask stays in the file."""
    sketch["PORT"] = free_port()
    with pytest.raises(OSError, match="no answer"):
        sketch["wait_for"]('{"id":"r-1"}', timeout_s=1)
