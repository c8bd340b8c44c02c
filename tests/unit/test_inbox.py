"""The inbox: acknowledgements in order of arrival, each once its message is safe, on its own connection."""

import asyncio

import pytest

from agent.mqtt.client import Incoming
from agent.mqtt.inbox import MAX_WAITING_QOS0, TURN, Inbox, Safe

pytestmark = pytest.mark.anyio


def message(number: int, qos: int = 1) -> Incoming:
    return Incoming("t", b"", qos, number, False, False, None, None, None, None)


class Acked:
    """A connection that writes down what it acknowledges."""

    def __init__(self) -> None:
        self.mids: list[int] = []

    def acknowledge(self, message: Incoming) -> None:
        self.mids.append(message.mid)


class Scene:
    """An inbox whose messages become safe when a test says so."""

    def __init__(self) -> None:
        self.connection = Acked()
        self.safe: dict[int, asyncio.Future[None]] = {}
        self.is_full = False
        self.inbox = Inbox(self._handle, lambda: self.is_full)  # type: ignore[arg-type]

    def take(self, *messages: Incoming) -> None:
        for one in messages:
            self.inbox.take(self.connection, one)  # type: ignore[arg-type]

    def _handle(self, _: Acked, one: Incoming) -> Safe:
        if one.mid < 0:
            raise ZeroDivisionError
        if one.mid % 2:
            return None
        return self.safe.setdefault(one.mid, asyncio.get_running_loop().create_future())


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_an_acknowledgement_waits_for_those_before_it() -> None:
    """What is safe behind what is not yet is told later."""
    scene = Scene()
    scene.take(message(1), message(2), message(3), message(4))
    assert scene.connection.mids == [1]
    scene.safe[4].set_result(None)
    await settle()
    assert scene.connection.mids == [1]
    scene.safe[2].set_result(None)
    await settle()
    assert scene.connection.mids == [1, 2, 3, 4]


async def test_another_connection_hears_nothing_of_the_messages_of_the_last() -> None:
    """Its packet ids mean other messages."""
    scene = Scene()
    scene.take(message(2))
    old, scene.connection = scene.connection, Acked()
    scene.take(message(1))
    scene.safe[2].set_result(None)
    await settle()
    assert (old.mids, scene.connection.mids) == ([], [1])


async def test_a_full_box_leaves_messages_unacknowledged_until_there_is_room() -> None:
    """In order; messages at QoS 0 wait too, up to a bound."""
    scene = Scene()
    scene.is_full = True
    scene.take(message(1), message(3))
    scene.take(*(message(0, qos=0) for _ in range(MAX_WAITING_QOS0 + 5)))
    assert scene.connection.mids == []
    assert scene.inbox.num_dropped == 7
    scene.is_full = False
    scene.inbox.resume()
    assert scene.connection.mids == [1, 3]


async def test_a_message_that_cannot_be_handled_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is acknowledged, or it would come again for ever."""
    scene = Scene()
    scene.take(message(-1), message(1))
    assert scene.connection.mids == [-1, 1]
    assert "ZeroDivisionError" in caplog.text


async def test_a_burst_lets_others_have_the_loop_in_between() -> None:
    """So many messages a turn; the order stays."""
    scene = Scene()
    turns: list[int] = []
    scene.is_full = True
    scene.take(*(message(2 * number + 1) for number in range(5 * TURN)))
    scene.is_full = False
    scene.inbox.resume()
    while len(scene.connection.mids) < 5 * TURN:
        turns.append(len(scene.connection.mids))
        await asyncio.sleep(0)
    assert turns == [TURN, 2 * TURN, 3 * TURN, 4 * TURN]
    assert scene.connection.mids == sorted(scene.connection.mids)
