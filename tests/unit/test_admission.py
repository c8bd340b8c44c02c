"""Admission: bounds of a client and of the box, each with its own word and a useful time to come back."""

import heapq
import random
from collections.abc import Callable

import pytest

from agent.admission import Admission
from agent.answer import Answer
from agent.config import ClientRules, Config, Limits
from agent.errors import Busy, Forbidden, RateLimited
from agent.request import Finished, FinishReason, Message, Request, Sampling, Timings, Usage
from agent.rules import Rules


def live(*clients: str) -> list[Answer]:
    message = (Message("user", "x"),)
    return [
        Answer(key, Request(client, str(key), message, Sampling(seed=0), 10))
        for key, client in enumerate(clients)
    ]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admission(limits: Limits, clock: Clock | None = None, **clients: ClientRules) -> Admission:
    rules = Rules(Config(limits=limits, clients=clients))
    return Admission(limits, rules, clock or Clock())


def busy_ms(door: Admission, client: str, answers: list[Answer], num_slots: int) -> int:
    with pytest.raises(Busy) as refusal:
        door.check(client, answers, num_slots)
    assert refusal.value.retry_after_ms is not None
    return refusal.value.retry_after_ms


# ---- a client's own bounds ---------------------------------------------------------------------------


def test_a_client_has_its_own_bound() -> None:
    """It is told rate_limited; another client is let in."""
    door = admission(Limits(queue=10, per_client=2))
    with pytest.raises(RateLimited):
        door.check("a", live("a", "a"), 4)
    door.check("b", live("a", "a"), 4)


def test_the_table_of_clients_cuts_the_bound_down() -> None:
    """For whom it names; none at all is an error that no waiting mends."""
    door = admission(Limits(), me=ClientRules(per_client=1), you=ClientRules(per_client=0))
    with pytest.raises(RateLimited, match="has 1 requests under way"):
        door.check("me", live("me"), 4)
    door.check("other", live("other"), 4)
    with pytest.raises(Forbidden, match="may not ask this box anything") as refusal:
        door.check("you", [], 4)
    assert not refusal.value.retryable


def test_more_than_a_client_s_rate_is_told_exactly_when_to_come_again() -> None:
    """Two at once, then one every ten seconds."""
    clock = Clock()
    door = admission(Limits(), clock, me=ClientRules(requests_per_minute=6))
    for _ in range(6):
        door.check("me", [], 4)
    with pytest.raises(RateLimited, match=r"6 requests a minute, and 6 at once; wait for 10\.0 s") as refusal:
        door.check("me", [], 4)
    assert refusal.value.retry_after_ms == 10_000
    clock.now += 9.999
    with pytest.raises(RateLimited):
        door.check("me", [], 4)
    clock.now += 0.001
    door.check("me", [], 4)


def test_the_local_socket_has_no_rate() -> None:
    """It is trusted by the mode of its file."""
    door = admission(Limits(requests_per_minute=1, burst=1))
    for _ in range(100):
        door.check("socket:-", [], 4)
    door.check("me", [], 4)
    with pytest.raises(RateLimited):
        door.check("me", [], 4)


def test_only_what_is_let_in_costs_a_token() -> None:
    """A client that waited before a full box has its burst still."""
    clock = Clock()
    door = admission(Limits(queue=1, burst=1, requests_per_minute=1), clock)
    for _ in range(5):
        busy_ms(door, "me", live("a"), 1)
    door.check("me", [], 1)


# ---- the box's bound ---------------------------------------------------------------------------------


def test_the_box_has_a_bound() -> None:
    """Whoever comes then is told busy."""
    with pytest.raises(Busy):
        admission(Limits(queue=2, per_client=2)).check("c", live("a", "b"), 4)


def test_the_time_to_come_back_follows_what_answers_take() -> None:
    """Between half a second and a minute; twice an answer's time where there is one slot."""
    door = admission(Limits(queue=2, per_client=2))
    for _ in range(100):
        door.observe(0.01)
    assert busy_ms(door, "c", live("a", "b"), 1) == 500
    for _ in range(100):
        door.observe(20)
    assert 35_000 < busy_ms(door, "c", live("a", "b"), 1) < 45_000
    for _ in range(100):
        door.observe(500)
    assert busy_ms(door, "c", live("a", "b"), 1) == 60_000


def test_more_slots_make_it_shorter_and_more_who_wait_longer() -> None:
    """The estimate scales with what the box can do and with the line before it."""
    full = live("a", "b", "c", "d")

    def told(num_slots: int, num_waiting: int) -> int:
        door = admission(Limits(queue=4))
        for number in range(num_waiting):
            busy_ms(door, f"w{number}", full, num_slots)
        return busy_ms(door, "me", full, num_slots)

    by_slots = [told(slots, 0) for slots in (1, 2, 4)]
    by_line = [told(4, waiting) for waiting in (0, 2, 5, 10)]
    assert by_slots == sorted(by_slots, reverse=True)
    assert by_line == sorted(by_line)
    assert by_slots[0] == 4 * by_slots[2]
    assert by_line[3] > 4 * by_line[0]


def test_an_answer_s_time_in_the_queue_is_not_learned() -> None:
    """Only what it held a slot for; what the engine did not end teaches nothing."""
    door = admission(Limits(queue=1))
    before = busy_ms(door, "a", live("x"), 1)
    for timings in (Timings(queue_s=500, prefill_s=2, decode_s=3), Timings(0, 0, 0)):
        (answer,) = live("x")
        answer.take(Finished(FinishReason.STOP, Usage(1, 0, 1), timings))
        door.note_end(answer)
    assert busy_ms(door, "a", live("x"), 1) == before


