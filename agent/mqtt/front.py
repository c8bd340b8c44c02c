"""The MQTT front: routes what arrives to the engine, and the engine's answers back to devices."""

import asyncio
import hashlib
import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from agent.answer import Answer
from agent.config import Config
from agent.draft import to_request
from agent.engine_client import EngineClient
from agent.errors import BadReplyTopic, BadRequest, Cancelled, RequestError
from agent.journal import Entry, Journal
from agent.logs import log_answer
from agent.mqtt import frames, payloads
from agent.mqtt.channels import CANCEL, REQUEST
from agent.mqtt.client import Connection, Incoming, Publish
from agent.mqtt.info import info_payload
from agent.mqtt.json_stream import Box, JsonStream
from agent.mqtt.link import Link
from agent.mqtt.payloads import Envelope
from agent.mqtt.stream import BYTES_PER_CHAR, Route, Stream
from agent.mqtt.text_stream import TextStream
from agent.mqtt.topics import Topics
from agent.status import StatusSource

log = logging.getLogger(__name__)

# Replies under way at once, answers and refusals together.
MAX_DELIVERIES = 512
# A cancel may overtake its request: so long, and so many, are remembered.
TOMBSTONE_S = 60.0
MAX_REMEMBERED = 256


@dataclass(slots=True)
class Live:
    """A request between `accepted` and its terminal frame."""

    answer: Answer
    stream: Stream


