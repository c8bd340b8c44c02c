"""The engine on a fake backend: every request ends once, and company never changes an answer."""

import logging
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.backend import BatchRows, DecodeStatus
from agent.engine.engine import Rejected, Stop
from agent.engine.messages import Events, Stats
from agent.engine.pace import FIRST_ROWS
from agent.request import Delta, Failed, Finished, FinishReason, Queued, Resume, Sampling, Started
from tests.support.engine_driver import GREEDY, Answer, EngineDriver
from tests.support.fake_backend import BOS, END, FakeBackend

SAMPLED = Sampling(seed=7, temperature=0.8)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a test: what it asks, and the turns at which it comes and is cancelled."""

    tokens: tuple[int, ...]
    client: str = "client"
    sampling: Sampling = GREEDY
    max_tokens: int = 20
    stop: tuple[str, ...] = ()
    comes_at: int = 0
    cancelled_at: int | None = None


asked = st.builds(
    Asked,
    tokens=st.lists(st.integers(0, 255), min_size=1, max_size=40).map(lambda tokens: (BOS, *tokens)),
    client=st.sampled_from("abc"),
    sampling=st.sampled_from([GREEDY, SAMPLED, Sampling(seed=8, temperature=0.8)]),
    max_tokens=st.integers(1, 40),
    stop=st.sampled_from([(), ("ab",), ("\u20ac", "road t"), ("pupu",)]),
    comes_at=st.integers(0, 30),
)
cancelled = st.builds(
    lambda one, turn: Asked(
        one.tokens, one.client, one.sampling, one.max_tokens, one.stop, one.comes_at, turn
    ),
    asked,
    st.one_of(st.none(), st.integers(0, 40)),
)
PROMPT = [BOS, *b"what is a tampu?"]


def submit(driver: EngineDriver, key: int, one: Asked, resume: Resume | None = None) -> None:
    driver.submit(
        key,
        list(one.tokens),
        client=one.client,
        sampling=one.sampling,
        max_tokens=one.max_tokens,
        stop=one.stop,
        resume=resume,
    )


def answers(backend: FakeBackend, many: list[Asked]) -> list[Answer]:
    """Each request comes, and is cancelled, at its turn; the engine goes on until all have ended."""
    driver = EngineDriver(backend)
    for turn in range(41):
        for key, one in enumerate(many):
            if one.comes_at == turn:
                submit(driver, key, one)
            if one.cancelled_at == turn:
                driver.cancel(key)
        driver.turn()
    driver.run()
    assert_clean(driver, backend)
    return [driver.answers[key] for key in range(len(many))]


def answer(one: Asked, resume: Resume | None = None, *, num_cells: int = 1000) -> Answer:
    """The answer of an engine that has nothing else to do."""
    driver = EngineDriver(FakeBackend(num_cells=num_cells))
    submit(driver, 0, one, resume)
    driver.run()
    return driver.answers[0]


def assert_clean(driver: EngineDriver, backend: FakeBackend) -> None:
    """Nothing is left but cached prefixes: no cell in use, no chain, no quarrel with the ledger."""
    assert driver.engine._kv.num_used == 0
    assert backend.num_used == driver.engine._kv.num_resident
    driver.engine._kv.drop_cached()
    assert backend.num_used == 0
    assert backend.num_open_chains == 0
    assert backend.max_used <= backend.num_cells
    assert driver.engine._kv.check_integrity() == []


# ---- one request -----------------------------------------------------------------------------------


def test_a_request_is_queued_started_answered_and_finished() -> None:
    """In this order; the deltas add up to the usage."""
    one = answer(Asked(tuple(PROMPT), max_tokens=5))
    kinds = [type(event) for event in one.events]
    assert kinds == [Queued, Started, *[Delta] * 5, Finished]
    assert one.events[0] == Queued(num_prompt=len(PROMPT))
    ending = one.ending
    assert isinstance(ending, Finished)
    assert ending.finish_reason is FinishReason.LENGTH
    assert (ending.usage.prompt, ending.usage.completion) == (len(PROMPT), 5)
    assert min(ending.timings.queue_s, ending.timings.prefill_s, ending.timings.decode_s) >= 0


def test_an_answer_ends_with_the_model_s_end_token() -> None:
    """Which is counted and reported, but is no text."""
    one = answer(Asked(tuple(PROMPT), max_tokens=10_000))
    assert isinstance(one.ending, Finished)
    assert one.ending.finish_reason is FinishReason.STOP
    assert one.tokens[-1] == END
    assert END not in one.tokens[:-1]


def test_an_answer_ends_before_its_stop_string() -> None:
    whole = answer(Asked(tuple(PROMPT), max_tokens=200)).text
    stop = whole[10:13]
    cut = answer(Asked(tuple(PROMPT), max_tokens=200, stop=(stop,)))
    assert cut.text == whole[: whole.index(stop)]
    assert isinstance(cut.ending, Finished)
    assert cut.ending.finish_reason is FinishReason.STOP


def test_an_answer_that_fills_the_context_ends_for_its_length() -> None:
    """Each cell is used; the token after the last cell is still said."""
    num_cells = len(PROMPT) + 7
    one = answer(Asked(tuple(PROMPT), max_tokens=1000), num_cells=num_cells)
    assert isinstance(one.ending, Finished)
    assert one.ending.finish_reason is FinishReason.LENGTH
    assert len(one.tokens) == 8


def test_the_last_delta_and_the_end_travel_in_one_message() -> None:
    """So an answer that is resumed never lacks just its end."""
    driver = EngineDriver(FakeBackend())
    driver.submit(1, PROMPT, max_tokens=3)
    driver.run()
    last = [message for message in driver.emitted if isinstance(message, Events)][-1]
    assert [type(item.event) for item in last.items] == [Delta, Finished]


def test_who_is_about_to_be_computed_is_said_before_the_step() -> None:
    """If the step ends the process, the daemon knows whom to suspect."""
    said: list[int] = []

    def script(_number: int, _rows: BatchRows) -> DecodeStatus:
        said.append(len(driver.emitted))
        return DecodeStatus.OK

    driver = EngineDriver(FakeBackend(script=script))
    driver.submit(1, PROMPT, max_tokens=1)
    driver.run()
    assert said[0] == 1
    assert [type(item.event) for item in driver.emitted[0].items] == [Queued, Started]  # type: ignore[union-attr]


# ---- many requests ---------------------------------------------------------------------------------


@given(st.lists(cancelled, max_size=12), st.integers(60, 200), st.integers(1, 5))
def test_every_request_ends_exactly_once(many: list[Asked], num_cells: int, num_slots: int) -> None:
    """Whatever the order of submits and cancels; nothing follows the end, and nothing is left behind."""
    for one in answers(FakeBackend(num_cells=num_cells, num_slots=num_slots), many):
        assert isinstance(one.ending, Finished) or one.ending.code == "cancelled"


@given(st.lists(asked, min_size=1, max_size=8), st.integers(1, 5), st.integers(5, 64))
def test_an_answer_in_company_is_the_answer_alone(many: list[Asked], num_slots: int, n_batch: int) -> None:
    """Token for token and portion for portion, sampled ones too."""
    together = answers(FakeBackend(num_cells=2000, num_slots=num_slots, n_batch=n_batch), many)
    for one, company in zip(many, together, strict=True):
        assert company.deltas == answer(one).deltas


@given(st.lists(asked, min_size=2, max_size=8), st.integers(85, 120))
def test_an_answer_that_was_preempted_is_the_answer_that_was_not(many: list[Asked], num_cells: int) -> None:
    """A pool too small for everybody costs time, not words. The ledger foresees it: no decode is refused."""
    backend = FakeBackend(num_cells=num_cells)
    for one, squeezed in zip(many, answers(backend, many), strict=True):
        assert squeezed.deltas == answer(one).deltas
    assert backend.num_refused == 0


def test_preemption_does_happen_in_a_small_pool() -> None:
    """Guards the property above against pools that turn out large enough."""
    driver = EngineDriver(FakeBackend(num_cells=85))
    for key in range(8):
        driver.submit(key, [*PROMPT, key], client=str(key), max_tokens=40)
    driver.run()
    stats = [message for message in driver.emitted if isinstance(message, Stats)][-1]
    assert stats.num_preemptions > 0


@given(asked, st.data())
def test_a_resumed_answer_continues_where_it_stood(one: Asked, data: st.DataObject) -> None:
    """From any delta on, the rest is the same: tokens, text, portions, draws and reason."""
    whole = answer(one)
    num_done = data.draw(st.integers(0, len(whole.deltas) - 1))
    rest = answer(one, whole.resume(num_done))
    assert rest.deltas == whole.deltas[num_done:]
    assert isinstance(rest.ending, Finished)
    assert isinstance(whole.ending, Finished)
    assert rest.ending.finish_reason is whole.ending.finish_reason
    assert rest.ending.usage == whole.ending.usage


@given(asked, st.lists(st.integers(0, 12), max_size=4))
def test_an_answer_survives_several_deaths_of_the_engine(one: Asked, lives: list[int]) -> None:
    """Each process sends some deltas and dies; the reader's text is as if none had."""
    whole = answer(one)
    read = Answer()
    for num_deltas in lives:
        rest = answer(one, read.resume(len(read.deltas)))
        read.events += rest.deltas[: min(num_deltas, len(rest.deltas) - 1)]
    read.events += answer(one, read.resume(len(read.deltas))).deltas
    assert read.deltas == whole.deltas


