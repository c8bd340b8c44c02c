"""The elastic pool: small at first, grown for work, given back, and never beyond its budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.engine import Options
from agent.engine.kv_cache import STALE_S
from agent.engine.messages import N_CTX_START, Pressure, Stats
from agent.engine.pool import RETRY_S, STEP, Pool
from agent.engine.rest import SHRINK_AFTER_S, Rest
from agent.errors import InsufficientMemory
from agent.request import Failed, Finished
from tests.support.engine_driver import EngineDriver
from tests.support.fake_backend import FakeBackend

# What FakeBackend says it needs besides its cells, which are a byte each.
FIXED = 100


def asleep(**options: int) -> FakeBackend:
    backend = FakeBackend(**options)
    backend.resize(0)
    return backend


def test_a_pool_starts_small_and_grows_by_half_at_least() -> None:
    backend = asleep()
    pool = Pool(backend, n_ctx=8192)
    pool.wake()
    assert pool.num_cells == N_CTX_START
    assert pool.grow(N_CTX_START + 1, 0) is True
    assert pool.num_cells == 768
    assert pool.grow(5000, 0) is True
    assert pool.num_cells == 5120
    assert pool.grow(9000, 0) is True
    assert pool.num_cells == 8192
    assert pool.grow(9000, 0) is None


def test_a_model_that_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(InsufficientMemory, match="needs 0 MiB at least and may have 0"):
        Pool(asleep(), n_ctx=8192, hard_bytes=FIXED + STEP)


@given(
    st.integers(FIXED + 400, 20_000), st.lists(st.tuples(st.booleans(), st.integers(1, 9000)), max_size=30)
)
def test_whatever_is_asked_a_resize_stays_within_the_budget(
    hard_bytes: int, asked: list[tuple[bool, int]]
) -> None:
    """Old cells and copy, then copy and new cells: their sum counts. And the largest size can be had."""
    backend = asleep()
    pool = Pool(backend, n_ctx=8192, hard_bytes=hard_bytes)
    pool.wake()
    num_resident = 0
    for is_growth, amount in asked:
        num_resident = min(num_resident, pool.num_cells)
        before = pool.num_cells
        changed = pool.grow(amount, num_resident) if is_growth else pool.shrink(num_resident)
        copied = num_resident if changed is not None else 0
        assert FIXED + max(before, pool.num_cells) + copied <= hard_bytes
        assert pool.num_cells >= num_resident
        num_resident = min(amount, pool.num_cells)
    # Full or not, a sequence can have what was promised.
    pool.grow(pool.max_cells, pool.num_cells)
    assert pool.num_cells == pool.max_cells


def test_when_memory_is_refused_the_pool_stays_and_says_so() -> None:
    backend = asleep()
    pool = Pool(backend, n_ctx=8192)
    pool.wake()
    backend.refuses_resize = True
    assert pool.grow(2000, 0) is None
    assert (pool.num_cells, pool.reachable) == (N_CTX_START, N_CTX_START)


def test_under_critical_pressure_a_pool_does_not_grow() -> None:
    pool = Pool(asleep(), n_ctx=8192)
    pool.wake()
    pool.pressure = 2
    assert pool.grow(2000, 0) is None
    pool.pressure = 0
    assert pool.grow(2000, 0) is True


# ---- in the engine ----------------------------------------------------------------------------------


def prompt(length: int, first: int = 0) -> list[int]:
    return [first + i % 200 for i in range(length)]


@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 60)), min_size=1, max_size=8),
    st.integers(1, 3),
    st.booleans(),
)
def test_an_answer_in_a_pool_that_grows_and_shrinks_is_the_answer_in_one_that_does_not(
    asked: list[tuple[int, int]], every: int, is_lossy: bool
) -> None:
    """Token for token, also where a resize loses what the context held."""
    still = EngineDriver(FakeBackend(num_cells=8192, num_slots=8))
    backend = FakeBackend(num_cells=512, num_slots=8)
    backend.loses_state = is_lossy
    moving = EngineDriver(backend, n_ctx=8192)
    for driver in (still, moving):
        for key, (length, max_tokens) in enumerate(asked):
            driver.submit(key, [key, *prompt(length)], client=str(key % 3), max_tokens=max_tokens)
    still.run()
    for turn in range(5000):
        if not moving._pending:
            break
        moving.engine.turn()
        if turn % every == 0:
            moving.engine._kv.shrink()
    assert {key: answer.tokens for key, answer in still.answers.items()} == {
        key: answer.tokens for key, answer in moving.answers.items()
    }
    assert moving.engine._kv.check_integrity() == []
    assert backend.num_refused == 0


def test_one_burst_is_one_resize() -> None:
    """Room for everybody at once, not a step for each."""
    backend = FakeBackend(num_cells=512, num_slots=8)
    driver = EngineDriver(backend, n_ctx=8192)
    for key in range(8):
        driver.submit(key, [key, *prompt(200)], client=str(key), max_tokens=20)
    driver.run()
    assert backend.num_resizes == 1


def test_what_nobody_goes_on_from_makes_way_before_the_pool_grows() -> None:
    backend = FakeBackend(num_cells=512, num_slots=8)
    driver = EngineDriver(backend, n_ctx=8192)
    driver.submit(1, prompt(300), client="a", max_tokens=2)
    driver.run()
    for slot in driver.engine._kv._slots:
        slot.used_at -= STALE_S + 1
    driver.submit(2, prompt(300, first=5), client="b", max_tokens=2)
    driver.run()
    assert backend.num_resizes == 0
    driver.submit(3, prompt(300, first=9), client="c", max_tokens=2)
    driver.run()
    assert backend.num_resizes == 1


def test_pressure_gives_back_what_is_idle_and_ends_what_cannot_be_had() -> None:
    """A prompt that would need a larger pool hears of the memory; a small one is answered."""
    backend = FakeBackend(num_cells=4096, num_slots=8)
    driver = EngineDriver(backend, n_ctx=4096)
    driver.submit(1, prompt(1000), client="a", max_tokens=2)
    driver.run()
    driver.put(Pressure(2))
    driver.submit(2, prompt(100), client="b", max_tokens=2)
    driver.submit(3, prompt(1000), client="c", max_tokens=2)
    driver.run()
    assert backend.num_cells == N_CTX_START
    assert isinstance(driver.answers[2].ending, Finished)
    failed = driver.answers[3].ending
    assert isinstance(failed, Failed)
    assert failed.code == "insufficient_memory"
    driver.put(Pressure(0))
    driver.submit(4, prompt(1000), client="c", max_tokens=2)
    driver.run()
    assert isinstance(driver.answers[4].ending, Finished)


# ---- sleep ------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_idle_engine_gives_back_spare_cells_first_and_then_its_context() -> None:
    clock = Clock()
    backend = FakeBackend(num_cells=4096)
    driver = EngineDriver(backend, n_ctx=4096)
    driver.submit(1, prompt(10), max_tokens=2)
    driver.run()
    rest = Rest(driver.engine._kv, 300.0, clock)
    assert rest.wait_s() == SHRINK_AFTER_S
    clock.now += SHRINK_AFTER_S
    rest.settle()
    assert backend.num_cells == N_CTX_START
    assert rest.wait_s() == 300.0 - SHRINK_AFTER_S
    clock.now += 300.0
    rest.settle()
    assert backend.num_cells == 0
    assert rest.wait_s() is None


def test_an_engine_that_sleeps_wakes_for_the_next_prompt_and_says_the_same() -> None:
    """Its waking shows in the report; the answer is the one it gave before."""
    backend = FakeBackend(num_cells=1024)
    driver = EngineDriver(backend, n_ctx=1024, options=Options(sleep_after_s=0.01, emit_every_s=0))
    driver.submit(1, prompt(10), max_tokens=8)
    driver.run()
    while not driver.pool.is_asleep:
        driver.engine.turn()
    assert any(isinstance(message, Stats) and message.is_asleep for message in driver.emitted)
    driver.submit(2, prompt(10), max_tokens=8)
    driver.run()
    assert driver.answers[2].tokens == driver.answers[1].tokens
    assert driver.engine._kv.check_integrity() == []


def test_no_memory_to_wake_up_fails_the_prompt_and_not_the_engine() -> None:
    backend = asleep()
    driver = EngineDriver(backend, n_ctx=1024)
    backend.refuses_resize = True
    driver.submit(1, prompt(10))
    driver.run()
    failed = driver.answers[1].ending
    assert isinstance(failed, Failed)
    assert failed.code == "insufficient_memory"
    backend.refuses_resize = False
    driver.submit(2, prompt(10))
    driver.run()
    assert isinstance(driver.answers[2].ending, Finished)


def test_a_resize_that_could_not_be_undone_has_everything_computed_again() -> None:
    """Refused, and the old cells are gone as well: the ledger must not go on as if they were there."""
    backend = FakeBackend(num_cells=512, num_slots=4)
    driver = EngineDriver(backend, n_ctx=4096)
    driver.submit(1, prompt(300), client="a", max_tokens=10)
    while not driver.answers[1].tokens:
        driver.turn()
    whole = EngineDriver(FakeBackend(num_cells=512))
    whole.submit(1, prompt(300), client="a", max_tokens=10)
    whole.run()
    real = backend.resize

    def refuse_and_lose(num_cells: int) -> bool:
        backend._slots = [[] for _ in range(backend.num_slots)]
        raise InsufficientMemory("no memory")

    backend.resize = refuse_and_lose  # type: ignore[method-assign]
    driver.submit(2, prompt(600, first=7), client="b", max_tokens=2)
    for _ in range(3):
        driver.turn()
    backend.resize = real  # type: ignore[method-assign]
    driver.run()
    assert driver.answers[1].tokens == whole.answers[1].tokens
    assert driver.engine._kv.check_integrity() == []


def test_what_was_refused_once_is_asked_for_again_after_a_while() -> None:
    clock = Clock()
    backend = asleep()
    pool = Pool(backend, n_ctx=8192, clock=clock)
    pool.wake()
    backend.refuses_resize = True
    assert pool.grow(2000, 0) is None
    backend.refuses_resize = False
    assert pool.reachable == N_CTX_START
    clock.now += RETRY_S + 1
    assert pool.reachable == 8192


def test_a_copy_that_somebody_keeps_counts_in_the_budget() -> None:
    is_lent = True
    pool = Pool(asleep(), n_ctx=8192, hard_bytes=FIXED + 6000)
    pool.wake()
    pool.lend(4000, lambda: is_lent)
    assert pool.grow(3000, 512) is None
    is_lent = False
    assert pool.grow(3000, 512) is True


def test_a_box_whose_memory_wavers_still_falls_asleep() -> None:
    """A message about pressure is no work."""
    backend = FakeBackend(num_cells=1024)
    driver = EngineDriver(backend, n_ctx=1024, options=Options(sleep_after_s=0.05, emit_every_s=0))
    driver.submit(1, prompt(10), max_tokens=2)
    driver.run()
    for level in [1, 0] * 40:
        driver.put(Pressure(level))
        driver.engine.turn()
        driver.engine.turn()
        if driver.pool.is_asleep:
            break
    assert driver.pool.is_asleep
