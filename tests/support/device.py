"""A device for tests: publishes anything, and keeps every message it receives."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.client import Receiver


@dataclass(frozen=True, slots=True)
class Login:
    """A name and its password."""

    user: str
    password: str


class Device:
    """Connected while in its `with` block; subscribes to `filters` at QoS 1 on every connect."""

    def __init__(self, port: int, *filters: str, is_v5: bool = True, login: Login | None = None) -> None:
        self.messages: list[mqtt.MQTTMessage] = []
        self.num_subscribed = 0
        self._filters = filters
        self._port = port
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self.is_v5 = is_v5
        protocol = MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        if login is not None:
            self._client.username_pw_set(login.user, login.password)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe([(name, 1) for name in filters])
        self._client.on_subscribe = lambda *_: self._note_subscribed()
        self._client.on_message = self._take

    def __enter__(self) -> "Device":
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._subscribed.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish_soon(
        self, topic: str, payload: bytes | dict[str, Any], *, qos: int = 1, **properties: Any
    ) -> None:
        """Send without waiting. Properties are paho's names (ResponseTopic=...)."""
        body = json.dumps(payload) if isinstance(payload, dict) else payload
        self._client.publish(topic, body, qos, False, _properties(properties))

    def publish(
        self,
        topic: str,
        payload: bytes | str | dict[str, Any],
        *,
        qos: int = 1,
        retain: bool = False,
        **properties: Any,
    ) -> None:
        """Send, and wait for the PUBACK. Properties are paho's names (ResponseTopic=...)."""
        if isinstance(payload, dict):
            payload = json.dumps(payload)
        self._client.publish(topic, payload, qos, retain, _properties(properties)).wait_for_publish(10)

    def frames(self, topic_part: str = "/response/") -> list[dict[str, Any]]:
        """The JSON payloads received so far on topics that hold this."""
        with self._changed:
            return [
                json.loads(m.payload)
                for m in self.messages
                if topic_part in m.topic and m.payload[:1] == b"{"
            ]

    def wait_frame(
        self, topic_part: str = "/response/", timeout_s: float = 20.0, **fields: Any
    ) -> dict[str, Any]:
        """The first frame with these fields, waiting for it."""
        return self._wait(
            lambda frame: all(frame.get(name) == value for name, value in fields.items()),
            topic_part,
            timeout_s,
            str(fields),
        )

    def wait_end(self, request_id: str, timeout_s: float = 20.0) -> dict[str, Any]:
        """The terminal frame of a request."""
        return self._wait(
            lambda frame: frame.get("id") == request_id and frame.get("type") in {"done", "error"},
            "/response/",
            timeout_s,
            f"end of {request_id}",
        )

    def _wait(
        self, fits: Callable[[dict[str, Any]], bool], topic_part: str, timeout_s: float, what: str
    ) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found.extend(filter(fits, self.frames(topic_part)))
            return bool(found)

        with self._changed:
            if not self._changed.wait_for(look, timeout_s):
                raise AssertionError(f"no {what} within {timeout_s} s; last frames: {self.frames()[-3:]}")
        return found[0]

    def received_text(self, request_id: str) -> str:
        """What a receiver that follows the contract's rule has of this answer."""
        receiver = Receiver()
        for frame in self.frames():
            if frame.get("id") == request_id:
                receiver.take(frame)
        return receiver.text

    def _note_subscribed(self) -> None:
        self.num_subscribed += 1
        self._subscribed.set()

    def _take(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()


def _properties(values: dict[str, Any]) -> Any:
    if not values:
        return None
    given = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(given, name, value)
    return given
