"""All that is needed to answer an accepted request again after a crash: what the journal keeps of it."""

import msgspec
from msgspec import Struct

from agent.mqtt.route import Route
from agent.request import Request


class Intent(Struct, frozen=True):
    """`request` as it was taken in: its seed drawn, its session's history not in front of it yet.

    `mid` is the packet id under which it came, where its own id was made here: a redelivery gets the same.
    """

    request: Request
    route: Route
    is_text: bool = False
    is_streamed: bool = True
    replaces_history: bool = False
    mid: int | None = None


_decoder = msgspec.msgpack.Decoder(Intent)


def encode(intent: Intent) -> bytes:
    """The bytes for the journal."""
    return msgspec.msgpack.encode(intent)


def decode(data: bytes) -> Intent | None:
    """The intent in these bytes; None when another release wrote them and this one cannot read them."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
