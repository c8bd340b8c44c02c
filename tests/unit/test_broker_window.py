"""What is held back from the broker, and what a CONNACK says that it can take. No paho, no socket."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from agent.mqtt.server import WINDOW, Server, read_connack
from agent.mqtt.subscriptions import ASK_AGAIN_S, Subscriptions
from agent.mqtt.window import MAX_WAITING, Unwritten, Window
from agent.mqtt.wire import ConnectionLost, Overfull, Publish

pytestmark = pytest.mark.anyio


class Wire:
    """Takes publishes and numbers them, until it is cut."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_cut = False

    def send(self, message: Publish) -> int:
        if self.is_cut:
            raise ConnectionLost("cut")
        self.sent.append(message.payload)
        return len(self.sent)


def numbered(count: int) -> list[Publish]:
    return [Publish("t", b"%d" % number, 1) for number in range(count)]


async def test_what_the_server_cannot_take_waits_in_order() -> None:
    """Each PUBACK lets the next one go, and resolves its own future with the server's code."""
    wire = Wire()
    window = Window(wire.send, 3)
    futures = [window.put(message) for message in numbered(8)]
    assert wire.sent == [b"0", b"1", b"2"]
    window.acknowledge(2, 0x10)
    assert wire.sent == [b"0", b"1", b"2", b"3"]
    assert [future.done() for future in futures] == [False, True, *[False] * 6]
    assert await futures[1] == 0x10
    for mid in (1, 3, 4, 5, 6, 7, 8):
        window.acknowledge(mid, 0)
    assert [await future for future in futures] == [0, 0x10, 0, 0, 0, 0, 0, 0]
    assert wire.sent == [message.payload for message in numbered(8)]
    assert window.num_bytes == 0


async def test_an_acknowledgement_nobody_waits_for_is_nothing() -> None:
    """Twice the same, or of a message that was never sent."""
    wire = Wire()
    window = Window(wire.send, 1)
    sent = window.put(Publish("t", b"x", 1))
    window.acknowledge(7, 0)
    window.acknowledge(1, 0)
    window.acknowledge(1, 0x80)
    assert await sent == 0
    assert window.num_bytes == 0


async def test_the_end_of_the_connection_ends_the_waiting() -> None:
    """Sent or not, each future fails, and nothing is sent any more."""
    wire = Wire()
    window = Window(wire.send, 2)
    futures = [window.put(message) for message in numbered(5)]
    window.fail("over")
    for future in futures:
        with pytest.raises(ConnectionLost, match="over"):
            await future
    window.acknowledge(1, 0)
    assert len(wire.sent) == 2
    assert window.num_bytes == 0


async def test_a_wire_that_is_cut_fails_the_publish_and_counts_nothing() -> None:
    """Those behind it fail too, each by itself."""
    wire = Wire()
    window = Window(wire.send, 1)
    first, second, third = (window.put(message) for message in numbered(3))
    wire.is_cut = True
    window.acknowledge(1, 0)
    assert await first == 0
    for future in (second, third):
        with pytest.raises(ConnectionLost):
            await future
    assert window.num_bytes == 0


@pytest.mark.parametrize("size", [1, 1 << 20], ids=["many", "large"])
async def test_what_waits_is_bounded(size: int) -> None:
    """Beyond it a publish fails at once, and is not sent later either."""
    wire = Wire()
    window = Window(wire.send, 1)
    payload = bytes(size)
    futures = [window.put(Publish("t", payload, 1)) for _ in range(MAX_WAITING + 2)]
    with pytest.raises(Overfull):
        await futures[-1]
    assert window.num_bytes <= 8 << 20
    num_taken = sum(not future.done() for future in futures)
    for mid in range(1, len(futures) + 1):
        window.acknowledge(mid, 0)
    assert len(wire.sent) == num_taken
    for future in futures:
        future.cancelled() or future.exception()


async def test_what_nobody_waits_for_any_more_is_not_sent() -> None:
    """A cancelled publish leaves its place to the next."""
    wire = Wire()
    window = Window(wire.send, 1)
    first, second, third = (window.put(message) for message in numbered(3))
    second.cancel()
    window.acknowledge(1, 0)
    assert wire.sent == [b"0", b"2"]
    window.acknowledge(2, 0)
    assert (await first, await third) == (0, 0)
    assert window.num_bytes == 0


