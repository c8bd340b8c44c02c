"""When Home Assistant is told of this box: on every connection, and again when it has come up itself.

What was announced once has to be taken back when the option is switched off, and only then may a box whose
owner does not want Home Assistant write to its topics. So a note in the journal says what was announced.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from agent.config import Config
from agent.errors import BrokerError
from agent.journal.notes import Notebook
from agent.mqtt.discovery import birth_delay_s, discovery_message, is_birth, retired_topic
from agent.mqtt.topics import Topics

log = logging.getLogger(__name__)

NOTE = "home_assistant_topic"
# MQTT 5 reason codes from here on say that the broker did not take it.
REFUSED = 0x80

Publisher = Callable[[str, bytes], Awaitable[int]]
"""Publishes, retained and at QoS 1; gives the broker's reason code. Raises BrokerError."""


class Announcer:
    """One announcement is under way at a time. `close` ends it."""

    def __init__(
        self, topics: Topics, config: Config, version: str, publish: Publisher, notebook: Notebook
    ) -> None:
        self._topic = topics.discovery
        self._topics = topics
        self._message = b"" if self._topic is None else discovery_message(topics, config, version)
        self._publish = publish
        self._notebook = notebook
        self._task: asyncio.Task[None] | None = None

    def on_up(self) -> None:
        """There is a new connection: whatever was under way was lost with the old one."""
        self.close()
        self._start(0.0)

    def on_birth(self, payload: bytes) -> None:
        """Home Assistant has said something on its birth topic."""
        if is_birth(payload) and (self._task is None or self._task.done()):
            self._start(birth_delay_s())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _start(self, delay_s: float) -> None:
        if self._topic is not None or self._retired() is not None:
            self._task = asyncio.create_task(self._tell(delay_s), name="announce to Home Assistant")

    async def _tell(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        try:
            await self._withdraw()
            await self._announce()
        except BrokerError as error:
            log.debug("Home Assistant is told with the next connection: %s", error)

    async def _withdraw(self) -> None:
        """Take the device of an earlier start away; the note goes once the broker has taken that."""
        retired = self._retired()
        if retired is not None and await self._send(retired, b""):
            self._notebook.note(NOTE, None)

    async def _announce(self) -> None:
        """Note first: a device without a note would stay in Home Assistant for ever."""
        if self._topic is not None:
            self._notebook.note(NOTE, self._topic.encode())
            await self._send(self._topic, self._message)

    async def _send(self, topic: str, payload: bytes) -> bool:
        code = await self._publish(topic, payload)
        if code >= REFUSED:
            log.warning(
                "the broker refuses what we tell Home Assistant (%#04x); allow this user to write %s",
                code,
                topic,
            )
        return code < REFUSED

    def _retired(self) -> str | None:
        noted = self._notebook.notes(NOTE).get(NOTE)
        return retired_topic(None if noted is None else noted.decode(), self._topics)
