"""A device for tests: publishes anything, and keeps every message it receives."""

import json
import threading
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.client import Receiver


class Device:
    """Connected while in its `with` block; subscribes to `filters` at QoS 1 on every connect."""

    def __init__(self, port: int, *filters: str, is_v5: bool = True) -> None:
        self.messages: list[mqtt.MQTTMessage] = []
        self._filters = filters
        self._port = port
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self.is_v5 = is_v5
        protocol = MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe([(name, 1) for name in filters])
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._take

    def __enter__(self) -> "Device":
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._subscribed.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

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
        given: Any = None
        if properties:
            given = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            for name, value in properties.items():
                setattr(given, name, value)
        self._client.publish(topic, payload, qos, retain, given).wait_for_publish(10)

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
        deadline = time.monotonic() + timeout_s
        while True:
            for frame in self.frames(topic_part):
                if all(frame.get(name) == value for name, value in fields.items()):
                    return frame
            with self._changed:
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() > deadline:
                    raise AssertionError(
                        f"no {fields} within {timeout_s} s; last frames: {self.frames()[-3:]}"
                    )

    def wait_end(self, request_id: str, timeout_s: float = 20.0) -> dict[str, Any]:
        """The terminal frame of a request."""
        deadline = time.monotonic() + timeout_s
        while True:
            for frame in self.frames():
                if frame.get("id") == request_id and frame.get("type") in {"done", "error"}:
                    return frame
            with self._changed:
                if (
                    not self._changed.wait(max(0.0, deadline - time.monotonic()))
                    and time.monotonic() > deadline
                ):
                    raise AssertionError(
                        f"{request_id} has no end within {timeout_s} s: {self.frames()[-3:]}"
                    )

    def received_text(self, request_id: str) -> str:
        """What a receiver that follows the contract's rule has of this answer."""
        receiver = Receiver()
        for frame in self.frames():
            if frame.get("id") == request_id:
                receiver.take(frame)
        return receiver.text

    def _take(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()
