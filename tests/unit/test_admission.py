"""Admission: two bounds, each with its own word and a useful time to come back."""

import pytest

from agent.admission import Admission
from agent.answer import Answer
from agent.config import Limits
from agent.errors import Busy, RateLimited
from agent.request import Message, Request, Sampling


def live(*clients: str) -> list[Answer]:
    message = (Message("user", "x"),)
    return [
        Answer(key, Request(client, str(key), message, Sampling(seed=0), 10))
        for key, client in enumerate(clients)
    ]


def test_a_client_has_its_own_bound() -> None:
    """It is told rate_limited; another client is let in."""
    admission = Admission(Limits(queue=10, per_client=2))
    with pytest.raises(RateLimited):
        admission.check("a", live("a", "a"), 4)
    admission.check("b", live("a", "a"), 4)


def test_the_box_has_a_bound() -> None:
    """Whoever comes then is told busy."""
    admission = Admission(Limits(queue=2, per_client=2))
    with pytest.raises(Busy):
        admission.check("c", live("a", "b"), 4)


def test_the_time_to_come_back_follows_what_answers_take() -> None:
    """Between half a second and a minute, longer when answers are slow and many are ahead."""
    admission = Admission(Limits(queue=2, per_client=2))

    def wait_ms() -> int:
        with pytest.raises(Busy) as refusal:
            admission.check("c", live("a", "b"), 1)
        assert refusal.value.retry_after_ms is not None
        return refusal.value.retry_after_ms

    for _ in range(50):
        admission.observe(0.01)
    assert wait_ms() == 500
    for _ in range(50):
        admission.observe(20)
    assert 15_000 < wait_ms() < 25_000
    for _ in range(50):
        admission.observe(500)
    assert wait_ms() == 60_000
