"""A stream of frames: what stands in them, how they follow an answer, and whom they wait for."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from agent.answer import Answer
from agent.mqtt.route import Route
from agent.mqtt.stream import MAX_UNACKNOWLEDGED_BYTES
from agent.request import (
    Delta,
    Finished,
    FinishReason,
    Message,
    Prefilling,
    Queued,
    Request,
    Sampling,
    Started,
    Timings,
    Trimmed,
    Usage,
)
from tests.support.quiet_link import KeptStream, QuietConnection, QuietLink, json_stream

pytestmark = pytest.mark.anyio

END = Finished(FinishReason.STOP, Usage(5, 0, 2), Timings(0, 0, 0), None)


def request(session: str | None = None) -> Request:
    return Request("c", "r1", (Message("user", "x"),), Sampling(seed=1), 9, priority=2, session=session)


def said(stream: KeptStream) -> list[dict[str, Any]]:
    return [json.loads(payload) for payload in stream.link.payloads]


def done(trimmed: Trimmed | None, room: int) -> dict[str, Any]:
    link = QuietLink()
    link.connection.max_publish_bytes = room  # type: ignore[union-attr]
    end = Finished(FinishReason.STOP, Usage(5, 0, 2), Timings(0, 0, 0), trimmed)
    frame: dict[str, Any] = json.loads(json_stream(link, Route("t")).done(end, "text" * 150)[-1].payload)
    return frame


@pytest.mark.parametrize("room", [10_000, 400])
def test_done_says_what_was_left_out_to_fit(room: int) -> None:
    """Whole or in chunks; nothing left out is nothing said."""
    assert done(Trimmed(turns=3, tokens=120), room)["trimmed"] == {"turns": 3, "tokens": 120}
    assert "trimmed" not in done(None, room)


@pytest.mark.parametrize("session", [None, "kitchen"])
def test_accepted_says_the_priority_and_the_session_used(session: str | None) -> None:
    """A request without a session hears of none."""
    stream = json_stream(QuietLink(), Route("t"))
    stream.accept(request(session), 4)
    (frame,) = said(stream)
    assert (frame["priority"], frame.get("session"), frame["queue_pos"]) == (2, session, 4)
    assert ("session" in frame) is (session is not None)


def test_accepted_says_what_is_left_of_a_time_to_live_in_few_digits() -> None:
    """After a restart it is a difference of clocks, and a board's buffer is small."""
    stream = json_stream(QuietLink(), Route("t"))
    stream.accept(msgspec.structs.replace(request(), ttl_s=296.5173595150045), 0)
    assert said(stream)[0]["ttl_s"] == 296.517


def test_progress_says_the_phase_and_how_much_of_the_prompt_is_done() -> None:
    """Queued, prefill, decode."""
    stream, answer = json_stream(QuietLink(), Route("t")), Answer(1, request())
    stream.progress(answer, 3)
    for event in (Queued(num_prompt=900), Started(), Prefilling(num_done=400)):
        answer.take(event)
    stream.progress(answer, 0)
    answer.take(Delta("a", (1,), 1))
    stream.progress(answer, 0)
    parts = [(f["phase"], f["queue_pos"], f["prompt_done"], f["prompt_total"]) for f in said(stream)]
    assert parts == [("queued", 3, 0, 0), ("prefill", 0, 400, 900), ("decode", 0, 900, 900)]


async def test_deltas_wait_while_nothing_is_acknowledged_and_lose_no_text() -> None:
    """A slow reader at QoS 1 has a bounded debt; the rest comes merged in `done`."""
    link = QuietLink(code=None)
    stream, answer = json_stream(link, Route("t", qos=1)), Answer(1, request())
    following = asyncio.create_task(stream.follow(answer))
    for number in range(60):
        answer.take(Delta("x" * 2000, (number,), number))
        await asyncio.sleep(0.002)
    owed = sum(map(len, link.payloads))
    assert MAX_UNACKNOWLEDGED_BYTES < owed < MAX_UNACKNOWLEDGED_BYTES + 8192
    answer.take(END)
    await asyncio.wait_for(following, 5)


async def test_a_congested_connection_gets_nothing_more() -> None:
    """Until it is relieved; then the text that has gathered goes in one frame."""
    link = QuietLink()
    assert link.connection is not None
    link.connection.is_congested = True
    stream, answer = json_stream(link, Route("t")), Answer(1, request())
    following = asyncio.create_task(stream.follow(answer))
    for number in range(5):
        answer.take(Delta("word ", (number,), number))
        await asyncio.sleep(0.01)
    assert link.payloads == []
    link.connection.is_congested = False
    await asyncio.sleep(0.2)
    answer.take(END)
    await asyncio.wait_for(following, 5)
    assert [frame["text"] for frame in said(stream)] == ["word " * 5]


async def test_a_new_connection_begins_with_a_snapshot() -> None:
    """All text so far, and deltas go on behind it."""
    link = QuietLink()
    stream, answer = json_stream(link, Route("t")), Answer(1, request())
    following = asyncio.create_task(stream.follow(answer))
    answer.take(Delta("one ", (1,), 1))
    await asyncio.sleep(0.06)
    link.connection = None
    answer.take(Delta("two ", (2,), 2))
    await asyncio.sleep(0.06)
    link.connection, link.num_connects = QuietConnection(), 2
    answer.take(Delta("three ", (3,), 3))
    await asyncio.sleep(0.06)
    answer.take(Delta("four", (4,), 4))
    await asyncio.sleep(0.06)
    answer.take(END)
    await asyncio.wait_for(following, 5)
    assert [(f["type"], f["off"], f["text"]) for f in said(stream)] == [
        ("delta", 0, "one "),
        ("snapshot", 0, "one two three "),
        ("delta", 14, "four"),
    ]


async def test_a_requester_nobody_hears_of_any_more_is_told_of_once() -> None:
    """Three frames in a row without a subscriber, at a broker that has named one before."""
    link, gone = QuietLink(), []
    stream = json_stream(link, Route("t"))
    stream._on_unheard = lambda: gone.append(1)
    answer = Answer(1, request())
    link.code = 0x10
    for _ in range(3):
        stream.progress(answer, 0)
    assert gone == []  # this broker may never say that somebody listens
    link.code = 0
    stream.progress(answer, 0)
    link.code = 0x10
    for _ in range(3):
        assert gone == []
        stream.progress(answer, 0)
    assert gone == [1]


async def test_a_result_the_broker_cannot_take_is_not_delivered() -> None:
    """It is given up, and said so: the journal keeps it."""
    link = QuietLink()
    assert link.connection is not None
    stream = json_stream(link, Route("t"))
    finals = stream.done(END, "text" * 500)
    assert await stream.deliver(finals)
    link.connection.max_publish_bytes = 1000
    assert not await stream.deliver(finals)
