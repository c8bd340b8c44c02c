"""The pace of prefill: how many prompt tokens a step may carry."""

import pytest

from agent.engine.pace import ALONE_S, BULK_ROWS, FIRST_ROWS, HERD_S, MIN_ROWS, STALL_S, PrefillPace


def measured(*steps: tuple[int, int, float]) -> PrefillPace:
    """A pace that has seen these steps: prompt rows, streams, and the seconds they took."""
    pace = PrefillPace()
    for num_prefill, num_streams, seconds in steps:
        pace.observe(num_prefill, num_streams, seconds)
    return pace


@pytest.mark.parametrize("num_streams", [0, 3])
def test_the_first_step_is_small(num_streams: int) -> None:
    """Nothing is known yet about this box."""
    assert measured().rows(num_streams, 1, 512) == FIRST_ROWS


def test_beside_streams_a_chunk_takes_as_long_as_they_may_be_stalled() -> None:
    """Before anything was computed beside streams, by what rows cost alone."""
    assert measured((100, 0, 0.5)).rows(1, 1, 512) == round(200 * STALL_S)


def test_without_streams_a_chunk_takes_as_long_as_a_cancel_may_wait() -> None:
    assert measured((100, 0, 0.5)).rows(0, 1, 512) == round(200 * ALONE_S)


def test_beside_streams_what_counts_is_what_a_chunk_adds_to_their_step() -> None:
    """A step of 16 streams takes 140 ms by itself: 60 ms more for 30 rows leave room for 50."""
    pace = measured((0, 16, 0.14), (30, 16, 0.2))
    assert pace.rows(16, 1, 512) == pytest.approx(50, abs=1)


def test_a_step_that_was_faster_than_the_streams_alone_is_not_believed() -> None:
    """Noise: rows are never free."""
    assert measured((0, 2, 0.2), (16, 2, 0.1)).rows(2, 1, 512) < 512


@pytest.mark.parametrize("num_streams", [0, 3])
def test_a_chunk_never_exceeds_the_batch(num_streams: int) -> None:
    assert measured((100, 0, 0.001)).rows(num_streams, 1, 64) == 64


def test_the_slowest_board_still_gets_on() -> None:
    """A prompt is not starved by its own slowness."""
    assert measured((8, 0, 10.0)).rows(1, 1, 512) == MIN_ROWS


def test_the_pace_follows_the_load() -> None:
    """A box that has become slower gets smaller chunks, not at once but soon."""
    once, often = measured((100, 0, 0.1), (100, 0, 1.0)), measured((100, 0, 0.1), *[(100, 0, 1.0)] * 20)
    assert once.rows(1, 1, 512) > 2 * often.rows(1, 1, 512)
    assert often.rows(1, 1, 512) == pytest.approx(100 * STALL_S, abs=1)


def test_steps_that_say_little_about_the_speed_are_not_counted() -> None:
    """A few rows cost as much as one; a clock that did not move says nothing."""
    assert measured((1, 0, 1.0), (100, 0, 0.0)).rows(1, 1, 512) == FIRST_ROWS


def test_several_prompts_are_computed_in_bulk_where_that_is_quick_enough() -> None:
    """Rows in bulk at 300 a second, in small chunks beside five streams at half of that."""
    pace = measured((256, 0, 256 / 300), (0, 5, 0.04), (15, 5, 0.14))
    assert pace.rows(5, 1, 512) == pytest.approx(15, abs=1)
    assert pace.rows(5, 4, 512) == pytest.approx(300 * HERD_S - 5, abs=1)


def test_a_box_that_does_not_get_to_bulk_in_time_keeps_to_small_chunks() -> None:
    """A slow one would stall its streams for nothing."""
    slow = BULK_ROWS / HERD_S / 2
    pace = measured((256, 0, 256 / slow), (0, 5, 0.04), (15, 5, 0.14))
    assert pace.rows(5, 4, 512) == pace.rows(5, 1, 512)


def test_bulk_beside_streams_is_measured_as_bulk() -> None:
    """It is found out when it takes longer than it may."""
    quick = measured((256, 0, 0.8))
    assert quick.rows(5, 4, 512) > BULK_ROWS
    for _ in range(10):
        quick.observe(80, 5, 0.6)
    assert quick.rows(5, 4, 512) < BULK_ROWS
