"""Measures instead of serving: how fast this model decodes and prefills here, and how fast memory is read.

A time box: the cheapest and most useful steps first, each with an equal share of the time that is
left. What would not end in time is left out, but never the first decode and the first prefill. Every
token is sampled, greedily: a GPU has not computed what nobody has read.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from agent.engine.backend import Backend, DecodeStatus
from agent.engine.batch import Batch
from agent.engine.messages import (
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
from agent.engine.pool import STEP
from agent.engine.threads import read_cpu_seconds
from agent.errors import InsufficientMemory, Internal, RequestError
from agent.hardware.bandwidth import read_speed
from agent.request import Sampling

Clock = Callable[[], float]

GREEDY = Sampling(seed=0, temperature=0.0)
# What a decode comes after: enough to be an answer, and little to wait for on a slow box.
PROMPT_ROWS = 8
LEAST_TOKENS, MOST_TOKENS = 3, 96
LEAST_PREFILLS, MOST_PREFILLS = 1, 9
# Counts of threads after the first get so many of the sizes: the others follow from the first count's.
ROWS_OF_OTHERS = 2
# Words as they come in prompts: the same token over and over would meet the same few experts.
TEXT = (
    "A tampu stood a day's walk from the next one on the road over the mountains, stocked ahead of time with"
    " maize, dried potatoes, cloth, rope and fuel. Runners slept there; caravans of llamas were counted,"
    " loaded and sent on before the rain. Whoever kept it knew 41 knots for what came in and 17 for what"
    " went out, and could say at any hour how long the store would last if the pass were closed by snow. "
)


class Step(NamedTuple):
    """One thing to time: a decode (one row) or a prefill step of `rows`."""

    n_threads: int
    rows: int

    @property
    def name(self) -> str:
        """As a person reads it."""
        work = "decode" if self.rows == 1 else f"prefill of {self.rows}"
        return f"{work}, {_threads(self.n_threads)}"


def run(
    send: Callable[[ToDaemon], None],
    ask: Measure | MeasureMemory,
    open_backend: Callable[[Load], Backend],
    clock: Clock = time.perf_counter,
) -> int:
    """Do what is asked and say each figure as it comes; the process's exit code."""
    started, (everybody, ours) = clock(), read_cpu_seconds()
    try:
        if isinstance(ask, MeasureMemory):
            _measure_memory(send, ask)
        else:
            send(Measuring("opening the model", 0.0))
            for message in measure(open_backend(ask.load), ask, started, clock):
                send(message)
    except RequestError as error:
        send(LoadFailed(code=error.code, message=error.message))
        return 1
    after, ours_after = read_cpu_seconds()
    others_s = (after - everybody) - (ours_after - ours)
    send(Measured(others_cores=max(0.0, others_s) / max(clock() - started, 1e-3)))
    return 0


def _measure_memory(send: Callable[[ToDaemon], None], ask: MeasureMemory) -> None:
    for index, n_threads in enumerate(ask.threads):
        send(
            Measuring(f"reading memory, {n_threads} thread{'s' * (n_threads > 1)}", index / len(ask.threads))
        )
        try:
            bytes_s = read_speed(ask.num_bytes, n_threads, ask.seconds / len(ask.threads))
        except OSError as error:
            raise InsufficientMemory(f"no buffer of {ask.num_bytes >> 20} MiB: {error.strerror}") from error
        send(Read(n_threads, bytes_s))


def steps(threads: tuple[int, ...], rows: tuple[int, ...]) -> list[Step]:
    """All there is to time, the most useful first: the first count of threads with all sizes."""
    plan = []
    for index, n_threads in enumerate(threads):
        plan.append(Step(n_threads, 1))
        plan += [Step(n_threads, count) for count in (rows[:ROWS_OF_OTHERS] if index else rows)]
    return plan


