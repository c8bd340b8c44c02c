"""Devices for the front's own cost: all on one thread, against a daemon over a fake model."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from tests.faults.history import Frame, decode
from tests.faults.session import Session
from tests.faults.wire import Message

BASE = "tampu/v1/box"
ANSWERS_WITHIN_S = 120.0
PINGS_WITHIN_S = 2.0


@dataclass(slots=True)
class Reply:
    """One request as its device saw it; times of the monotonic clock."""

    asked_at: float
    first_at: float | None = None
    num_deltas: int = 0
    num_bytes: int = 0
    end: Frame | None = None

    @property
    def ttft_s(self) -> float:
        """To the first text. Raises ValueError when none came."""
        if self.first_at is None:
            raise ValueError("no text came before the end")
        return self.first_at - self.asked_at


@dataclass(slots=True)
class Caller:
    """A connected device. `echo` is its own topic, for the broker's round trip."""

    name: str
    session: Session = field(init=False)
    replies: dict[str, Reply] = field(default_factory=dict)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    echoed_at: float = 0.0

    def __post_init__(self) -> None:
        filters = {f"{BASE}/response/{self.name}/#": 1, self.echo: 1}
        self.session = Session(self.port, f"bench-{self.name}", filters, self._take)

    @property
    def echo(self) -> str:
        return f"bench/echo/{self.name}"

    def ask(self, request_id: str, prompt: str, num_tokens: int) -> None:
        """Publish a request now."""
        request = {"id": request_id, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "seed": 1}
        payload = msgspec.json.encode(request)
        self.replies[request_id] = Reply(time.monotonic())
        self.session.publish(f"{BASE}/request/{self.name}", payload)

    async def answered(self, request_id: str) -> Reply:
        """Wait for the end of a request. Raises TimeoutError."""
        reply = self.replies[request_id]
        await self._until(lambda: reply.end is not None, ANSWERS_WITHIN_S)
        return reply

    async def round_trip_s(self) -> float:
        """Of a publish of our own through the broker and back, at QoS 1."""
        start, self.echoed_at = time.monotonic(), 0.0
        self.session.publish(self.echo, b"ping")
        await self._until(lambda: self.echoed_at > 0, PINGS_WITHIN_S)
        return self.echoed_at - start

    async def _until(self, check: Callable[[], bool], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while not check():
                self.heard.clear()
                await self.heard.wait()

    def _take(self, message: Message) -> None:
        now = time.monotonic()
        self.heard.set()
        if message.topic == self.echo:
            self.echoed_at = now
            return
        frame = decode(message.payload)
        if (reply := self.replies.get(frame.id)) is None:
            return
        if frame.type == "delta":
            reply.first_at = reply.first_at or now
            reply.num_deltas += 1
            reply.num_bytes += len((frame.text or "").encode())
        elif frame.is_end:
            reply.end = reply.end or frame


@asynccontextmanager
async def callers(port: int, count: int) -> AsyncIterator[Sequence[Caller]]:
    """So many connected devices until the end of the block."""
    made = [Caller(f"d{number}", port=port) for number in range(count)]
    tasks = [asyncio.create_task(caller.session.run()) for caller in made]
    try:
        async with asyncio.timeout(30):
            for caller in made:
                await caller.session.is_up.wait()
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
