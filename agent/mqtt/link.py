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
from agent.findings import Finding, Severity
from agent.mqtt.client import Connection
from agent.mqtt.versions import Versions
from agent.mqtt.wire import TAKEN_OVER, ConnectionLost, Incoming, Publish, finding_of

log = logging.getLogger(__name__)

# Between two tries; the first ceiling is for a connection that broke, and doubles with each failure.
MIN_BACKOFF_S = 1.0
FIRST_BACKOFF_S = 8.0
MAX_BACKOFF_S = 60.0
# A connection that is closed so soon, twice in a row, was taken over by a client of our name.
KICKED_WITHIN_S = 10.0
TAKEOVER_PAUSE_S = 30.0
GOODBYE_S = 2.0

Connect = Callable[[bool, Callable[[Incoming], None]], Connection]
"""Makes an unopened connection; the bool asks for MQTT 5."""

_TAKEN = Finding(
    Severity.ERROR,
    "broker_takeover",
    "Another client with this node's name connects to the broker, and each throws the other out.",
    "Give each box its own `node`.",
)
_OLD = Finding(
    Severity.NOTE,
    "broker_v311",
    "The broker speaks MQTT 3.1.1 only: no expiry of messages, no reason for a refusal.",
    "",
)


class Link:
    """`on_up` is called with every new connection, before anything is published on it. `purpose` tells one
    link from another in the log."""

    def __init__(
        self,
        connect: Connect,
        on_up: Callable[[Connection], None],
        on_down: Callable[[str], None],
        on_message: Callable[[Connection, Incoming], None],
        *,
        protocol: str = "auto",
        purpose: str = "",
    ) -> None:
        self._connect = connect
        self._on_up = on_up
        self._on_down = on_down
        self._on_message = on_message
        self._connection: Connection | None = None
        self._up = asyncio.Event()
        self._versions = Versions(protocol)
        self._purpose = f" ({purpose})" if purpose else ""
        self._num_kicks = 0
        self._is_closed = False
        self._was_taken = False
        self._refusal: Finding | None = None
        self._changed_at = time.monotonic()
        self.num_connects = 0
        self.absent_s = 0.0
        """How long it was down before its present or last connection; before the first, since it was made."""

    @property
    def connection(self) -> Connection | None:
        """The open connection, or None."""
        return self._connection

    @property
    def is_alive(self) -> bool:
        """False when there is a connection and no thread serves it."""
        return self._connection is None or self._connection.is_alive

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What a person should know of it now."""
        found = list(self._connection.findings) if self._connection is not None else []
        if self._refusal is not None:
            found.append(self._refusal)
        is_settled = self._connection is not None and self._state_s() > KICKED_WITHIN_S
        if self._was_taken and not is_settled:
            found.append(_TAKEN)
        if self._versions.is_downgraded and self._connection is not None:
            found.append(_OLD)
        return tuple(found)

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
            pause_s = 0.0
            try:
                pause_s = await self._live_once()
                num_failures = 0
            except (BrokerError, ConfigError) as error:
                if num_failures == 0 or isinstance(error, ConfigError):
                    log.warning("%s; trying again", error)
                self._refusal = finding_of(error) if isinstance(error, BrokerError) else None
                num_failures += 1
            await asyncio.sleep(pause_s + backoff_s(num_failures))

    async def close(self, last_words: Publish | None = None) -> None:
        """Say the last words if the link is up, and disconnect."""
        self._is_closed = True
        connection = self._connection
        if connection is None:
            return
        if last_words is not None:
            try:
                async with asyncio.timeout(GOODBYE_S):
                    await connection.publish(last_words)
            except (TimeoutError, ConnectionLost):
                log.warning("the broker did not acknowledge our last status")
        self._connection = None
        self._up.clear()
        await connection.close()

    async def _live_once(self) -> float:
        """One connection from start to end; returns how long to stay away."""
        early: list[Incoming] = []

        def incoming(message: Incoming) -> None:
            # What the broker kept for us comes with the CONNACK, before we can answer; after close, never.
            if self._connection is connection:
                self._on_message(connection, message)
            else:
                early.append(message)

        connection = self._connect(self._versions.choose(), incoming)
        try:
            await connection.open()
        except BaseException as error:
            await connection.close()
            self._versions.failed(error)
            raise
        if self._is_closed:  # meanwhile
            await connection.close()
            return 0.0
        return await self._stay(connection, early)

    async def _stay(self, connection: Connection, early: list[Incoming]) -> float:
        self._welcome(connection)
        for message in early:
            self._on_message(connection, message)
        try:
            code = await self._wait_for_end(connection)
        finally:
            lasted_s = self._state_s()
            self._changed_at = time.monotonic()
            self._connection = None
            self._up.clear()
            await connection.close()
        self._was_taken = self._is_takeover(code, lasted_s)
        taken, lost = "another client with this node's name took the connection", "connection lost"
        self._on_down(taken if self._was_taken else lost)
        return TAKEOVER_PAUSE_S if self._was_taken else 0.0

    def _welcome(self, connection: Connection) -> None:
        self._versions.succeeded()
        self._refusal = None
        self.absent_s = self._state_s()
        self._changed_at = time.monotonic()
        self._connection = connection
        self.num_connects += 1
        log.info(
            "connected to the broker with MQTT %s%s", "5" if connection.is_v5 else "3.1.1", self._purpose
        )
        for finding in connection.findings:
            log.warning("%s %s", finding.what, finding.remedy)
        self._on_up(connection)
        self._up.set()

    def _state_s(self) -> float:
        """Since when it is up, or down."""
        return time.monotonic() - self._changed_at

    async def _wait_for_end(self, connection: Connection) -> int:
        """The end of the connection; one that speaks 3.1.1 for want of better is ended after an hour."""
        try:
            async with asyncio.timeout(self._versions.stay_s):
                return await connection.closed()
        except TimeoutError:
            return 0

    def _is_takeover(self, code: int, lasted_s: float) -> bool:
        """Some brokers say so (MQTT 5); others, mosquitto 2.0.11 among them, just close: two quick closes
        in a row count as one. Where it was the broker's trouble, staying away is right as well."""
        self._num_kicks = self._num_kicks + 1 if lasted_s < KICKED_WITHIN_S else 0
        if self._is_closed:
            return False
        if code != TAKEN_OVER and self._num_kicks < 2:
            log.warning("the connection to the broker broke%s", self._purpose)
            return False
        self._num_kicks = 0
        log.error(
            "another client with this node's name is connected to the broker; give each box its own `node`."
            " Staying away for %.0f s",
            TAKEOVER_PAUSE_S,
        )
        return True


def backoff_s(num_failures: int) -> float:
    """How long to wait after so many failures in a row; 0 is for a connection that was well and broke.

    Full jitter, from the first: the boxes that lost one broker together come back one by one.
    """
    ceiling = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(max(0, num_failures - 1), 10))
    return random.uniform(MIN_BACKOFF_S, ceiling)  # noqa: S311 - spreads load, hides nothing
