"""Operators: who may ask what, what they are told, and that every answer fits."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Literal, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BadRequest, Forbidden, ModelUnavailable, NotFound, RequestError, TooLarge
from agent.findings import Finding, Severity
from agent.fitting import fitted
from agent.model_list import ModelHere
from agent.mqtt.ctl import READ_VERBS, WRITE_VERBS, Operator
from agent.mqtt.ctl_answers import ChosenAnswer, DoctorAnswer, LogAnswer, ModelsAnswer
from agent.mqtt.frames import HealthPayload
from agent.mqtt.payloads import CtlPayload
from agent.status import ModelIdentity

T = TypeVar("T")

ROOM = 1 << 16
HEALTH = HealthPayload(
    state="online",
    queue=0,
    active=0,
    tokens_per_s=0.0,
    rss_bytes=1,
    hard_bytes=None,
    hot_file_bytes=None,
    cells_used=0,
    cells_total=0,
    temperature_c=None,
    is_throttled=None,
    written_per_day_bytes=None,
    uptime_s=1.0,
    drops=0,
)


class FakeBox:
    """Does nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.selected: list[tuple[str, str]] = []
        self.num_reloads = 0
        self.refusal: RequestError | None = None
        self.here = tuple(
            ModelHere(name=f"model-{n}", quant="Q4_0", file_bytes=n, is_chosen=n == 99) for n in range(100)
        )
        self.findings = (
            Finding(Severity.ERROR, "e", "It is broken.", "Mend it."),
            *(Finding(Severity.WARNING, f"w{n}", "It is slow.") for n in range(50)),
        )
        self.lines = tuple(f"line {n}" for n in range(1000))

    async def models(self) -> tuple[ModelHere, ...]:
        return self.here

    async def examine(self) -> tuple[Finding, ...]:
        return self.findings

    def log(self, num_lines: int) -> tuple[str, ...]:
        return self.lines[-num_lines:]

    async def select(self, name: str, variant: str) -> ModelIdentity:
        self.selected.append((name, variant))
        return self._identity()

    async def reload(self) -> ModelIdentity:
        self.num_reloads += 1
        return self._identity()

    def _identity(self) -> ModelIdentity:
        if self.refusal is not None:
            raise self.refusal
        return ModelIdentity("tiny", "Q4_0", "00", "on the CPU", ("it fits", "2 threads"))


@pytest.fixture
def box() -> FakeBox:
    return FakeBox()


def operator(box: FakeBox, allowed: Literal["none", "read", "write"] = "write") -> Operator:
    async def health() -> HealthPayload:
        return HEALTH

    return Operator(allowed, box, lambda: b'{"v":1}', health)


def run(work: Awaitable[T]) -> T:
    async def wait() -> T:
        return await work

    return asyncio.run(wait())


def ask(box: FakeBox, verb: str, max_bytes: int = ROOM, **fields: Any) -> bytes:
    return run(operator(box).answer(verb, CtlPayload(**fields), max_bytes))


# ---- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [*READ_VERBS, *WRITE_VERBS, "nonsense"])
def test_a_box_may_answer_no_operators(box: FakeBox, verb: str) -> None:
    """Then it does not tell which verbs there are, either."""
    with pytest.raises(Forbidden, match=r"mqtt\.operators"):
        run(operator(box, "none").answer(verb, CtlPayload(), ROOM))


@pytest.mark.parametrize("verb", WRITE_VERBS)
def test_looking_is_not_changing(box: FakeBox, verb: str) -> None:
    """The default lets operators look."""
    with pytest.raises(Forbidden, match=r"mqtt\.operators: write"):
        run(operator(box, "read").answer(verb, CtlPayload(name="tiny"), ROOM))
    assert (box.selected, box.num_reloads) == ([], 0)


@pytest.mark.parametrize("verb", READ_VERBS)
def test_every_reading_verb_is_answered_to_a_reader(box: FakeBox, verb: str) -> None:
    """With valid JSON."""
    assert isinstance(msgspec.json.decode(run(operator(box, "read").answer(verb, CtlPayload(), ROOM))), dict)


