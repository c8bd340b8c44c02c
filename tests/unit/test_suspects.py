"""Suspects: a second death names its cause, and nobody innocent is punished."""

import msgspec
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
        send(made[-1])
    return made


def send(answer: Answer) -> None:
    """An engine takes it in and begins to compute it."""
    answer.is_sent = True
    answer.take(Queued(num_prompt=1))
    answer.take(Started())


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


def test_what_no_engine_has_seen_is_no_suspect() -> None:
    """It came while the engine was being buried."""
    (answer,) = answers(1)
    answer.is_sent = answer.is_started = answer.is_queued = False
    suspects = Suspects()
    suspects.blame([answer])
    assert not suspects.is_held(answer)


def test_an_innocent_suspect_survives_a_poisonous_newcomer() -> None:
    """With two in the engine nothing is proven: each is tried alone."""
    good, bad, newcomer = answers(3)
    suspects = Suspects()
    assert suspects.blame([good, bad]) == []
    assert suspects.next() is good
    bad.is_sent = False
    assert suspects.blame([good, bad, newcomer]) == []
    newcomer.is_sent = bad.is_sent = False
    assert suspects.next() is good
    assert suspects.is_alone


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
    """Whoever it is, it alone is found guilty."""
    live = answers(count)
    poison = data.draw(st.sampled_from(live))
    suspects = Suspects()
    ended: list[Answer] = []
    guilty = suspects.blame(live)
    for _ in range(4 * count):
        if poison in guilty:
            ended.append(poison)
            suspects.forget(poison)
        for answer in live:
            answer.is_sent = False
        guilty = []
        current = suspects.next()
        if current is None:
            break
        # Newcomers and old acquaintances may be beside it, unless it is to be alone.
        beside = [] if suspects.is_alone else [a for a in live if a not in ended and not suspects.is_held(a)]
        for answer in {current, *beside}:
            send(answer)
        if poison in {current, *beside}:
            guilty = suspects.blame(live)
        else:
            suspects.forget(current)
            ended.append(current)
    assert len(set(map(id, ended))) == count
    assert guilty in ([], [poison])


def test_a_suspect_that_grows_lets_the_next_one_begin() -> None:
    """Where it died before, it lives; waiting for its end would make the most urgent wait longest."""
    first, second = answers(2)
    suspects = Suspects()
    suspects.blame([first, second])
    assert suspects.next() is first
    assert suspects.next() is None
    assert suspects.passed(first)
    assert suspects.next() is second
    assert not suspects.passed(first)


def test_the_more_urgent_suspect_begins_first() -> None:
    low, high = answers(2)
    high.request = msgspec.structs.replace(high.request, priority=5)
    suspects = Suspects()
    suspects.blame([low, high])
    assert suspects.next() is high


def test_a_suspect_that_must_be_alone_stays_alone_to_its_end() -> None:
    """Growing proves nothing for one that was seen at two deaths."""
    first, second = answers(2)
    suspects = Suspects()
    suspects.blame([first, second])
    suspects.next()
    send(second)
    suspects.blame([first, second])
    assert suspects.next() is first
    assert not suspects.passed(first)
    assert suspects.is_alone


def test_one_that_is_to_be_alone_waits_until_the_others_have_ended() -> None:
    """It came from the journal while the engine had others: their death would be put on it."""
    suspect, other = answers(2)
    suspect.num_deaths = 2
    suspects = Suspects()
    suspects.add(suspect)
    assert suspects.wants_silence
    assert suspects.next() is suspect
    assert suspects.is_alone
    assert not suspects.wants_silence
    suspects.forget(suspect)
    suspects.add(other)
    assert not suspects.wants_silence
