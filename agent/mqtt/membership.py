"""When this box is a member of its pools: while it would take what the broker deals to it.

A member that refuses everything is the quickest of all, and half of a pool's requests would end with it.
"""

from agent.engine_state import EngineState
from agent.mqtt.client import Connection
from agent.mqtt.link import Link


class Membership:
    """`filters` are the pools' shared subscriptions; call `tend` when something has changed, and `on_up`
    with each new connection of `link`."""

    def __init__(self, link: Link, filters: list[str]) -> None:
        self._link = link
        self._filters = filters
        self._can_answer = False
        self._has_joined = False
        self._is_stopping = False

    def on_up(self, connection: Connection, state: EngineState) -> None:
        """There is a new connection, on which nothing is subscribed to."""
        self._has_joined = False
        self._tend(connection, state)

    def tend(self, state: EngineState, *, is_stopping: bool) -> None:
        """Join or leave, as the engine's state has it. A box that stops leaves for good."""
        self._is_stopping = self._is_stopping or is_stopping
        if (connection := self._link.connection) is not None:
            self._tend(connection, state)

    def _tend(self, connection: Connection, state: EngineState) -> None:
        # In between, as after a crash of the engine, it stays what it was: a request that is taken waits.
        if state in (EngineState.READY, EngineState.ASLEEP):
            self._can_answer = True
        elif state is EngineState.FAILED:
            self._can_answer = False
        wanted = self._can_answer and not self._is_stopping
        if wanted and not self._has_joined:
            connection.subscribe(self._filters)
        elif self._has_joined and not wanted:
            connection.unsubscribe(self._filters)
        self._has_joined = wanted
