"""Asks a Tampu box over MQTT. One file, needs only paho-mqtt: copy it to a device.

    client = TampuClient("192.168.1.10", node="greenhouse-1", client="sensor-7")
    for text in client.stream("Is 31 C too warm for lettuce?"):
        print(text, end="", flush=True)

Imports nothing of the project on purpose.
"""

import hashlib
import json
import queue
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion


class AnswerError(Exception):
    """The box answered with an error frame; `code` is stable, `retryable` says whether to try again."""

    def __init__(self, frame: dict[str, Any]) -> None:
        super().__init__(frame.get("message", ""))
        self.code: str = frame.get("code", "internal")
        self.retryable: bool = bool(frame.get("retryable"))
        self.retry_after_ms: int | None = frame.get("retry_after_ms")
        self.frame = frame


class NoAnswer(Exception):
    """Nothing came from the box or its broker in time."""


@dataclass
class Receiver:
    """Puts an answer together from frames that may come twice, late or not at all.

    `text` is what is known; `frame` the terminal frame once it is there.
    """

    text: str = ""
    frame: dict[str, Any] | None = None
    accepted: dict[str, Any] | None = None
    _num_bytes: int = 0
    _run: int = 0
    _chunks: dict[int, str] = field(default_factory=dict)

    def take(self, frame: dict[str, Any]) -> str:
        """Apply one frame; the text it adds at the end."""
        if self.frame is not None or frame.get("run", 1) < self._run:
            return ""
        if frame.get("run", 1) > self._run:
            self._run = frame.get("run", 1)
            self._replace("")
        match frame.get("type"):
            case "accepted":
                self.accepted = frame
            case "delta" if frame["off"] == self._num_bytes:
                self._replace(self.text + frame["text"])
                return str(frame["text"])
            case "snapshot" if len(frame["text"].encode()) > self._num_bytes:
                return self._extend(frame["text"])
            case "chunk":
                self._chunks[frame["off"]] = frame["text"]
            case "error":
                self.frame = frame
            case "done":
                return self._finish(frame)
        return ""

    def _finish(self, frame: dict[str, Any]) -> str:
        """Take the whole text; with a chunk missing there is no end yet, and the request is sent again."""
        whole = frame.get("text")
        if whole is None:
            whole = "".join(text for _, text in sorted(self._chunks.items()))
            if hashlib.sha256(whole.encode()).hexdigest() != frame["sha256"]:
                return ""
        self.frame = {**frame, "text": whole}
        return self._extend(whole)

    def _extend(self, whole: str) -> str:
        """Replace the text by a longer one; what was added, or all of it where the beginning differs."""
        added = whole[len(self.text) :] if whole.startswith(self.text) else whole
        self._replace(whole)
        return added

    def _replace(self, text: str) -> None:
        self.text, self._num_bytes = text, len(text.encode())


class TampuClient:
    """One device's connection to one box; requests run one after another. Use as a context manager."""

    def __init__(
        self,
        host: str,
        *,
        node: str,
        client: str,
        port: int = 1883,
        prefix: str = "tampu/v1",
        username: str | None = None,
        password: str | None = None,
        is_v5: bool = True,
    ) -> None:
        self._address = host, port
        self._base, self._name = f"{prefix}/{node}", client
        self._frames: queue.SimpleQueue[tuple[str, dict[str, Any]] | None] = queue.SimpleQueue()
        protocol = MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311
        self._mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        if username is not None:
            self._mqtt.username_pw_set(username, password)
        self._mqtt.on_connect = self._subscribe
        self._mqtt.on_subscribe = lambda *_: self._frames.put(None)
        self._mqtt.on_message = self._receive
        self.last: Receiver | None = None

    def __enter__(self) -> "TampuClient":
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self, timeout_s: float = 10.0) -> None:
        """Connect and subscribe to our own replies. Raises OSError or NoAnswer."""
        self._mqtt.connect(*self._address)
        self._mqtt.loop_start()
        try:
            while self._frames.get(timeout=timeout_s) is not None:
                pass
        except queue.Empty:
            self.close()
            raise NoAnswer(
                f"the broker at {self._address[0]}:{self._address[1]} does not let us in"
            ) from None

    def close(self) -> None:
        self._mqtt.disconnect()
        self._mqtt.loop_stop()

    def stream(
        self, prompt: str, *, timeout_s: float = 120.0, resend_s: float = 15.0, **options: Any
    ) -> Iterator[str]:
        """Text as it comes. Options are the request's JSON fields (max_tokens, seed, session, ...).

        With no word from the box for `resend_s` the request is sent again under the same id, which
        the box answers once. Raises AnswerError, or NoAnswer after `timeout_s` without progress.
        """
        request_id = options.pop("id", None) or uuid.uuid4().hex
        payload = json.dumps({"v": 1, "id": request_id, "prompt": prompt, **options})
        receiver = self.last = Receiver()
        heard_at = time.monotonic()
        self._send(payload)
        while receiver.frame is None:
            frame = self._next_frame(request_id, resend_s)
            if frame is not None:
                heard_at = time.monotonic()
                if text := receiver.take(frame):
                    yield text
            elif time.monotonic() - heard_at > timeout_s:
                raise NoAnswer(
                    f"no answer within {timeout_s:.0f} s; is the box online? See {self._base}/status"
                )
            else:
                # The box answers an id once: it says `accepted` or the end again, whatever it has.
                self._send(payload)
        if receiver.frame["type"] == "error":
            raise AnswerError(receiver.frame)

    def ask(self, prompt: str, **options: Any) -> str:
        """The whole answer. Raises AnswerError or NoAnswer."""
        for _ in self.stream(prompt, **options):
            pass
        assert self.last is not None
        return self.last.text

    def cancel(self, request_id: str) -> None:
        """Stop a request of ours; its stream ends with what there is."""
        self._mqtt.publish(f"{self._base}/cancel/{self._name}", json.dumps({"id": request_id}), qos=1)

    def _send(self, payload: str) -> None:
        self._mqtt.publish(f"{self._base}/request/{self._name}", payload, qos=1)

    def _next_frame(self, request_id: str, timeout_s: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                item = self._frames.get(timeout=left)
            except queue.Empty:
                return None
            if item is not None and item[0] == request_id:
                return item[1]
        return None

    def _subscribe(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(f"{self._base}/response/{self._name}/+", qos=1)

    def _receive(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        try:
            frame = json.loads(message.payload)
        except ValueError:
            return
        if isinstance(frame, dict):
            self._frames.put((message.topic.rpartition("/")[2], frame))
