"""One connection to the broker, from CONNECT to its end. The only module that imports paho.

paho's callbacks run on paho's own thread and may not raise; here they do nothing but hand over to
the event loop. A `Connection` is used once: what was in flight when it broke is the caller's to
repeat on the next one, so that no acknowledgement can reach another session's message.
"""

import asyncio
import contextlib
import logging
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.config import Mqtt
from agent.config_file import read_secret
from agent.errors import BrokerError

log = logging.getLogger(__name__)

SESSION_EXPIRY_S = 600
WILL_DELAY_S = 5
CONNECT_TIMEOUT_S = 10.0
GIVE_UP_CONNECTING_S = 60.0
# One publish of ours is at most this, and less where the server says so.
MAX_PUBLISH_BYTES = 64 << 10
# Larger messages are not sent to us (MQTT 5). Well above what is answered `too_large`, well below
# what would hurt a small board.
MAX_INCOMING_BYTES = 2 << 20
# Topic, properties and fixed header beside the payload.
PUBLISH_OVERHEAD_BYTES = 512
_RETAIN_DO_NOT_SEND = 2
_UNSUPPORTED_PROTOCOL = {0x84, 0x01}
TAKEN_OVER = 0x8E


class ProtocolRefused(BrokerError):
    """The broker says that it does not speak this version of MQTT."""


class ClosedUnheard(BrokerError):
    """The broker did not answer CONNECT: some close, and some wait for ever, on versions they do not know."""


class ConnectRefused(BrokerError):
    """The broker answered CONNECT with a no; `code` is its reason code (MQTT 5, 3.2.2.2)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class ConnectionLost(BrokerError):
    """The connection ended before the broker acknowledged."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A publish that reached us; `mid` is what its acknowledgement needs."""

    topic: str
    payload: bytes
    qos: int
    mid: int
    is_retained: bool
    is_duplicate: bool
    response_topic: str | None
    correlation: bytes | None
    expiry_s: int | None
    content_type: str | None


