"""One connection to the broker, from CONNECT to its end.

A `Connection` is used once: what was in flight when it broke is the caller's to repeat on the next one,
so that no acknowledgement can reach another session's message.
"""

import asyncio
import functools
import logging
import ssl
import stat
import time
from collections.abc import Callable

from agent.config import Mqtt
from agent.config_file import read_secret
from agent.errors import BrokerError
from agent.findings import Finding, Severity
from agent.mqtt.paho_client import Listener, PahoClient
from agent.mqtt.server import Server
from agent.mqtt.subscriptions import Subscriptions
from agent.mqtt.tls import explain, trust
from agent.mqtt.window import Unwritten, Window
from agent.mqtt.wire import (
    TAKEN_OVER,
    ClosedUnheard,
    ConnectionLost,
    ConnectRefused,
    Incoming,
    Overfull,
    ProtocolRefused,
    Publish,
    TlsRefused,
)
from agent.places import credential

# The words of a connection (wire.py) are had here too, by those who use one.
__all__ = [
    "TAKEN_OVER",
    "ClosedUnheard",
    "ConnectRefused",
    "Connection",
    "ConnectionLost",
    "Incoming",
    "Overfull",
    "ProtocolRefused",
    "Publish",
    "TlsRefused",
]

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
GIVE_UP_CONNECTING_S = 60.0
# With so much not taken by the broker, more would only make devices' texts older.
CONGESTED_BYTES = 256 << 10
LOOK_AGAIN_S = 0.05
_UNSUPPORTED_PROTOCOL = {0x84, 0x01}
_NO_POOLS = Finding(
    Severity.WARNING,
    "broker_no_pools",
    "The broker has no shared subscriptions, so this box gets nothing of its pools.",
    "Use a broker that has them (mosquitto does), or take `pools` out of the configuration.",
)


