"""The prompts of devices: each taken in once, answered once, whatever dies in between.

    message -> Door -> Draft -> Request -> journal -> PUBACK, accepted
                                  `-> dispatcher -> Answer -> Stream -> deltas, journal, done

A request is in the journal before its device hears `accepted` and its broker the PUBACK; a result is
there before it is published, and stays until the broker has acknowledged it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from agent.answer import Answer
from agent.config import Config
from agent.counts import Counts
from agent.dispatcher import Dispatcher
from agent.draft import to_request
from agent.errors import Cancelled, Expired, NotFound, RequestError
from agent.hardware.clock import believed_time
from agent.journal.journal import Entry, Journal
from agent.logs import log_answer
from agent.mqtt import intent as intents
from agent.mqtt import payloads
from agent.mqtt.client import Incoming
from agent.mqtt.deliveries import Deliveries
from agent.mqtt.door import Arrival, Door
from agent.mqtt.inbox import Safe
from agent.mqtt.intent import Intent
from agent.mqtt.json_stream import Box, JsonStream
from agent.mqtt.link import Link
from agent.mqtt.payloads import Envelope
from agent.mqtt.route import Route
from agent.mqtt.stream import Audience, Stream
from agent.mqtt.text_stream import TextStream
from agent.mqtt.tombstones import Tombstones
from agent.mqtt.topics import Topics
from agent.rules import Rules

log = logging.getLogger(__name__)

LOOKS_EVERY_S = 1.0
PROGRESS_EVERY_S = 5.0
# So long, and so much text, an answer goes on while no broker is there.
UNHEARD_S = 30.0
UNHEARD_CHARS = 64 << 10

Key = tuple[str, str]


@dataclass(slots=True)
class Live:
    """A request between its journal entry and its result."""

    entry: Entry
    answer: Answer
    stream: Stream
    is_streamed: bool
    progress_at: float
    is_accepted: bool = False


class Prompts:
    """`on_room` is called when something has been delivered: there is room for more."""

    def __init__(
        self,
        config: Config,
        dispatcher: Dispatcher,
        journal: Journal,
        link: Link,
        topics: Topics,
        box: Box,
        counts: Counts,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._dispatcher = dispatcher
        self._journal = journal
        self._link = link
        self.door = Door(topics, config.limits.request_bytes)
        self._box = box
        self._counts = counts
        self._rules = Rules(config)
        self.deliveries = Deliveries(journal, on_room)
        self._audience = Audience()
        self._live: dict[Key, Live] = {}
        # Live in the journal, and not begun again yet.
        self._put_off: dict[Key, Entry] = {}
        self._tombstones = Tombstones()

        self._down_since: float | None = time.monotonic()

    async def run(self) -> None:
        """Say every few seconds where things are, and park what nobody can hear; until cancelled."""
        while True:
            await asyncio.sleep(LOOKS_EVERY_S)
            now = time.monotonic()
            for live in list(self._live.values()):
                self._look_after(live, now)

    def on_stop(self) -> None:
        """The daemon is stopping: what nobody can hear now is for the next one."""
        if self._link.connection is None:
            for live in self._live.values():
                self._park(live)

    async def close(self, timeout_s: float) -> None:
        """Give the last frames a moment; what is not delivered then is in the journal."""
        if self._link.connection is not None:
            await self.deliveries.settle(timeout_s)
        for entry in (*self._put_off.values(), *(live.entry for live in self._live.values())):
            # A planned end is nobody's fault.
            self._journal.mark_alone(entry, False)
        self.deliveries.close()

    def on_up(self) -> None:
        """There is a broker again."""
        self._down_since = None
        for live in self._live.values():
            self._dispatcher.unpark(live.answer)
            if live.is_accepted:
                # It may not have been heard, nor this daemon's boot_id.
                live.stream.accept(live.answer.request, self._dispatcher.queue_pos(live.answer))

    def on_down(self) -> None:
        """The broker is gone."""
        self._down_since = time.monotonic()

    # ---- messages ----------------------------------------------------------------------------

    def take(
        self, client: str, message: Incoming, pool: str | None = None, *, is_stale: bool = False
    ) -> Safe:
        """A request has come. `is_stale`: it lay with the broker for longer than a request may live that
        does not say for how long."""
        arrival = self.door.open(client, message, pool)
        try:
            if arrival.error is not None:
                raise arrival.error
            entry = self._journal.find(client, arrival.envelope.id, message.payload)
            return self._admit(arrival, is_stale) if entry is None else self._repeat(entry, arrival)
        except RequestError as refusal:
            self._refuse(arrival.client, arrival.envelope, arrival.route, refusal)
            return None

    def cancel(self, client: str, message: Incoming) -> None:
        """Stop one request of this client, or all of them."""
        try:
            cancel = payloads.parse_cancel(message.payload, self._config.limits.request_bytes)
        except RequestError as error:
            self._refuse_unnamed(client, message, error)
            return
        wanted = [key for key in self._live if key[0] == client and (cancel.all or key[1] == cancel.id)]
        for key in wanted:
            self._dispatcher.cancel(self._live[key].answer)
        put_off = [key for key in self._put_off if key[0] == client and (cancel.all or key[1] == cancel.id)]
        for key in put_off:
            self.end_unbegun(
                self._put_off[key], Cancelled("the request was cancelled before its first token")
            )
        if not wanted and not put_off and cancel.id is not None:
            self._tombstones.add(client, cancel.id)

    def get(self, client: str, message: Incoming) -> None:
        """Say again where a request of this client is, or how it ended."""
        try:
            wanted = payloads.parse_get(message.payload, self._config.limits.request_bytes)
        except RequestError as error:
            self._refuse_unnamed(client, message, error)
            return
        route, mistake = self.door.way_back(client, wanted.id, message)
        entry = self._journal.peek(client, wanted.id)
        if mistake is not None or entry is None:
            unknown = NotFound(f"id {wanted.id!r} is not known here; send the request (again)")
            self._refuse(client, Envelope(id=wanted.id), route, mistake or unknown)
        elif live := self._live.get((client, wanted.id)):
            now = live.stream.route
            if message.response_topic is not None:
                # Elsewhere, and the device is no larger than it was.
                now = msgspec.structs.replace(route, qos=now.qos, max_frame=now.max_frame)
            live.stream.reroute(now)
            live.stream.progress(live.answer, self._dispatcher.queue_pos(live.answer))
        elif (client, wanted.id) in self._put_off:
            self._get_put_off(entry, route, is_moved=message.response_topic is not None)
        else:
            self.deliveries.say_again(entry, self.stream(wanted.id, route, run=entry.run))

    # ---- a request's life --------------------------------------------------------------------

    def _admit(self, arrival: Arrival, is_stale: bool) -> Safe:
        client, envelope = arrival.client, arrival.envelope
        draft, is_streamed = payloads.parse_draft(envelope, client, arrival.message.expiry_s, believed_time())
        request = to_request(draft, self._config.limits, self._config.profiles, self._rules.of(client))
        kept = Intent(
            request,
            arrival.route,
            envelope.is_text_wanted,
            is_streamed,
            draft.replaces_history,
            mid=None if envelope.is_id_given else arrival.message.mid,
        )
        if is_stale and draft.ttl_s is None:
            stale = Expired("the request waited with the broker for minutes; send a new one, with a ttl_s")
            return self._end_for_good(arrival, kept, stale)
        if self._tombstones.has(client, envelope.id):
            return self._end_for_good(arrival, kept, Cancelled("the request was cancelled before it arrived"))
        answer = self._dispatcher.submit(
            request, supersede=draft.supersede, replaces_history=draft.replaces_history
        )
        entry = self._note(arrival, kept)
        self.begin(entry, answer, kept)
        return asyncio.ensure_future(self._journal.committed(entry))

    def _note(self, arrival: Arrival, kept: Intent) -> Entry:
        return self._journal.open(
            arrival.client,
            arrival.envelope.id,
            arrival.message.payload,
            intent=intents.encode(kept),
            ttl_s=kept.request.ttl_s,
        )

    def _end_for_good(self, arrival: Arrival, kept: Intent, error: RequestError) -> Safe:
        """A result without an answer that has to hold when the request comes again."""
        entry = self._note(arrival, kept)
        self.end_at_once(entry, kept, error)
        return asyncio.ensure_future(self._journal.committed(entry))

    def end_at_once(self, entry: Entry, intent: Intent, error: RequestError) -> None:
        """An accepted request ends in this, with nothing computed."""
        stream = self.stream(entry.id, intent.route, entry.run, is_text=intent.is_text)
        finals = stream.error(error)
        self._journal.end(entry, finals)
        self._counts.refused(error)
        self.deliveries.spawn(
            self.deliveries.deliver(entry, stream, finals), f"end {entry.client}/{entry.id}"
        )

    def put_off(self, entry: Entry) -> None:
        """A request of an earlier daemon is begun again later; until then it is live and can be cancelled."""
        self._put_off[entry.client, entry.id] = entry

    def end_unbegun(self, entry: Entry, error: RequestError) -> None:
        """A request of an earlier daemon ends before it is begun again."""
        self._put_off.pop((entry.client, entry.id), None)
        intent = intents.decode(entry.intent)
        if intent is None:
            self._journal.drop(entry)
        else:
            self.end_at_once(entry, intent, error)

    def begin(self, entry: Entry, answer: Answer, intent: Intent) -> None:
        """Say what becomes of an answer, to the end."""
        self._put_off.pop((entry.client, entry.id), None)
        stream = self.stream(
            entry.id,
            intent.route,
            run=entry.run,
            is_text=intent.is_text,
            on_unheard=lambda: self._on_unheard(entry, answer),
        )
        live = Live(entry, answer, stream, intent.is_streamed, time.monotonic())
        self._live[entry.client, entry.id] = live
        self.deliveries.spawn(self._serve(live), f"answer {entry.client}/{entry.id}")

    async def _serve(self, live: Live) -> None:
        entry, answer, stream = live.entry, live.answer, live.stream
        try:
            await self._journal.committed(entry)
            await self.deliveries.turn()
            live.is_accepted = True
            stream.accept(answer.request, self._dispatcher.queue_pos(answer))
            if live.is_streamed:
                await stream.follow(answer)
            await answer.ended.wait()
            log_answer("mqtt", answer)
            self._counts.ended(answer)
            finals = stream.terminal_frames(answer)
            self._journal.end(entry, stream.kept(finals, answer))
        except Exception:
            # A bug of ours: rather asked again than answered wrongly or held for ever.
            self._journal.drop(entry)
            raise
        finally:
            del self._live[entry.client, entry.id]
            self._dispatcher.cancel(answer)
        await self.deliveries.deliver(entry, stream, finals)

    def _repeat(self, entry: Entry, arrival: Arrival) -> Safe:
        """A duplicate: `accepted` again while the request lives, its result when it has ended."""
        live = self._live.get((entry.client, entry.id))
        if live is None and (entry.client, entry.id) in self._put_off:
            self._move(entry, arrival.route)
            return asyncio.ensure_future(self._journal.committed(entry))
        if live is None:
            envelope = arrival.envelope
            self.deliveries.say_again(
                entry, self.stream(entry.id, arrival.route, run=entry.run, is_text=envelope.is_text_wanted)
            )
            return None
        if arrival.route != live.stream.route:
            self._move(entry, arrival.route)
        live.stream.reroute(arrival.route)
        self.deliveries.spawn(self._accept_again(live), f"again {entry.client}/{entry.id}")
        return asyncio.ensure_future(self._journal.committed(entry))

    def _move(self, entry: Entry, route: Route) -> None:
        """Have another daemon answer there, too."""
        if (kept := intents.decode(entry.intent)) and kept.route != route:
            self._journal.change_intent(entry, intents.encode(msgspec.structs.replace(kept, route=route)))

    def _get_put_off(self, entry: Entry, route: Route, *, is_moved: bool) -> None:
        kept = intents.decode(entry.intent)
        if kept is None:
            return
        if is_moved:
            self._move(entry, route)
        stream = self.stream(entry.id, route if is_moved else kept.route, entry.run, is_text=kept.is_text)
        stream.progress(Answer(0, kept.request), self._dispatcher.num_live)

    async def _accept_again(self, live: Live) -> None:
        await self._journal.committed(live.entry)
        live.stream.accept(live.answer.request, self._dispatcher.queue_pos(live.answer))

    def _on_unheard(self, entry: Entry, answer: Answer) -> None:
        if answer.terminal is None and answer.cancel_reason is None:
            log.info("nobody listens for %s/%s any more; it is cancelled", entry.client, entry.id)
            self._dispatcher.cancel(answer)

    def _look_after(self, live: Live, now: float) -> None:
        if self._link.connection is not None:
            if now - live.progress_at >= PROGRESS_EVERY_S:
                live.progress_at = now
                live.stream.progress(live.answer, self._dispatcher.queue_pos(live.answer))
            return
        is_long = self._down_since is not None and now - self._down_since >= UNHEARD_S
        if is_long or len(live.answer.text) - live.stream.num_chars > UNHEARD_CHARS:
            self._park(live)

    def _park(self, live: Live) -> None:
        """Nobody can hear it now. While it is not computed it ends no daemon."""
        self._dispatcher.park(live.answer)
        self._journal.mark_alone(live.entry, False)

    # ---- ways back ---------------------------------------------------------------------------

    def stream(
        self,
        request_id: str,
        route: Route,
        run: int = 1,
        *,
        is_text: bool = False,
        on_unheard: Callable[[], None] = lambda: None,
    ) -> Stream:
        """A way back on this route."""
        if is_text:
            return TextStream(self._link, route, self._audience, on_unheard)
        return JsonStream(self._link, route, self._box, request_id, run, self._audience, on_unheard)

    def _refuse(self, client: str, envelope: Envelope, route: Route, error: RequestError) -> None:
        log.info("refused %s/%s: %s: %s", client, envelope.id, error.code, error.message)
        self._counts.refused(error)
        if self._link.connection is None:
            return
        stream = self.stream(envelope.id, route, is_text=envelope.is_text_wanted)
        self.deliveries.spawn(stream.deliver(stream.error(error)), f"refusal {client}/{envelope.id}")

    def _refuse_unnamed(self, client: str, message: Incoming, error: RequestError) -> None:
        envelope = Envelope(id=payloads.given_id(message.payload) or payloads.make_id())
        self._refuse(client, envelope, self.door.way_back(client, envelope.id, message)[0], error)
