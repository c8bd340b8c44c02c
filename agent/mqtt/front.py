"""The MQTT front: the links to the broker, and which part deals with what arrives on them."""

import asyncio
import logging
import secrets
import time
from typing import Any

from agent import __version__
from agent.config import Config
from agent.counts import Counts
from agent.engine_client import EngineClient
from agent.findings import Finding
from agent.journal.journal import Journal, Recovered
from agent.mqtt.absence import Absence
from agent.mqtt.announcer import Announcer
from agent.mqtt.board import Board
from agent.mqtt.channels import BIRTH, CANCEL, CTL, GET, POOL_REQUEST, REQUEST
from agent.mqtt.client import Connection, Incoming, Publish
from agent.mqtt.console import Console
from agent.mqtt.ctl import Operator
from agent.mqtt.inbox import Inbox, Safe
from agent.mqtt.json_stream import Box
from agent.mqtt.link import Link
from agent.mqtt.membership import Membership
from agent.mqtt.prompts import Prompts
from agent.mqtt.recovery import Recovery
from agent.mqtt.topics import Routed, Topics
from agent.operations import Operations
from agent.status import StatusSource
from agent.vitals import VitalsSource

log = logging.getLogger(__name__)

LAST_FRAMES_S = 2.0
# On MQTT 3.1.1 a broker does not say how long it has kept a message. What comes within so many seconds
# after an absence of so many is taken for old (its session is kept for ten minutes on MQTT 5).
BACKLOG_S = 5.0
LONG_ABSENCE_S = 300.0
PRESENCE_EVERY_S = 60.0


