"""When Home Assistant is told of this box, and when that is taken back."""

import asyncio

import pytest

from agent.config import Config
from agent.errors import BrokerError
from agent.mqtt import announcer
from agent.mqtt.announcer import NOTE, Announcer
from agent.mqtt.topics import Topics

pytestmark = pytest.mark.anyio

ON = Topics("tampu/v1", "box", home_assistant="homeassistant")
OFF = Topics("tampu/v1", "box")
TOPIC = "homeassistant/device/box/config"
OLD = "homeassistant/device/old/config"


class Notebook:
    """The journal's notes, in a dict."""

    def __init__(self, topic: str | None = None) -> None:
        self.values = {} if topic is None else {NOTE: topic.encode()}

    def note(self, name: str, value: bytes | None) -> None:
        if value is None:
            self.values.pop(name, None)
        else:
            self.values[name] = value

    def notes(self, prefix: str) -> dict[str, bytes]:
        return {name: value for name, value in self.values.items() if name.startswith(prefix)}


class Broker:
    """Takes what is published, answers with `codes` by topic, and loses everything while `is_lost`."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.is_lost = False
        self.got: list[tuple[str, bool]] = []

    async def publish(self, topic: str, payload: bytes) -> int:
        if self.is_lost:
            raise BrokerError("the connection is gone")
        self.got.append((topic, bool(payload)))
        return self.codes.get(topic.split("/")[2], 0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the other boxes of the house."""
    monkeypatch.setattr(announcer, "birth_delay_s", lambda: 0.0)


def made(topics: Topics, broker: Broker, notes: Notebook) -> Announcer:
    return Announcer(topics, Config(node="box"), "1", broker.publish, notes)


async def settle() -> None:
    """Let what was begun come to its end."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_it_is_said_on_every_connection() -> None:
    """And noted before it is said."""
    broker, notes = Broker(), Notebook()
    mouth = made(ON, broker, notes)
    mouth.on_up()
    await settle()
    mouth.on_up()
    await settle()
    assert broker.got == [(TOPIC, True), (TOPIC, True)]
    assert notes.values == {NOTE: TOPIC.encode()}


async def test_switched_off_and_never_announced_nothing_is_said() -> None:
    """Neither on a connection nor at a birth."""
    broker, notes = Broker(), Notebook()
    mouth = made(OFF, broker, notes)
    mouth.on_up()
    mouth.on_birth(b"online")
    await settle()
    assert broker.got == []
    assert notes.values == {}


async def test_switched_off_the_device_is_taken_away_once() -> None:
    """By an empty payload; then the note is gone, and with it the next one."""
    broker, notes = Broker(), Notebook(TOPIC)
    for _ in range(2):
        made(OFF, broker, notes).on_up()
        await settle()
    assert broker.got == [(TOPIC, False)]
    assert notes.values == {}


async def test_under_another_name_the_old_device_goes_first() -> None:
    """Then the new one is announced."""
    broker, notes = Broker(), Notebook(OLD)
    made(ON, broker, notes).on_up()
    await settle()
    assert broker.got == [(OLD, False), (TOPIC, True)]
    assert notes.values == {NOTE: TOPIC.encode()}


async def test_what_the_broker_refuses_is_still_owed(caplog: pytest.LogCaptureFixture) -> None:
    """The note stays for another start, and the log says what to allow."""
    broker, notes = Broker(old=0x87), Notebook(OLD)
    made(OFF, broker, notes).on_up()
    await settle()
    assert notes.values == {NOTE: OLD.encode()}
    assert f"allow this user to write {OLD}" in caplog.text


async def test_an_old_device_that_cannot_be_taken_away_is_no_obstacle() -> None:
    """A broker that knows the box by its new name only: the new one is announced all the same."""
    broker, notes = Broker(old=0x87), Notebook(OLD)
    made(ON, broker, notes).on_up()
    await settle()
    assert broker.got == [(OLD, False), (TOPIC, True)]
    assert notes.values == {NOTE: TOPIC.encode()}


async def test_what_was_lost_is_said_with_the_next_connection() -> None:
    """A broken connection loses nothing for good."""
    broker, notes = Broker(), Notebook(OLD)
    broker.is_lost = True
    mouth = made(ON, broker, notes)
    mouth.on_up()
    await settle()
    assert (broker.got, notes.values) == ([], {NOTE: OLD.encode()})
    broker.is_lost = False
    mouth.on_up()
    await settle()
    assert broker.got == [(OLD, False), (TOPIC, True)]


async def test_births_in_quick_succession_are_answered_once() -> None:
    """While one announcement is under way another is not begun; a last will is no birth."""
    broker = Broker()
    mouth = made(ON, broker, Notebook())
    for payload in (b"offline", b"online", b"online", b"online"):
        mouth.on_birth(payload)
    await settle()
    assert broker.got == [(TOPIC, True)]
    mouth.on_birth(b"online")
    await settle()
    assert len(broker.got) == 2


async def test_closed_it_says_nothing_more() -> None:
    """Not even what was about to be said."""
    broker = Broker()
    mouth = made(ON, broker, Notebook())
    mouth.on_up()
    mouth.close()
    await settle()
    assert broker.got == []
