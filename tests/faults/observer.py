"""A newcomer at the broker: what is retained for it."""

import asyncio

import msgspec
from msgspec import Struct

from tests.faults.history import Retained
from tests.faults.session import Session
from tests.faults.wire import Message

# Retained messages come right behind the SUBACK.
LISTENS_S = 0.7


class Status(Struct, frozen=True):
    state: str
    boot_id: str = ""


class Info(Struct, frozen=True):
    """Of the info payload what tells that it is one."""

    model: object = None


async def look(port: int, node: str) -> Retained:
    """Subscribe to status and info, and say what is there."""
    base, found = f"tampu/v1/{node}", dict[str, bytes]()

    def take(message: Message) -> None:
        found[message.topic] = message.payload

    session = Session(port, "observer", {f"{base}/status": 1, f"{base}/info": 1}, take)
    task = asyncio.create_task(session.run())
    try:
        await asyncio.wait_for(session.is_up.wait(), 10)
        await asyncio.sleep(LISTENS_S)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    status = msgspec.json.decode(found[f"{base}/status"], type=Status) if f"{base}/status" in found else None
    info = msgspec.json.decode(found[f"{base}/info"], type=Info) if f"{base}/info" in found else None
    return Retained(
        status_state=status.state if status else None,
        status_boot=status.boot_id if status else None,
        has_info=info is not None and info.model is not None,
    )
