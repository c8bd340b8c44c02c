"""Token buckets: a burst, then a steady rate, and a wait that is exact."""

from hypothesis import given
from hypothesis import strategies as st

from agent.buckets import Buckets


class Clock:
    """Stands still between `pass_ms`; counts milliseconds, so that the wait can be met exactly."""

    def __init__(self, start_ms: int = 0) -> None:
        self.ms = start_ms

    def __call__(self) -> float:
        return self.ms / 1000


def drain(buckets: Buckets, client: str, per_minute: float, burst: int) -> int:
    """How many tokens are there now."""
    count = 0
    while not buckets.wait_ms(client, per_minute, burst):
        buckets.take(client, per_minute)
        count += 1
    return count


def test_a_burst_and_then_the_rate() -> None:
    """60 a minute after 5 at once; unused tokens are kept up to the burst."""
    clock = Clock(1000)
    buckets = Buckets(clock)
    assert drain(buckets, "me", 60, 5) == 5
    clock.ms += 3000
    assert drain(buckets, "me", 60, 5) == 3
    clock.ms += 3_600_000
    assert drain(buckets, "me", 60, 5) == 5


def test_clients_have_a_bucket_each() -> None:
    """One that is empty says nothing about another."""
    buckets = Buckets(Clock())
    drain(buckets, "me", 60, 5)
    assert drain(buckets, "you", 60, 5) == 5


@given(
    per_minute=st.floats(0.01, 1e6),
    burst=st.integers(1, 50),
    start_ms=st.integers(0, 10**9),
    pauses_ms=st.lists(st.integers(0, 5000), max_size=10),
)
def test_the_wait_is_exact(per_minute: float, burst: int, start_ms: int, pauses_ms: list[int]) -> None:
    """After it the token is there, and a millisecond earlier it is not."""
    clock = Clock(start_ms)
    buckets = Buckets(clock)
    for pause in pauses_ms:
        if not buckets.wait_ms("me", per_minute, burst):
            buckets.take("me", per_minute)
        clock.ms += pause
    for _ in range(burst):
        if not buckets.wait_ms("me", per_minute, burst):
            buckets.take("me", per_minute)
    wait = buckets.wait_ms("me", per_minute, burst)
    if wait:
        clock.ms += wait - 1
        assert buckets.wait_ms("me", per_minute, burst) == 1
        clock.ms += 1
    assert buckets.wait_ms("me", per_minute, burst) == 0


def test_a_rate_of_nearly_nothing_is_a_long_wait() -> None:
    """And no overflow."""
    buckets = Buckets(Clock())
    buckets.take("me", 5e-324)
    assert buckets.wait_ms("me", 5e-324, 1) >= 10**12


def test_there_are_no_more_buckets_than_allowed() -> None:
    """The one unused for longest goes, and whoever asks on keeps its own."""
    clock = Clock()
    buckets = Buckets(clock, max_buckets=3)
    drain(buckets, "busy", 60, 5)
    for number in range(100):
        buckets.take(f"device-{number}", 60)
        clock.ms += 1000
        assert drain(buckets, "busy", 60, 5) == 1
        assert len(buckets) <= 3
