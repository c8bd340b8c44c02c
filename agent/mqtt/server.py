"""What a server says in its CONNACK that it can, as far as it bounds us."""

from dataclasses import dataclass, replace
from typing import Any

from agent.mqtt.wire import Publish

# One publish of ours is at most this, and less where the server says so.
MAX_PUBLISH_BYTES = 64 << 10
# Topic, properties and fixed header beside the payload.
PUBLISH_OVERHEAD_BYTES = 512
# QoS 1 publishes under way at once: what mosquitto allows, and enough for any link.
WINDOW = 20


@dataclass(frozen=True, slots=True)
class Server:
    """The defaults hold for a server that says nothing, as 3.1.1 has it."""

    max_publish_bytes: int = MAX_PUBLISH_BYTES - PUBLISH_OVERHEAD_BYTES
    window: int = WINDOW
    max_qos: int = 1
    has_retain: bool = True
    has_shared: bool = True

    def fit(self, message: Publish) -> Publish:
        """The message as this server can take it."""
        if message.qos <= self.max_qos and (self.has_retain or not message.retain):
            return message
        return replace(message, qos=min(message.qos, self.max_qos), retain=message.retain and self.has_retain)


def read_connack(properties: Any) -> Server:
    """`properties` as paho has them, an attribute for each that was sent, or None."""

    def said(name: str, default: int) -> int:
        value: int = getattr(properties, name, default)
        return value

    # Topic aliases are used only by whom both sides allow them: nobody does.
    packet_bytes = said("MaximumPacketSize", MAX_PUBLISH_BYTES)
    room = max(packet_bytes - PUBLISH_OVERHEAD_BYTES, packet_bytes // 2)
    return Server(
        max_publish_bytes=min(room, MAX_PUBLISH_BYTES - PUBLISH_OVERHEAD_BYTES),
        window=min(said("ReceiveMaximum", WINDOW), WINDOW),
        max_qos=min(said("MaximumQoS", 1), 1),
        has_retain=bool(said("RetainAvailable", 1)),
        has_shared=bool(said("SharedSubscriptionAvailable", 1)),
    )
