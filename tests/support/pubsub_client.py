"""A stand-in for Arduino's PubSubClient 2.8, with the limits of the original.

MQTT 3.1.1; one buffer for what is sent and received, 256 bytes with header and topic; what is larger is read
and dropped without a word, and without a PUBACK; publishes at QoS 0 only; subscribes at QoS 0 or 1.
"""

from tests.support.umqtt_simple import Callback, MQTTClient

BUFFER_BYTES = 256
# What `publish` reckons with besides topic and payload: MQTT_MAX_HEADER_SIZE and the topic's length.
HEADER_BYTES = 5 + 2


class PubSubClient:
    """`num_dropped` counts packets that did not fit into the buffer."""

    def __init__(self, client_id: str, host: str, port: int, callback: Callback) -> None:
        self._mqtt = _Bounded(client_id, host, port, keepalive=15)
        self._mqtt.set_callback(callback)

    @property
    def num_dropped(self) -> int:
        return self._mqtt.num_dropped

    def connect(self) -> bool:
        return not self._mqtt.connect()

    def disconnect(self) -> None:
        self._mqtt.disconnect()

    def subscribe(self, topic: str, qos: int = 0) -> None:
        assert qos in (0, 1)
        self._mqtt.subscribe(topic, qos)

    def publish(self, topic: str, payload: str) -> bool:
        """False, and nothing sent, when it does not fit."""
        if HEADER_BYTES + len(topic.encode()) + len(payload.encode()) > BUFFER_BYTES:
            return False
        self._mqtt.publish(topic, payload)
        return True

    def loop(self) -> None:
        """Handle one packet if there is one. Raises OSError when the connection ended."""
        self._mqtt.check_msg()


class _Bounded(MQTTClient):
    num_dropped = 0

    def _deliver(self, first: int, packet: bytes) -> None:
        if 2 + (len(packet) > 127) + len(packet) > BUFFER_BYTES:
            self.num_dropped += 1
        else:
            super()._deliver(first, packet)
