"""The door: what a request is called, and where its answer goes, before anybody has looked into it."""

import hashlib
import json
from typing import Any

import pytest

from agent.mqtt.client import Incoming
from agent.mqtt.door import MAX_REMEMBERED, Door
from agent.mqtt.topics import Topics

TOPICS = Topics("tampu/v1", "box", reply_prefixes=("bridge/replies",))


def message(payload: bytes | dict[str, Any] = b"hi", mid: int = 1, **fields: Any) -> Incoming:
    """At QoS 1, of no special kind."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    given = {"qos": 1, "is_retained": False, "is_duplicate": False, "response_topic": None} | fields
    rest = {"correlation": None, "expiry_s": None, "content_type": None} | {
        name: given.pop(name) for name in ("correlation", "expiry_s", "content_type") if name in given
    }
    return Incoming(topic="t", payload=data, mid=mid, **given, **rest)


def test_a_redelivery_of_a_request_without_an_id_gets_the_same_id() -> None:
    """By its packet id and content; without the DUP flag it is another request."""
    door = Door(TOPICS, 1000)
    first = door.open("me", message()).envelope.id
    assert door.open("me", message(is_duplicate=True)).envelope.id == first
    assert door.open("me", message()).envelope.id != first
    assert door.open("you", message(is_duplicate=True)).envelope.id != first
    assert door.open("me", message(b"ho", is_duplicate=True)).envelope.id != first


def test_also_after_a_restart() -> None:
    """The journal knows under which packet id it came."""
    door = Door(TOPICS, 1000)
    door.remember("me", 7, hashlib.sha256(b"hi").digest(), "made-before")
    assert door.open("me", message(mid=7, is_duplicate=True)).envelope.id == "made-before"
    for number in range(MAX_REMEMBERED):
        door.remember("you", number, b"", "x")
    assert door.open("me", message(mid=7, is_duplicate=True)).envelope.id != "made-before"


def test_the_response_topic_wins_over_reply_to() -> None:
    """Each is checked; a bad one is answered on the default topic."""
    door = Door(TOPICS, 1000)
    asked = {"id": "r1", "prompt": "x", "reply_to": "bridge/replies/a"}
    assert door.open("me", message(asked)).route.topic == "bridge/replies/a"
    both = door.open("me", message(asked, response_topic="bridge/replies/b"))
    assert (both.route.topic, both.error) == ("bridge/replies/b", None)
    bad = door.open("me", message(asked, response_topic="tampu/v1/box/response/you/x"))
    assert bad.route.topic == "tampu/v1/box/response/me/r1"
    assert bad.error is not None
    assert bad.error.code == "bad_reply_topic"


@pytest.mark.parametrize(("max_frame", "is_enough"), [(150, False), (256, True)])
def test_a_frame_no_answer_fits_is_refused_in_one_that_may_be_larger(max_frame: int, is_enough: bool) -> None:
    """It names the smallest that works."""
    asked = {"id": "r1", "prompt": "x", "max_frame": max_frame}
    arrival = Door(TOPICS, 1000).open("me", message(asked))
    assert (arrival.error is None) is is_enough
    assert arrival.route.max_frame == (max_frame if is_enough else None)
    if arrival.error is not None:
        least = int(arrival.error.message.split("at least ")[1].split()[0])
        assert Door(TOPICS, 1000).open("me", message({**asked, "max_frame": least})).error is None
        assert Door(TOPICS, 1000).open("me", message({**asked, "max_frame": least - 1})).error is not None


def test_correlation_data_that_is_too_long_is_not_echoed() -> None:
    """And said so."""
    arrival = Door(TOPICS, 1000).open("me", message(correlation=b"x" * 129))
    assert arrival.route.correlation is None
    assert arrival.error is not None
