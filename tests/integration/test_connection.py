"""Connections and links against a real mosquitto, without a daemon around them."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from agent.config import Mqtt
from agent.mqtt import link as link_module
from agent.mqtt.client import CONGESTED_BYTES, Connection, ConnectionLost, Incoming, Publish
from agent.mqtt.link import Link
from tests.support.device import Device
from tests.support.processes import Mosquitto
from tests.support.small_broker import (
    MAXIMUM_QOS,
    PUBLISH,
    RECEIVE_MAXIMUM,
    RETAIN_AVAILABLE,
    SHARED_AVAILABLE,
    SUBSCRIBE,
    SmallBroker,
)

pytestmark = pytest.mark.anyio

PAYLOAD = bytes(16 << 10)


@asynccontextmanager
async def opened(
    port: int, name: str = "one", *, is_v5: bool = True, **options: Any
) -> AsyncIterator[tuple[Connection, list[Incoming]]]:
    """An open connection and what it has received."""
    received: list[Incoming] = []
    connection = Connection(
        Mqtt(port=port), name, options.pop("will", None), is_v5, received.append, **options
    )
    try:
        await connection.open()
        yield connection, received
    finally:
        await connection.close()


async def wait_for(check: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not check():
            await asyncio.sleep(0.01)


async def subscribed(connection: Connection, received: list[Incoming], topic: str) -> None:
    """Subscribe, and return when messages arrive."""
    connection.subscribe([topic])
    async with asyncio.timeout(20):
        while not received:
            await connection.publish(Publish(topic.replace("#", "marker"), b"marker", 1))
            await asyncio.sleep(0.01)
    received.clear()


@pytest.mark.parametrize("is_v5", [True, False], ids=["mqtt5", "mqtt3.1.1"])
async def test_more_publishes_than_the_broker_takes_at_once_all_arrive_in_order(
    broker: Mosquitto, is_v5: bool
) -> None:
    """Each future ends with its own PUBACK."""
    async with opened(broker.port, is_v5=is_v5) as (sender, _), opened(broker.port, "two") as (reader, heard):
        await subscribed(reader, heard, "t/#")
        sent = [sender.publish(Publish("t/x", b"%d" % number, 1)) for number in range(300)]
        assert set(await asyncio.gather(*sent)) == {0}
        assert sender.queued_bytes == 0

        def payloads() -> list[bytes]:
            for message in heard:
                reader.acknowledge(message)
            return [message.payload for message in heard if message.topic == "t/x"]

        await wait_for(lambda: len(payloads()) == 300)
        assert payloads() == [b"%d" % number for number in range(300)]


async def test_the_brokers_receive_maximum_is_kept() -> None:
    """One that takes two at once is sent the third when it has acknowledged one; paho would send all."""
    async with (
        SmallBroker(connack=bytes([RECEIVE_MAXIMUM, 0, 2])) as small,
        opened(small.port) as (connection, _),
    ):
        sent = [connection.publish(Publish("t", b"%d" % number, 1)) for number in range(10)]
        connection.publish(Publish("t", b"the last, at QoS 0"))
        await wait_for(lambda: len(small.of(PUBLISH)) == 3)
        assert [packet.qos for packet in small.of(PUBLISH)] == [1, 1, 0]
        for number in range(8):
            small.acknowledge([packet for packet in small.of(PUBLISH) if packet.qos][number])
            await wait_for(lambda number=number: len(small.of(PUBLISH)) == number + 4)
            assert [future.done() for future in sent].count(True) <= number + 1
        payloads = [packet.body[-1:] for packet in small.of(PUBLISH) if packet.qos]
        assert payloads == [b"%d" % number for number in range(10)]
        for future in sent:
            future.add_done_callback(lambda done: done.cancelled() or done.exception())


async def test_a_broker_without_qos_1_and_retain_is_spared_both() -> None:
    """Either would end the connection (0x9B, 0x9A). Such a publish is as good as sent."""
    connack = bytes([MAXIMUM_QOS, 0, RETAIN_AVAILABLE, 0])
    async with SmallBroker(connack=connack) as small, opened(small.port) as (connection, _):
        assert await connection.publish(Publish("t", b"x", 1, retain=True)) == 0
        await wait_for(lambda: small.of(PUBLISH))
    (packet,) = small.of(PUBLISH)
    assert (packet.qos, packet.is_retained) == (0, False)


async def test_a_broker_without_shared_subscriptions_is_not_asked_for_one() -> None:
    """That would end the connection (0x9E); the other filters are asked for."""
    async with (
        SmallBroker(connack=bytes([SHARED_AVAILABLE, 0])) as small,
        opened(small.port) as (connection, _),
    ):
        assert not connection.has_shared_subscriptions
        connection.subscribe(["$share/tampu/pool/x/request/+"])
        connection.subscribe(["$share/tampu/pool/x/request/+", "mine"])
        await wait_for(lambda: small.of(SUBSCRIBE))
        assert [finding.code for finding in connection.findings] == ["broker_no_pools"]
    (packet,) = small.of(SUBSCRIBE)
    assert b"mine" in packet.body
    assert b"$share" not in packet.body


async def test_a_refused_subscription_is_a_finding() -> None:
    """The box would be deaf and not know it."""
    async with SmallBroker(refuses=0x87) as small, opened(small.port) as (connection, _):
        connection.subscribe(["tampu/v1/box/request/+"])
        await wait_for(lambda: connection.findings)
        (finding,) = connection.findings
    assert finding.code == "broker_deaf"
    assert "tampu/v1/box/request/+ among them (Not authorized)" in finding.what


async def fill(connection: Connection) -> None:
    """Publish at QoS 0 until the socket takes no more."""
    is_full = False
    while not is_full:
        while not connection.is_congested:
            await connection.publish(Publish("t", PAYLOAD))
        queued_bytes = connection.queued_bytes
        await asyncio.sleep(0.05)
        is_full = connection.queued_bytes == queued_bytes


async def test_a_broker_that_reads_nothing_makes_the_connection_congested(broker: Mosquitto) -> None:
    """At QoS 0 and 1; when it reads again there is room."""
    async with opened(broker.port) as (connection, _):
        assert (connection.queued_bytes, connection.is_congested) == (0, False)
        with broker.frozen():
            await fill(connection)
            room = asyncio.create_task(connection.wait_room())
            late = connection.publish(Publish("t", PAYLOAD, 1))
            assert connection.queued_bytes > CONGESTED_BYTES + len(PAYLOAD)
            await asyncio.wait([room, late], timeout=0.2)
            assert not room.done()
            assert not late.done()
        async with asyncio.timeout(20):
            await room
            assert await late in {0, 0x10}
            await wait_for(lambda: connection.queued_bytes == 0)


async def test_a_broker_that_reads_nothing_cannot_hold_up_the_goodbye(broker: Mosquitto) -> None:
    """DISCONNECT does not get through; the thread and the socket end all the same."""
    with contextlib.ExitStack() as thawed_at_the_end:
        async with opened(broker.port, "stuck") as (connection, _):
            thawed_at_the_end.enter_context(broker.frozen())
            await fill(connection)
            waiting = connection.publish(Publish("t", b"x", 1))
        with pytest.raises(ConnectionLost):
            await waiting
        assert not any("stuck" in thread.name for thread in threading.enumerate())
        assert (connection.queued_bytes, connection.is_open, connection.is_alive) == (0, False, True)


async def test_a_connection_without_its_thread_ends(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug that ends paho's thread costs a reconnect, not the box's hearing."""
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    async with opened(broker.port) as (connection, _):
        assert connection.is_alive
        monkeypatch.setattr(connection._client, "_loop", lambda _timeout: 1 / 0)
        async with asyncio.timeout(20):
            assert await connection.closed() == 0
        assert not connection.is_open


