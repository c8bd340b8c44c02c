"""Requests that have seen several daemons end are begun again one by one; until then they are alive."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.journal.clock import Clock
from tests.integration.conftest import BASE
from tests.support.device import Device
from tests.support.journals import running
from tests.support.processes import Daemon, Mosquitto

MINE = f"{BASE}/response/me/#"
REQUEST = f"{BASE}/request/me"


@pytest.fixture
def suspects(start_daemon: Callable[..., Daemon], broker: Mosquitto, tmp_path: Path) -> Daemon:
    """A daemon that has ended again and again with r0, r1 and r2 under way; not running."""
    daemon = start_daemon(step_s=0.02)
    with Device(broker.port, MINE) as device:
        for number in range(3):
            device.publish(REQUEST, asked(f"r{number}"))
            device.wait_frame(type="accepted", id=f"r{number}")
    daemon.kill()
    for _ in range(2):
        asyncio.run(open_once(tmp_path / "daemon"))
    return daemon


async def open_once(folder: Path) -> None:
    async with running(folder, Clock()):
        pass


def asked(request_id: str) -> dict[str, object]:
    return {"id": request_id, "prompt": f"a LONG {request_id}", "max_tokens": 60, "ttl_s": 30}


def test_what_waits_to_be_begun_again_is_no_result(suspects: Daemon, broker: Mosquitto) -> None:
    """A duplicate is told when it is begun, `get` that it is queued; a cancel ends it; each ends once."""
    with Device(broker.port, MINE, f"{BASE}/response/other/#") as device:
        suspects.start()
        suspects.wait_online()
        device.wait_frame(type="delta", id="r0")
        device.publish(REQUEST, asked("r2"))
        device.publish(f"{BASE}/get/me", {"id": "r1"})
        assert device.wait_frame(id="r1")["phase"] == "queued"
        device.publish(f"{BASE}/cancel/me", {"id": "r1"})
        assert device.wait_end("r1")["code"] == "cancelled"
        assert device.wait_end("r2")["type"] == "done"
        ends = {frame["id"]: frame["seq"] for frame in device.frames() if frame["type"] in {"done", "error"}}
        assert set(ends) == {"r0", "r1", "r2"}
        accepted = device.wait_frame(type="accepted", id="r2")
        assert accepted["seq"] == 1
        # Its time went on while it waited.
        assert accepted["ttl_s"] < 29


def test_a_planned_end_makes_nobody_guilty(suspects: Daemon, broker: Mosquitto) -> None:
    """It was computed alone when the daemon was stopped, with the broker away: it is answered later."""
    with Device(broker.port, MINE) as device:
        suspects.start()
        suspects.wait_online()
        device.wait_frame(type="delta", id="r0")
        broker.stop()
        assert suspects.stop() == 0
    broker.start()
    with Device(broker.port, MINE) as device:
        suspects.start()
        assert device.wait_end("r0")["type"] == "done"