class MqttFront:
    """Speaks the contract for one node. `recover`, then `run` until cancelled, then `close`."""

    def __init__(
        self,
        config: Config,
        engine: EngineClient,
        status: StatusSource,
        journal: Journal,
        vitals: VitalsSource,
        counts: Counts,
        operations: Operations,
    ) -> None:
        mqtt = config.mqtt
        self._config = config
        self._engine = engine
        self._status = status
        home = mqtt.home_assistant_prefix if mqtt.home_assistant else None
        self._topics = Topics(
            mqtt.prefix, config.node, mqtt.reply_prefixes, mqtt.pools, home, mqtt.pool_group
        )
        box = Box(node=config.node, boot_id=secrets.token_hex(8))
        self._link = Link(
            self._connect, self._on_up, self._on_down, self._on_message, protocol=str(mqtt.protocol)
        )
        self._pool_link = Link(
            self._connect_pool,
            lambda connection: self._membership.on_up(connection, engine.state),
            lambda _: None,
            self._on_pool_message,
            protocol=str(mqtt.protocol),
            purpose="for the pools",
        )
        self._membership = Membership(self._pool_link, self._topics.pool_filters())
        self._prompts = Prompts(
            config, engine.dispatcher, journal, self._link, self._topics, box, counts, self._on_room
        )
        self._recovery = Recovery(self._prompts, engine.dispatcher, journal)
        self._inbox = Inbox(self._handle, lambda: self._prompts.deliveries.is_full)
        self._pool_inbox = Inbox(self._handle, lambda: self._prompts.deliveries.is_full)
        self._board = Board(
            config, engine, status, vitals, self._link, self._topics, box, lambda: self._num_drops
        )
        operator = Operator(mqtt.operators, operations, self._board.info, self._board.health)
        self._announcer = Announcer(self._topics, config, __version__, self._publish_retained, journal)
        self._console = Console(operator, self._link, self._topics, config.limits.request_bytes)
        self._absence = Absence(journal)
        self._earlier_absent_s = 0.0
        self._absent_s = 0.0
        self._up_at = 0.0

    def recover(self, found: tuple[Recovered, ...]) -> None:
        """Go on with what the journal held at start."""
        self._earlier_absent_s = self._absence.earlier_s()
        self._recovery.begin(found)

    async def run(self) -> None:
        """Serve until cancelled; the broker may come and go."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._link.run(), name="mqtt link")
            group.create_task(self._prompts.run(), name="mqtt prompts")
            group.create_task(self._board.run(), name="mqtt health")
            group.create_task(self._note_presence(), name="mqtt presence")
            if self._config.mqtt.pools:
                group.create_task(self._pool_link.run(), name="mqtt pool link")

    def stop(self) -> None:
        """The daemon is stopping: take nothing more from the pools, say so."""
        self._prompts.on_stop()
        self.publish_state()

    async def close(self) -> None:
        """Give the last frames a moment, say `offline`, disconnect."""
        await self._prompts.close(LAST_FRAMES_S)
        self._console.close()
        self._announcer.close()
        await self._pool_link.close()
        await self._link.close(self._board.status_message("offline", "shutdown"))

    @property
    def is_alive(self) -> bool:
        """False when a thread of paho's is gone that should be there."""
        return self._link.is_alive and self._pool_link.is_alive

    def findings(self) -> tuple[Finding, ...]:
        """What a person should know of the links."""
        # What is wrong with the broker is wrong with both.
        return tuple(dict.fromkeys((*self._link.findings, *self._pool_link.findings)))

    def publish_state(self) -> None:
        """Publish status and info again, and join or leave the pools; called when the engine's state has
        changed."""
        # The pools first: who reads that a box stops may count on it.
        self._membership.tend(self._engine.state, is_stopping=self._status.is_stopping)
        self._board.publish_state()

    # ---- the links ---------------------------------------------------------------------------

    def _connect(self, is_v5: bool, on_message: Any) -> Connection:
        will = self._board.status_message("offline", "connection lost")
        return Connection(self._config.mqtt, f"tampu-{self._config.node}", will, is_v5, on_message)

    def _connect_pool(self, is_v5: bool, on_message: Any) -> Connection:
        """Without a session: the broker deals no work to a member that is away."""
        # No node can have a colon in its name: nobody else is called so.
        name = f"tampu-{self._config.node}:pool"
        return Connection(self._config.mqtt, name, None, is_v5, on_message, keeps_session=False)

    def _on_up(self, connection: Connection) -> None:
        self._up_at = time.monotonic()
        self._absent_s = self._link.absent_s + self._earlier_absent_s
        self._earlier_absent_s = 0.0
        self._absence.note()
        self._status.mqtt = f"connected to {self._config.mqtt.host}:{self._config.mqtt.port}, MQTT " + (
            "5" if connection.is_v5 else "3.1.1"
        )
        connection.subscribe(self._topics.filters())
        self._prompts.on_up()
        self._board.publish_state()
        self._announcer.on_up()

    def _on_down(self, reason: str) -> None:
        self._status.mqtt = f"disconnected: {reason}"
        self._absence.note()
        self._prompts.on_down()

    async def _publish_retained(self, topic: str, payload: bytes) -> int:
        return await self._link.publish(Publish(topic, payload, qos=1, retain=True))

    async def _note_presence(self) -> None:
        while True:
            await asyncio.sleep(PRESENCE_EVERY_S)
            if self._link.connection is not None:
                self._absence.note(is_due_only=True)

    def _on_message(self, connection: Connection, message: Incoming) -> None:
        self._inbox.take(connection, message)

    def _on_pool_message(self, connection: Connection, message: Incoming) -> None:
        self._pool_inbox.take(connection, message)

    def _on_room(self) -> None:
        self._inbox.resume()
        self._pool_inbox.resume()

    @property
    def _num_drops(self) -> int:
        return self._inbox.num_dropped + self._pool_inbox.num_dropped

    # ---- what arrives ------------------------------------------------------------------------

    def _handle(self, connection: Connection, message: Incoming) -> Safe:
        routed = self._topics.route(message.topic)
        if routed is None:
            log.warning("ignored a message on %r: not a topic of this box", message.topic[:200])
        elif message.is_retained and not message.payload:
            log.debug("what was retained on %s is cleared", message.topic)
        elif message.is_retained and not self._may_be_retained(routed, connection):
            # At subscribe a 3.1.1 broker replays what somebody retained long ago.
            log.warning("ignored a retained message on %s", message.topic)
        else:
            return self._route(routed, message, is_stale=self._is_stale(connection))
        return None

    def _route(self, routed: Routed, message: Incoming, *, is_stale: bool) -> Safe:
        client = routed.names.get("client", "")
        if routed.channel is REQUEST:
            return self._prompts.take(client, message, is_stale=is_stale)
        if routed.channel is POOL_REQUEST:
            return self._prompts.take(client, message, routed.names["pool"])
        if routed.channel is CANCEL:
            self._prompts.cancel(client, message)
        elif routed.channel is GET:
            self._prompts.get(client, message)
        elif routed.channel is BIRTH:
            self._announcer.on_birth(message.payload)
        elif routed.channel is CTL:
            self._console.take(routed.names["verb"], message)
        return None

    @staticmethod
    def _may_be_retained(routed: Routed, connection: Connection) -> bool:
        """Home Assistant's birth, and on MQTT 5 a request: that is told why it is not run."""
        return routed.channel is BIRTH or (connection.is_v5 and routed.channel is REQUEST)

    def _is_stale(self, connection: Connection) -> bool:
        is_early = time.monotonic() - self._up_at < BACKLOG_S
        return not connection.is_v5 and is_early and self._absent_s > LONG_ABSENCE_S