class MqttFront:
    """Speaks the contract for one node. `run` until cancelled, then `close`."""

    def __init__(self, config: Config, engine: EngineClient, status: StatusSource) -> None:
        mqtt = config.mqtt
        self._config = config
        self._engine = engine
        self._status = status
        self._topics = Topics(mqtt.prefix, config.node, mqtt.reply_prefixes, mqtt.pools)
        self._box = Box(node=config.node, boot_id=secrets.token_hex(8))
        self._since = time.time()
        self._journal = Journal()
        self._live: dict[tuple[str, str], Live] = {}
        self._tombstones: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._made_ids: OrderedDict[tuple[str, int, bytes], str] = OrderedDict()
        self._parked: deque[tuple[Connection, Incoming]] = deque()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._link = Link(
            self._connect, self._on_up, self._on_down, self._on_message, protocol=str(mqtt.protocol)
        )

    async def run(self) -> None:
        """Serve until cancelled; the broker may come and go."""
        await self._link.run()

    async def close(self) -> None:
        """Give the last frames a moment, say `offline`, disconnect."""
        if self._deliveries and self._link.connection is not None:
            await asyncio.wait(self._deliveries, timeout=2.0)
        for task in self._deliveries:
            task.cancel()
        await self._link.close(self._status_message("offline", "shutdown"))

    def publish_state(self) -> None:
        """Publish status and info again; called when the engine's state has changed."""
        if self._link.connection is None:
            return
        state, reason = self._status.state()
        limit = self._link.connection.max_publish_bytes
        for message in (
            self._status_message(state, reason[: limit // BYTES_PER_CHAR]),
            Publish(self._topics.info, self._info(), qos=1, retain=True),
        ):
            if len(message.payload) > limit:
                log.warning("the broker takes %d bytes at most: %s is not published", limit, message.topic)
                continue
            # Lost with the connection means said again with the next one.
            self._link.publish(message).add_done_callback(lambda sent: sent.cancelled() or sent.exception())

    # ---- the link ----------------------------------------------------------------------------

    def _connect(self, is_v5: bool, on_message: Any) -> Connection:
        will = self._status_message("offline", "connection lost")
        return Connection(self._config.mqtt, f"tampu-{self._config.node}", will, is_v5, on_message)

    def _on_up(self, connection: Connection) -> None:
        self._status.mqtt = f"connected to {self._config.mqtt.host}:{self._config.mqtt.port}, MQTT " + (
            "5" if connection.is_v5 else "3.1.1"
        )
        connection.subscribe(self._topics.filters())
        self.publish_state()

    def _on_down(self, reason: str) -> None:
        self._status.mqtt = f"disconnected: {reason}"

    def _on_message(self, connection: Connection, message: Incoming) -> None:
        """One publish, start to acknowledgement. Whatever it holds, the next one is served.

        With too many replies under way it waits unacknowledged: the broker then stops sending.
        """
        if len(self._deliveries) >= MAX_DELIVERIES:
            if message.qos or len(self._parked) < MAX_REMEMBERED:
                self._parked.append((connection, message))
            return
        try:
            self._route(connection, message)
        except Exception:  # a bug of ours in one message must not cost the others
            log.exception("a message on %s could not be handled", message.topic)
        connection.acknowledge(message)

    def _route(self, connection: Connection, message: Incoming) -> None:
        routed = self._topics.route(message.topic)
        if routed is None:
            log.warning("ignored a message on %r: not a topic of this box", message.topic[:200])
            return
        channel, client = routed.channel, routed.names.get("client", "")
        if message.is_retained and not connection.is_v5:
            # At subscribe the broker replays what somebody retained long ago.
            log.warning("ignored a retained message on %s", message.topic)
        elif channel is REQUEST:
            self._take_request(client, message)
        elif message.is_retained:
            log.warning("ignored a retained cancel on %s", message.topic)
        elif channel is CANCEL:
            self._take_cancel(client, message)

    # ---- requests ----------------------------------------------------------------------------

    def _take_request(self, client: str, message: Incoming) -> None:
        is_json = (message.content_type or "").split(";")[0].strip() == "application/json"
        envelope, error = payloads.open_envelope(
            message.payload, is_json=is_json, max_bytes=self._config.limits.request_bytes
        )
        envelope = self._name(envelope, client, message)
        route = Route(self._topics.response(client, envelope.id), envelope.reply_qos, _correlation(message))
        try:
            if message.is_retained:
                raise BadRequest("a retained request is never run; publish it without the retain flag")
            route = self._checked_route(route, envelope, client, message)
            if error is not None:
                raise error
            self._admit(client, envelope, route, message)
        except RequestError as refusal:
            self._refuse(client, envelope, route, refusal)

    def _admit(self, client: str, envelope: Envelope, route: Route, message: Incoming) -> None:
        key = client, envelope.id
        stream = self._stream(envelope, route)
        if entry := self._journal.find(client, envelope.id, message.payload):
            self._repeat(key, entry, stream)
            return
        draft, wants_stream = payloads.parse_draft(envelope, client, message.expiry_s)
        request = to_request(draft, self._config.limits, self._config.profiles)
        if self._has_tombstone(key):
            raise Cancelled("the request was cancelled before it arrived")
        queue_pos = self._engine.dispatcher.num_queued
        answer = self._engine.dispatcher.submit(
            request, supersede=draft.supersede, replaces_history=draft.replaces_history
        )
        entry = self._journal.open(client, envelope.id, message.payload)
        self._live[key] = Live(answer, stream)
        stream.accept(request, queue_pos)
        self._spawn(self._serve(key, entry, wants_stream), f"answer {client}/{envelope.id}")

    async def _serve(self, key: tuple[str, str], entry: Entry, wants_stream: bool) -> None:
        live = self._live[key]
        try:
            if wants_stream:
                await live.stream.follow(live.answer)
            await live.answer.ended.wait()
            log_answer("mqtt", live.answer)
            connection = await self._link.wait_up()
            finals = live.stream.terminal_frames(live.answer, connection.max_publish_bytes)
            await live.stream.deliver(finals)
            entry.terminal = live.stream.repeatable(finals, live.answer, connection.max_publish_bytes)
        finally:
            del self._live[key]
            self._engine.dispatcher.cancel(live.answer)
            if entry.terminal is None:
                self._journal.drop(*key)

    def _repeat(self, key: tuple[str, str], entry: Entry, stream: Stream) -> None:
        """A duplicate: `accepted` again while the request lives, its terminal frames when it has ended."""
        if entry.terminal is not None:
            name = f"repeat {key[0]}/{key[1]}"
            if all(task.get_name() != name for task in self._deliveries):
                self._spawn(stream.deliver(entry.terminal), name)
        elif live := self._live.get(key):
            live.stream.accept(live.answer.request, self._engine.dispatcher.num_queued)

    def _stream(self, envelope: Envelope, route: Route) -> Stream:
        if envelope.is_text_wanted:
            return TextStream(self._link, route)
        return JsonStream(self._link, route, self._box, envelope.id)

    def _refuse(self, client: str, envelope: Envelope, route: Route, error: RequestError) -> None:
        log.info("refused %s/%s: %s: %s", client, envelope.id, error.code, error.message)
        connection = self._link.connection
        if connection is None:
            return
        stream = self._stream(envelope, route)
        finals = stream.error(error, connection.max_publish_bytes)
        self._spawn(stream.deliver(finals), f"refusal {client}/{envelope.id}")

    def _checked_route(self, route: Route, envelope: Envelope, client: str, message: Incoming) -> Route:
        """The route with the offered reply topic in place, Response Topic before `reply_to`."""
        offered = message.response_topic if message.response_topic is not None else envelope.reply_to
        if message.correlation is not None and len(message.correlation) > payloads.MAX_CORRELATION_BYTES:
            raise BadRequest(f"the correlation data has more than {payloads.MAX_CORRELATION_BYTES} bytes")
        if offered is None:
            return route
        try:
            return Route(self._topics.check_reply(offered, client), route.qos, route.correlation)
        except BadReplyTopic:
            log.warning("client %s offered the reply topic %r", client, offered[:200])
            raise

    def _name(self, envelope: Envelope, client: str, message: Incoming) -> Envelope:
        """The envelope under the id its first delivery got, if the request brought none of its own."""
        if envelope.is_id_given or not message.qos:
            return envelope
        key = client, message.mid, hashlib.sha256(message.payload).digest()
        if message.is_duplicate and key in self._made_ids:
            return payloads.rename(envelope, self._made_ids[key])
        self._made_ids[key] = envelope.id
        while len(self._made_ids) > MAX_REMEMBERED:
            self._made_ids.popitem(last=False)
        return envelope

    # ---- cancels -----------------------------------------------------------------------------

    def _take_cancel(self, client: str, message: Incoming) -> None:
        try:
            cancel = payloads.parse_cancel(message.payload, self._config.limits.request_bytes)
        except RequestError as error:
            envelope = Envelope(id=payloads.make_id())
            route = Route(self._topics.response(client, envelope.id), correlation=_correlation(message))
            self._refuse(client, envelope, route, error)
            return
        wanted = [key for key in self._live if key[0] == client and (cancel.all or key[1] == cancel.id)]
        for key in wanted:
            self._engine.dispatcher.cancel(self._live[key].answer)
        if not wanted and cancel.id is not None:
            self._tombstones[client, cancel.id] = time.monotonic() + TOMBSTONE_S
            while len(self._tombstones) > MAX_REMEMBERED:
                self._tombstones.popitem(last=False)

    def _has_tombstone(self, key: tuple[str, str]) -> bool:
        return self._tombstones.get(key, 0.0) > time.monotonic()

    # ---- what is retained --------------------------------------------------------------------

    def _status_message(self, state: str, reason: str) -> Publish:
        payload = frames.StatusPayload(
            state=state, reason=reason, boot_id=self._box.boot_id, since=self._since
        )
        return Publish(self._topics.status, frames.encode(payload), qos=1, retain=True)

    def _info(self) -> bytes:
        return info_payload(self._status.read(), self._config, self._engine)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._deliveries.add(task)
        task.add_done_callback(self._on_delivered)

    def _on_delivered(self, task: asyncio.Task[None]) -> None:
        self._deliveries.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s failed", task.get_name(), exc_info=error)
        if self._parked and len(self._deliveries) < MAX_DELIVERIES:
            connection, message = self._parked.popleft()
            if connection is self._link.connection:
                self._on_message(connection, message)


def _correlation(message: Incoming) -> bytes | None:
    data = message.correlation
    return data if data is not None and len(data) <= payloads.MAX_CORRELATION_BYTES else None
