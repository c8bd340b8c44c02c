"""Holds back what the server or the wire cannot take yet: paho takes everything, and floods or grows.

Both classes live on the event loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agent.mqtt.wire import ConnectionLost, Overfull, Publish

# Beyond these a publish at QoS 1 fails at once.
MAX_WAITING = 2048
MAX_WAITING_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class _Unacknowledged:
    message: Publish
    acked: "asyncio.Future[int]"


class Window:
    """Publishes at QoS 1: `size` of them are under way at once, the rest waits in order.

    `send` hands one over and gives its message id; it raises ConnectionLost.
    """

    def __init__(self, send: Callable[[Publish], int], size: int) -> None:
        self.size = size
        self.num_bytes = 0
        self._send = send
        self._waiting: deque[_Unacknowledged] = deque()
        self._under_way: dict[int, _Unacknowledged] = {}

    def put(self, message: Publish) -> "asyncio.Future[int]":
        """Send when its turn comes; the future gives the server's reason code. It fails with Overfull,
        or with ConnectionLost."""
        acked: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if len(self._waiting) >= MAX_WAITING or self.num_bytes + message.num_bytes > MAX_WAITING_BYTES:
            acked.set_exception(Overfull("too much waits for the broker's acknowledgement already"))
            return acked
        self.num_bytes += message.num_bytes
        self._waiting.append(_Unacknowledged(message, acked))
        self._send_more()
        return acked

    def acknowledge(self, mid: int, code: int) -> None:
        """The server's PUBACK."""
        sent = self._under_way.pop(mid, None)
        if sent is None:
            return
        self.num_bytes -= sent.message.num_bytes
        if not sent.acked.done():
            sent.acked.set_result(code)
        self._send_more()

    def fail(self, reason: str) -> None:
        """The connection is over: nothing of this will be acknowledged."""
        lost = [*self._under_way.values(), *self._waiting]
        self._under_way.clear()
        self._waiting.clear()
        self.num_bytes = 0
        for each in lost:
            if not each.acked.done():
                each.acked.set_exception(ConnectionLost(reason))

    def _send_more(self) -> None:
        while self._waiting and len(self._under_way) < self.size:
            first = self._waiting.popleft()
            try:
                if first.acked.cancelled():
                    raise ConnectionLost("nobody waits for it any more")
                self._under_way[self._send(first.message)] = first
            except ConnectionLost as error:
                self.num_bytes -= first.message.num_bytes
                if not first.acked.done():
                    first.acked.set_exception(error)


class Written(Protocol):
    """Paho's receipt for a publish."""

    def is_published(self) -> bool:
        """At QoS 0: the socket has taken it."""


class Unwritten:
    """Publishes at QoS 0 that paho holds because the socket does not take them."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Written, int]] = deque()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """What is still held."""
        self._forget_written()
        return self._num_bytes

    def add(self, receipt: Written, num_bytes: int) -> None:
        """One more was handed over."""
        self._queue.append((receipt, num_bytes))
        self._num_bytes += num_bytes
        self._forget_written()

    def clear(self) -> None:
        """The connection is over."""
        self._queue.clear()
        self._num_bytes = 0

    def _forget_written(self) -> None:
        # They are written in order: the oldest tells.
        while self._queue and self._queue[0][0].is_published():
            self._num_bytes -= self._queue.popleft()[1]