class Connection:
    """`on_message` is called on the loop for every publish that arrives, in order."""

    def __init__(
        self,
        settings: Mqtt,
        client_id: str,
        will: Publish | None,
        is_v5: bool,
        on_message: Callable[[Incoming], None],
        *,
        keeps_session: bool = True,
        timeout_s: float = CONNECT_TIMEOUT_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raises BrokerError when TLS files cannot be used, ConfigError when the password file cannot.

        `keeps_session`: the broker is to remember us for a while; `timeout_s` bounds each step of `open`;
        `now` is the box's clock, which certificates are compared with.
        """
        self.is_v5 = is_v5
        self._server = Server()
        self._settings = settings
        self._timeout_s = timeout_s
        self._now = now
        self._notes: tuple[Finding, ...] = ()
        loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[int] = loop.create_future()
        self._connecting: asyncio.Future[None] | None = None
        self._is_leaving = False
        self._window = Window(self._send, self._server.window)
        self._unwritten = Unwritten()
        listener = Listener(
            self._take_connack, self._window.acknowledge, self._take_suback, on_message, self._end
        )
        self._client = PahoClient(client_id, listener, is_v5=is_v5, keeps_session=keeps_session)
        self._subscriptions = Subscriptions(self._client.ask_for)
        self._set_up_client(will)

    # ---- how it is doing ---------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self._connected.done() and not self._closed.done() and not self._is_leaving

    @property
    def is_alive(self) -> bool:
        """False when it is open and nobody serves it: paho's thread is gone."""
        return not self.is_open or self._client.is_running

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What a person should know of it."""
        return (*self._notes, *self._subscriptions.findings())

    @property
    def max_publish_bytes(self) -> int:
        """The largest payload that may be published."""
        return self._server.max_publish_bytes

    @property
    def has_shared_subscriptions(self) -> bool:
        """False where the broker deals nothing out among its subscribers: no pool there."""
        return self._server.has_shared

    @property
    def queued_bytes(self) -> int:
        """What was published and the broker has not taken: QoS 0 not written, QoS 1 not acknowledged."""
        return self._window.num_bytes + self._unwritten.num_bytes

    @property
    def is_congested(self) -> bool:
        """Who can wait should: see `wait_room`."""
        return self.queued_bytes > CONGESTED_BYTES

    async def wait_room(self) -> None:
        """Return when it is not congested, or over."""
        # Looked at, for paho would tell of each publish by itself, on its thread.
        while self.is_open and self.is_congested:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_AGAIN_S)

    # ---- what it does ------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect and wait for the CONNACK. Raises ProtocolRefused or another BrokerError."""
        settings = self._settings
        where = f"{settings.host}:{settings.port}"
        dialled = asyncio.to_thread(self._client.dial, settings.host, settings.port, settings.keepalive_s)
        self._connecting = asyncio.ensure_future(dialled)
        try:
            # Not wait_for: in Python 3.11 it forgets a cancellation that comes together with the result.
            async with asyncio.timeout(self._timeout_s * 2):
                await asyncio.shield(self._connecting)
        except TimeoutError as error:
            raise BrokerError(f"the broker at {where} does not answer") from error
        except (OSError, ValueError) as error:
            if settings.tls is not None and isinstance(error, ssl.SSLError | ConnectionResetError):
                raise explain(error, where, self._now()) from error
            raise BrokerError(f"the broker at {where} cannot be reached: {error}") from error
        self._client.loop_start()
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.shield(self._connected)
        except TimeoutError as error:
            raise ClosedUnheard(f"the broker at {where} does not answer CONNECT") from error

    def subscribe(self, filters: list[str]) -> None:
        """Ask for the topics. What is refused (by an ACL, say) is a finding, and asked for again later.

        A broker without shared subscriptions is not asked for any: it would end the connection.
        """
        taken = self._known(filters)
        if len(taken) < len(filters) and _NO_POOLS not in self._notes:
            self._notes = (*self._notes, _NO_POOLS)
            log.warning("%s %s", _NO_POOLS.what, _NO_POOLS.remedy)
        self._subscriptions.subscribe(taken)

    def unsubscribe(self, filters: list[str]) -> None:
        """Hear no more of them. What is not acknowledged yet still may be."""
        self._subscriptions.forget(filters)
        if self.is_open and (taken := self._known(filters)):
            self._client.ask_no_more(taken)

    def publish(self, message: Publish) -> "asyncio.Future[int]":
        """Send; the future gives the broker's reason code (0 at QoS 0). It fails with ConnectionLost.

        At QoS 1 it waits, in order, until the server may be given it: see window.py.
        """
        message = self._server.fit(message)
        if message.qos:
            return self._window.put(message)
        sent: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        try:
            self._send(message)
            sent.set_result(0)
        except ConnectionLost as error:
            sent.set_exception(error)
        return sent

    def acknowledge(self, message: Incoming) -> None:
        """Tell the broker that this message is ours now (PUBACK)."""
        if message.qos and self.is_open:
            self._client.ack(message.mid, message.qos)

    async def closed(self) -> int:
        """Wait for the end; the broker's reason code, or 0 for a broken connection."""
        return await asyncio.shield(self._closed)

    async def close(self) -> None:
        """Disconnect politely, and end paho's thread.

        An attempt that is still under way is waited for: it would come through later and take the
        session from the connection after this one.
        """
        self._is_leaving = True
        if self._connecting is not None:
            await asyncio.wait([self._connecting], timeout=GIVE_UP_CONNECTING_S)
            self._connecting.cancelled() or (self._connecting.done() and self._connecting.exception())
        await asyncio.to_thread(self._client.hang_up)
        self._end(0)

    # ---- the rest ----------------------------------------------------------------------------

    def _set_up_client(self, will: Publish | None) -> None:
        settings, client = self._settings, self._client
        client.connect_timeout = self._timeout_s
        if settings.username is not None:
            client.username_pw_set(settings.username, _password(settings.password_file))
        if settings.tls is not None:
            trusted = trust(settings.tls, self._now())
            client.tls_set_context(trusted.context)
            self._notes = trusted.findings
        if will is not None:
            client.set_will(will)

    def _known(self, filters: list[str]) -> list[str]:
        """Those that the broker understands."""
        return [one for one in filters if self._server.has_shared or not one.startswith("$share/")]

    def _send(self, message: Publish) -> int:
        """Hand over to paho; the message's id."""
        if not self.is_open:
            raise ConnectionLost("the connection to the broker is down")
        receipt = self._client.send(message)
        if not message.qos:
            self._unwritten.add(receipt, message.num_bytes)
        return receipt.mid

    def _take_connack(self, code: int, text: str, server: Server) -> None:
        if self._connected.done():
            return
        if code in _UNSUPPORTED_PROTOCOL:
            self._connected.set_exception(ProtocolRefused(f"the broker refuses this MQTT version ({text})"))
        elif code >= 0x80 or (not self.is_v5 and code):
            self._connected.set_exception(ConnectRefused(f"the broker refuses the connection: {text}", code))
        else:
            self._server = server
            self._window.size = server.window
            self._connected.set_result(None)

    def _take_suback(self, mid: int, refusals: list[str]) -> None:
        self._subscriptions.take(mid, refusals)

    def _end(self, code: int) -> None:
        if not self._connected.done():
            self._connected.set_exception(ClosedUnheard(_unheard(self._settings)))
            self._connected.exception()  # it may be that nobody waits for it any more
        if not self._closed.done():
            self._closed.set_result(code)
        self._subscriptions.end()
        self._unwritten.clear()
        self._window.fail("the connection to the broker broke")


def _unheard(settings: Mqtt) -> str:
    sentence = "the broker closed the connection before answering CONNECT"
    # With TLS 1.3 a server that misses our certificate says so after the handshake only, by closing.
    has_no_cert = settings.tls is not None and settings.tls.cert is None
    return f"{sentence}; it may want mqtt.tls.cert and mqtt.tls.key" if has_no_cert else sentence


def _password(path: str | None) -> str | None:
    if path is None:
        return None
    _warn_if_open(path)
    return read_secret(path)


@functools.lru_cache(maxsize=8)
def _warn_if_open(path: str) -> None:
    """Once in a process."""
    try:
        mode = credential(path).stat().st_mode
    except (OSError, ValueError):
        return  # read_secret says so
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        log.warning("everybody on this box may open mqtt.password_file; close it with: chmod o-rwx %s", path)
