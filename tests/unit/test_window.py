"""Answers that fill their context go on with the sink and the recent window, and say so."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.engine.window import MIN_ANSWER
from agent.request import Finished, FinishReason, Trimmed
from tests.support.engine_driver import Answer, EngineDriver
from tests.support.fake_backend import END, FIRST_WORD, FakeBackend, FakeChain

SYSTEM, HISTORY, LAST = list(range(30)), list(range(30, 70)), list(range(70, 90))


class EndlessBackend(FakeBackend):
    """Never ends an answer by itself."""

    def sample(self, chain: FakeChain, row: int) -> int:
        token = super().sample(chain, row)
        return FIRST_WORD if token == END else token


def said(num_cells: int, *, max_tokens: int = 400, can_shift: bool = True, history: bool = True) -> Answer:
    driver = EngineDriver(EndlessBackend(num_cells=num_cells, can_shift=can_shift))
    tokens = [*SYSTEM, *HISTORY, *LAST] if history else [*SYSTEM, *LAST]
    span = (len(SYSTEM), len(SYSTEM) + len(HISTORY)) if history else (0, 0)
    driver.submit(
        1,
        tokens,
        max_tokens=max_tokens,
        num_public=len(SYSTEM),
        history=span,
        num_history_turns=int(history) * 3,
    )
    driver.run()
    assert driver.engine._kv.check_integrity() == []
    assert driver.backend.max_used <= num_cells
    return driver.answers[1]


def ending(answer: Answer) -> Finished:
    assert isinstance(answer.ending, Finished)
    return answer.ending


@pytest.mark.parametrize("can_shift", [True, False])
def test_the_history_goes_first(can_shift: bool) -> None:
    """All of it, as turns; the answer itself is whole, and its prompt is counted as it was."""
    end = ending(said(150, max_tokens=80, can_shift=can_shift))
    assert end.trimmed == Trimmed(turns=3, tokens=len(HISTORY))
    assert end.finish_reason is FinishReason.LENGTH
    assert end.usage.completion == 80
    assert end.usage.prompt == len(SYSTEM) + len(HISTORY) + len(LAST)


@pytest.mark.parametrize("can_shift", [True, False])
def test_an_answer_outgrows_its_context_and_ends_at_its_own_length(can_shift: bool) -> None:
    end = ending(said(160, can_shift=can_shift))
    assert end.usage.completion == 400
    assert end.trimmed is not None
    assert end.trimmed.tokens > 200


def test_a_context_with_no_room_for_a_window_ends_the_answer_for_its_length() -> None:
    """The prompt stays whole whatever comes."""
    end = ending(said(len(SYSTEM) + len(LAST) + MIN_ANSWER - 10, history=False))
    assert end.finish_reason is FinishReason.LENGTH
    assert end.trimmed is None
    assert end.usage.completion == MIN_ANSWER - 9


@settings(max_examples=40)
@given(st.integers(120, 300), st.booleans(), st.data())
def test_a_trimmed_answer_that_is_resumed_ends_once_and_at_its_length(
    num_cells: int, can_shift: bool, data: st.DataObject
) -> None:
    """Where it goes on from, the window may be another; the count of its tokens is not."""
    whole = said(num_cells, can_shift=can_shift)
    num_done = data.draw(st.integers(0, len(whole.deltas) - 1))
    driver = EngineDriver(EndlessBackend(num_cells=num_cells, can_shift=can_shift))
    driver.submit(1, [*SYSTEM, *LAST], max_tokens=400, resume=whole.resume(num_done))
    driver.run()
    rest = driver.answers[1]
    assert num_done + len(rest.tokens) == 400
    assert ending(rest).usage.completion == 400
    assert driver.engine._kv.check_integrity() == []


def test_shared_cells_are_never_shifted() -> None:
    """Two answers of one client share their beginning; the one that outgrows its context leaves it alone."""
    driver = EngineDriver(EndlessBackend(num_cells=400, num_slots=4))
    for key in range(3):
        driver.submit(
            key,
            [*SYSTEM, *HISTORY, *LAST, 100 + key],
            max_tokens=350,
            num_public=len(SYSTEM),
            history=(30, 70),
        )
    driver.run()
    for key in range(3):
        assert ending(driver.answers[key]).usage.completion == 350
    assert driver.engine._kv.check_integrity() == []


def test_what_was_computed_beside_words_that_are_gone_is_lent_to_nobody() -> None:
    """A trimmed answer's slot holds the tokens of a prompt without history, and not their meaning."""
    driver = EngineDriver(EndlessBackend(num_cells=150))
    driver.submit(1, [*SYSTEM, *HISTORY, *LAST], max_tokens=80, num_public=30, history=(30, 70))
    driver.run()
    assert ending(driver.answers[1]).trimmed is not None
    driver.submit(2, [*SYSTEM, *LAST], max_tokens=5, num_public=30)
    driver.run()
    assert ending(driver.answers[2]).usage.cached <= len(SYSTEM)
