"""Token buckets: how often each client may ask, after a burst.

A bucket is one number, the time at which it will be full again (the generic cell rate algorithm of ATM): a
request moves that on by the time of one token, and is refused where that is more than a burst away.
"""

from collections import OrderedDict
from collections.abc import Callable

MAX_BUCKETS = 1024
_NS = 1_000_000_000
# For a rate of nearly nothing: some thirty years.
_MAX_INTERVAL_NS = _NS * 10**9


class Buckets:
    """At most `max_buckets` of them; the one unused for longest gives way. Most often it is full: no loss."""

    def __init__(self, clock: Callable[[], float], max_buckets: int = MAX_BUCKETS) -> None:
        self._clock = clock
        self._max_buckets = max_buckets
        # When each will be full, in nanoseconds of the clock: whole numbers make the wait exact.
        self._full_at: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def wait_ms(self, client: str, per_minute: float, burst: int) -> int:
        """How long until the next token is there; 0 is now."""
        now, interval = self._now_ns(), _interval_ns(per_minute)
        full_at = max(self._full_at.get(client, 0), now) + interval
        return max(0, -(-(full_at - burst * interval - now) // 1_000_000))

    def take(self, client: str, per_minute: float) -> None:
        """Take a token, which `wait_ms` has said is there."""
        full_at = max(self._full_at.pop(client, 0), self._now_ns()) + _interval_ns(per_minute)
        self._full_at[client] = full_at
        while len(self._full_at) > self._max_buckets:
            self._full_at.popitem(last=False)

    def _now_ns(self) -> int:
        return round(self._clock() * _NS)


def _interval_ns(per_minute: float) -> int:
    return round(min(60 * _NS / per_minute, _MAX_INTERVAL_NS))
