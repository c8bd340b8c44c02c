"""paho and its thread. The only module that imports paho.

paho's callbacks run on paho's own thread and may not raise; here they do nothing but turn paho's values
into ours (wire.py) and hand them over to the event loop.
"""

import asyncio
import contextlib
import logging
import socket
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

from agent.mqtt.server import Server, read_connack
from agent.mqtt.wire import ConnectionLost, Incoming, Publish

log = logging.getLogger(__name__)

SESSION_EXPIRY_S = 600
WILL_DELAY_S = 5
# What DISCONNECT may take; a broker that reads nothing any more is hung up on.
GOODBYE_S = 2.0
# Larger messages are not sent to us (MQTT 5). Well above what is answered `too_large`, well below
# what would hurt a small board.
# So many messages a broker may send us before the first is acknowledged.
MAX_UNACKNOWLEDGED = 64
MAX_INCOMING_BYTES = 2 << 20
_RETAIN_DO_NOT_SEND = 2


@dataclass(frozen=True, slots=True)
class Listener:
    """Called on the event loop. `end` may be called more than once."""

    connack: Callable[[int, str, Server], None]
    puback: Callable[[int, int], None]
    suback: Callable[[int, list[str]], None]
    message: Callable[[Incoming], None]
    end: Callable[[int], None]


class PahoClient(paho.Client):
    """One client for one connection, without what could cost us the connection or the loop's time."""

    def __init__(self, client_id: str, listener: Listener, *, is_v5: bool, keeps_session: bool) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if is_v5 else not keeps_session,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._listener = listener
        self._is_v5 = is_v5
        self._keeps_session = keeps_session
        self._is_over = False
        self._event_loop = asyncio.get_running_loop()
        self.on_connect = self._hear_connack
        self.on_disconnect = self._hear_end
        self.on_message = self._hear_message
        self.on_subscribe = self._hear_suback

    @property
    def is_running(self) -> bool:
        """Its thread lives."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def set_will(self, will: Publish) -> None:
        """What the broker says for us when we are gone."""
        properties = None
        if self._is_v5:
            properties = _properties(PacketTypes.WILLMESSAGE, WillDelayInterval=WILL_DELAY_S)
        self.will_set(will.topic, will.payload, will.qos, will.retain, properties)

    def dial(self, host: str, port: int, keepalive_s: int) -> None:
        """Resolve the name, connect and shake hands with TLS, all blocking. Raises OSError, ValueError."""
        if not self._is_v5:
            self.connect(host, port, keepalive_s)
            return
        properties = _properties(
            PacketTypes.CONNECT,
            SessionExpiryInterval=SESSION_EXPIRY_S if self._keeps_session else 0,
            MaximumPacketSize=MAX_INCOMING_BYTES,
            ReceiveMaximum=MAX_UNACKNOWLEDGED,
        )
        self.connect(host, port, keepalive_s, clean_start=not self._keeps_session, properties=properties)

    def ask_for(self, filters: list[str]) -> int | None:
        """Subscribe; the message id of the SUBACK to come, None when the connection is gone."""
        if self._is_v5:
            options = SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=_RETAIN_DO_NOT_SEND)
            return self.subscribe([(name, options) for name in filters])[1]
        return self.subscribe([(name, 1) for name in filters])[1]

    def ask_no_more(self, filters: list[str]) -> None:
        """Unsubscribe. With a connection that is gone there is nothing left to do."""
        self.unsubscribe(filters)

    def send(self, message: Publish) -> paho.MQTTMessageInfo:
        """Hand a publish over; raises ConnectionLost. The receipt knows its id, and when it is written."""
        properties = None
        if self._is_v5 and (message.correlation is not None or message.expiry_s is not None):
            properties = _properties(
                PacketTypes.PUBLISH,
                CorrelationData=message.correlation,
                MessageExpiryInterval=message.expiry_s,
            )
        receipt = self.publish(message.topic, message.payload, message.qos, message.retain, properties)
        if receipt.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise ConnectionLost(paho.error_string(receipt.rc))
        return receipt

    def hang_up(self) -> None:
        """End the connection and the thread: politely if the broker still reads. Blocks some seconds."""
        self._is_over = True
        with contextlib.suppress(Exception):  # the socket may be gone in any way
            self.disconnect()
        if thread := self._thread:
            thread.join(GOODBYE_S)
        if self.is_running:
            with contextlib.suppress(Exception):
                self._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        self.loop_stop()
        # Not left to the garbage collector, who may come late.
        self._reset_sockets()

    # ---- what paho does otherwise ------------------------------------------------------------

    def _create_socket_connection(self) -> socket.socket:
        sock = super()._create_socket_connection()
        if self._is_over:
            sock.close()
            raise ConnectionAbortedError("given up meanwhile")
        # Nagle's algorithm would hold a token back until the one before is acknowledged.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _thread_main(self) -> None:
        try:
            super()._thread_main()
        finally:
            # However it ended: a connection without its thread would look open for ever.
            self._tell(self._listener.end, 0)

    def _do_on_publish(self, mid: int, reason_code: ReasonCode, properties: Properties) -> MQTTErrorCode:
        # on_publish would be called for every QoS 0 publish too, under ids that QoS 1 may have as well.
        self._tell(self._listener.puback, mid, reason_code.value)
        return super()._do_on_publish(mid, reason_code, properties)

    def _handle_publish(self) -> MQTTErrorCode:
        """Drops a publish whose properties paho cannot read (U+FEFF in a string is legal and enough).

        Left alone, paho would close the connection, and the broker deliver the message again for ever.
        """
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

    # ---- on paho's thread: hand over and nothing else ----------------------------------------

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._event_loop.call_soon_threadsafe(function, *args)

    def _hear_connack(
        self, _client: object, _data: object, _flags: object, reason: ReasonCode, properties: object
    ) -> None:
        self._tell(self._listener.connack, reason.value, str(reason), read_connack(properties))

    def _hear_end(
        self, _client: object, _data: object, flags: Any, reason: ReasonCode, _properties: object
    ) -> None:
        self._tell(self._listener.end, reason.value if flags.is_disconnect_packet_from_server else 0)

    def _hear_suback(
        self, _client: object, _data: object, mid: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        refusals = [str(reason) if reason.is_failure else "" for reason in reasons]
        self._tell(self._listener.suback, mid, refusals)

    def _hear_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
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
        self._tell(self._listener.message, incoming)


def _properties(packet_type: int, **values: Any) -> Any:
    """Those that are not None."""
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        if value is not None:
            setattr(properties, name, value)
    return properties
