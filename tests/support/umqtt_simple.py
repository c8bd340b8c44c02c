"""A stand-in for MicroPython's umqtt.simple, on CPython's sockets, with the limits of the original.

MQTT 3.1.1 without properties; publishes at QoS 0 and 1, blocking until the PUBACK; a message is in memory
as a whole; callbacks run inside publish, subscribe, wait_msg and check_msg; no ping unless asked for.
"""

import socket
import struct
from collections.abc import Callable

Callback = Callable[[bytes, bytes], None]


class MQTTException(Exception):
    """CONNECT was refused."""


class MQTTClient:
    """See micropython-lib, umqtt.simple. `max_message` is the largest packet that was received, in bytes."""

    max_message = 0

    def __init__(
        self,
        client_id: str,
        server: str,
        port: int = 1883,
        user: str | None = None,
        password: str | None = None,
        keepalive: int = 0,
    ) -> None:
        self._id, self._address = client_id, (server, port)
        self._user, self._password, self._keepalive = user, password, keepalive
        self._callback: Callback | None = None
        self._pid = 0
        self._sock: socket.socket | None = None

    def set_callback(self, callback: Callback) -> None:
        self._callback = callback

    def connect(self, clean_session: bool = True) -> bool:
        """Raises OSError or MQTTException; the original has no timeout either."""
        self._sock = socket.create_connection(self._address)
        flags = clean_session << 1
        payload = _string(self._id)
        if self._user is not None:
            flags |= 0xC0
            payload += _string(self._user) + _string(self._password or "")
        self._send(0x10, _string("MQTT") + bytes([4, flags]) + struct.pack("!H", self._keepalive) + payload)
        answer = self._read(4)
        assert answer[:2] == b"\x20\x02"
        if answer[3]:
            raise MQTTException(answer[3])
        return bool(answer[2] & 1)

    def disconnect(self) -> None:
        assert self._sock is not None
        try:
            self._sock.sendall(b"\xe0\0")
        finally:
            self._sock.close()

    def ping(self) -> None:
        self._send(0xC0, b"")

    def publish(self, topic: str | bytes, message: str | bytes, retain: bool = False, qos: int = 0) -> None:
        assert qos in (0, 1), "umqtt.simple has no QoS 2"
        pid = self._next_pid() if qos else b""
        payload = message.encode() if isinstance(message, str) else message
        self._send(0x30 | qos << 1 | retain, _string(topic) + pid + payload)
        while qos:
            if self.wait_msg() == 0x40 and self._last[-2:] == pid:
                return

    def subscribe(self, topic: str | bytes, qos: int = 0) -> None:
        assert self._callback is not None, "Subscribe callback is not set"
        self._send(0x82, self._next_pid() + _string(topic) + bytes([qos]))
        while True:
            if self.wait_msg() == 0x90:
                if self._last[-1] == 0x80:
                    raise MQTTException(0x80)
                return

    def wait_msg(self) -> int | None:
        """Handle one packet; the type of any but a PUBLISH. Raises OSError when the connection ended."""
        assert self._sock is not None
        try:
            first = self._sock.recv(1)
        except BlockingIOError:
            return None
        finally:
            self._sock.setblocking(True)
        if not first:
            raise OSError(-1)
        size = self._read_size()
        MQTTClient.max_message = max(MQTTClient.max_message, 2 + (size > 127) + size)
        self._last = self._read(size)
        if first[0] & 0xF0 != 0x30:
            return first[0]
        self._deliver(first[0], self._last)
        return None

    def check_msg(self) -> int | None:
        """As wait_msg, without waiting."""
        assert self._sock is not None
        self._sock.setblocking(False)
        return self.wait_msg()

    def _deliver(self, first: int, packet: bytes) -> None:
        qos = first >> 1 & 3
        assert qos < 2, "umqtt.simple has no QoS 2"
        end = 2 + struct.unpack_from("!H", packet)[0]
        start = end + 2 * qos
        assert self._callback is not None
        self._callback(packet[2:end], packet[start:])
        if qos:
            self._send(0x40, packet[end:start])

    def _next_pid(self) -> bytes:
        self._pid += 1
        return struct.pack("!H", self._pid)

    def _send(self, first: int, packet: bytes) -> None:
        assert self._sock is not None
        size, length = len(packet), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        self._sock.sendall(bytes([first]) + length + bytes([size]) + packet)

    def _read_size(self) -> int:
        size, shift = 0, 0
        while True:
            byte = self._read(1)[0]
            size, shift = size | (byte & 127) << shift, shift + 7
            if byte < 128:
                return size

    def _read(self, size: int) -> bytes:
        assert self._sock is not None
        data = b""
        while len(data) < size:
            part = self._sock.recv(size - len(data))
            if not part:
                raise OSError(-1)
            data += part
        return data


def _string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("!H", len(data)) + data
