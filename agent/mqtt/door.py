"""What has to be known of a request before it is looked into: its name, its client, its way back."""

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from agent.errors import BadReplyTopic, BadRequest, RequestError
from agent.mqtt import frames, payloads
from agent.mqtt.client import Incoming
from agent.mqtt.fit import smallest_frame
from agent.mqtt.payloads import Envelope
from agent.mqtt.route import Route
from agent.mqtt.topics import Topics

log = logging.getLogger(__name__)

# Names given to requests that brought none, so that their redelivery gets the same.
MAX_REMEMBERED = 256


class TooSmall(BadRequest):
    """No answer fits the frames that are asked for."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request at the door; `error` is what is wrong with it so far, to be answered on `route`."""

    client: str
    envelope: Envelope
    route: Route
    message: Incoming
    error: RequestError | None = None


class Door:
    """Opens messages. A request with a mistake still has a name and a way back for the answer."""

    def __init__(self, topics: Topics, max_bytes: int) -> None:
        self._topics = topics
        self._max_bytes = max_bytes
        self._made_ids: OrderedDict[tuple[str, int, bytes], str] = OrderedDict()

    def open(self, client: str, message: Incoming, pool: str | None = None) -> Arrival:
        """The request in a message that came for a client's request topic, or for a pool's."""
        is_json = (message.content_type or "").split(";")[0].strip() == "application/json"
        envelope, error = payloads.open_envelope(message.payload, is_json=is_json, max_bytes=self._max_bytes)
        envelope = self._name(envelope, client, message)
        route = Route(
            self._topics.response(client, envelope.id, pool),
            envelope.reply_qos,
            correlation(message),
            envelope.max_frame,
        )
        try:
            if message.is_retained:
                raise BadRequest("a retained request is never run; publish it without the retain flag")
            route = self._checked(route, envelope.reply_to, client, message, pool)
            self._check_size(route, envelope)
        except TooSmall as refusal:
            # Cut to what is too small it could not say so.
            route, error = msgspec.structs.replace(route, max_frame=None), refusal
        except RequestError as refusal:
            error = refusal
        return Arrival(client, envelope, route, message, error)

    def remember(self, client: str, mid: int, digest: bytes, request_id: str) -> None:
        """The id that was made for a request that brought none: `digest` is the SHA-256 of its payload."""
        self._made_ids[client, mid, digest] = request_id
        while len(self._made_ids) > MAX_REMEMBERED:
            self._made_ids.popitem(last=False)

    def way_back(self, client: str, request_id: str, message: Incoming) -> tuple[Route, RequestError | None]:
        """The route for an answer about a request: where the message asks for it, else the default."""
        route = Route(self._topics.response(client, request_id), 0, correlation(message))
        try:
            return self._checked(route, None, client, message, None), None
        except RequestError as error:
            return route, error

    def _checked(
        self, route: Route, reply_to: str | None, client: str, message: Incoming, pool: str | None
    ) -> Route:
        """With the offered reply topic in place, Response Topic before `reply_to`. Raises BadRequest."""
        offered = message.response_topic if message.response_topic is not None else reply_to
        if message.correlation is not None and len(message.correlation) > payloads.MAX_CORRELATION_BYTES:
            raise BadRequest(f"the correlation data has more than {payloads.MAX_CORRELATION_BYTES} bytes")
        if offered is None:
            return route
        try:
            topic = self._topics.check_reply(offered, client, pool)
        except BadReplyTopic:
            log.warning("client %s offered the reply topic %r", client, offered[:200])
            raise
        return msgspec.structs.replace(route, topic=topic)

    def _check_size(self, route: Route, envelope: Envelope) -> None:
        if route.max_frame is None:
            return
        least = smallest_frame(envelope.id, self._topics.node)
        if route.room(frames.MAX_BYTES) < least:
            raise TooSmall(
                f"max_frame: {route.max_frame} is too small for these names; at least"
                f" {least + route.overhead} bytes are needed (the whole packet counts)"
            )

    def _name(self, envelope: Envelope, client: str, message: Incoming) -> Envelope:
        """The envelope under the id its first delivery got, if the request brought none of its own."""
        if envelope.is_id_given or not message.qos:
            return envelope
        key = client, message.mid, hashlib.sha256(message.payload).digest()
        if message.is_duplicate and key in self._made_ids:
            return payloads.rename(envelope, self._made_ids[key])
        self.remember(*key, envelope.id)
        return envelope


def correlation(message: Incoming) -> bytes | None:
    """What is echoed on every frame; data that is too long is not."""
    data = message.correlation
    return data if data is not None and len(data) <= payloads.MAX_CORRELATION_BYTES else None
