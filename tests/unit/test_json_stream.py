"""Frames as JSON: what stands in them, and what is left out where there is nothing to say."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from agent.mqtt.json_stream import Box, JsonStream
from agent.mqtt.stream import Route
from agent.request import Finished, FinishReason, Message, Request, Sampling, Timings, Trimmed, Usage


class KeepingStream(JsonStream):
    """Keeps what it would publish."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(num_connects=1), Route("t"), Box("box", "b1"), "r1")  # type: ignore[arg-type]
        self.said: list[dict[str, Any]] = []

    def publish_piece(self, payload: bytes, qos: int | None = None) -> None:
        self.said.append(json.loads(payload))


def done(trimmed: Trimmed | None, max_bytes: int = 10_000) -> dict[str, Any]:
    end = Finished(FinishReason.STOP, Usage(5, 0, 2), Timings(0, 0, 0), trimmed)
    frame: dict[str, Any] = json.loads(KeepingStream().done(end, "text" * 50, max_bytes)[-1].payload)
    return frame


@pytest.mark.parametrize("max_bytes", [10_000, 200])
def test_done_says_what_was_left_out_to_fit(max_bytes: int) -> None:
    """Whole or in chunks; nothing left out is nothing said."""
    assert done(Trimmed(turns=3, tokens=120), max_bytes)["trimmed"] == {"turns": 3, "tokens": 120}
    assert "trimmed" not in done(None, max_bytes)


@pytest.mark.parametrize("session", [None, "kitchen"])
def test_accepted_says_the_priority_and_the_session_used(session: str | None) -> None:
    """A request without a session hears of none."""
    stream = KeepingStream()
    sampling = Sampling(seed=1)
    stream.accept(Request("c", "r1", (Message("user", "x"),), sampling, 9, priority=2, session=session), 4)
    (frame,) = stream.said
    assert (frame["priority"], frame.get("session"), frame["queue_pos"]) == (2, session, 4)
    assert ("session" in frame) is (session is not None)
