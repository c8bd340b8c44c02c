"""A stream of bare text: what another way back is told."""

import asyncio
from typing import Any

import pytest

from agent.answer import Answer
from agent.mqtt.route import Route
from agent.mqtt.text_stream import TextStream
from agent.request import Delta, Finished, FinishReason, Message, Request, Sampling, Timings, Usage
from tests.support.quiet_link import QuietLink

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("topic", "said"), [("b", "one two "), ("a", "two ")])
async def test_another_topic_gets_all_the_text_and_the_same_one_nothing_twice(topic: str, said: str) -> None:
    """The request came again while it was answered: from elsewhere, or once more from the same device."""
    link: Any = QuietLink()
    stream = TextStream(link, Route("a"))
    answer = Answer(1, Request("c", "r1", (Message("user", "x"),), Sampling(seed=1), 9))
    following = asyncio.create_task(stream.follow(answer))
    answer.take(Delta("one ", (1,), 1))
    await asyncio.sleep(0.06)
    assert link.payloads == [b"one "]
    link.published.clear()
    stream.reroute(Route(topic))
    answer.take(Delta("two ", (2,), 2))
    answer.take(Finished(FinishReason.STOP, Usage(5, 0, 2), Timings(0, 0, 0), None))
    await asyncio.wait_for(following, 5)
    finals = stream.terminal_frames(answer)
    told = [message.payload for message in link.published if message.topic == topic]
    assert b"".join([*told, *(final.payload for final in finals)]).decode() == said