async def test_a_message_may_expire_at_the_broker(broker: Mosquitto) -> None:
    """MQTT 5's Message Expiry, on what is retained; 3.1.1 has no word for it."""
    for is_v5 in (True, False):
        async with opened(broker.port, is_v5=is_v5) as (connection, _):
            await connection.publish(Publish(f"h/{is_v5}", b"x", 1, retain=True, expiry_s=1000))
    with Device(broker.port, "h/#") as device:
        await wait_for(lambda: len(device.messages) == 2)
        left = {m.topic: getattr(m.properties, "MessageExpiryInterval", None) for m in device.messages}
    assert left.keys() == {"h/True", "h/False"}
    assert left["h/False"] is None
    assert 900 < left["h/True"] <= 1000


# ---- a pool's connection -------------------------------------------------------------------------


@pytest.mark.parametrize("is_v5", [True, False], ids=["mqtt5", "mqtt3.1.1"])
async def test_a_pools_link_leaves_nothing_behind(broker: Mosquitto, is_v5: bool) -> None:
    """Without a session the broker deals to those who are there: an absent member would keep its share."""
    settings = Mqtt(port=broker.port)
    heard: dict[str, list[bytes]] = {"one": [], "two": []}

    def member(name: str) -> Link:
        def take(connection: Connection, message: Incoming) -> None:
            heard[name].append(message.payload)
            connection.acknowledge(message)

        return Link(
            lambda v5, on_message: Connection(
                settings, f"tampu-{name}-pool", None, v5, on_message, keeps_session=False
            ),
            lambda connection: connection.subscribe(["$share/tampu/pool/herbs/request/+"]),
            lambda _reason: None,
            take,
            protocol="5" if is_v5 else "3.1.1",
        )

    links = {name: member(name) for name in heard}
    tasks = [asyncio.create_task(link.run()) for link in links.values()]
    async with opened(broker.port) as (sender, _):

        async def ask(until: Callable[[], object]) -> None:
            async with asyncio.timeout(20):
                while not until():
                    await sender.publish(Publish("pool/herbs/request/me", b"x", 1))
                    await asyncio.sleep(0.01)

        await ask(lambda: heard["one"] and heard["two"])
        await links["one"].close()
        num_before = len(heard["two"])
        sent = [sender.publish(Publish("pool/herbs/request/me", b"%d" % n, 1)) for n in range(10)]
        await asyncio.gather(*sent)
        await wait_for(lambda: len(heard["two"]) == num_before + 10)
        await links["two"].close()
    for task in tasks:
        task.cancel()


