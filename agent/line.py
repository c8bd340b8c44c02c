"""The line before a full box: who was told to come back, in order of their first refusal.

A place that becomes free belongs to the first in line until some seconds after it was to come back. So
whoever waits as long as it was told finds a place, and whoever asks again and again in between does not
get past it.
"""

from collections import OrderedDict

MAX_WAITING = 256
# What comes back with a poor timer, over a slow network, is not late yet.
GRACE_S = 5.0


class Line:
    """One place for each client, whatever the number of its requests. Times are in seconds of one clock."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._due_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._due_at)

    def num_before(self, client: str, now: float) -> int:
        """How many others go first. Those who did not come back in time are forgotten."""
        for name in [name for name, due_at in self._due_at.items() if due_at + GRACE_S < now]:
            del self._due_at[name]
        return next((place for place, name in enumerate(self._due_at) if name == client), len(self._due_at))

    def promise(self, client: str, due_at: float) -> None:
        """The client was told when to come back. It keeps its place; a new one goes to the end."""
        if client in self._due_at or len(self._due_at) < self._max_waiting:
            self._due_at[client] = due_at

    def leave(self, client: str) -> None:
        """The client was let in."""
        self._due_at.pop(client, None)