def measure(backend: Backend, ask: Measure, started: float, clock: Clock) -> Iterator[Measuring | Timed]:
    """Time the model within `ask.seconds` since `started`. Raises InsufficientMemory or Internal."""
    yield Measuring("warming up", 0.0)
    bench = Stopwatch(backend, ask, clock)
    bench.warm_up()
    plan = steps(ask.threads, ask.rows)
    ends_at = started + ask.seconds
    decode_tok_s: dict[int, float] = {}
    for index, step in enumerate(plan):
        is_needed = index < 2
        if not is_needed and (
            clock() + bench.least_s(step) > ends_at or (step.rows > 1 and step.n_threads not in decode_tok_s)
        ):
            continue
        yield Measuring(step.name, index / len(plan))
        share_s = max(0.0, ends_at - clock()) / (len(plan) - index)
        tok_s = bench.time(step, share_s)
        if step.rows == 1:
            decode_tok_s[step.n_threads] = tok_s
        else:
            yield Timed(step.n_threads, step.rows, tok_s, decode_tok_s[step.n_threads])


class Stopwatch:
    """Times steps of a model in a small context of its own; knows how long the next one will take."""

    def __init__(self, backend: Backend, ask: Measure, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._first = ask.threads[0]
        most = max(ask.rows)
        cells = -(-max(most, PROMPT_ROWS + MOST_TOKENS) // STEP) * STEP
        needed, hard = backend.forecast.needed_bytes(cells), ask.load.hard_bytes
        if hard and needed > hard:
            raise InsufficientMemory(
                f"measuring takes {needed >> 20} MiB and {hard >> 20} are free;"
                " end other programs or choose a smaller model"
            )
        backend.resize(cells)
        text = backend.tokenizer.tokenize(TEXT)
        self._tokens = (text * (most // len(text) + 1))[:most]
        self._chain = backend.new_chain(GREEDY, 0)
        self._token, self._position = self._tokens[0], 0
        # Seconds per row with the first count of threads: of a decode, of a prefill.
        self._decode_s = self._prefill_s = 0.0

    def warm_up(self) -> None:
        """Have every weight in memory and every thread awake."""
        self._backend.set_threads(self._first)
        self._prefill(PROMPT_ROWS)
        self._decode()

    def least_s(self, step: Step) -> float:
        """Seconds that the step takes at least, as far as is known; half the threads take twice as long."""
        slower = max(1.0, self._first / step.n_threads)
        if step.rows == 1:
            return LEAST_TOKENS * self._decode_s * slower
        return LEAST_PREFILLS * step.rows * self._prefill_s * slower

    def time(self, step: Step, seconds: float) -> float:
        """Tokens per second: the median of what `seconds` have time for."""
        self._backend.set_threads(step.n_threads)
        if step.rows == 1:
            self._prefill(PROMPT_ROWS)
            one_s = self._median(self._decode, LEAST_TOKENS, MOST_TOKENS, seconds)
        else:
            one_s = self._median(lambda: self._prefill(step.rows), LEAST_PREFILLS, MOST_PREFILLS, seconds)
        if step.n_threads == self._first:
            self._remember(step, one_s)
        return step.rows / one_s

    def _remember(self, step: Step, one_s: float) -> None:
        if step.rows == 1:
            self._decode_s = one_s
        else:
            self._prefill_s = one_s / step.rows

    def _median(self, work: Callable[[], None], least: int, most: int, seconds: float) -> float:
        ends_at = self._clock() + seconds
        taken: list[float] = []
        while len(taken) < most:
            if len(taken) >= least and self._clock() + taken[-1] > ends_at:
                break
            started = self._clock()
            work()
            taken.append(self._clock() - started)
        # A clock too coarse for what it timed must not divide by zero.
        return max(statistics.median(taken), 1e-9)

    def _prefill(self, rows: int) -> None:
        self._backend.remove(0, 0)
        self._position = 0
        self._compute(self._tokens[:rows])

    def _decode(self) -> None:
        self._compute([self._token])

    def _compute(self, tokens: list[int]) -> None:
        """One step of these rows after what the slot holds, and the token that follows it."""
        count, start = len(tokens), self._position
        batch = Batch(
            tokens=tokens,
            positions=list(range(start, start + count)),
            slots=[0] * count,
            outputs=[False] * (count - 1) + [True],
        )
        status = self._backend.decode(batch)
        if status is not DecodeStatus.OK:
            raise Internal(f"llama.cpp could not compute {count} rows ({status.name.lower()})")
        self._position += count
        self._token = self._backend.sample(self._chain, count - 1)


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"