def test_what_the_socket_has_not_taken_is_counted() -> None:
    """Written in order: those behind one that is not written are not written either."""
    unwritten = Unwritten()
    is_written = [False, False, False]

    def receipt(number: int) -> SimpleNamespace:
        return SimpleNamespace(is_published=lambda: is_written[number])

    for number in range(3):
        unwritten.add(receipt(number), 100)
    assert unwritten.num_bytes == 300
    is_written[0] = True
    assert unwritten.num_bytes == 200
    is_written[1:] = [True, True]
    assert unwritten.num_bytes == 0
    unwritten.add(SimpleNamespace(is_published=lambda: True), 5)
    assert unwritten.num_bytes == 0
    unwritten.add(SimpleNamespace(is_published=lambda: False), 5)
    unwritten.clear()
    assert unwritten.num_bytes == 0


# ---- what a CONNACK says -------------------------------------------------------------------------


def test_a_server_that_says_nothing_takes_what_3_1_1_takes() -> None:
    """No properties, or none of those that bound us."""
    assert read_connack(None) == read_connack(SimpleNamespace()) == Server()


def test_a_servers_bounds_are_kept() -> None:
    """Smaller ones; larger ones than ours change nothing."""
    small = SimpleNamespace(
        MaximumPacketSize=2048,
        ReceiveMaximum=5,
        MaximumQoS=0,
        RetainAvailable=0,
        SharedSubscriptionAvailable=0,
    )
    assert read_connack(small) == Server(1536, 5, 0, has_retain=False, has_shared=False)
    large = SimpleNamespace(MaximumPacketSize=1 << 28, ReceiveMaximum=65535, MaximumQoS=1)
    assert read_connack(large) == Server()
    assert read_connack(SimpleNamespace(ReceiveMaximum=65535)).window == WINDOW
    assert read_connack(SimpleNamespace(MaximumPacketSize=300)).max_publish_bytes == 150


def test_a_message_is_made_to_fit_the_server() -> None:
    """Without retain, at QoS 0, and else as it was."""
    message = Publish("t", b"x", 1, retain=True, correlation=b"c", expiry_s=9)
    assert Server().fit(message) is message
    assert Server(max_qos=0).fit(message) == Publish("t", b"x", 0, True, b"c", 9)
    assert Server(has_retain=False).fit(message) == Publish("t", b"x", 1, False, b"c", 9)


# ---- subscriptions -------------------------------------------------------------------------------


class Broker:
    """Numbers what is asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def ask(self, filters: list[str]) -> int:
        self.asked.append(filters)
        return len(self.asked)


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Callable[[], None]]]:
    """What was to be called later, instead of waiting for it."""
    called: list[tuple[float, Callable[[], None]]] = []

    def call_later(delay_s: float, function: Callable[[], None]) -> asyncio.Handle:
        called.append((delay_s, function))
        return asyncio.get_running_loop().call_soon(lambda: None)

    base = asyncio.base_events.BaseEventLoop
    monkeypatch.setattr(base, "call_later", lambda _loop, *given: call_later(*given))
    return called


async def test_a_refused_subscription_is_a_finding_until_it_is_allowed(
    timers: list[tuple[float, Callable[[], None]]],
) -> None:
    """It alone is asked for again: the others' retained messages would come once more."""
    broker = Broker()
    subscriptions = Subscriptions(broker.ask)
    subscriptions.subscribe(["a", "b"])
    assert subscriptions.findings() == ()
    subscriptions.take(1, ["", "Not authorized"])
    (finding,) = subscriptions.findings()
    assert finding.code == "broker_deaf"
    assert "b" in finding.what
    assert "ACL" in finding.remedy
    (delay_s, again), *_ = timers
    assert delay_s == ASK_AGAIN_S
    again()
    assert broker.asked == [["a", "b"], ["b"]]
    subscriptions.take(2, [""])
    assert subscriptions.findings() == ()


async def test_nothing_is_asked_for_when_there_is_nothing() -> None:
    """An empty SUBSCRIBE is against the protocol."""
    broker = Broker()
    Subscriptions(broker.ask).subscribe([])
    assert broker.asked == []
