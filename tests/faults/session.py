"""A device's MQTT session: reconnects, subscribes again, repeats what was not acknowledged, with DUP."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults import wire
from tests.faults.wire import Message

KEEPALIVE_S = 5
PING_EVERY_S = 2.0
# Without a byte for so long the connection is dead, whatever TCP says.
SILENT_S = 6.0
RETRY_S = 0.2
EXPIRY_S = 600
CONNECT_WITHIN_S = 3.0


@dataclass(slots=True)
class Session:
    """`on_message` gets every publish once it was acknowledged; `on_ack` the tag of one of ours.

    `run` until cancelled. What is published while there is no connection waits for the next one.
    """

    port: int
    client_id: str
    filters: dict[str, int]
    on_message: Callable[[Message], None]
    on_ack: Callable[[str], None] = lambda _tag: None
    num_connects: int = 0
    is_up: asyncio.Event = field(default_factory=asyncio.Event)
    _unacked: dict[int, tuple[str, bytes, str]] = field(default_factory=dict)
    _next_mid: int = 1
    _writer: asyncio.StreamWriter | None = None

    def publish(self, topic: str, payload: bytes, tag: str = "") -> None:
        """At QoS 1, as often as it takes."""
        mid = self._new_mid()
        self._unacked[mid] = topic, payload, tag
        if self._writer is not None:
            self._writer.write(wire.publish(topic, payload, mid))

    def publish_twice(self, topic: str, payload: bytes) -> None:
        """One packet on the wire twice, the second with DUP, as after a reconnect."""
        mid = self._new_mid()
        self._unacked[mid] = topic, payload, ""
        if self._writer is not None:
            self._writer.write(wire.publish(topic, payload, mid))
            self._writer.write(wire.publish(topic, payload, mid, is_duplicate=True))

    async def run(self) -> None:
        """Be connected, or try to, until cancelled; then disconnect politely."""
        while True:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                await self._live_once()
            await asyncio.sleep(RETRY_S)

    async def _live_once(self) -> None:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                await self._greet(reader, writer)
            await self._listen(reader, writer)
        except asyncio.CancelledError:
            writer.write(wire.disconnect())
            raise
        finally:
            self.is_up.clear()
            self._writer = None
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.connect(self.client_id, KEEPALIVE_S, clean=False, expiry_s=EXPIRY_S))
        packet = await wire.read_packet(reader)
        if packet.kind != wire.CONNACK:
            raise ConnectionError("no CONNACK")
        knows_us = wire.has_session(packet)
        # 65535 is never one of ours: a SUBACK is waited for by nobody but `_take`.
        writer.write(wire.subscribe(0xFFFF, self.filters))
        for mid, (topic, payload, _) in self._unacked.items():
            writer.write(wire.publish(topic, payload, mid, is_duplicate=knows_us))
        self._writer = writer
        self.num_connects += 1

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read until the connection ends; ping in pauses, and give up a silent one."""
        heard_at = pinged_at = asyncio.get_running_loop().time()
        reading = asyncio.ensure_future(wire.read_packet(reader))
        try:
            while True:
                done, _ = await asyncio.wait([reading], timeout=PING_EVERY_S)
                now = asyncio.get_running_loop().time()
                if done:
                    heard_at = now
                    self._take(reading.result(), writer)
                    reading = asyncio.ensure_future(wire.read_packet(reader))
                if now - heard_at > SILENT_S:
                    raise ConnectionError("the broker is silent")
                if now - pinged_at >= PING_EVERY_S:
                    pinged_at = now
                    writer.write(wire.pingreq())
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _take(self, packet: wire.Packet, writer: asyncio.StreamWriter) -> None:
        match packet.kind:
            case wire.PUBLISH:
                message = wire.read_message(packet)
                if message.qos:
                    writer.write(wire.puback(message.mid))
                self.on_message(message)
            case wire.PUBACK:
                entry = self._unacked.pop(wire.read_mid(packet), None)
                if entry is not None:
                    self.on_ack(entry[2])
            case wire.SUBACK:
                self.is_up.set()

    def _new_mid(self) -> int:
        """The next packet id that is free."""
        while self._next_mid in self._unacked:
            self._next_mid = self._next_mid % 0xFFFE + 1
        mid = self._next_mid
        self._next_mid = mid % 0xFFFE + 1
        return mid
