"""The link: which MQTT version, how long to wait, when to stay away. No socket: connections are scripted."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agent.errors import BrokerError
from agent.mqtt import link as link_module
from agent.mqtt.client import TAKEN_OVER, ClosedUnheard, ConnectionLost, ProtocolRefused, Publish
from agent.mqtt.link import Link, backoff_s

pytestmark = pytest.mark.anyio


class ScriptedConnection:
    """Opens, or fails to; stays until `end` is called."""

    def __init__(self, is_v5: bool, failure: BrokerError | None) -> None:
        self.is_v5 = is_v5
        self.max_publish_bytes = 1000
        self._failure = failure
        self._closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        if self._failure:
            raise self._failure

    async def closed(self) -> int:
        return await asyncio.shield(self._closed)

    async def close(self) -> None:
        self.end(0)

    def end(self, code: int) -> None:
        if not self._closed.done():
            self._closed.set_result(code)


class Scene:
    """A link over scripted connections, with waiting made short and written down."""

    def __init__(self, failures: list[BrokerError | None], protocol: Any = "auto") -> None:
        self.versions: list[str] = []
        self.pauses: list[float] = []
        self.downs: list[str] = []
        self.connections: list[ScriptedConnection] = []
        self._failures = failures
        self.link = Link(
            self._connect,  # type: ignore[arg-type]
            lambda connection: None,
            self.downs.append,
            lambda connection, message: None,
            protocol=protocol,
        )

    def _connect(self, is_v5: bool, _on_message: Callable[..., None]) -> ScriptedConnection:
        self.versions.append("5" if is_v5 else "3.1.1")
        connection = ScriptedConnection(is_v5, self._failures.pop(0) if self._failures else None)
        self.connections.append(connection)
        return connection


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses the link takes; none is really waited for."""
    taken: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        taken.append(seconds)
        await real_sleep(0)

    monkeypatch.setattr(link_module.asyncio, "sleep", sleep)
    return taken


async def run_until_up(scene: Scene) -> asyncio.Task[None]:
    task = asyncio.create_task(scene.link.run())
    async with asyncio.timeout(5):
        await scene.link.wait_up()
    return task


async def test_mqtt_5_comes_first(sleeps: list[float]) -> None:
    """A broker that takes it is asked for nothing else."""
    scene = Scene([])
    task = await run_until_up(scene)
    assert scene.versions == ["5"]
    task.cancel()


async def test_a_refused_version_is_not_asked_for_again(sleeps: list[float]) -> None:
    """CONNACK 0x84 means 3.1.1 at once."""
    scene = Scene([ProtocolRefused("no")])
    task = await run_until_up(scene)
    assert scene.versions == ["5", "3.1.1"]
    task.cancel()


async def test_two_unanswered_connects_mean_an_old_broker(sleeps: list[float]) -> None:
    """One may be an accident."""
    scene = Scene([ClosedUnheard("gone"), ClosedUnheard("gone")])
    task = await run_until_up(scene)
    assert scene.versions == ["5", "5", "3.1.1"]
    task.cancel()


async def test_a_broker_that_is_away_is_not_taken_for_an_old_one(sleeps: list[float]) -> None:
    """Connection refused says nothing about versions."""
    scene = Scene([BrokerError("away")] * 5)
    task = await run_until_up(scene)
    assert set(scene.versions) == {"5"}
    task.cancel()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_configured_version_is_kept(sleeps: list[float], protocol: str) -> None:
    """Whatever the broker does."""
    scene = Scene([ProtocolRefused("no"), ClosedUnheard("gone"), ClosedUnheard("gone")], protocol)
    task = await run_until_up(scene)
    assert set(scene.versions) == {protocol}
    task.cancel()


async def test_a_takeover_is_answered_by_staying_away(sleeps: list[float]) -> None:
    """At least half a minute, and said."""
    scene = Scene([])
    task = await run_until_up(scene)
    scene.connections[-1].end(TAKEN_OVER)
    async with asyncio.timeout(5):
        while not scene.downs:
            await asyncio.wait([task], timeout=0.001)
    assert max(sleeps) >= 30
    assert "another client" in scene.downs[0]
    task.cancel()


async def test_nothing_is_queued_while_the_link_is_down(sleeps: list[float]) -> None:
    """Publishing fails at once."""
    scene = Scene([])
    with pytest.raises(ConnectionLost):
        await scene.link.publish(Publish("a", b"b"))


def test_the_backoff_grows_with_jitter_and_has_a_ceiling() -> None:
    """Boxes that lost one broker together do not come back together."""
    for failures in range(40):
        waits = {backoff_s(failures) for _ in range(50)}
        assert len(waits) > 10
        assert all(0.25 <= wait <= 60 for wait in waits)
    assert max(backoff_s(0) for _ in range(200)) <= 1
