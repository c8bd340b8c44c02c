"""The link: which MQTT version, how long to wait, when to stay away. No socket: connections are scripted."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from agent.errors import BrokerError
from agent.findings import Finding, Severity
from agent.mqtt import link as link_module
from agent.mqtt import versions as versions_module
from agent.mqtt.link import Link, backoff_s
from agent.mqtt.wire import (
    BAD_CREDENTIALS,
    TAKEN_OVER,
    ClosedUnheard,
    ConnectionLost,
    ConnectRefused,
    ProtocolRefused,
    Publish,
    TlsRefused,
)

pytestmark = pytest.mark.anyio

REAL_SLEEP = asyncio.sleep


class ScriptedConnection:
    """Opens, or fails to; stays until `end` is called."""

    def __init__(self, is_v5: bool, failure: BrokerError | None) -> None:
        self.is_v5 = is_v5
        self.max_publish_bytes = 1000
        self.is_alive = True
        self.findings: tuple[Finding, ...] = ()
        self._failure = failure
        self._closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        await REAL_SLEEP(0)
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
        self.on_up: Callable[[], object] = lambda: None
        self.before_connect: Callable[[], object] = lambda: None
        self.link = Link(
            self._connect,  # type: ignore[arg-type]
            lambda connection: self.on_up(),
            self.downs.append,
            lambda connection, message: None,
            protocol=protocol,
        )

    def _connect(self, is_v5: bool, _on_message: Callable[..., None]) -> ScriptedConnection:
        self.before_connect()
        self.versions.append("5" if is_v5 else "3.1.1")
        connection = ScriptedConnection(is_v5, self._failures.pop(0) if self._failures else None)
        self.connections.append(connection)
        return connection


async def wait_for(check: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not check():
            await REAL_SLEEP(0.001)


class Clock:
    """Stands for the module's `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The link's monotonic clock, which stands still until a test moves it."""
    stopped = Clock()
    monkeypatch.setattr(link_module, "time", stopped)
    monkeypatch.setattr(versions_module, "time", stopped)
    return stopped


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


async def test_two_quick_closes_in_a_row_are_a_takeover(sleeps: list[float], clock: Clock) -> None:
    """Some brokers do not say why they close; one accident is none."""
    scene = Scene([])
    task = await run_until_up(scene)
    for number, lasted_s in enumerate((1, 60, 1), start=1):
        clock.now += lasted_s
        scene.connections[-1].end(0)
        await wait_for(lambda number=number: len(scene.connections) > number and scene.link.connection)
    assert max(sleeps) < 30
    scene.connections[-1].end(0)
    await wait_for(lambda: len(scene.downs) == 4)
    assert ["another client" in reason for reason in scene.downs] == [False, False, False, True]
    await wait_for(lambda: max(sleeps) >= 30)
    task.cancel()


async def test_nothing_is_queued_while_the_link_is_down(sleeps: list[float]) -> None:
    """Publishing fails at once."""
    scene = Scene([])
    with pytest.raises(ConnectionLost):
        await scene.link.publish(Publish("a", b"b"))


def test_the_backoff_has_full_jitter_and_a_ceiling() -> None:
    """From a second to a minute, and the first try after a loss within eight seconds."""
    for failures in range(40):
        assert all(1 <= backoff_s(failures) <= 60 for _ in range(50))
    assert max(backoff_s(0) for _ in range(200)) <= 8
    assert max(backoff_s(9) for _ in range(200)) > 30


def test_a_fleet_does_not_come_back_in_the_same_second() -> None:
    """No second sees more than a quarter of a thousand boxes that lost one broker; later on, than a tenth."""
    for failures, most in ((0, 250), (1, 250), (4, 100), (20, 100)):
        seconds = Counter(int(backoff_s(failures)) for _ in range(1000))
        assert max(seconds.values()) < most


# ---- what the link knows of itself ---------------------------------------------------------------


def codes(scene: Scene) -> list[str]:
    return [finding.code for finding in scene.link.findings]


async def test_a_takeover_is_a_finding_until_a_connection_lasts(sleeps: list[float], clock: Clock) -> None:
    """A connection that was just made again may be thrown out in the next second."""
    scene = Scene([])
    task = await run_until_up(scene)
    assert codes(scene) == []
    scene.connections[-1].end(TAKEN_OVER)
    await wait_for(lambda: len(scene.connections) == 2 and scene.link.connection)
    assert codes(scene) == ["broker_takeover"]
    clock.now += 11
    assert codes(scene) == []
    task.cancel()


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ConnectRefused("no", BAD_CREDENTIALS), "broker_credentials"),
        (ConnectRefused("server unavailable", 0x88), "broker_refused"),
        (TlsRefused("the broker cannot be reached: expired; set the clock"), "broker_tls"),
    ],
)
async def test_a_refusal_is_a_finding_until_it_is_mended(
    sleeps: list[float], failure: BrokerError, code: str
) -> None:
    """With the next step; a broker that is merely away is none."""
    scene = Scene([BrokerError("away"), failure])
    seen: list[Finding] = []
    scene.before_connect = lambda: seen.extend(scene.link.findings)
    task = await run_until_up(scene)
    assert [finding.code for finding in seen] == [code]
    assert seen[0].remedy
    assert codes(scene) == []
    task.cancel()


async def test_a_broker_of_the_old_version_is_a_note(sleeps: list[float]) -> None:
    """Only where the version was not asked for."""
    scene = Scene([ProtocolRefused("no")])
    task = await run_until_up(scene)
    assert codes(scene) == ["broker_v311"]
    assert scene.link.findings[0].severity is Severity.NOTE
    task.cancel()


async def test_a_broker_that_has_spoken_mqtt_5_is_not_soon_taken_for_an_old_one(sleeps: list[float]) -> None:
    """One that hangs accepts connections too, and answers nothing."""
    scene = Scene([None, *[ClosedUnheard("mute")] * 5])
    task = await run_until_up(scene)
    scene.connections[-1].end(0)
    await wait_for(lambda: len(scene.connections) == 7 and scene.link.connection)
    assert set(scene.versions) == {"5"}
    task.cancel()


async def test_how_long_the_link_was_down_is_known(sleeps: list[float], clock: Clock) -> None:
    """When `on_up` is called: what the broker kept meanwhile is that old."""
    scene = Scene([None, BrokerError("away")])
    absences: list[float] = []
    scene.on_up = lambda: absences.append(scene.link.absent_s)
    task = await run_until_up(scene)

    def a_moment() -> None:
        clock.now += 200

    scene.before_connect = a_moment
    scene.connections[-1].end(0)
    await wait_for(lambda: len(absences) == 2)
    assert absences == [0.0, 400.0]
    task.cancel()


async def test_a_link_is_alive_while_a_thread_serves_its_connection(sleeps: list[float]) -> None:
    """And while it has none; see the watchdog."""
    scene = Scene([])
    assert scene.link.is_alive
    task = await run_until_up(scene)
    assert scene.link.is_alive
    scene.connections[-1].is_alive = False
    assert not scene.link.is_alive
    task.cancel()


async def test_a_link_that_is_closed_while_it_connects_stays_down(sleeps: list[float]) -> None:
    """It would say that the box is here after the box has said goodbye."""
    scene = Scene([])
    ups: list[bool] = []
    scene.on_up = lambda: ups.append(True)
    scene.before_connect = lambda: asyncio.ensure_future(scene.link.close())
    await asyncio.wait_for(scene.link.run(), 5)
    assert ups == []
    assert scene.link.connection is None
    assert [await connection.closed() for connection in scene.connections] == [0]