def test_an_answer_resumed_in_a_context_that_is_too_small_for_it_ends_there() -> None:
    """A restart may come with less memory; what was held back for a stop string is still said."""
    one = Asked(tuple(PROMPT), max_tokens=50, stop=("tampu tampu tampu", " road s"))
    whole = answer(one)
    num_done = 20
    resume = whole.resume(num_done)
    rest = answer(one, resume, num_cells=len(PROMPT) + num_done - 1)
    assert isinstance(rest.ending, Finished)
    assert rest.ending.finish_reason is FinishReason.LENGTH
    assert rest.tokens == []


def test_every_client_is_served_while_one_floods() -> None:
    """The lone request of a quiet client ends before the flood does."""
    order: list[int] = []
    driver = EngineDriver(FakeBackend(num_slots=2))
    for key in range(20):
        driver.submit(key, [*PROMPT, key], client="flood", max_tokens=10)
    driver.turn()
    driver.submit(99, PROMPT, client="quiet", max_tokens=10)
    driver.run()
    for message in driver.emitted:
        if isinstance(message, Events):
            order += [item.key for item in message.items if isinstance(item.event, Finished)]
    assert order.index(99) < 6


def test_a_prompt_beside_streams_comes_in_small_chunks() -> None:
    """Before anything is measured, a step carries at most a first guess of prompt tokens."""
    sizes: list[int] = []

    def script(_number: int, rows: BatchRows) -> DecodeStatus:
        sizes.append(len(rows.tokens))
        return DecodeStatus.OK

    driver = EngineDriver(FakeBackend(num_cells=2000, n_batch=512, script=script))
    driver.submit(1, [BOS], client="stream", max_tokens=1000)
    driver.turn()
    driver.submit(2, [BOS, *b"x" * 400], client="large", max_tokens=1)
    driver.turn()
    assert sizes == [1, 1 + FIRST_ROWS]


