"""Membership of the pools: on each connection once, and not any more for a box that stops."""

from types import SimpleNamespace
from typing import Any

from agent.engine_state import EngineState
from agent.mqtt.membership import Membership


class Broker:
    """A pool's connection, and the link that has it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.connection: Any = SimpleNamespace(
            subscribe=lambda filters: self.said.append("join"),
            unsubscribe=lambda filters: self.said.append("leave"),
        )


def test_a_box_that_stops_leaves_for_good() -> None:
    """Also where its connection broke and is back meanwhile."""
    link: Any = Broker()
    membership = Membership(link, ["$share/g/pool/request/+"])
    membership.on_up(link.connection, EngineState.READY)
    membership.tend(EngineState.READY, is_stopping=True)
    assert link.said == ["join", "leave"]
    membership.on_up(link.connection, EngineState.READY)
    assert link.said == ["join", "leave"]
