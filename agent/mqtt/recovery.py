"""After a restart: what an earlier daemon had accepted goes on, and what it had not delivered is."""

import asyncio
import logging

import msgspec

from agent.answer import Answer
from agent.dispatcher import Dispatcher
from agent.errors import Expired, Internal, RequestError
from agent.journal.journal import Entry, EntryState, Journal, Recovered
from agent.mqtt import intent as intents
from agent.mqtt.intent import Intent
from agent.mqtt.prompts import Prompts

log = logging.getLogger(__name__)

# A request that has seen more daemons than this is computed with nobody beside it: it may be what ends them.
TRUSTED_RUNS = 3
# Between two results of an earlier daemon for the same client.
PAUSE_S = 0.01


class Recovery:
    """Used once, before the first message arrives."""

    def __init__(self, prompts: Prompts, dispatcher: Dispatcher, journal: Journal) -> None:
        self._prompts = prompts
        self._dispatcher = dispatcher
        self._journal = journal

    def begin(self, found: tuple[Recovered, ...]) -> None:
        """`found` is what the journal held, in order of arrival."""
        suspects: list[Entry] = []
        ended: dict[str, list[tuple[Recovered, Intent]]] = {}
        for one in found:
            intent = intents.decode(one.entry.intent)
            if intent is None:
                log.error("%s/%s was written by another release; it is lost", one.entry.client, one.entry.id)
                self._journal.drop(one.entry)
            elif one.entry.state is EntryState.ENDED:
                ended.setdefault(one.entry.client, []).append((one, intent))
            elif one.entry.run > TRUSTED_RUNS and not one.entry.is_alone:
                self._prompts.put_off(one.entry)
                suspects.append(one.entry)
            else:
                self._go_on(one.entry, intent)
            if intent is not None and intent.mid is not None:
                self._prompts.door.remember(one.entry.client, intent.mid, one.entry.digest, one.entry.id)
        for client, results in ended.items():
            self._prompts.deliveries.spawn(self._deliver(results), f"results of {client}")
        if suspects:
            self._prompts.deliveries.spawn(self._one_by_one(suspects), "suspects")

    async def _deliver(self, results: list[tuple[Recovered, Intent]]) -> None:
        """One client's, at a pace: brokers drop what is too much for a reader, and say nothing of it."""
        for one, intent in results:
            entry = one.entry
            stream = self._prompts.stream(entry.id, intent.route, entry.run, is_text=intent.is_text)
            await self._prompts.deliveries.deliver(entry, stream, one.finals)
            await asyncio.sleep(PAUSE_S)

    def _go_on(self, entry: Entry, intent: Intent, *, is_suspect: bool = False) -> Answer | None:
        """The answer of a request that is begun again; None where it ends here."""
        remaining_s = self._journal.remaining_s(entry)
        try:
            if entry.is_alone and not is_suspect:
                raise Internal("the daemon ended again and again while it computed this request")
            if remaining_s is not None and remaining_s <= 0:
                raise Expired("the request's time to live ended before it was begun again")
            answer = self._dispatcher.take_back(
                msgspec.structs.replace(intent.request, ttl_s=remaining_s),
                replaces_history=intent.replaces_history,
                is_suspect=is_suspect,
            )
        except RequestError as error:
            self._prompts.end_unbegun(entry, error)
            return None
        self._prompts.begin(entry, answer, intent)
        return answer

    async def _one_by_one(self, suspects: list[Entry]) -> None:
        """If this daemon dies too, the next one reads in the journal which of them it had."""
        for entry in suspects:
            self._journal.mark_alone(entry, True)
            await self._journal.committed(entry)
            # Not read before: a duplicate may have brought another way back.
            intent = intents.decode(entry.intent) if entry.state is EntryState.LIVE else None
            if intent is None or entry.is_gone:
                continue
            answer = self._go_on(entry, intent, is_suspect=True)
            if answer is not None:
                await answer.ended.wait()