# ---- cancelling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "code"), [(FinishReason.CANCELLED, "cancelled"), (FinishReason.TIMEOUT, "expired")]
)
def test_before_its_first_token_a_cancelled_request_ends_in_an_error(reason: FinishReason, code: str) -> None:
    driver = EngineDriver(FakeBackend(n_batch=8))
    driver.submit(1, PROMPT)
    driver.turn()
    driver.cancel(1, reason)
    driver.run()
    assert isinstance(driver.answers[1].ending, Failed)
    assert driver.answers[1].ending.code == code


@pytest.mark.parametrize("reason", [FinishReason.CANCELLED, FinishReason.TIMEOUT])
def test_after_its_first_token_a_cancelled_request_is_finished_with_what_it_has(reason: FinishReason) -> None:
    """The usage counts what was said."""
    backend = FakeBackend()
    driver = EngineDriver(backend)
    driver.submit(1, PROMPT, max_tokens=100)
    while len(driver.answers[1].tokens) < 4:
        driver.turn()
    driver.cancel(1, reason)
    driver.run()
    ending = driver.answers[1].ending
    assert isinstance(ending, Finished)
    assert ending.finish_reason is reason
    assert ending.usage.completion == len(driver.answers[1].tokens) == 4
    assert_clean(driver, backend)


def test_cancelling_what_is_unknown_or_over_does_nothing() -> None:
    """A cancel may cross the end of the answer on its way."""
    driver = EngineDriver(FakeBackend())
    driver.submit(1, PROMPT, max_tokens=1)
    driver.cancel(77)
    driver.run()
    driver.submit(2, PROMPT, max_tokens=1)
    driver.cancel(1)
    driver.run()
    assert 77 not in driver.answers
    assert isinstance(driver.answers[1].ending, Finished)
    assert isinstance(driver.answers[2].ending, Finished)


def test_a_rejected_request_ends_without_a_step() -> None:
    backend = FakeBackend()
    driver = EngineDriver(backend)
    driver.put(Rejected(5, Failed("context_overflow", "too long")))
    driver.engine.turn()
    assert driver.answers[5].ending == Failed("context_overflow", "too long")
    assert backend.num_decodes == 0


def test_the_engine_stops_when_told_to() -> None:
    driver = EngineDriver(FakeBackend())
    driver.submit(1, PROMPT)
    driver.put(Stop())
    assert not driver.engine.turn()


# ---- failing decodes -------------------------------------------------------------------------------


