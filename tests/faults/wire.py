"""As much of MQTT 5 on the wire as a simulated device needs, and no more.

Not paho: a device here must be able to say DUP, to leave a publish unacknowledged, and to be one of
hundreds on a single thread.
"""

import asyncio
import struct
from collections.abc import Iterator
from dataclasses import dataclass

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ, PINGRESP, DISCONNECT = (
    *(1, 2, 3, 4, 8, 9, 12, 13, 14),
)
_SESSION_EXPIRY = 0x11
# Of one packet; mosquitto sends nothing larger to anyone here.
MAX_PACKET_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Packet:
    """A control packet as it came: its kind, the four flag bits, and all behind the fixed header."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A publish."""

    topic: str
    payload: bytes
    qos: int
    mid: int
    is_duplicate: bool
    is_retained: bool


def connect(client_id: str, keepalive_s: int, *, clean: bool, expiry_s: int) -> bytes:
    """CONNECT; the session lives `expiry_s` seconds beyond the connection."""
    properties = struct.pack("!BI", _SESSION_EXPIRY, expiry_s)
    head = _text("MQTT") + struct.pack("!BBH", 5, 2 if clean else 0, keepalive_s)
    return _packet(CONNECT, 0, head + _sized(properties) + _text(client_id))


def subscribe(mid: int, filters: dict[str, int]) -> bytes:
    """SUBSCRIBE to filters, each with its QoS."""
    topics = b"".join(_text(name) + bytes([qos]) for name, qos in filters.items())
    return _packet(SUBSCRIBE, 2, struct.pack("!HB", mid, 0) + topics)


def publish(topic: str, payload: bytes, mid: int = 0, *, is_duplicate: bool = False) -> bytes:
    """PUBLISH at QoS 1, or at 0 without a packet id."""
    flags = (8 if is_duplicate else 0) | (2 if mid else 0)
    ids = struct.pack("!H", mid) if mid else b""
    return _packet(PUBLISH, flags, _text(topic) + ids + b"\0" + payload)


def puback(mid: int) -> bytes:
    return _packet(PUBACK, 0, struct.pack("!H", mid))


def pingreq() -> bytes:
    return _packet(PINGREQ, 0, b"")


def disconnect() -> bytes:
    return _packet(DISCONNECT, 0, b"")


async def read_packet(reader: asyncio.StreamReader) -> Packet:
    """The next packet. Raises IncompleteReadError (an EOFError) at the end, OSError when it broke."""
    first = (await reader.readexactly(1))[0]
    size = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    if size > MAX_PACKET_BYTES:
        raise ConnectionError(f"a packet of {size} bytes")
    return Packet(first >> 4, first & 15, await reader.readexactly(size))


def read_message(packet: Packet) -> Message:
    """The publish in a packet."""
    body, qos = packet.body, packet.flags >> 1 & 3
    (length,) = struct.unpack_from("!H", body)
    at = 2 + length
    topic = body[2:at].decode()
    mid = 0
    if qos:
        (mid,) = struct.unpack_from("!H", body, at)
        at += 2
    size, at = _read_size(body, at)
    return Message(topic, body[at + size :], qos, mid, bool(packet.flags & 8), bool(packet.flags & 1))


def read_mid(packet: Packet) -> int:
    """The packet id a PUBACK or SUBACK is about."""
    (mid,) = struct.unpack_from("!H", packet.body)
    return int(mid)


def has_session(connack: Packet) -> bool:
    """The broker knew this client. Raises ConnectionError when it refuses it."""
    flags, reason = connack.body[:2]
    if reason >= 0x80:
        raise ConnectionError(f"the broker refuses: 0x{reason:02x}")
    return bool(flags & 1)


def _packet(kind: int, flags: int, body: bytes) -> bytes:
    return bytes([kind << 4 | flags]) + bytes(_size(len(body))) + body


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("!H", len(raw)) + raw


def _sized(raw: bytes) -> bytes:
    return bytes(_size(len(raw))) + raw


def _size(number: int) -> Iterator[int]:
    """MQTT's variable length integer."""
    while number >= 0x80:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number


def _read_size(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