def test_one_that_asks_at_once_again_does_not_get_past_one_that_waits() -> None:
    """The free place is kept for the first in line, who comes when it was told to."""
    clock = Clock()
    door = admission(Limits(queue=2), clock)
    wait_ms = busy_ms(door, "patient", live("a", "b"), 1)
    for _ in range(20):
        busy_ms(door, "greedy", live("a", "b"), 1)
    for _ in range(20):
        busy_ms(door, "greedy", live("a"), 1)
    clock.now += wait_ms / 1000
    door.check("patient", live("a"), 1)
    door.check("greedy", live("a"), 1)


def test_a_slot_without_work_is_kept_for_nobody() -> None:
    """Whoever comes first has it."""
    door = admission(Limits(queue=4))
    busy_ms(door, "patient", live("a", "b", "c", "d"), 4)
    door.check("greedy", live("a", "b"), 4)


# ---- a box under load, simulated ---------------------------------------------------------------------

Draw = Callable[[random.Random], float]
SERVICES: dict[str, Draw] = {
    "all alike": lambda rng: 4.0,
    "from 1 to 7 s": lambda rng: rng.uniform(1, 7),
    "exponential": lambda rng: rng.expovariate(1 / 4),
    "many short, some long": lambda rng: rng.choice([1.0, 1.0, 1.0, 13.0]),
}


class Simulation:
    """A box with a queue and slots, and clients that ask for ever: as long as they are told `busy` they wait
    exactly so long, or not at all. Times are in seconds of the simulation."""

    def __init__(self, service: Draw, num_slots: int, queue: int, num_polite: int, num_greedy: int) -> None:
        self.rng = random.Random(7)
        self.clock = Clock()
        self.limits = Limits(queue=queue, per_client=4, burst=4096, requests_per_minute=1e6)
        self.door = Admission(self.limits, clock=self.clock)
        self.service, self.num_slots = service, num_slots
        self.live: list[Answer] = []
        self.num_running = 0
        self.num_returns = self.num_found = 0
        self.served: dict[str, int] = {}
        self._events: list[tuple[float, int, str, Answer | None]] = []
        self._seconds: dict[int, float] = {}
        self._num = 0
        for number in range(num_polite):
            self._later(self.rng.random(), f"polite-{number}")
        for number in range(num_greedy):
            self._later(self.rng.random(), f"greedy-{number}")

    def run(self, num_events: int) -> None:
        for _ in range(num_events):
            self.clock.now, _, client, answer = heapq.heappop(self._events)
            if answer is not None:
                self._end(answer)
            else:
                self._ask(client.removesuffix("!"), is_back=client.endswith("!"))

    def _ask(self, client: str, *, is_back: bool) -> None:
        is_polite = client.startswith("polite")
        try:
            self.door.check(client, self.live, self.num_slots)
        except (Busy, RateLimited) as refusal:
            assert refusal.retry_after_ms is not None
            wait_s = refusal.retry_after_ms / 1000 if is_polite else 0.2
            self.num_returns += is_back and is_polite
            self._later(wait_s, f"{client}!" if isinstance(refusal, Busy) else client)
            return
        self.num_returns += is_back and is_polite
        self.num_found += is_back and is_polite
        self._num += 1
        request = Request(client, str(self._num), (Message("user", "x"),), Sampling(seed=0), 10)
        self.live.append(Answer(self._num, request))
        self.served[client] = self.served.get(client, 0) + 1
        self._later(self.rng.expovariate(1) if is_polite else 0.2, client)
        self._start()

    def _start(self) -> None:
        for answer in self.live:
            if self.num_running < self.num_slots and not answer.is_started:
                answer.is_started = True
                self.num_running += 1
                seconds = self.service(self.rng)
                self._seconds[answer.key] = seconds
                self._later(seconds, "", answer)

    def _end(self, answer: Answer) -> None:
        self.num_running -= 1
        self.live.remove(answer)
        self.door.observe(self._seconds.pop(answer.key))
        self._start()

    def _later(self, seconds: float, client: str, answer: Answer | None = None) -> None:
        self._num += 1
        heapq.heappush(self._events, (self.clock.now + seconds, self._num, client, answer))


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(("num_slots", "queue"), [(1, 4), (4, 16), (8, 8)])
def test_who_waits_exactly_as_long_as_told_finds_a_place_most_times(
    service: str, num_slots: int, queue: int
) -> None:
    """Twice as many clients as places, some of which do not wait at all."""
    box = Simulation(SERVICES[service], num_slots, queue, num_polite=queue, num_greedy=queue // 4)
    box.run(6000)
    assert box.num_returns > 100
    assert box.num_found > 0.7 * box.num_returns


def test_those_who_wait_are_served_as_often_as_those_who_do_not() -> None:
    """Asking five times a second while the box is full earns nothing."""
    box = Simulation(SERVICES["exponential"], num_slots=4, queue=16, num_polite=12, num_greedy=12)
    box.run(60_000)
    polite = [box.served.get(f"polite-{number}", 0) for number in range(12)]
    greedy = [box.served.get(f"greedy-{number}", 0) for number in range(12)]
    assert min(polite) > 0.4 * sum(greedy) / 12