@dataclass(frozen=True, slots=True)
class Publish:
    """A message to send. `correlation` needs MQTT 5 and is left out without it."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    correlation: bytes | None = None


class _Client(paho.Client):
    """Drops a publish whose properties paho cannot read (U+FEFF in a string is legal and enough).

    Left alone, paho would close the connection, and the broker deliver the message again for ever.
    """

    def _handle_publish(self) -> MQTTErrorCode:
        try:
            return super()._handle_publish()
        except MQTTException as error:
            log.warning("ignored a message that cannot be read: %s", error)
            packet, qos = self._in_packet["packet"], self._in_packet["command"] >> 1 & 3
            if not qos:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            (length,) = struct.unpack_from("!H", packet)
            (mid,) = struct.unpack_from("!H", packet, 2 + length)
            return self._send_puback(mid)


class _TlsSocket(ssl.SSLSocket):
    """Closes when the handshake fails; paho leaves that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


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
    ) -> None:
        """Raises BrokerError when TLS files cannot be used, ConfigError when the password file cannot.

        `keeps_session`: the broker is to remember us for a while; `timeout_s` bounds each step of `open`.
        """
        self.is_v5 = is_v5
        self.max_publish_bytes = MAX_PUBLISH_BYTES - PUBLISH_OVERHEAD_BYTES
        self._settings = settings
        self._on_message = on_message
        self._keeps_session = keeps_session
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[int] = self._loop.create_future()
        self._connecting: asyncio.Future[None] | None = None
        self._acks: dict[int, asyncio.Future[int]] = {}
        self._client = self._make_client(client_id, will)

    @property
    def is_open(self) -> bool:
        return self._connected.done() and not self._closed.done()

    async def open(self) -> None:
        """Connect and wait for the CONNACK. Raises ProtocolRefused or BrokerError."""
        host, port = self._settings.host, self._settings.port
        # connect() resolves, connects and shakes hands with TLS, all blocking.
        self._connecting = asyncio.ensure_future(asyncio.to_thread(self._connect_blocking))
        try:
            await asyncio.wait_for(asyncio.shield(self._connecting), self._timeout_s * 2)
            self._client.loop_start()
        except TimeoutError as error:
            raise BrokerError(f"the broker at {host}:{port} does not answer") from error
        except (OSError, ValueError) as error:
            raise BrokerError(f"the broker at {host}:{port} cannot be reached: {error}") from error
        try:
            await asyncio.wait_for(asyncio.shield(self._connected), self._timeout_s)
        except TimeoutError as error:
            raise ClosedUnheard(f"the broker at {host}:{port} does not answer CONNECT") from error

    def subscribe(self, filters: list[str]) -> None:
        """Ask for the topics. A refusal (an ACL, say) is logged: the box would be deaf and say nothing."""
        if self.is_v5:
            options = SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=_RETAIN_DO_NOT_SEND)
            self._client.subscribe([(name, options) for name in filters])
        else:
            self._client.subscribe([(name, 1) for name in filters])

    def publish(self, message: Publish) -> "asyncio.Future[int]":
        """Send; the future gives the broker's reason code (0 at QoS 0). It fails with ConnectionLost."""
        acked: asyncio.Future[int] = self._loop.create_future()
        if not self.is_open:
            acked.set_exception(ConnectionLost("the connection to the broker is down"))
            return acked
        properties = self._publish_properties(message)
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain, properties)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            acked.set_exception(ConnectionLost(paho.error_string(info.rc)))
        elif message.qos:
            # The PUBACK may be here already, but it is handed to the loop, and we hold the loop.
            self._acks[info.mid] = acked
        else:
            acked.set_result(0)
        return acked

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
        if self._connecting is not None:
            await asyncio.wait([self._connecting], timeout=GIVE_UP_CONNECTING_S)
            self._connecting.cancelled() or (self._connecting.done() and self._connecting.exception())
        await asyncio.to_thread(self._close_blocking)
        self._end(0)

    # ---- paho --------------------------------------------------------------------------------

    def _make_client(self, client_id: str, will: Publish | None) -> paho.Client:
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if self.is_v5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if self.is_v5 else not self._keeps_session,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = self._timeout_s
        settings = self._settings
        if settings.username is not None:
            password = read_secret(settings.password_file) if settings.password_file else None
            client.username_pw_set(settings.username, password)
        if settings.tls is not None:
            _set_tls(client, settings)
        if will is not None:
            properties = None
            if self.is_v5:
                properties = _properties(PacketTypes.WILLMESSAGE)
                properties.WillDelayInterval = WILL_DELAY_S
            client.will_set(will.topic, will.payload, will.qos, will.retain, properties)
        client.on_connect = self._paho_connect
        client.on_disconnect = self._paho_disconnect
        client.on_message = self._paho_message
        client.on_publish = self._paho_publish
        client.on_subscribe = self._paho_subscribe
        return client

    def _connect_blocking(self) -> None:
        settings = self._settings
        if not self.is_v5:
            self._client.connect(settings.host, settings.port, settings.keepalive_s)
            return
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = SESSION_EXPIRY_S if self._keeps_session else 0
        properties.MaximumPacketSize = MAX_INCOMING_BYTES
        self._client.connect(
            settings.host,
            settings.port,
            settings.keepalive_s,
            clean_start=not self._keeps_session,
            properties=properties,
        )

    def _close_blocking(self) -> None:
        with contextlib.suppress(Exception):  # the socket may be gone in any way
            self._client.disconnect()
        self._client.loop_stop()

    def _publish_properties(self, message: Publish) -> Any:
        if not self.is_v5 or message.correlation is None:
            return None
        properties = _properties(PacketTypes.PUBLISH)
        properties.CorrelationData = message.correlation
        return properties

    # ---- paho's thread: hand over and nothing else -------------------------------------------

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(function, *args)

    def _paho_connect(
        self,
        _client: object,
        _data: object,
        _flags: object,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        limit = getattr(properties, "MaximumPacketSize", None)
        self._call(self._take_connack, reason.value, str(reason), limit)

    def _paho_disconnect(
        self, _client: object, _data: object, flags: Any, reason: ReasonCode, _properties: object
    ) -> None:
        self._call(self._end, reason.value if flags.is_disconnect_packet_from_server else 0)

    def _paho_publish(
        self, _client: object, _data: object, mid: int, reason: ReasonCode, _properties: object
    ) -> None:
        self._call(self._take_puback, mid, reason.value)

    def _paho_subscribe(
        self, _client: object, _data: object, _mid: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            log.error(
                "the broker refuses our subscription (%s); allow this user to read its topics", refused[0]
            )

    def _paho_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        properties = getattr(message, "properties", None)
        incoming = Incoming(
            topic=topic,
            payload=bytes(message.payload),
            qos=message.qos,
            mid=message.mid,
            is_retained=message.retain,
            is_duplicate=message.dup,
            response_topic=getattr(properties, "ResponseTopic", None),
            correlation=getattr(properties, "CorrelationData", None),
            expiry_s=getattr(properties, "MessageExpiryInterval", None),
            content_type=getattr(properties, "ContentType", None),
        )
        self._call(self._on_message, incoming)

    # ---- the loop's side ---------------------------------------------------------------------

    def _take_connack(self, code: int, text: str, max_packet_bytes: int | None) -> None:
        if self._connected.done():
            return
        if code in _UNSUPPORTED_PROTOCOL:
            self._connected.set_exception(ProtocolRefused(f"the broker refuses this MQTT version ({text})"))
        elif code >= 0x80 or (not self.is_v5 and code):
            self._connected.set_exception(ConnectRefused(f"the broker refuses the connection: {text}", code))
        else:
            if max_packet_bytes is not None:
                room = max(max_packet_bytes - PUBLISH_OVERHEAD_BYTES, max_packet_bytes // 2)
                self.max_publish_bytes = min(self.max_publish_bytes, room)
            self._connected.set_result(None)

    def _take_puback(self, mid: int, code: int) -> None:
        acked = self._acks.pop(mid, None)
        if acked is not None and not acked.done():
            acked.set_result(code)

    def _end(self, code: int) -> None:
        if not self._connected.done():
            self._connected.set_exception(
                ClosedUnheard("the broker closed the connection before answering CONNECT")
            )
            self._connected.exception()  # it may be that nobody waits for it any more
        if not self._closed.done():
            self._closed.set_result(code)
        pending, self._acks = list(self._acks.values()), {}
        for acked in pending:
            if not acked.done():
                acked.set_exception(ConnectionLost("the connection to the broker broke"))


def _properties(packet_type: int) -> Any:
    return Properties(packet_type)  # type: ignore[no-untyped-call]


def _set_tls(client: paho.Client, settings: Mqtt) -> None:
    tls = settings.tls
    assert tls is not None
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise BrokerError(f"mqtt.tls: the files cannot be used: {error}") from error
    context.sslsocket_class = _TlsSocket
    client.tls_set_context(context)
