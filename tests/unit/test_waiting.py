"""Turns over clients, paid in tokens; priorities go first and make way."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from agent.engine.detokenizer import Detokenizer
from agent.engine.sampler import Sampler
from agent.engine.sequence import Sequence
from agent.engine.waiting import QUANTUM, Waiting
from agent.request import Finished, Sampling
from tests.support.engine_driver import EngineDriver
from tests.support.fake_backend import FakeBackend

keys = count(1)
backend = FakeBackend()


def sequence(client: str, size: int = 10, priority: int = 0) -> Sequence:
    return Sequence(
        key=next(keys),
        client=client,
        tokens=[0] * size,
        num_prompt=size,
        max_tokens=0,
        priority=priority,
        sampler=Sampler(backend, Sampling(seed=0, temperature=0.0)),
        detokenizer=Detokenizer(),
    )


def drain(waiting: Waiting) -> list[Sequence]:
    """Everybody, in the order they are due."""
    order = []
    while waiting:
        head = next(iter(waiting.heads()))
        waiting.take(head)
        order.append(head)
    return order


def test_higher_priorities_go_first_and_equals_in_their_order() -> None:
    waiting = Waiting()
    low, high, first, second = (
        sequence("a", priority=-1),
        sequence("a", priority=5),
        sequence("a"),
        sequence("a"),
    )
    for one in (low, first, high, second):
        waiting.add(one)
    assert drain(waiting) == [high, first, second, low]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 300)), max_size=40))
def test_backlogged_clients_get_the_same_share_of_tokens(asked: list[tuple[str, int]]) -> None:
    """While two clients both wait, neither is ahead by more than its next request and a round."""
    waiting = Waiting()
    for client, size in asked:
        waiting.add(sequence(client, size))
    left = {client: sum(c == client for c, _ in asked) for client in "abc"}
    spent = dict.fromkeys("abc", 0)
    largest = max((size for _, size in asked), default=0)
    order = drain(waiting)
    assert len(order) == len(asked)
    for one in order:
        spent[one.client] += one.num_prompt
        left[one.client] -= 1
        backlogged = [client for client in "abc" if left[client]]
        for client in backlogged:
            for other in backlogged:
                assert spent[client] - spent[other] <= 2 * largest + QUANTUM


def test_what_a_request_did_not_use_is_its_client_s_again() -> None:
    waiting = Waiting()
    first, second, other = sequence("a", 200), sequence("a", 100), sequence("b", 100)
    waiting.add(first)
    waiting.add(second)
    waiting.take(first)
    waiting.add(other)
    # All of its prompt was found computed.
    waiting.refund(first)
    assert drain(waiting) == [second, other]


def test_nobody_waits_for_ever_behind_a_flood_of_small_requests() -> None:
    waiting = Waiting()
    large = sequence("large", 1000)
    waiting.add(large)
    num_passed = 0
    while num_passed < 2000:
        waiting.add(sequence("flood", 2))
        head = next(iter(waiting.heads()))
        waiting.take(head)
        if head is large:
            break
        num_passed += 1
    assert 0 < num_passed < 1000


# ---- in the engine ----------------------------------------------------------------------------------


def test_an_urgent_request_takes_the_place_of_a_lesser_one_which_goes_on_later() -> None:
    """The lesser answer is the one it would have been."""
    prompt = list(range(20))
    alone = EngineDriver(FakeBackend(num_slots=1))
    alone.submit(1, prompt, max_tokens=30)
    alone.run()
    driver = EngineDriver(FakeBackend(num_slots=1))
    driver.submit(1, prompt, client="a", max_tokens=30)
    for _ in range(6):
        driver.turn()
    driver.submit(2, prompt[::-1], client="b", max_tokens=5, priority=3)
    driver.run()
    assert driver.engine._scheduler.num_preemptions == 1
    assert driver.answers[1].tokens == alone.answers[1].tokens
    finished = [
        item.key
        for message in driver.emitted
        for item in getattr(message, "items", ())
        if isinstance(item.event, Finished)
    ]
    assert finished == [2, 1]


def test_equals_do_not_push_each_other_out() -> None:
    driver = EngineDriver(FakeBackend(num_slots=1))
    driver.submit(1, list(range(20)), client="a", max_tokens=30)
    driver.turn()
    driver.submit(2, list(range(20, 40)), client="b", max_tokens=5)
    driver.run()
    assert driver.engine._scheduler.num_preemptions == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 60), st.integers(1, 30), st.integers(-2, 2)),
        min_size=1,
        max_size=10,
    ),
    st.integers(100, 200),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_whatever_the_priorities_every_answer_is_the_lone_one(
    asked: list[tuple[str, int, int, int]], num_cells: int, num_slots: int, gap: int
) -> None:
    driver = EngineDriver(FakeBackend(num_cells=num_cells, num_slots=num_slots))
    for key, (client, size, max_tokens, priority) in enumerate(asked):
        driver.submit(key, [key, *range(size)], client=client, max_tokens=max_tokens, priority=priority)
        for _ in range(gap):
            driver.turn()
    driver.run()
    for key, (client, size, max_tokens, _) in enumerate(asked):
        lone = EngineDriver(FakeBackend(num_cells=num_cells))
        lone.submit(key, [key, *range(size)], client=client, max_tokens=max_tokens)
        lone.run()
        assert lone.answers[key].tokens == driver.answers[key].tokens


def test_a_lesser_request_that_computes_what_an_urgent_one_needs_is_left_to_it() -> None:
    """Pushing it out would have the urgent one compute the same again."""
    system = list(range(1000, 1100))
    driver = EngineDriver(FakeBackend(num_cells=600, num_slots=1))
    driver.submit(1, [*system, 1], client="a", max_tokens=2, num_public=len(system), priority=-1)
    driver.turn()
    driver.submit(2, [*system, 2], client="b", max_tokens=2, num_public=len(system), priority=5)
    driver.run()
    ending = driver.answers[2].ending
    assert isinstance(ending, Finished)
    assert ending.usage.cached == len(system)


def test_what_made_way_finds_its_own_words_again() -> None:
    """Where nobody needed the cells, nothing is computed twice."""
    backend = FakeBackend(num_cells=600, num_slots=2)
    driver = EngineDriver(backend)
    driver.submit(1, list(range(100)), client="a", max_tokens=20, priority=-1)
    driver.submit(2, list(range(200, 300)), client="b", max_tokens=60)
    for _ in range(12):
        driver.turn()
    num_decodes = backend.num_decodes
    driver.submit(3, [7], client="c", max_tokens=2, priority=3)
    driver.run()
    assert driver.engine._scheduler.num_preemptions == 1
    assert backend.num_decodes - num_decodes < 75
