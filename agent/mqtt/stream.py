"""One request's way back to its device, over a link that may break at any time.

What is common to both formats is here: follow the answer, say what is new, and repeat the terminal
frames until they are acknowledged. How it is said is json_stream.py's and text_stream.py's.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from agent.answer import Answer
from agent.errors import RequestError
from agent.journal import Final
from agent.mqtt.client import ConnectionLost, Publish
from agent.mqtt.link import Link
from agent.request import Finished, Request

log = logging.getLogger(__name__)

# The first token goes at once; after it the engine sends bundles (engine/outbox.py). What comes from
# it in quick succession all the same is gathered for so long or until so much is there.
MERGE_S = 0.02
MERGE_CHARS = 256
# A stalled stream's backlog is cut into frames of at most so many characters.
DELTA_CHARS = 4096
# A character in JSON has at most six bytes (\u0001); the rest is for the frame's other fields.
BYTES_PER_CHAR = 8
MAX_QUICK_BREAKS = 5
QUICK_BREAK_S = 2.0
_REFUSED = 0x80


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request's frames go."""

    topic: str
    qos: int = 0
    correlation: bytes | None = None


class Stream(ABC):
    """Says one answer. `num_chars` of its text have been said."""

    def __init__(self, link: Link, route: Route) -> None:
        self._link = link
        self._route = route
        self._num_connects = link.num_connects
        self.num_chars = 0

    @abstractmethod
    def accept(self, request: Request, queue_pos: int) -> None:
        """Say that the request will be answered, and with which values."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Send new text."""

    @abstractmethod
    async def catch_up(self, text: str, max_bytes: int) -> None:
        """After a gap: bring the device to all the text so far, or leave `num_chars` where it can go on."""

    @abstractmethod
    def done(self, finished: Finished, text: str, max_bytes: int) -> tuple[Final, ...]:
        """The terminal frames of an answer."""

    @abstractmethod
    def error(self, error: RequestError, max_bytes: int) -> tuple[Final, ...]:
        """The terminal frames of a request without an answer."""

    def repeatable(self, finals: tuple[Final, ...], answer: Answer, max_bytes: int) -> tuple[Final, ...]:
        """What a duplicate of the request is told: the same frames, byte for byte."""
        return finals

    async def follow(self, answer: Answer) -> None:
        """Send the text as it grows, until the answer ends; what was not said by then is in `done`."""
        while answer.terminal is None or self.num_chars < len(answer.text):
            if self.num_chars == len(answer.text):
                await answer.change()
                continue
            connection = await self._link.wait_up()
            if self._num_connects != self._link.num_connects:
                self._num_connects = self._link.num_connects
                await self.catch_up(answer.text, connection.max_publish_bytes)
                continue
            num_chars = max(1, min(DELTA_CHARS, connection.max_publish_bytes // BYTES_PER_CHAR))
            text = answer.text[self.num_chars : self.num_chars + num_chars]
            self.say(text)
            self.num_chars += len(text)
            await self._gather(answer)

    def terminal_frames(self, answer: Answer, max_bytes: int) -> tuple[Final, ...]:
        """How an ended answer is told, in publishes of at most `max_bytes`."""
        try:
            finished = answer.result()
        except RequestError as error:
            return self.error(error, max_bytes)
        return self.done(finished, answer.text, max_bytes)

    async def deliver(self, finals: tuple[Final, ...]) -> None:
        """Publish at QoS 1, in order, again after every break, until all are acknowledged.

        A connection that breaks at once, each time just when this is said, breaks because of it: then
        it is given up, or nobody would hear anything any more.
        """
        num_quick_breaks = 0
        while num_quick_breaks < MAX_QUICK_BREAKS:
            await self._link.wait_up()
            said_at = time.monotonic()
            try:
                codes = await self._publish_all(finals)
            except ConnectionLost:
                is_quick = time.monotonic() - said_at < QUICK_BREAK_S
                num_quick_breaks = num_quick_breaks + 1 if is_quick else 0
                continue
            if any(code >= _REFUSED for code in codes):
                log.warning(
                    "the broker refuses what goes to %s (reason 0x%02x)", self._route.topic, max(codes)
                )
            return
        log.error("the broker disconnects us for what goes to %s; it is given up", self._route.topic)

    async def _publish_all(self, finals: tuple[Final, ...]) -> list[int]:
        sent = [self.publish(final.payload, 1, final.suffix) for final in finals]
        return await asyncio.gather(*sent)

    def publish(self, payload: bytes, qos: int, suffix: str = "") -> "asyncio.Future[int]":
        """Send on the route, or on a topic below it."""
        message = Publish(self._route.topic + suffix, payload, qos, correlation=self._route.correlation)
        return self._link.publish(message)

    def publish_piece(self, payload: bytes, qos: int | None = None) -> None:
        """Send what may be lost with the connection: a snapshot or the terminal frames make it good."""
        sent = self.publish(payload, self._route.qos if qos is None else qos)
        sent.add_done_callback(lambda future: future.cancelled() or future.exception())

    async def _gather(self, answer: Answer) -> None:
        """Let text collect for MERGE_S, to MERGE_CHARS or until the end."""
        deadline = time.monotonic() + MERGE_S
        while answer.terminal is None and len(answer.text) - self.num_chars < MERGE_CHARS:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await answer.change()
            except TimeoutError:
                return
