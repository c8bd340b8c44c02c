"""Asks a Tampu box over MQTT. One file, needs Python 3.9 and paho-mqtt 2 only: copy it to a device.

    with TampuClient("192.168.1.10", node="greenhouse-1", client="sensor-7") as box:
        print(box.ask("Is 31 C too warm for lettuce?", max_tokens=60))
        for text in box.stream("And for basil?", session="kitchen"):
            print(text, end="", flush=True)

Broker and box may come and go meanwhile: the client connects again and asks again under the same id, which
the box answers once. Every field of a request is an option, but for `format` and `reply_to`. `stream` sends
at once and may be called from many threads. `pool="kitchen"` instead of `node` asks whichever box of it is
free; without both it is the only box there is. Also a program: `python client.py HOST NODE "Why?"`
"""

from __future__ import annotations

import argparse
import hashlib
import json
import queue
import random
import re
import secrets
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

Frame = dict[str, Any]

KEEPALIVE_S = 30
CONNACK_WITHIN_S = 5.0
MAX_BACKOFF_S = 30.0
# How long a gap may close by itself; how soon a busy box that names no time is asked again.
GAP_S = 1.0
RETRY_MS = 1000
# Retained messages come in one go: so long after the last of them there are no more.
SETTLED_S = 0.5
# Of a pool's sessions so many are remembered with their box.
MAX_SESSIONS = 256
RETRIED_ERRORS = ("busy", "rate_limited")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_UNSUPPORTED_VERSION = 0x84
_NOT_LET_IN = (0x86, 0x87)


