"""Where one request's frames go, and how large they may be."""

from msgspec import Struct

# Topic length, packet id, and the length of MQTT 5's properties.
_FIXED_BYTES = 2 + 2 + 1
# A property's identifier and the length of its value.
_PROPERTY_BYTES = 3
# A packet shorter than this says its length in two bytes at most.
_SHORT_BYTES = 1 << 14


class Route(Struct, frozen=True):
    """`qos` is that of the deltas. `max_frame` is the most bytes a whole PUBLISH packet to this device may
    have, its topic included: what the receive buffer of a small one holds."""

    topic: str
    qos: int = 0
    correlation: bytes | None = None
    max_frame: int | None = None

    def room(self, max_publish_bytes: int) -> int:
        """How many bytes a payload may have; 0 or less when the topic alone is too long.

        `max_publish_bytes` is what the broker takes as payload.
        """
        if self.max_frame is None:
            return max_publish_bytes
        return min(max_publish_bytes, self.max_frame - self.overhead)

    @property
    def overhead(self) -> int:
        """What a packet has besides its payload, in bytes."""
        header = 3 if (self.max_frame or 0) < _SHORT_BYTES else 4
        properties = 0 if self.correlation is None else _PROPERTY_BYTES + len(self.correlation)
        return header + _FIXED_BYTES + len(self.topic.encode()) + properties
