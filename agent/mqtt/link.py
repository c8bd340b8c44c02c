"""Keeps a connection to the broker: MQTT 5 first, 3.1.1 where that is refused, back again when it breaks.

Nothing is queued while the link is down: `publish` fails at once and the caller decides what is
still worth saying when it is up again.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable

from agent.errors import BrokerError, ConfigError
from agent.mqtt.client import (
    TAKEN_OVER,
    ClosedUnheard,
    Connection,
    ConnectionLost,
    Incoming,
    ProtocolRefused,
    Publish,
)

log = logging.getLogger(__name__)

MIN_BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
# Connections without a CONNACK after which an old broker is assumed.
REFUSALS_BEFORE_V311 = 2
TRY_V5_AGAIN_S = 3600.0
# A connection that is closed so soon, twice in a row, was taken over by a client of our name.
KICKED_WITHIN_S = 10.0
TAKEOVER_PAUSE_S = 30.0

Connect = Callable[[bool, Callable[[Incoming], None]], Connection]
"""Makes an unopened connection; the bool asks for MQTT 5."""


class Link:
    """`on_up` is called with every new connection, before anything is published on it."""

    def __init__(
        self,
        connect: Connect,
        on_up: Callable[[Connection], None],
        on_down: Callable[[str], None],
        on_message: Callable[[Connection, Incoming], None],
        *,
        protocol: str = "auto",
    ) -> None:
        self._connect = connect
        self._on_up = on_up
        self._on_down = on_down
        self._on_message = on_message
        self._connection: Connection | None = None
        self._up = asyncio.Event()
        self._is_auto = protocol == "auto"
        self._is_v5 = protocol != "3.1.1"
        self._num_refusals = 0
        self._num_kicks = 0
        self._downgraded_at = 0.0
        self._is_closed = False
        self.num_connects = 0

    @property
    def connection(self) -> Connection | None:
        """The open connection, or None."""
        return self._connection

    async def wait_up(self) -> Connection:
        """Wait until there is an open connection."""
        while self._connection is None:
            await self._up.wait()
        return self._connection

    def publish(self, message: Publish) -> "asyncio.Future[int]":
        """Send on the open connection; fails with ConnectionLost when there is none."""
        if self._connection is None:
            failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            failed.set_exception(ConnectionLost("the broker is not connected"))
            return failed
        return self._connection.publish(message)

    async def run(self) -> None:
        """Connect, stay, connect again; until cancelled."""
        num_failures = 0
        while not self._is_closed:
            try:
                pause_s = await self._live_once()
                num_failures = 0
            except (BrokerError, ConfigError) as error:
                if num_failures == 0 or isinstance(error, ConfigError):
                    log.warning("%s; trying again", error)
                num_failures += 1
                pause_s = 0.0
            await asyncio.sleep(max(pause_s, backoff_s(num_failures)))

    async def close(self, last_words: Publish) -> None:
        """Say the last words if the link is up, and disconnect."""
        self._is_closed = True
        connection = self._connection
        if connection is None:
            return
        try:
            await asyncio.wait_for(connection.publish(last_words), 2.0)
        except (TimeoutError, ConnectionLost):
            log.warning("the broker did not acknowledge our last status")
        self._connection = None
        self._up.clear()
        await connection.close()

    async def _live_once(self) -> float:
        """One connection from start to end; returns how long to stay away."""
        if self._is_auto and not self._is_v5 and time.monotonic() - self._downgraded_at > TRY_V5_AGAIN_S:
            self._is_v5 = True
        early: list[Incoming] = []

        def incoming(message: Incoming) -> None:
            # What the broker kept for us comes with the CONNACK, before we can answer; after close, never.
            if self._connection is connection:
                self._on_message(connection, message)
            else:
                early.append(message)

        connection = self._connect(self._is_v5, incoming)
        try:
            await connection.open()
        except BaseException as error:
            await connection.close()
            self._consider_downgrade(error)
            raise
        return await self._stay(connection, early)

    async def _stay(self, connection: Connection, early: list[Incoming]) -> float:
        self._num_refusals = 0
        opened = time.monotonic()
        self._connection = connection
        self.num_connects += 1
        log.info("connected to the broker with MQTT %s", "5" if connection.is_v5 else "3.1.1")
        self._on_up(connection)
        self._up.set()
        for message in early:
            self._on_message(connection, message)
        try:
            code = await self._wait_for_end(connection)
        finally:
            self._connection = None
            self._up.clear()
            await connection.close()
        was_taken = self._was_taken_over(code, time.monotonic() - opened)
        self._on_down(
            "another client with this node's name took the connection" if was_taken else "connection lost"
        )
        return TAKEOVER_PAUSE_S if was_taken else 0.0

    async def _wait_for_end(self, connection: Connection) -> int:
        """The end of the connection; one that speaks 3.1.1 for want of better is ended after an hour."""
        wait_s = None if connection.is_v5 or not self._is_auto else TRY_V5_AGAIN_S
        try:
            async with asyncio.timeout(wait_s):
                return await connection.closed()
        except TimeoutError:
            return 0

    def _was_taken_over(self, code: int, lasted_s: float) -> bool:
        """Some brokers say so (MQTT 5); others just close, so two quick closes in a row count as one."""
        self._num_kicks = self._num_kicks + 1 if lasted_s < KICKED_WITHIN_S else 0
        if self._is_closed:
            return False
        if code != TAKEN_OVER and self._num_kicks < 2:
            log.warning("the connection to the broker broke")
            return False
        self._num_kicks = 0
        log.error(
            "another client with this node's name is connected to the broker; give each box its own `node`."
            " Staying away for %.0f s",
            TAKEOVER_PAUSE_S,
        )
        return True

    def _consider_downgrade(self, error: BaseException) -> None:
        if isinstance(error, ClosedUnheard):
            self._num_refusals += 1
        if self._is_auto and not self._is_v5 and isinstance(error, ClosedUnheard):
            # Not a matter of the version, then: something in between answers for a broker that is away.
            self._is_v5 = True
            self._num_refusals = 0
            return
        is_refused = isinstance(error, ProtocolRefused) or self._num_refusals >= REFUSALS_BEFORE_V311
        if not (self._is_auto and self._is_v5 and is_refused):
            return
        self._is_v5 = False
        self._num_refusals = 0
        self._downgraded_at = time.monotonic()
        log.info("the broker does not speak MQTT 5; using 3.1.1")


def backoff_s(num_failures: int) -> float:
    """Full jitter between a second and a minute: boxes that lost one broker come back one by one."""
    ceiling = min(MAX_BACKOFF_S, MIN_BACKOFF_S * 2 ** min(num_failures, 10))
    return random.uniform(MIN_BACKOFF_S / 4, ceiling)  # noqa: S311 - spreads load, hides nothing
