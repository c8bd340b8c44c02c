"""The pace of prefill: how many prompt tokens a step may carry."""

import pytest

from agent.engine.pace import ALONE_S, FIRST_ROWS, MIN_ROWS, STALL_S, PrefillPace


def measured(*steps: tuple[int, float]) -> PrefillPace:
    """A pace that has seen these steps: rows, and the seconds they took."""
    pace = PrefillPace()
    for num_rows, seconds in steps:
        pace.observe(num_rows, seconds)
    return pace


@pytest.mark.parametrize("streams_wait", [True, False])
def test_the_first_step_is_small(streams_wait: bool) -> None:
    """Nothing is known yet about this box."""
    assert measured().rows(streams_wait=streams_wait, n_batch=512) == FIRST_ROWS


def test_beside_streams_a_step_takes_as_long_as_they_may_be_stalled() -> None:
    assert measured((100, 0.5)).rows(streams_wait=True, n_batch=512) == round(200 * STALL_S)


def test_without_streams_a_step_takes_as_long_as_a_cancel_may_wait() -> None:
    assert measured((100, 0.5)).rows(streams_wait=False, n_batch=512) == round(200 * ALONE_S)


@pytest.mark.parametrize("streams_wait", [True, False])
def test_a_step_never_exceeds_the_batch(streams_wait: bool) -> None:
    assert measured((100, 0.001)).rows(streams_wait=streams_wait, n_batch=64) == 64


def test_the_slowest_board_still_gets_on() -> None:
    """A prompt is not starved by its own slowness."""
    assert measured((8, 10.0)).rows(streams_wait=True, n_batch=512) == MIN_ROWS


def test_the_pace_follows_the_load() -> None:
    """A box that has become slower gets smaller steps, not at once but soon."""
    once, often = measured((100, 0.1), (100, 1.0)), measured((100, 0.1), *[(100, 1.0)] * 20)
    assert once.rows(streams_wait=True, n_batch=512) > 2 * often.rows(streams_wait=True, n_batch=512)
    assert often.rows(streams_wait=True, n_batch=512) == pytest.approx(100 * STALL_S, abs=1)


def test_steps_that_say_little_about_the_speed_are_not_counted() -> None:
    """A few rows cost as much as one; a clock that did not move says nothing."""
    assert measured((1, 1.0), (100, 0.0)).rows(streams_wait=True, n_batch=512) == FIRST_ROWS
