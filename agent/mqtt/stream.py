"""One request's way back to its device, over a link that may break at any time.

What is common to both formats is here: follow the answer, say what is new as far as the reader keeps up,
and repeat the terminal frames until they are acknowledged. How it is said is json_stream.py's and
text_stream.py's.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from agent.answer import Answer
from agent.errors import RequestError
from agent.journal.journal import Final
from agent.mqtt import frames
from agent.mqtt.client import Connection, ConnectionLost, Overfull, Publish
from agent.mqtt.link import Link
from agent.mqtt.route import Route
from agent.request import Finished, Request

log = logging.getLogger(__name__)

# The first token goes at once; after it the engine sends bundles (engine/outbox.py). What comes from
# it in quick succession all the same is gathered for so long or until so much is there.
MERGE_S = 0.02
MERGE_CHARS = 256
# A stalled stream's backlog is cut into frames of at most so many characters.
DELTA_CHARS = 4096
# So much may be unacknowledged of one stream; the rest is merged meanwhile.
MAX_UNACKNOWLEDGED_BYTES = 32 << 10
# How often a congested connection is looked at again.
RELIEF_S = 0.05
MAX_QUICK_BREAKS = 5
QUICK_BREAK_S = 2.0
_REFUSED = 0x80
_NOBODY_LISTENS = 0x10
# So many frames in a row that nobody listened to mean that the requester is gone.
UNHEARD_FRAMES = 3


@dataclass(slots=True)
class Audience:
    """What all streams know of this broker: does it ever say that somebody listens."""

    has_listened: bool = False


class Stream(ABC):
    """Says one answer. `num_chars` of its text have been said; `on_unheard` is called when nobody listens."""

    def __init__(
        self,
        link: Link,
        route: Route,
        audience: Audience | None = None,
        on_unheard: Callable[[], None] = lambda: None,
    ) -> None:
        self.num_chars = 0
        self._link = link
        self._route = route
        self._audience = audience or Audience()
        self._on_unheard = on_unheard
        self._num_unheard = 0
        self._num_connects = link.num_connects
        self._max_publish_bytes = frames.MAX_BYTES
        self._unacknowledged_bytes = 0

    @abstractmethod
    def accept(self, request: Request, queue_pos: int) -> None:
        """Say that the request will be answered, and with which values."""

    @abstractmethod
    def progress(self, answer: Answer, queue_pos: int) -> None:
        """Say where it is."""

    @abstractmethod
    def say(self, text: str) -> int:
        """Send the beginning of new text that fits into one frame; its length in characters."""

    @abstractmethod
    async def catch_up(self, text: str) -> None:
        """After a gap: bring the device to all the text so far, or leave `num_chars` where it can go on."""

    @abstractmethod
    def done(self, finished: Finished, text: str) -> tuple[Final, ...]:
        """The terminal frames of an answer."""

    @abstractmethod
    def error(self, error: RequestError) -> tuple[Final, ...]:
        """The terminal frames of a request without an answer."""

    @property
    def room(self) -> int:
        """How many bytes a payload may have."""
        if self._link.connection is not None:
            self._max_publish_bytes = self._link.connection.max_publish_bytes
        return self._route.room(self._max_publish_bytes)

    @property
    def route(self) -> Route:
        """Where it goes now."""
        return self._route

    def kept(self, finals: tuple[Final, ...], answer: Answer) -> tuple[Final, ...]:
        """What a duplicate of the request is told: the same frames, byte for byte."""
        return finals

    def reroute(self, route: Route) -> None:
        """The device asks again, perhaps from elsewhere, and gets all there is, as far as its format can."""
        self._route = route
        self._num_unheard = 0
        self._num_connects = -1

    async def follow(self, answer: Answer) -> None:
        """Send the text as it grows, until the answer ends; what was not said by then is in `done`."""
        while answer.terminal is None or self.num_chars < len(answer.text):
            connection = self._link.connection
            if connection is None or self._is_too_far_ahead(connection):
                if answer.terminal is not None:
                    return
                await (answer.change() if connection is None else asyncio.sleep(RELIEF_S))
            elif self._num_connects != self._link.num_connects:
                self._num_connects = self._link.num_connects
                await self.catch_up(answer.text)
            elif self.num_chars == len(answer.text):
                await answer.change()
            else:
                self.num_chars += self.say(answer.text[self.num_chars : self.num_chars + DELTA_CHARS])
                await self._gather(answer)

    def terminal_frames(self, answer: Answer) -> tuple[Final, ...]:
        """How an ended answer is told."""
        try:
            finished = answer.result()
        except RequestError as error:
            return self.error(error)
        return self.done(finished, answer.text)

    async def deliver(self, finals: tuple[Final, ...]) -> bool:
        """Publish at QoS 1, in order, again after every break, until all are acknowledged; False where that
        was given up.

        A connection that breaks at once, each time just when this is said, breaks because of it: then
        it is given up, or nobody would hear anything any more.
        """
        num_quick_breaks = 0
        while num_quick_breaks < MAX_QUICK_BREAKS:
            connection = await self._link.wait_up()
            if any(len(final.payload) > connection.max_publish_bytes for final in finals):
                log.error("the broker takes no more what goes to %s; it is given up", self._route.topic)
                return False
            said_at = time.monotonic()
            try:
                codes = await asyncio.gather(*(self._publish(f.payload, 1, f.suffix) for f in finals))
            except Overfull:
                await asyncio.sleep(RELIEF_S)
                continue
            except ConnectionLost:
                is_quick = time.monotonic() - said_at < QUICK_BREAK_S
                num_quick_breaks = num_quick_breaks + 1 if is_quick else 0
                continue
            if any(code >= _REFUSED for code in codes):
                log.warning(
                    "the broker refuses what goes to %s (reason 0x%02x)", self._route.topic, max(codes)
                )
            return True
        log.error("the broker disconnects us for what goes to %s; it is given up", self._route.topic)
        return False

    def _publish(self, payload: bytes, qos: int, suffix: str = "") -> "asyncio.Future[int]":
        """Send on the route, or on a topic below it."""
        message = Publish(self._route.topic + suffix, payload, qos, correlation=self._route.correlation)
        return self._link.publish(message)

    def publish_piece(self, payload: bytes, qos: int | None = None) -> None:
        """Send what may be lost with the connection: a snapshot or the terminal frames make it good."""
        qos = self._route.qos if qos is None else qos
        sent = self._publish(payload, qos)
        if qos:
            self._unacknowledged_bytes += len(payload)
            sent.add_done_callback(lambda future: self._on_acknowledged(future, len(payload)))
        else:
            sent.add_done_callback(lambda future: future.cancelled() or future.exception())

    def _on_acknowledged(self, future: "asyncio.Future[int]", num_bytes: int) -> None:
        self._unacknowledged_bytes -= num_bytes
        if future.cancelled() or future.exception():
            return
        if future.result() != _NOBODY_LISTENS:
            self._num_unheard = 0
            self._audience.has_listened = True
            return
        self._num_unheard += 1
        if self._num_unheard >= UNHEARD_FRAMES and self._audience.has_listened:
            self._on_unheard()

    def _is_too_far_ahead(self, connection: Connection) -> bool:
        """The reader, or the broker, is slower than we are: text is merged until there is room."""
        return connection.is_congested or self._unacknowledged_bytes > MAX_UNACKNOWLEDGED_BYTES

    async def _gather(self, answer: Answer) -> None:
        """Let text collect for MERGE_S, to MERGE_CHARS or until the end."""
        deadline = time.monotonic() + MERGE_S
        while answer.terminal is None and len(answer.text) - self.num_chars < MERGE_CHARS:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await answer.change()
            except TimeoutError:
                return
