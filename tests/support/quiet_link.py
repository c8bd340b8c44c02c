"""A link without a broker: it keeps what is published on it."""

import asyncio
from collections.abc import Callable, Generator

from agent.mqtt.client import Publish
from agent.mqtt.json_stream import Box, JsonStream
from agent.mqtt.route import Route


class QuietConnection:
    """Takes everything."""

    max_publish_bytes = 60_000
    is_congested = False
    is_v5 = True


class QuietLink:
    """`published` are all messages so far; at QoS 1 each is acknowledged with `code`, or never if None."""

    def __init__(self, code: int | None = 0) -> None:
        self.connection: QuietConnection | None = QuietConnection()
        self.num_connects = 1
        self.published: list[Publish] = []
        self.code = code

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.published]

    async def wait_up(self) -> QuietConnection:
        while self.connection is None:
            await asyncio.sleep(0.001)
        return self.connection

    def publish(self, message: Publish) -> "Sent":
        self.published.append(message)
        return Sent(self.code)


class Sent:
    """What `publish` gives: as much of a future as streams use. Without a code it never ends."""

    def __init__(self, code: int | None) -> None:
        self._code = code

    def add_done_callback(self, callback: Callable[["Sent"], object]) -> None:
        if self._code is not None:
            callback(self)

    def cancelled(self) -> bool:
        return False

    def exception(self) -> None:
        return None

    def result(self) -> int:
        assert self._code is not None
        return self._code

    def __await__(self) -> Generator[None, None, int]:
        while self._code is None:
            yield
        return self._code


class KeptStream(JsonStream):
    """A stream whose link can be looked at."""

    link: QuietLink


def json_stream(link: QuietLink, route: Route, node: str = "box", request_id: str = "r1") -> KeptStream:
    """A stream of frames on a quiet link."""
    stream = KeptStream(link, route, Box(node, "b1"), request_id)  # type: ignore[arg-type]
    stream.link = link
    return stream