class AnswerError(Exception):
    """The box answered with an error frame; `code` is stable, `retryable` says whether to try again."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(str(frame.get("message") or frame.get("code")))
        self.code: str = frame.get("code", "internal")
        self.retryable: bool = bool(frame.get("retryable"))
        self.retry_after_ms: int | None = frame.get("retry_after_ms")
        self.frame = frame


class NoAnswer(Exception):
    """Nothing came from the box or its broker in time; the text says what is known about why."""


@dataclass
class Receiver:
    """Puts an answer together from frames that may come twice, late or not at all.

    `text` is what is known, `frame` the terminal frame once the answer is complete, `accepted` and `progress`
    the newest frames of their kind. `num_restarts` counts how often text that was given out became void.
    """

    text: str = ""
    frame: Frame | None = None
    accepted: Frame | None = None
    progress: Frame | None = None
    num_restarts: int = 0
    _has_gap: bool = False
    _done: Frame | None = None
    _run: int = 0
    _given: str = ""
    _chunks: dict[int, bytes] = field(default_factory=dict)

    @property
    def is_missing(self) -> bool:
        """Something was lost; `get`, or the request once more, brings it."""
        return self.frame is None and (self._has_gap or self._done is not None)

    def take(self, frame: Frame) -> str:
        """Apply one frame; the text to print after what `take` gave before.

        Where the box ran the request again and says something else, that is its text from the beginning.
        """
        run = frame.get("run", 1)
        if self.frame is not None or not isinstance(run, int) or run < self._run:
            return ""
        if run > self._run:
            self.forget()
            self._run = run
        self._apply(frame)
        return self._news()

    def forget(self) -> None:
        """The box begins again, in whichever run."""
        self.text, self._run, self.accepted = "", 0, None
        self._has_gap, self._done, self._chunks = False, None, {}

    def _apply(self, frame: Frame) -> None:
        kind = frame.get("type")
        if kind in ("delta", "snapshot", "chunk"):
            self._add(kind, frame.get("off"), frame.get("text"))
        elif kind == "accepted":
            self._accept(frame)
        elif kind == "progress":
            self.progress = frame
        elif kind == "error":
            self.frame = frame
        elif kind == "done":
            self._done = frame
        if self._done is not None:
            self._finish(self._done)

    def _accept(self, frame: Frame) -> None:
        """Another boot in the same run: a box that keeps no journal does not know what it said."""
        run, boots = self._run, {one.get("boot_id") for one in (self.accepted or {}, frame)}
        if len(boots - {None}) > 1:
            self.forget()
            self._run = run
        self.accepted = frame

    def _add(self, kind: str, offset: Any, text: Any) -> None:
        if not isinstance(offset, int) or not isinstance(text, str):
            return
        num_bytes = len(_bytes(self.text))
        if kind == "chunk":
            self._chunks[offset] = _bytes(text)
        elif kind == "snapshot":
            if len(_bytes(text)) >= num_bytes:
                self.text, self._has_gap = text, False
        elif offset == num_bytes:
            self.text += text
        elif offset > num_bytes:
            self._has_gap = True

    def _finish(self, done: Frame) -> None:
        """Take the whole text; with a chunk missing there is no end yet."""
        whole = done.get("text")
        if not isinstance(whole, str):
            digest = done.get("sha256")
            if digest is None and len(self._chunks) < done.get("chunks", 0):
                return  # where frames are too small for a digest, their number has to do
            candidates = (self._with_chunks(_bytes(self.text)), self._with_chunks(b""))[digest is None :]
            fitting = [d for d in candidates if digest in (None, hashlib.sha256(d).hexdigest())]
            if not fitting:
                return
            whole = fitting[0].decode(errors="surrogatepass")
        self.text, self.frame = whole, {**done, "text": whole}

    def _with_chunks(self, data: bytes) -> bytes:
        """What begins with `data` and goes on without a gap; chunks may overlap, if they were cut twice."""
        for offset, chunk in sorted(self._chunks.items()):
            if offset <= len(data):
                data += chunk[len(data) - offset :]
        return data

    def _news(self) -> str:
        if self.text.startswith(self._given):
            news = self.text[len(self._given) :]
        elif self._given.startswith(self.text) and (self.frame is None or self.frame["type"] == "error"):
            return ""  # begun again, and not yet as far as before
        else:
            self.num_restarts += 1
            news = self.text
        self._given = self.text
        return news


def _bytes(text: str) -> bytes:
    """As offsets count them. JSON may hold half a surrogate pair, which is no reason to stop."""
    return text.encode(errors="surrogatepass")


class Answer:
    """A request and its answer as it grows: iterate over the text, or `wait` for all of it.

    Leaving the loop cancels the request. `id` names it, `node` is the box that answers.
    """

    def __init__(
        self,
        client: TampuClient,
        request_id: str,
        request: Frame | None,
        timeout_s: float,
        resend_s: float,
        on_progress: Callable[[Frame], None] | None,
    ) -> None:
        self.id, self.receiver = request_id, Receiver()
        self.session: str | None = (request or {}).get("session")
        self.node: str | None = client.node or client._homes.get(self.session or "")
        self._client, self._on_progress, self._resend_s = client, on_progress, resend_s
        self._request = None if request is None else json.dumps(request)
        self._inbox: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._timeout_s, self._deadline = timeout_s, time.monotonic() + timeout_s
        self._has_asked, self._remind_at = False, 0.0

    @property
    def text(self) -> str:
        """All text so far."""
        return self.receiver.text

    @property
    def frame(self) -> Frame | None:
        """The terminal frame (finish_reason, usage, timings), once there is one."""
        return self.receiver.frame

    def __iter__(self) -> Iterator[str]:
        """Text as it comes. Raises AnswerError, or NoAnswer when there is no end within `timeout_s`."""
        try:
            while self.receiver.frame is None:
                text = self._step()
                if text:
                    yield text
        finally:
            self.close()
        if self.receiver.frame["type"] == "error":
            raise AnswerError(self.receiver.frame)

    def wait(self) -> str:
        """The whole text. Raises as iterating does."""
        for _ in self:
            pass
        return self.receiver.text

    def cancel(self) -> None:
        """Stop it: the text ends with what there is (`finish_reason` cancelled), or in AnswerError."""
        self._client.cancel(self.id, node=self.node)

    def close(self) -> None:
        """Let go of it, and cancel it if it has not ended."""
        if self._client._answers.pop(self.id, None) is not None and self.receiver.frame is None:
            self.cancel()

    def _step(self) -> str:
        """Wait for the next event; the text it brings."""
        now = time.monotonic()
        if now >= self._deadline:
            raise NoAnswer(f"no answer within {self._timeout_s:.0f} s: {self._client._why_silent(self.node)}")
        if now >= self._remind_at:
            self._remind()
        try:
            frame = self._inbox.get(timeout=max(0.0, min(self._deadline, self._remind_at) - now))
        except queue.Empty:
            return ""
        if frame is not None:
            return self._take(frame)
        if self._client._is_closing.is_set():
            raise NoAnswer("the client was closed before the answer was complete")
        self._remind_at = 0.0  # the broker or the box is back
        return ""

    def _take(self, frame: Frame) -> str:
        node = frame.get("node")
        if self.node not in (None, node) or (frame.get("type") == "error" and self._is_asked_again(frame)):
            return ""
        if self.node is None and isinstance(node, str):
            self.node = node
            self._client._follow(node, self.session)
        text = self.receiver.take(frame)
        now, self._has_asked = time.monotonic(), False
        self._remind_at = (
            min(self._remind_at, now + GAP_S) if self.receiver.is_missing else now + self._resend_s
        )
        if frame.get("type") == "progress" and self._on_progress is not None:
            self._on_progress(frame)
        return text

    def _is_asked_again(self, error: Frame) -> bool:
        """Whether this is not the end; the request is sent again then, in a pool to any box."""
        delay_s = 0.0
        if error.get("code") in RETRIED_ERRORS and error.get("retryable"):
            retry_s = (error.get("retry_after_ms") or RETRY_MS) / 1000
            delay_s = retry_s * random.uniform(1.0, 1.2)  # noqa: S311 - those refused together come apart
        elif error.get("code") != "not_found" or self.receiver.accepted is None:
            return False  # what was accepted and is not found was forgotten: the box has no journal
        now = time.monotonic()
        if self._request is None or now + delay_s > self._deadline:
            return False
        self._begin_again()
        self._remind_at = now + delay_s
        return True

    def _begin_again(self) -> None:
        self.receiver.forget()
        self.node, self._has_asked = self._client.node, False

    def _remind(self) -> None:
        """`get` what was accepted; where that is not answered, or nothing was accepted, send the request."""
        if self._client.pool and (self._has_asked or self._client._is_offline(self.node)):
            self._begin_again()
        self._has_asked = self.receiver.accepted is not None and not self._has_asked
        self._remind_at = time.monotonic() + self._resend_s
        if self._request is None or self._has_asked:
            self._client._publish("get", json.dumps({"id": self.id}), self.node)
        else:
            self._client._publish("request", self._request, self.node)


class TampuClient:
    """One device's connection to a box, or to a pool of them. Use as a context manager.

    `client` is the device's name (default: `username`, else the host's); brokers that know their devices want
    it to be the username. `tls` is True or an ssl.SSLContext; `protocol` is 5, 3.1.1, or auto: 5, then 3.1.1.
    """

    def __init__(
        self,
        host: str,
        *,
        node: str | None = None,
        pool: str | None = None,
        client: str | None = None,
        port: int | None = None,
        prefix: str = "tampu/v1",
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | bool = False,
        protocol: str = "auto",
    ) -> None:
        self.client = client or username or re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64]
        for name in filter(None, (node, pool, self.client)):
            if not _NAME.match(name):
                raise ValueError(f"{name!r} is no name: 1 to 64 of A-Z a-z 0-9 _ . -")
        self.node, self.pool, self._prefix = node, pool, prefix
        self._address = host, port or (8883 if tls else 1883)
        self._login, self._tls = (username, password), ssl.create_default_context() if tls is True else tls
        self._is_auto, self._is_v5 = protocol == "auto", protocol != "3.1.1"
        self._answers: dict[str, Answer] = {}
        self._states: dict[str, Frame] = {}
        self._homes: dict[str, str] = {}
        self._followed: set[str] = set() if node is None else {node}
        self._trouble = "it does not answer"
        self._up: mqtt.Client | None = None
        self._events: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._settled, self._is_closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tampu-client", daemon=True)

    def __enter__(self) -> TampuClient:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self, timeout_s: float = 20.0) -> None:
        """Connect, and stay connected until `close`. Raises NoAnswer when that does not come about."""
        self._thread.start()
        self._settled.wait(timeout_s)
        try:
            if self._up is None:
                raise NoAnswer(f"the broker at {self._address[0]}:{self._address[1]}: {self._trouble}")
            if self.node is None and self.pool is None:
                self.node = self._only_node()
                self._follow(self.node, None)
        except NoAnswer:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect; answers under way end in NoAnswer."""
        self._is_closing.set()
        self._events.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        self._wake()

    def stream(
        self,
        prompt: str | None = None,
        *,
        timeout_s: float = 300.0,
        resend_s: float = 15.0,
        on_progress: Callable[[Frame], None] | None = None,
        **options: Any,
    ) -> Answer:
        """Ask; iterate over the Answer for its text. Options are the request's fields (max_tokens, ...).

        `timeout_s` bounds everything, waiting for a busy box and a broker that is away included. After
        `resend_s` without a word from the box it is asked again. `on_progress` gets each progress frame.
        """
        request_id = options.pop("id", None) or secrets.token_hex(8)
        request = {"v": 1, "id": request_id, "ttl_s": timeout_s, "seed": secrets.randbits(31), **options}
        if prompt is not None:
            request["prompt"] = prompt
        return self._open(Answer(self, request_id, request, timeout_s, resend_s, on_progress))

    def ask(self, prompt: str | None = None, **options: Any) -> str:
        """The whole answer; see `stream`. Raises AnswerError or NoAnswer."""
        return self.stream(prompt, **options).wait()

    def get(self, request_id: str, *, timeout_s: float = 300.0, resend_s: float = 15.0) -> Answer:
        """The answer to what was asked before, perhaps by a process that died since."""
        if self.node is None:
            raise ValueError("a pool does not know who answered: ask that box, with node=")
        return self._open(Answer(self, request_id, None, timeout_s, resend_s, None))

    def cancel(self, request_id: str | None = None, *, node: str | None = None) -> None:
        """Stop one request of ours, or all of them."""
        payload = {"all": True} if request_id is None else {"id": request_id}
        self._publish("cancel", json.dumps(payload), node or self.node)

    def nodes(self, timeout_s: float = 3.0) -> dict[str, str]:
        """The state (online, degraded, offline, ...) of every box the broker knows of."""
        if self._up is not None:
            self._up.subscribe(f"{self._prefix}/+/status", qos=1)
        deadline, num_known = time.monotonic() + timeout_s, -1
        while num_known < len(self._states) or (not self._states and time.monotonic() < deadline):
            num_known = len(self._states)
            self._is_closing.wait(SETTLED_S)
        return {node: str(status.get("state")) for node, status in sorted(self._states.items())}

    # ---- what answers need -------------------------------------------------------------------

    def _open(self, answer: Answer) -> Answer:
        if answer.id in self._answers:
            raise ValueError(f"{answer.id} is under way already")
        self._answers[answer.id] = answer
        answer._remind()
        return answer

    def _publish(self, verb: str, payload: str, node: str | None) -> None:
        """Nothing while the broker is away: every answer asks again when it is back."""
        connection = self._up
        if connection is not None:
            base = f"{self._prefix}/{node}" if node else f"{self._prefix}/pool/{self.pool}"
            connection.publish(f"{base}/{verb}/{self.client}", payload, qos=1)

    def _follow(self, node: str, session: str | None) -> None:
        """Listen to a box too; a session's next turn goes to the box that knows it."""
        if session is not None:
            self._homes[session] = node
            while len(self._homes) > MAX_SESSIONS:
                self._homes.pop(next(iter(self._homes)))
        if node not in self._followed and self._up is not None:
            self._followed.add(node)
            self._up.subscribe(self._filters(node))

    def _is_offline(self, node: str | None) -> bool:
        return node is not None and self._states.get(node, {}).get("state") == "offline"

    def _why_silent(self, node: str | None) -> str:
        if self._up is None:
            return f"the broker at {self._address[0]}:{self._address[1]} is away: {self._trouble}"
        status = self._states.get(node or "", {})
        said = f"{node} is {status.get('state', 'not known to the broker')}"
        if node is None:
            said = f"no box of the pool {self.pool} has taken it"
        return f"{said} ({reason})" if (reason := status.get("reason") or self._trouble) else said

    def _only_node(self) -> str:
        states = self.nodes()
        there = [node for node, state in states.items() if state != "offline"]
        if len(there) == 1:
            return there[0]
        named = ", ".join(f"{node} ({state})" for node, state in states.items())
        raise NoAnswer(f"name a node, there are several: {named}" if there else f"no box is online: {named}")

    # ---- the connection ----------------------------------------------------------------------

    def _run(self) -> None:
        num_failures = 0
        while not self._is_closing.is_set():
            num_failures = 0 if self._live_once() else min(num_failures + 1, 6)
            self._is_closing.wait(random.uniform(0.2, min(MAX_BACKOFF_S, 2**num_failures)))  # noqa: S311 - spreads load

    def _live_once(self) -> bool:
        """One connection from start to end; False when there was none."""
        events: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._events = events
        connection = self._make(events)
        try:
            connection.connect(*self._address, keepalive=KEEPALIVE_S)
            connection.loop_start()
            code = events.get(timeout=CONNACK_WITHIN_S)
            if code == 0 and not self._is_closing.is_set():
                self._begin(connection)
                events.get()
                self._trouble = "the connection broke"
                return True
            self._consider(code)
        except queue.Empty:
            self._consider(None)
        except (OSError, ValueError) as error:
            self._trouble = str(error)
        finally:
            self._up = None
            connection.disconnect()
            connection.loop_stop()
        return False

    def _make(self, events: queue.SimpleQueue[int | None]) -> mqtt.Client:
        """paho's client for one connection; `events` gets the CONNACK's reason code, and None at the end."""
        connection = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"{self.client[:14]}-{secrets.token_hex(4)}",
            protocol=MQTTProtocolVersion.MQTTv5 if self._is_v5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        if self._login[0] is not None:
            connection.username_pw_set(*self._login)
        if isinstance(self._tls, ssl.SSLContext):
            connection.tls_set_context(self._tls)
        connection.on_connect = lambda *arguments: events.put(arguments[3].value)
        connection.on_disconnect = lambda *_: events.put(None)
        connection.on_subscribe = lambda *arguments: self._notice("we may not listen", arguments[3][0])
        connection.on_publish = lambda *arguments: self._notice("we may not publish", arguments[3])
        connection.on_message = self._receive
        return connection

    def _begin(self, connection: mqtt.Client) -> None:
        filters = [name for node in self._followed for name in self._filters(node)]
        if self.pool is not None:
            filters.append((f"{self._prefix}/pool/{self.pool}/response/{self.client}/+", 1))
        if filters:
            connection.subscribe(filters)
        self._trouble, self._up = "", connection
        self._settled.set()
        self._wake()

    def _consider(self, code: int | None) -> None:
        """No connection: try the other version, or give the caller the reason."""
        self._trouble = "CONNECT is not answered" if code is None else f"CONNECT is refused, 0x{code:02x}"
        if code in _NOT_LET_IN:
            self._trouble = "user name or password is wrong"
            self._settled.set()
        elif self._is_auto and code in (None, _UNSUPPORTED_VERSION):
            self._is_v5 = not self._is_v5

    def _filters(self, node: str) -> list[tuple[str, int]]:
        base = f"{self._prefix}/{node}"
        return [(f"{base}/response/{self.client}/+", 1), (f"{base}/status", 1)]

    def _wake(self) -> None:
        for answer in list(self._answers.values()):
            answer._inbox.put(None)

    # paho's thread, which an exception would end.

    def _notice(self, what: str, reason: Any) -> None:
        if reason.is_failure:
            self._trouble = f"the broker says {what}: {reason}"

    def _receive(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        *_, node, last = message.topic.split("/")
        try:
            frame = json.loads(message.payload)
        except (ValueError, RecursionError):
            return
        if isinstance(frame, dict) and last == "status":
            before, self._states[node] = self._states.get(node, frame), frame
            if frame.get("state") != before.get("state") or frame.get("boot_id") != before.get("boot_id"):
                self._wake()
        elif isinstance(frame, dict) and (answer := self._answers.get(last)) is not None:
            answer._inbox.put(frame)


def main() -> int:
    """Ask one question; the answer on stdout as it comes."""
    parser = argparse.ArgumentParser(description="Ask a Tampu box over MQTT.")
    parser.add_argument("host", metavar="HOST")
    parser.add_argument("node", metavar="NODE")
    parser.add_argument("prompt", metavar="PROMPT")
    parser.add_argument("--port", type=int)
    parser.add_argument("--client", help="this device's name")
    parser.add_argument("--user")
    parser.add_argument("--password-file", type=Path)
    parser.add_argument("--ca", type=Path, help="speak TLS, and check the broker with this file")
    args = parser.parse_args()
    try:
        password = args.password_file.read_text().strip() if args.password_file else None
        tls = ssl.create_default_context(cadata=args.ca.read_text()) if args.ca else False
        options = {"client": args.client, "port": args.port, "username": args.user, "password": password}
        with TampuClient(args.host, node=args.node, tls=tls, **options) as box:
            for text in box.stream(args.prompt):
                print(text, end="", flush=True)
            print()
    except (AnswerError, NoAnswer, OSError, ValueError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
