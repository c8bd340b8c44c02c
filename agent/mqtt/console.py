"""Operators' questions over MQTT: each answered once, on its own topic, one after another."""

import asyncio
import logging

from agent.errors import Busy, Internal, RequestError
from agent.mqtt import frames, payloads
from agent.mqtt.client import ConnectionLost, Incoming, Publish
from agent.mqtt.ctl import Operator
from agent.mqtt.door import correlation
from agent.mqtt.fit import encode_within
from agent.mqtt.link import Link
from agent.mqtt.topics import Topics

log = logging.getLogger(__name__)

# Questions under way at once; a device that floods this topic costs others nothing.
MAX_QUESTIONS = 8


class Console:
    """An answer that the broker is not there for is lost: the operator asks again."""

    def __init__(self, operator: Operator, link: Link, topics: Topics, max_bytes: int) -> None:
        self._operator = operator
        self._link = link
        self._topics = topics
        self._max_bytes = max_bytes
        self._under_way: set[asyncio.Task[None]] = set()

    def take(self, verb: str, message: Incoming) -> None:
        """A question has come."""
        try:
            wanted = payloads.parse_ctl(message.payload, self._max_bytes)
        except RequestError as error:
            wanted = payloads.CtlPayload(id=payloads.given_id(message.payload) or payloads.make_id())
            self._say(verb, wanted, message, self._error(wanted, error))
            return
        if len(self._under_way) >= MAX_QUESTIONS:
            busy = Busy("other operators are being answered; ask again", retry_after_ms=2000)
            self._say(verb, wanted, message, self._error(wanted, busy))
            return
        task = asyncio.create_task(self._answer(verb, wanted, message), name=f"ctl {verb}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def close(self) -> None:
        """Nobody is answered any more."""
        for task in self._under_way:
            task.cancel()

    async def _answer(self, verb: str, wanted: payloads.CtlPayload, message: Incoming) -> None:
        try:
            content = await self._operator.answer(verb, wanted, self._room)
        except RequestError as error:
            content = self._error(wanted, error)
        except Exception:
            log.exception("the question %r could not be answered", verb[:64])
            content = self._error(wanted, Internal("a bug in this verb; see the log"))
        self._say(verb, wanted, message, content)

    def _say(self, verb: str, wanted: payloads.CtlPayload, message: Incoming, content: bytes) -> None:
        topic = self._topics.ctl_response(verb, wanted.id or "")
        sent = self._link.publish(Publish(topic, content, 1, correlation=correlation(message)))
        sent.add_done_callback(self._on_sent)

    def _on_sent(self, sent: "asyncio.Future[int]") -> None:
        if not sent.cancelled() and isinstance(sent.exception(), ConnectionLost):
            log.info("an operator's answer was lost with the connection")

    def _error(self, wanted: payloads.CtlPayload, error: RequestError) -> bytes:
        frame = frames.ErrorFrame.of(error, id=wanted.id or "", seq=1, run=1, node=self._topics.node)
        return encode_within(frame, self._room)

    @property
    def _room(self) -> int:
        connection = self._link.connection
        return connection.max_publish_bytes if connection is not None else frames.MAX_BYTES
