"""Suspects: a second death names its cause, and nobody innocent is punished."""

from hypothesis import given
from hypothesis import strategies as st

from agent.answer import Answer
from agent.request import Message, Queued, Request, Sampling, Started
from agent.suspects import Suspects


def answers(count: int) -> list[Answer]:
    """Answers that are being computed."""
    made = []
    for key in range(count):
        request = Request("me", str(key), (Message("user", "x"),), Sampling(seed=0), max_tokens=10)
        made.append(Answer(key, request))
        made[-1].take(Queued(num_prompt=1))
        made[-1].take(Started())
    return made


def test_those_that_only_waited_in_the_engine_are_no_suspects() -> None:
    """Tokenised but without a slot: the engine had not begun with them."""
    computing, waiting = answers(2)
    waiting.is_started = False
    suspects = Suspects()
    assert suspects.blame([computing, waiting]) == []
    assert suspects.is_held(computing)
    assert not suspects.is_held(waiting)


def test_what_dies_while_it_is_tokenised_is_a_suspect() -> None:
    """Neither queued nor started: the reader thread had it."""
    (answer,) = answers(1)
    answer.is_started = answer.is_queued = False
    suspects = Suspects()
    suspects.blame([answer])
    assert suspects.is_held(answer)


def test_suspects_go_on_one_at_a_time_in_order() -> None:
    """The next one's turn comes when the one before has ended."""
    first, second = answers(2)
    suspects = Suspects()
    suspects.blame([first, second])
    assert suspects.next() is first
    assert suspects.next() is None
    suspects.forget(first)
    assert suspects.next() is second


@given(count=st.integers(1, 12), data=st.data())
def test_one_poisonous_request_is_found_and_all_others_live(count: int, data: st.DataObject) -> None:
    """Whoever it is, it ends after its second death and nobody else does."""
    live = answers(count)
    poison = data.draw(st.sampled_from(live))
    suspects = Suspects()
    assert suspects.blame(live) == []
    ended: list[Answer] = []
    while (answer := suspects.next()) is not None:
        if answer is poison:
            assert suspects.blame([a for a in live if a not in ended]) == [poison]
        suspects.forget(answer)
        ended.append(answer)
    assert len(ended) == count
