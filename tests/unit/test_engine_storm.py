"""Everything at once, in any order: whatever happens to the engine, its promises hold."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.engine.backend import BatchRows, DecodeStatus
from agent.engine.engine import Options
from agent.engine.messages import Pressure
from agent.request import Failed, Finished, FinishReason, Sampling
from tests.support.engine_driver import GREEDY, EngineDriver
from tests.support.fake_backend import FakeBackend

SYSTEM = list(range(1000, 1050))
SAMPLED = Sampling(seed=3, temperature=1.0)
# Why a request may be stopped from outside, and what may end one without an answer.
REASONS = [FinishReason.CANCELLED, FinishReason.TIMEOUT]
KNOWN_FAILURES = {"cancelled", "expired", "internal", "insufficient_memory"}


@dataclass(frozen=True)
class Submit:
    client: str
    num_private: int
    max_tokens: int
    has_system: bool
    is_sampled: bool
    priority: int


@dataclass(frozen=True)
class Cancel:
    which: int
    reason: FinishReason


@dataclass(frozen=True)
class Trouble:
    """`kind` holds for as many turns as follow until the next one."""

    kind: str


submits = st.builds(
    Submit,
    client=st.sampled_from("abc"),
    num_private=st.integers(1, 120),
    max_tokens=st.integers(1, 40),
    has_system=st.booleans(),
    is_sampled=st.booleans(),
    priority=st.integers(-1, 1),
)
cancels = st.builds(Cancel, which=st.integers(0, 20), reason=st.sampled_from(REASONS))
pressures = st.builds(Pressure, st.integers(0, 2))
troubles = st.builds(Trouble, st.sampled_from(["none", "no resize", "lost state", "sleep", "shrink", "fail"]))
storms = st.lists(st.one_of(submits, submits, st.integers(1, 6), cancels, pressures, troubles), max_size=30)


class Storm:
    """One engine in it. A failing decode is asked for in turns, never twice for the same rows."""

    def __init__(self, num_cells: int, num_slots: int, *, can_share: bool, can_shift: bool) -> None:
        self.fails = 0
        self.backend = FakeBackend(
            num_cells=num_cells,
            num_slots=num_slots,
            can_share=can_share,
            can_shift=can_shift,
            script=self._script,
        )
        options = Options(profiles=(SYSTEM,), emit_every_s=0)
        self.driver = EngineDriver(self.backend, n_ctx=2048, options=options)
        self.submitted: list[Submit] = []

    def _script(self, _number: int, rows: BatchRows) -> DecodeStatus:
        if self.fails and len(set(rows.slots)) > 1:
            self.fails -= 1
            return DecodeStatus.ERROR
        return DecodeStatus.OK

    def tokens(self, key: int) -> list[int]:
        """Nobody's own words are another's."""
        wanted = self.submitted[key]
        private = [2000 + 200 * key + index for index in range(wanted.num_private)]
        return [*(SYSTEM if wanted.has_system else ()), *private]

    def do(self, what: object) -> None:
        match what:
            case Submit():
                self.submitted.append(what)
                self.submit(self.driver, len(self.submitted) - 1)
            case Cancel():
                self.driver.cancel(what.which, what.reason)
            case Pressure():
                self.driver.put(what)
            case Trouble():
                self.trouble(what.kind)
            case int():
                for _ in range(what):
                    self.driver.turn()

    def submit(self, driver: EngineDriver, key: int) -> None:
        wanted = self.submitted[key]
        driver.submit(
            key,
            self.tokens(key),
            client=wanted.client,
            sampling=SAMPLED if wanted.is_sampled else GREEDY,
            max_tokens=wanted.max_tokens,
            num_public=len(SYSTEM) if wanted.has_system else 0,
            priority=wanted.priority,
        )

    def trouble(self, kind: str) -> None:
        self.backend.refuses_resize = kind == "no resize"
        self.backend.loses_state = kind == "lost state"
        self.fails = 1 if kind == "fail" else 0
        if kind == "shrink":
            self.driver.engine._kv.shrink()
        if kind == "sleep" and not self.driver._pending:
            self.driver.engine._kv.sleep()

    def lone_answer(self, key: int) -> list[int]:
        driver = EngineDriver(FakeBackend(num_cells=2048))
        self.submit(driver, key)
        driver.run()
        return driver.answers[key].tokens


@settings(max_examples=150)
@given(storms, st.integers(200, 600), st.integers(1, 4), st.booleans(), st.booleans())
def test_in_any_storm_every_request_ends_once_with_its_own_words(
    storm: list[object], num_cells: int, num_slots: int, can_share: bool, can_shift: bool
) -> None:
    engine = Storm(num_cells, num_slots, can_share=can_share, can_shift=can_shift)
    for what in storm:
        engine.do(what)
    engine.trouble("none")
    engine.driver.put(Pressure(0))
    engine.driver.run()
    for key in range(len(engine.submitted)):
        answer = engine.driver.answers[key]
        ending = answer.ending
        if isinstance(ending, Failed):
            assert ending.code in KNOWN_FAILURES
        elif ending.trimmed is None:
            assert answer.tokens == engine.lone_answer(key)[: len(answer.tokens)]
            if ending.finish_reason is FinishReason.STOP:
                assert answer.tokens == engine.lone_answer(key)
    # A profile may still be computed; then nothing of anybody's is left but what is cached.
    while not engine.driver.engine._scheduler.is_idle:
        engine.driver.engine.turn()
    kv = engine.driver.engine._kv
    assert kv.check_integrity() == []
    assert kv.num_used == 0
    assert engine.backend.num_refused == 0
    assert engine.backend.num_open_chains == 0
    kv.drop_cached()
    assert engine.backend.num_used == 0


@given(st.lists(submits, min_size=2, max_size=8), st.integers(1, 4))
def test_no_client_finds_another_s_words_computed(asked: list[Submit], num_slots: int) -> None:
    """What is found computed is the system prompt, or one's own."""
    engine = Storm(600, num_slots, can_share=True, can_shift=True)
    for what in asked:
        engine.do(what)
        engine.do(3)
    engine.driver.run()
    for key, wanted in enumerate(asked):
        ending = engine.driver.answers[key].ending
        assert isinstance(ending, Finished)
        assert ending.usage.cached <= (len(SYSTEM) if wanted.has_system else 0)
