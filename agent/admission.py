"""How many requests the box takes at once, and what those hear that it does not take."""

from collections.abc import Collection

from agent.answer import Answer
from agent.config import Limits
from agent.errors import Busy, RateLimited

# Before anything is measured, a guess of one answer's time.
FIRST_ANSWER_S = 5.0
# Weight of the newest answer in the moving average.
SMOOTHING = 0.2
MIN_WAIT_S, MAX_WAIT_S = 0.5, 60.0


class Admission:
    """The two bounds, and an honest guess when to try again."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._answer_s = FIRST_ANSWER_S

    def check(self, client: str, live: Collection[Answer], num_slots: int) -> None:
        """Raises RateLimited for the client's own bound, Busy for the box's."""
        if sum(answer.request.client == client for answer in live) >= self._limits.per_client:
            raise RateLimited(
                f"this client has {self._limits.per_client} requests under way; wait for one to end",
                retry_after_ms=self._wait_ms(1, num_slots),
            )
        if len(live) >= self._limits.queue:
            raise Busy(
                f"{self._limits.queue} requests are under way on this box; try again later",
                retry_after_ms=self._wait_ms(len(live), num_slots),
            )

    def observe(self, seconds: float) -> None:
        """An answer took so long from its submission to its end."""
        self._answer_s += SMOOTHING * (seconds - self._answer_s)

    def _wait_ms(self, num_ahead: int, num_slots: int) -> int:
        """When a place should be free: the time answers take lately, shared by the slots."""
        seconds = self._answer_s * max(1.0, num_ahead / num_slots / 2)
        return int(min(max(seconds, MIN_WAIT_S), MAX_WAIT_S) * 1000)