def poisoned(status: DecodeStatus, poison: int) -> FakeBackend:
    """A backend that fails every batch with this token in it."""

    def script(_number: int, rows: BatchRows) -> DecodeStatus:
        return status if poison in rows.tokens else DecodeStatus.OK

    return FakeBackend(num_cells=2000, script=script)


@pytest.mark.parametrize("status", [DecodeStatus.ERROR, DecodeStatus.ABORTED, DecodeStatus.NO_CELLS])
@given(many=st.lists(asked, min_size=1, max_size=5), victim=st.integers(0, 4))
def test_a_poisoned_request_fails_alone(status: DecodeStatus, many: list[Asked], victim: int) -> None:
    """Everybody else's answer is what it would have been; the culprit ends in `internal`."""
    poison = 300
    many = [
        Asked((*one.tokens, poison) if key == victim else one.tokens, max_tokens=one.max_tokens)
        for key, one in enumerate(many)
    ]
    for key, (one, together) in enumerate(zip(many, answers(poisoned(status, poison), many), strict=True)):
        if key == victim:
            assert isinstance(together.ending, Failed)
            assert together.ending.code == "internal"
        else:
            assert together.deltas == answer(one).deltas


@given(
    st.lists(asked, min_size=1, max_size=6),
    st.sets(st.integers(0, 60), max_size=12),
    st.sampled_from([DecodeStatus.ERROR, DecodeStatus.ABORTED, DecodeStatus.NO_CELLS]),
)
def test_decodes_that_fail_now_and_then_end_nobody_s_request_twice(
    many: list[Asked], failing: set[int], status: DecodeStatus
) -> None:
    """Whichever decodes fail, also the second try: each request ends once, whole answers are right."""
    backend = FakeBackend(
        num_cells=300, script=lambda number, _rows: status if number in failing else DecodeStatus.OK
    )
    for one, together in zip(many, answers(backend, many), strict=True):
        if isinstance(together.ending, Finished):
            assert together.deltas == answer(one).deltas
        else:
            assert together.ending.code == "internal"


def test_one_failed_step_of_several_streams_costs_nobody_anything() -> None:
    """Each is tried again alone, and goes on."""
    many = [Asked((*PROMPT, key), max_tokens=20) for key in range(4)]
    backend = FakeBackend(
        num_cells=2000, script=lambda number, _rows: DecodeStatus.ERROR if number == 3 else DecodeStatus.OK
    )
    assert [one.deltas for one in answers(backend, many)] == [answer(one).deltas for one in many]


def test_a_pool_that_is_full_too_early_makes_somebody_wait_and_nobody_fail() -> None:
    """llama.cpp may find no cells where the ledger saw some."""
    many = [Asked((*PROMPT, key), max_tokens=20) for key in range(4)]
    backend = FakeBackend(
        num_cells=2000,
        script=lambda number, rows: (
            DecodeStatus.NO_CELLS if number > 2 and len(set(rows.slots)) > 2 else DecodeStatus.OK
        ),
    )
    assert [one.deltas for one in answers(backend, many)] == [answer(one).deltas for one in many]


def test_a_pool_found_full_while_a_culprit_is_sought_makes_somebody_wait() -> None:
    """No cells for one of several is not its fault, also right after an error."""
    many = [Asked((*PROMPT, key), max_tokens=20) for key in range(3)]
    statuses = {2: DecodeStatus.ERROR, 5: DecodeStatus.NO_CELLS}
    backend = FakeBackend(num_cells=2000, script=lambda number, _rows: statuses.get(number, DecodeStatus.OK))
    assert [one.deltas for one in answers(backend, many)] == [answer(one).deltas for one in many]


# ---- how it is doing -------------------------------------------------------------------------------


def test_idle_engines_say_so() -> None:
    """The last word after work is a report of nothing running, nothing waiting, no cell used."""
    driver = EngineDriver(FakeBackend())
    driver.submit(1, PROMPT, max_tokens=3)
    driver.run()
    stats = driver.emitted[-1]
    assert isinstance(stats, Stats)
    assert (stats.num_running, stats.num_waiting, stats.cells_used) == (0, 0, 0)


def test_an_idle_engine_complains_about_cells_nobody_owns(caplog: pytest.LogCaptureFixture) -> None:
    """Before it sleeps, the ledger is compared with what the library holds."""
    backend = FakeBackend()
    driver = EngineDriver(backend)
    backend._slots[3] = [1, 2, 3]
    driver.put(Stop())
    with caplog.at_level(logging.ERROR):
        driver.engine.turn()
    assert "slot 3 holds 3 positions, the ledger says 0" in caplog.text
