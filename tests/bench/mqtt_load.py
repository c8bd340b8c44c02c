"""The same clients as devices on the broker, all on one connection: it costs what one device's does."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.bench.http_client import GIVE_UP_S, Question
from tests.bench.streams import Fleet, Stream

NODE = "box"
BASE = f"tampu/v1/{NODE}"
CONNECTS_WITHIN_S = 10.0


@dataclass(slots=True)
class Device:
    """One client's questions, asked one after the other; `streams` are the answers so far."""

    name: str
    questions: Sequence[Question]
    streams: list[Stream] = field(default_factory=list)
    asked_at: float = 0.0
    arrivals: list[float] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return len(self.streams) == len(self.questions)

    def request(self) -> str:
        """The next question as a payload, asked now."""
        question = self.questions[len(self.streams)]
        tree: dict[str, Any] = {
            "v": 1,
            "id": f"{self.name}-{len(self.streams)}",
            "prompt": question.prompt,
            "max_tokens": question.num_tokens,
            "temperature": 0,
        }
        if question.system:
            tree["system"] = question.system
        if question.profile:
            tree["profile"] = question.profile
        self.asked_at, self.arrivals = time.monotonic(), []
        return json.dumps(tree)

    def take(self, frame: dict[str, Any], at: float) -> bool:
        """Note a frame of the answer; was it the last one?"""
        match frame["type"]:
            case "delta":
                self.arrivals.append(at)
            case "done":
                self._end(at, frame["usage"], "")
            case "error":
                self._end(at, {}, frame["message"])
        return frame["type"] in ("done", "error")

    def _end(self, at: float, usage: dict[str, int], error: str) -> None:
        self.streams.append(
            Stream(
                self.asked_at,
                tuple(self.arrivals),
                at,
                num_prompt=usage.get("prompt", 0),
                num_cached=usage.get("cached", 0),
                num_tokens=usage.get("completion", 0),
                error=error,
            )
        )


def serve_mqtt(port: int, conversations: Sequence[Sequence[Question]]) -> Fleet:
    """All clients at once. Raises ValueError when they do not come to their end."""
    devices = {f"device-{number}": Device(f"device-{number}", q) for number, q in enumerate(conversations)}
    subscribed, done = threading.Event(), threading.Event()

    def ask(device: Device) -> None:
        client.publish(f"{BASE}/request/{device.name}", device.request(), qos=1)

    def take(_client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        device = devices[message.topic.split("/")[4]]
        if device.take(json.loads(message.payload), time.monotonic()):
            if not device.is_done:
                ask(device)
            elif all(other.is_done for other in devices.values()):
                done.set()

    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = take
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        client.subscribe(f"{BASE}/response/+/+", qos=1)
        if not subscribed.wait(CONNECTS_WITHIN_S):
            raise ValueError("the broker does not let the clients in")
        for device in devices.values():
            ask(device)
        if not done.wait(GIVE_UP_S):
            raise ValueError(f"not all answers within {GIVE_UP_S:.0f} s over MQTT")
    finally:
        client.disconnect()
        client.loop_stop()
    return Fleet(tuple(stream for device in devices.values() for stream in device.streams))
