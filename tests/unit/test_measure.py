"""Measuring a model in a time box: medians, the useful first, and always something to show."""

import time
from collections.abc import Callable

import pytest

from agent.engine import measure
from agent.engine.backend import BatchRows, DecodeStatus
from agent.engine.measure import Step, steps
from agent.engine.messages import (
    Forecast,
    Load,
    LoadFailed,
    Measure,
    Measured,
    MeasureMemory,
    Measuring,
    Read,
    Timed,
    ToDaemon,
)
from tests.support.fake_backend import FakeBackend

ROWS = (32, 256, 128)


class SlowBackend(FakeBackend):
    """Its steps take as long as `cost` says of rows and threads, on a clock of its own."""

    def __init__(self, cost: Callable[[int, int], float]) -> None:
        super().__init__(num_cells=0, num_slots=1, n_batch=512, script=self._take)
        self.now = 1000.0
        self.threads = 0
        self.sizes: list[int] = []
        self._cost = cost

    def set_threads(self, count: int) -> None:
        self.threads = count

    def _take(self, _number: int, batch: BatchRows) -> DecodeStatus:
        self.sizes.append(len(batch.tokens))
        self.now += self._cost(len(batch.tokens), self.threads)
        return DecodeStatus.OK


def ask(seconds: float, threads: tuple[int, ...] = (4, 1), hard_bytes: int = 0) -> Measure:
    load = Load(
        path="",
        n_ctx=512,
        n_seq_max=1,
        n_batch=512,
        n_threads=4,
        kv_type="f16",
        n_gpu_layers=0,
        hard_bytes=hard_bytes,
    )
    return Measure(load=load, threads=threads, rows=ROWS, seconds=seconds)


def run(backend: SlowBackend, asked: Measure) -> list[ToDaemon]:
    said: list[ToDaemon] = []
    measure.run(said.append, asked, lambda _load: backend, lambda: backend.now)
    return said


def timed(said: list[ToDaemon]) -> list[Timed]:
    return [message for message in said if isinstance(message, Timed)]


def evenly(rows: int, threads: int) -> float:
    """A decode takes 40 ms with one thread, a row of a prefill 10; threads share the work."""
    return (0.04 if rows == 1 else 0.01 * rows) / threads


def test_with_time_enough_every_step_is_timed() -> None:
    """All sizes with the first count of threads, the first two with another."""
    said = run(SlowBackend(evenly), ask(1000))
    assert [(one.n_threads, one.n_batch) for one in timed(said)] == [
        (4, 32),
        (4, 256),
        (4, 128),
        (1, 32),
        (1, 256),
    ]
    assert isinstance(said[-1], Measured)


def test_figures_are_tokens_per_second() -> None:
    """Of the steps alone: neither warming up nor the prompt before a decode counts."""
    for one in timed(run(SlowBackend(evenly), ask(1000))):
        assert one.decode_tok_s == pytest.approx(25 * one.n_threads)
        assert one.prefill_tok_s == pytest.approx(100 * one.n_threads)


def test_a_figure_is_the_median() -> None:
    """A step in which something else ran does not count."""
    calls = 0

    def disturbed(rows: int, threads: int) -> float:
        nonlocal calls
        calls += 1
        return evenly(rows, threads) * (20 if calls % 3 == 0 else 1)

    first = timed(run(SlowBackend(disturbed), ask(1000)))[0]
    assert (first.decode_tok_s, first.prefill_tok_s) == (pytest.approx(100), pytest.approx(400))


def test_it_ends_in_time() -> None:
    """Long before all that could be timed is, and repetitions give way first."""
    backend = SlowBackend(evenly)
    said = run(backend, ask(8))
    assert backend.now - 1000 <= 8
    assert [one.n_batch for one in timed(said)][:3] == list(ROWS)


def test_a_slow_board_gives_its_first_decode_and_prefill() -> None:
    """However little time there was; and nothing beyond them is begun."""
    backend = SlowBackend(lambda rows, threads: 100 * evenly(rows, threads))
    said = run(backend, ask(5))
    assert [(one.n_threads, one.n_batch) for one in timed(said)] == [(4, 32)]
    assert max(backend.sizes) == 32
    assert isinstance(said[-1], Measured)


def test_a_count_of_threads_without_a_decode_has_no_prefill() -> None:
    """There is time for one, but a figure of which half is missing is none."""
    said = run(SlowBackend(lambda rows, threads: (4.0 if rows == 1 else 0.001 * rows) / threads), ask(15))
    assert {one.n_threads for one in timed(said)} == {4}
    assert not [m for m in said if isinstance(m, Measuring) and "1 thread" in m.what]


def test_the_share_that_is_done_grows() -> None:
    """What a progress bar shows never goes back, and begins at nothing."""
    shares = [m.share for m in run(SlowBackend(evenly), ask(1000)) if isinstance(m, Measuring)]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] < 1


def test_a_model_that_does_not_fit_is_refused_before_it_is_computed() -> None:
    """With the numbers, as the engine does."""
    backend = SlowBackend(evenly)
    backend.forecast = Forecast(weights_bytes=0, compute_bytes=8 << 20, cell_bytes=1 << 20, fixed_bytes=0)
    (failed,) = (m for m in run(backend, ask(10, hard_bytes=100 << 20)) if isinstance(m, LoadFailed))
    assert failed.code == "insufficient_memory"
    assert "264 MiB and 100 are free" in failed.message
    assert not backend.sizes


def test_a_step_that_fails_ends_it_and_keeps_what_was_said() -> None:
    """The figures before it stand."""

    class BrokenBackend(SlowBackend):
        def decode(self, batch: BatchRows) -> DecodeStatus:
            return DecodeStatus.ERROR if len(batch.tokens) == 256 else super().decode(batch)

    said = run(BrokenBackend(evenly), ask(1000))
    assert [one.n_batch for one in timed(said)] == [32]
    assert isinstance(said[-1], LoadFailed)
    assert "256 rows" in said[-1].message


def test_every_prefill_begins_with_nothing_and_every_row_is_a_real_token() -> None:
    """The fake refuses a gap; the same token over and over would flatter a mixture of experts."""
    backend = SlowBackend(evenly)
    seen: set[int] = set()

    def look(batch: BatchRows) -> DecodeStatus:
        seen.update(batch.tokens)
        return FakeBackend.decode(backend, batch)

    backend.decode = look  # type: ignore[method-assign]
    assert len(timed(run(backend, ask(1000)))) == 5
    assert len(seen) > 20


def test_steps_are_named_for_a_person() -> None:
    """As the progress bar shows them."""
    assert [step.name for step in steps((2, 1), (32,))] == [
        "decode, 2 threads",
        "prefill of 32, 2 threads",
        "decode, 1 thread",
        "prefill of 32, 1 thread",
    ]
    assert Step(8, 512).name == "prefill of 512, 8 threads"


def test_memory_is_read_with_each_count_of_threads() -> None:
    """Within the time given, and no model is opened."""
    said: list[ToDaemon] = []
    started = time.monotonic()
    asked = MeasureMemory(num_bytes=4 << 20, threads=(2, 1), seconds=0.1)
    code = measure.run(said.append, asked, lambda _load: pytest.fail("a model was opened"))
    assert (code, time.monotonic() - started < 5) == (0, True)
    reads = [message for message in said if isinstance(message, Read)]
    assert [read.n_threads for read in reads] == [2, 1]
    assert all(read.bytes_s > 1e7 for read in reads)
