"""A broker of one connection that says in its CONNACK what a test wants, and acknowledges when it is told to.

It reads MQTT 5 by itself, so that what is checked is what went over the wire.
"""

import asyncio
from dataclasses import dataclass, field

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, DISCONNECT = 1, 2, 3, 4, 8, 9, 14
# Identifiers of MQTT 5's properties.
RECEIVE_MAXIMUM, MAXIMUM_QOS, RETAIN_AVAILABLE, SHARED_AVAILABLE = 0x21, 0x24, 0x25, 0x2A


@dataclass(frozen=True, slots=True)
class Packet:
    """`body` is what follows the remaining length."""

    kind: int
    flags: int
    body: bytes

    @property
    def qos(self) -> int:
        return self.flags >> 1 & 3

    @property
    def is_retained(self) -> bool:
        return bool(self.flags & 1)

    @property
    def mid(self) -> int:
        """Of a PUBLISH at QoS 1, or a SUBSCRIBE."""
        start = 2 + int.from_bytes(self.body[:2], "big") if self.kind == PUBLISH else 0
        return int.from_bytes(self.body[start : start + 2], "big")


@dataclass(slots=True)
class SmallBroker:
    """`connack` are the CONNACK's properties; `refuses` the reason code for every subscription."""

    connack: bytes = b""
    refuses: int = 0
    packets: list[Packet] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None
    _writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> "SmallBroker":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        if self._writer is not None:
            self._writer.close()
        await self._server.wait_closed()

    def of(self, kind: int) -> list[Packet]:
        return [packet for packet in self.packets if packet.kind == kind]

    def acknowledge(self, packet: Packet) -> None:
        """PUBACK with reason code 0."""
        self._say(PUBACK, packet.mid.to_bytes(2, "big") + b"\0\0")

    def hang_up(self) -> None:
        """Close the connection without a word."""
        assert self._writer is not None
        self._writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        try:
            while True:
                packet = await _read(reader)
                self.packets.append(packet)
                if packet.kind == CONNECT:
                    self._say(CONNACK, b"\0\0" + bytes([len(self.connack)]) + self.connack)
                elif packet.kind == SUBSCRIBE:
                    self._say(SUBACK, packet.body[:2] + b"\0" + bytes([self.refuses]))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _say(self, kind: int, body: bytes) -> None:
        assert self._writer is not None
        self._writer.write(bytes([kind << 4, len(body)]) + body)


async def _read(reader: asyncio.StreamReader) -> Packet:
    first = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 127) << shift
        shift += 7
        if digit < 128:
            return Packet(first >> 4, first & 15, await reader.readexactly(length))