# ---- where the broker is -------------------------------------------------------------------------


async def test_the_brokers_name_is_resolved_anew_each_time(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that gets another address is found there: the first address here has nobody."""
    real, answers = socket.getaddrinfo, ["127.0.0.2", "127.0.0.1"]

    def resolve(host: Any, *rest: Any, **named: Any) -> Any:
        if host == "broker.lan":
            host = answers.pop(0) if len(answers) > 1 else answers[0]
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(link_module, "backoff_s", lambda _failures: 0.01)
    settings = Mqtt(host="broker.lan", port=broker.port)
    link = Link(
        lambda is_v5, on_message: Connection(settings, "one", None, is_v5, on_message),
        lambda _connection: None,
        lambda _reason: None,
        lambda _connection, _message: None,
    )
    task = asyncio.create_task(link.run())
    async with asyncio.timeout(20):
        await link.wait_up()
    assert answers == ["127.0.0.1"]
    await link.close()
    task.cancel()


# ---- nothing is left behind ----------------------------------------------------------------------


async def test_a_hundred_broken_connections_leave_neither_thread_nor_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that were open and broke, and those that nobody answered."""
    monkeypatch.setattr(link_module, "backoff_s", lambda _failures: 0.0)
    monkeypatch.setattr(link_module, "TAKEOVER_PAUSE_S", 0.0)
    held: list[tuple[int, int]] = []
    async with SmallBroker() as small:
        settings = Mqtt(port=small.port)

        def connect(is_v5: bool, on_message: Callable[[Incoming], None]) -> Connection:
            # Every other one goes where nobody is.
            target = replace(settings, host="127.0.0.2") if len(held) % 2 else settings
            held.append((psutil.Process().num_fds(), threading.active_count()))
            return Connection(target, "one", None, is_v5, on_message)

        link = Link(connect, lambda _connection: small.hang_up(), lambda _: None, lambda _c, _m: None)
        task = asyncio.create_task(link.run())
        await wait_for(lambda: len(held) > 100)
        task.cancel()
        await asyncio.wait([task])
    assert max(files for files, _ in held[60:]) <= max(files for files, _ in held[20:40])
    assert max(threads for _, threads in held[60:]) <= max(threads for _, threads in held[20:40])
    assert link.num_connects >= 50