def test_an_unknown_verb_is_told_the_known_ones(box: FakeBox) -> None:
    """All of them."""
    with pytest.raises(NotFound) as caught:
        ask(box, "reboot")
    assert all(verb in caught.value.message for verb in READ_VERBS + WRITE_VERBS)


# ---- what they are told --------------------------------------------------------------------------


def test_info_and_health_are_those_of_the_topics(box: FakeBox) -> None:
    """Byte for byte."""
    assert ask(box, "info") == b'{"v":1}'
    assert msgspec.json.decode(ask(box, "health"), type=HealthPayload) == HEALTH


def test_the_log_ends_with_its_last_line(box: FakeBox) -> None:
    """As many as are asked for."""
    answer = msgspec.json.decode(ask(box, "log", lines=3), type=LogAnswer)
    assert answer == LogAnswer(("line 997", "line 998", "line 999"))


def test_what_does_not_fit_is_counted(box: FakeBox) -> None:
    """The last lines, the chosen model and the worst findings stay."""
    log = msgspec.json.decode(ask(box, "log", 200, lines=1000), type=LogAnswer)
    assert log.lines[-1] == "line 999"
    assert len(log.lines) + log.left_out == 1000
    models = msgspec.json.decode(ask(box, "models", 300), type=ModelsAnswer)
    assert models.models[0].is_chosen
    assert len(models.models) + models.left_out == 100
    doctor = msgspec.json.decode(ask(box, "doctor", 200), type=DoctorAnswer)
    assert doctor.findings[0].code == "e"
    assert (doctor.num_errors, doctor.num_warnings) == (1, 50)
    assert len(doctor.findings) + doctor.left_out == 51


@pytest.mark.parametrize("verb", [*READ_VERBS, "select", "reload"])
@pytest.mark.parametrize("max_bytes", [1, 60, 100, 250, 1000, 5000])
def test_an_answer_fits_or_is_refused(box: FakeBox, verb: str, max_bytes: int) -> None:
    """No broker gets more than it takes."""
    try:
        content = ask(box, verb, max_bytes, name="tiny", lines=1000)
    except TooLarge:
        assert max_bytes < 400
        return
    assert len(content) <= max_bytes
    msgspec.json.decode(content)


@given(st.lists(st.integers(0, 30), max_size=50), st.integers(0, 400))
def test_as_much_fits_as_could(sizes: list[int], max_bytes: int) -> None:
    """One more would be too much."""

    def make(n: int) -> bytes:
        return b"x" * (5 + sum(sizes[:n]))

    content = fitted(make, len(sizes), max_bytes)
    wanted = [make(n) for n in range(len(sizes) + 1) if len(make(n)) <= max_bytes]
    assert content == (wanted[-1] if wanted else None)


# ---- what they change ----------------------------------------------------------------------------


def test_another_model_is_selected(box: FakeBox) -> None:
    """A variant is chosen for it unless one is named."""
    answer = msgspec.json.decode(ask(box, "select", name="tiny"), type=ChosenAnswer)
    assert (answer.name, answer.quant, answer.runs, answer.left_out) == ("tiny", "Q4_0", "on the CPU", 0)
    ask(box, "select", name="tiny", variant="Q8_0")
    assert box.selected == [("tiny", "auto"), ("tiny", "Q8_0")]


def test_a_selection_names_a_model(box: FakeBox) -> None:
    """Else it is a bad request, and nothing is changed."""
    for name in (None, ""):
        with pytest.raises(BadRequest, match="select takes"):
            ask(box, "select", name=name)
    assert box.selected == []


def test_reload_chooses_again(box: FakeBox) -> None:
    """Once for each time it is asked."""
    ask(box, "reload")
    assert box.num_reloads == 1


def test_a_model_that_cannot_be_had_is_the_answer(box: FakeBox) -> None:
    """With the sentence of placement."""
    box.refusal = ModelUnavailable("it is missing; fetch it")
    with pytest.raises(ModelUnavailable, match="fetch it"):
        ask(box, "select", name="tiny")
