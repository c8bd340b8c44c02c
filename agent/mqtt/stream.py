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

# The first token goes at once; after it, text is gathered for so long or until so much is there.
MERGE_S = 0.04
MERGE_CHARS = 256
# A stalled stream's backlog is cut into frames of at most so many characters.
DELTA_CHARS = 4096
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
            text = answer.text[self.num_chars : self.num_chars + DELTA_CHARS]
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
        """Publish at QoS 1, in order, again after every break, until all are acknowledged."""
        while True:
            await self._link.wait_up()
            try:
                codes = await asyncio.gather(
                    *(self.publish(final.payload, 1, final.suffix) for final in finals)
                )
            except ConnectionLost:
                continue
            if any(code >= _REFUSED for code in codes):
                log.warning(
                    "the broker refuses what goes to %s (reason 0x%02x)", self._route.topic, max(codes)
                )
            return

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
