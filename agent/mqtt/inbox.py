"""What arrives on one link: handled in order, and acknowledged in that order once each message is safe."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from agent.mqtt.client import Connection, Incoming

log = logging.getLogger(__name__)

# Messages handled in one turn of the loop: a burst of hundreds must not keep it from everything else.
TURN = 8
# Messages at QoS 0 that wait for their turn; more are dropped, as QoS 0 allows.
MAX_WAITING_QOS0 = 256

Safe = asyncio.Future[None] | None
"""Done when the message may be acknowledged; None is at once."""


class Inbox:
    """`handle` deals with one message. While `is_full`, messages wait unacknowledged, and the broker
    stops sending; `resume` says that there is room again.

    An acknowledgement is bound to its connection: on another one it would reach another message.
    """

    def __init__(
        self, handle: Callable[[Connection, Incoming], Safe], is_full: Callable[[], bool] = lambda: False
    ) -> None:
        self.num_dropped = 0
        self._handle = handle
        self._is_full = is_full
        self._connection: Connection | None = None
        self._waiting: deque[Incoming] = deque()
        self._handled: deque[tuple[Incoming, Safe]] = deque()
        self._is_scheduled = False

    def take(self, connection: Connection, message: Incoming) -> None:
        """A message has arrived."""
        if connection is not self._connection:
            # What the old connection still owed is redelivered by the broker.
            self._connection = connection
            self._waiting.clear()
            self._handled.clear()
        if not message.qos and len(self._waiting) >= MAX_WAITING_QOS0:
            self.num_dropped += 1
            return
        self._waiting.append(message)
        self.resume()

    def resume(self) -> None:
        """Handle what waits, as far as there is room."""
        if not self._is_scheduled:
            self._turn()

    def _turn(self) -> None:
        self._is_scheduled = False
        for _ in range(TURN):
            if not self._waiting or self._connection is None or self._is_full():
                return
            self._handle_one(self._connection, self._waiting.popleft())
        self._is_scheduled = True
        asyncio.get_running_loop().call_soon(self._turn)

    def _handle_one(self, connection: Connection, message: Incoming) -> None:
        """Whatever it holds, the next one is served."""
        safe: Safe = None
        try:
            safe = self._handle(connection, message)
        except Exception:  # a bug of ours in one message must not cost the others
            log.exception("a message on %s could not be handled", message.topic[:200])
        if not message.qos:
            return
        self._handled.append((message, safe))
        if safe is not None:
            safe.add_done_callback(lambda _: self._acknowledge(connection))
        self._acknowledge(connection)

    def _acknowledge(self, connection: Connection) -> None:
        while connection is self._connection and self._handled:
            message, safe = self._handled[0]
            if safe is not None and not safe.done():
                return
            self._handled.popleft()
            connection.acknowledge(message)
