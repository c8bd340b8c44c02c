"""Draw, check, draw again: what the sampler makes of a backend's choices, on the fake one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine import sampler as sampler_module
from agent.engine.schema import to_grammar
from agent.request import Failed, Finished, FinishReason, Sampling
from tests.support.engine_driver import GREEDY, Answer, EngineDriver
from tests.support.fake_backend import BOS, END, FakeBackend, FakeChain

SAMPLED = Sampling(seed=7, temperature=0.8)
PROMPT = [BOS, *b"as JSON, please"]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "tags": {"type": "array", "items": {"enum": ["a", "ab", " road"]}, "maxItems": 3},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "count"],
}
GRAMMAR = to_grammar(json.dumps(SCHEMA))
samplings = st.sampled_from([GREEDY, SAMPLED, Sampling(seed=8, temperature=1.5)])


def answer(
    sampling: Sampling, grammar: str | None = GRAMMAR, backend: FakeBackend | None = None, **options: object
) -> Answer:
    backend = backend or FakeBackend(num_cells=1000)
    driver = EngineDriver(backend)
    driver.submit(1, PROMPT, sampling=sampling, grammar=grammar, max_tokens=300, **options)  # type: ignore[arg-type]
    driver.run()
    assert backend.num_open_chains == 0
    return driver.answers[1]


@given(st.integers(0, 50))
def test_an_answer_keeps_to_its_schema(seed: int) -> None:
    """Whatever the model would rather say; it ends when the JSON does."""
    one = answer(Sampling(seed=seed, temperature=0.8))
    assert isinstance(one.ending, Finished)
    assert one.ending.finish_reason is FinishReason.STOP
    assert one.tokens[-1] == END
    said = json.loads(one.text)
    assert list(said) in (["name", "count"], ["name", "tags", "count"])
    assert len(said["name"]) <= 20
    assert 0 <= said["count"] <= 99


def test_a_refused_choice_costs_a_second_draw() -> None:
    """One number for each token, one more for each that was refused; greedy none."""
    draws = [delta.draws for delta in answer(SAMPLED).deltas]
    steps = [after - before for before, after in zip([0, *draws], draws, strict=False)]
    assert set(steps) == {1, 2}
    assert {delta.draws for delta in answer(GREEDY).deltas} == {0}
    assert answer(SAMPLED, grammar=None).deltas[-1].draws == len(answer(SAMPLED, grammar=None).tokens)


@given(samplings, st.data())
def test_a_resumed_answer_goes_on_with_both_its_random_numbers(
    sampling: Sampling, data: st.DataObject
) -> None:
    """From any token on: the same tokens, the same draws."""
    whole = answer(sampling)
    num_done = data.draw(st.integers(0, len(whole.deltas) - 1))
    assert answer(sampling, resume=whole.resume(num_done)).deltas == whole.deltas[num_done:]


def test_a_preempted_answer_goes_on_as_well() -> None:
    """The grammar stays where it was while the cells are another's."""
    options = {
        "sampling": SAMPLED,
        "grammar": to_grammar('{"type": "string", "minLength": 60}'),
        "max_tokens": 40,
    }
    driver = EngineDriver(FakeBackend(num_cells=85))
    for key in range(8):
        driver.submit(key, [*PROMPT, key], client=str(key), **options)  # type: ignore[arg-type]
    driver.run()
    assert driver.engine._scheduler.num_preemptions > 0
    for key in range(8):
        alone = EngineDriver(FakeBackend(num_cells=1000))
        alone.submit(key, [*PROMPT, key], **options)  # type: ignore[arg-type]
        alone.run()
        assert driver.answers[key].deltas == alone.answers[key].deltas


def test_who_waits_holds_no_chain() -> None:
    """A grammar takes up to 0.7 MB; a queue of them would be felt."""
    backend = FakeBackend(num_slots=1)
    driver = EngineDriver(backend)
    for key in range(5):
        driver.submit(key, PROMPT, grammar=GRAMMAR, max_tokens=3)
    driver.turn()
    assert backend.num_open_chains <= 1
    driver.run()


class Stubborn(FakeBackend):
    """Finds no second choice."""

    def resample(self, chain: FakeChain, row: int) -> int | None:
        return None


class Wrong(FakeBackend):
    """Its second choice is one that is refused."""

    def resample(self, chain: FakeChain, row: int) -> int | None:
        return END


@pytest.mark.parametrize("backend", [Stubborn, Wrong])
def test_without_a_token_that_fits_only_that_request_fails(backend: type[FakeBackend]) -> None:
    """Nothing refused is ever accepted; the others do not notice."""
    driver = EngineDriver(backend(num_cells=1000))
    driver.submit(1, PROMPT, grammar=GRAMMAR)
    driver.submit(2, PROMPT, client="other")
    driver.run()
    ending = driver.answers[1].ending
    assert isinstance(ending, Failed)
    assert (ending.code, ending.message[:7]) == ("bad_request", "schema:")
    assert driver.answers[2].deltas == answer(GREEDY, grammar=None).deltas[: len(driver.answers[2].deltas)]
    assert isinstance(driver.answers[2].ending, Finished)


def test_a_token_that_takes_too_long_ends_only_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computing time is measured, not waiting: a busy box is nobody's fault."""
    now = iter(range(0, 100_000, 3))
    monkeypatch.setattr(sampler_module.time, "thread_time", lambda: float(next(now)))
    ending = answer(SAMPLED).ending
    assert isinstance(ending, Failed)
    assert ending.code == "bad_request"
    assert "took 3.0 s" in ending.message
    assert isinstance(answer(SAMPLED, grammar=None).ending, Finished)
