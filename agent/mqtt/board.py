"""What a box says of itself: `status` and `info` whenever they change, `health` every few seconds."""

import asyncio
import logging
import time
from collections.abc import Callable

from agent.config import Config
from agent.engine_client import EngineClient
from agent.mqtt import frames, schema
from agent.mqtt.client import Publish
from agent.mqtt.fit import fitting_chars
from agent.mqtt.health import health_payload
from agent.mqtt.info import ContractInfo, info_payload
from agent.mqtt.json_stream import Box
from agent.mqtt.link import Link
from agent.mqtt.topics import Topics
from agent.status import StatusSource
from agent.vitals import VitalsSource

log = logging.getLogger(__name__)

# What a status has besides its reason, in bytes.
_STATUS_BYTES = 256
# Who reads a retained `health` that is older than so many periods knows that nobody writes any more.
HEALTH_LASTS_PERIODS = 3


class Board:
    """`num_drops` counts messages nobody could be told about."""

    def __init__(
        self,
        config: Config,
        engine: EngineClient,
        status: StatusSource,
        vitals: VitalsSource,
        link: Link,
        topics: Topics,
        box: Box,
        num_drops: Callable[[], int],
    ) -> None:
        self._config = config
        self._engine = engine
        self._status = status
        self._vitals = vitals
        self._link = link
        self._topics = topics
        self._box = box
        self._num_drops = num_drops
        self._contract = ContractInfo(schema.FILE.name, schema.published_hash())
        self._since = time.time()

    async def run(self) -> None:
        """Publish `health` every so often; until cancelled."""
        while True:
            await self.publish_health()
            await asyncio.sleep(self._config.mqtt.health_s)

    def info(self) -> bytes:
        """The payload of `info`."""
        return info_payload(self._status.read(), self._config, self._engine, self._contract)

    async def health(self) -> frames.HealthPayload:
        """The payload of `health`. Sensors are read on a thread: some are slow."""
        vitals = await asyncio.to_thread(self._vitals.read)
        return health_payload(self._status.read(), vitals, self._num_drops())

    def publish_state(self) -> None:
        """Publish status and info; called when either has changed, and on every new connection."""
        connection = self._link.connection
        if connection is None:
            return
        state, reason = self._status.state()
        self._publish(self.status_message(state, reason, connection.max_publish_bytes))
        self._publish(Publish(self._topics.info, self.info(), qos=1, retain=True))

    async def publish_health(self) -> None:
        """Publish health; retained only where it can expire (MQTT 5)."""
        payload = frames.encode(await self.health())
        connection = self._link.connection
        if connection is None:
            return
        lasts_s = int(self._config.mqtt.health_s * HEALTH_LASTS_PERIODS) + 1
        self._publish(Publish(self._topics.health, payload, qos=0, retain=connection.is_v5, expiry_s=lasts_s))

    def status_message(self, state: str, reason: str, max_bytes: int = 4096) -> Publish:
        """The retained status; also the last will and the last words."""
        payload = frames.StatusPayload(
            state=state,
            reason=reason[: fitting_chars(reason, max_bytes - _STATUS_BYTES)],
            boot_id=self._box.boot_id,
            since=self._since,
        )
        return Publish(self._topics.status, frames.encode(payload), qos=1, retain=True)

    def _publish(self, message: Publish) -> None:
        connection = self._link.connection
        if connection is not None and len(message.payload) > connection.max_publish_bytes:
            limit = connection.max_publish_bytes
            log.warning("the broker takes %d bytes at most: %s is not published", limit, message.topic)
            return
        # Lost with the connection means said again with the next one.
        self._link.publish(message).add_done_callback(lambda sent: sent.cancelled() or sent.exception())
