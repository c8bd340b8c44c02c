"""Cancels that came before their request: two topics have no common order."""

import time
from collections import OrderedDict
from collections.abc import Callable

LASTS_S = 60.0
# Of all clients together, and of one: nobody's guesses push out another's cancels.
MAX_TOMBSTONES = 1024
MAX_PER_CLIENT = 32


class Tombstones:
    """Remembered for a minute; of too many the oldest go."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[str, OrderedDict[str, float]] = OrderedDict()

    def add(self, client: str, request_id: str) -> None:
        """This client has cancelled what has not come yet."""
        own = self._until.setdefault(client, OrderedDict())
        self._until.move_to_end(client)
        own[request_id] = self._clock() + LASTS_S
        own.move_to_end(request_id)
        while len(own) > MAX_PER_CLIENT:
            own.popitem(last=False)
        while sum(map(len, self._until.values())) > MAX_TOMBSTONES:
            self._until.popitem(last=False)

    def has(self, client: str, request_id: str) -> bool:
        """Was it cancelled within the last minute."""
        own = self._until.get(client)
        return own is not None and own.get(request_id, 0.0) > self._clock()
