"""The outbox: few messages, nothing late that a person would notice, nothing lost."""

import pytest

from agent.engine import outbox as outbox_module
from agent.engine.detokenizer import Detokenizer
from agent.engine.messages import Events
from agent.engine.outbox import EVERY_S, Outbox
from agent.engine.sampler import Sampler
from agent.engine.sequence import Sequence
from agent.request import Delta, Failed, Sampling, Started
from tests.support.fake_backend import FakeBackend


class Desk:
    """An outbox at a time that tests move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.sent: list[Events] = []
        monkeypatch.setattr(outbox_module.time, "monotonic", lambda: self.now)
        self.outbox = Outbox(self.sent.append)

    def grow(self, sequence: Sequence, text: str) -> None:
        sequence.tokens.append(0)
        sequence.new_tokens.append(0)
        sequence.new_text += text
        self.outbox.grow(sequence)
        self.outbox.flush()


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


@pytest.fixture
def sequence() -> Sequence:
    sampler = Sampler(FakeBackend(), Sampling(seed=0, temperature=0.0))
    return Sequence(1, "me", [1, 2], 2, 10, sampler, Detokenizer())


def test_the_first_token_goes_at_once_and_the_next_ones_together(desk: Desk, sequence: Sequence) -> None:
    """One message for all that came within EVERY_S."""
    for text in "abc":
        desk.grow(sequence, text)
    assert [item.event for item in desk.sent[0].items] == [Delta("a", (0,), 0)]
    assert len(desk.sent) == 1
    desk.now += EVERY_S
    desk.grow(sequence, "d")
    assert [item.event for item in desk.sent[1].items] == [Delta("bcd", (0, 0, 0), 0)]


def test_an_end_goes_at_once_after_the_text_that_waits(desk: Desk, sequence: Sequence) -> None:
    """In this order, in one message."""
    desk.grow(sequence, "a")
    desk.grow(sequence, "b")
    failed = Failed("internal", "x")
    desk.outbox.end(sequence, failed)
    desk.outbox.flush()
    assert [item.event for item in desk.sent[-1].items] == [Delta("b", (0,), 0), failed]
    desk.now += 1
    desk.outbox.flush()
    assert len(desk.sent) == 2


def test_news_of_one_request_takes_along_the_text_of_others(desk: Desk, sequence: Sequence) -> None:
    """The daemon is awake anyway."""
    desk.grow(sequence, "a")
    desk.grow(sequence, "b")
    desk.outbox.put(2, Started())
    desk.outbox.flush()
    assert {item.key for item in desk.sent[-1].items} == {1, 2}


def test_nothing_to_say_is_not_said(desk: Desk) -> None:
    """No empty message."""
    desk.outbox.flush()
    assert desk.sent == []
