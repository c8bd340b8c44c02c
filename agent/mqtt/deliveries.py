"""What has to be told to devices, each at its own pace: a task for every answer, result and refusal."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from agent.errors import RequestError
from agent.journal.journal import Entry, Final, Journal
from agent.mqtt.stream import Stream

log = logging.getLogger(__name__)

MAX_DELIVERIES = 512
# So many begin in one turn of the loop: one commit of the journal may set hundreds free.
BEGIN_AT_ONCE = 8


class Deliveries:
    """`on_room` is called when one has ended: there is room for more."""

    def __init__(self, journal: Journal, on_room: Callable[[], None] = lambda: None) -> None:
        self._journal = journal
        self._on_room = on_room
        self._under_way: set[asyncio.Task[Any]] = set()
        self._turn = asyncio.Semaphore(BEGIN_AT_ONCE)

    @property
    def is_full(self) -> bool:
        """True while too much is under way to look at another message."""
        return len(self._under_way) >= MAX_DELIVERIES

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Have this done beside everything else."""
        task = asyncio.create_task(work, name=name)
        self._under_way.add(task)
        task.add_done_callback(self._on_end)

    async def turn(self) -> None:
        """Wait until the loop has had time for others since so many have begun."""
        async with self._turn:
            await asyncio.sleep(0)

    async def settle(self, timeout_s: float) -> None:
        """Wait for what is under way, for a bounded time."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=timeout_s)

    def close(self) -> None:
        """End what is under way: what has to be told for all that is in the journal."""
        for task in self._under_way:
            task.cancel()

    async def deliver(self, entry: Entry, stream: Stream, finals: tuple[Final, ...]) -> None:
        """Publish a result that is in the journal, until the broker has it.

        One that is given up stays there: it can be asked for, and the next daemon tries again.
        """
        await self._journal.committed(entry)
        if await stream.deliver(finals):
            self._journal.delivered(entry)

    def say_again(self, entry: Entry, stream: Stream) -> None:
        """Publish a result once more, for whoever asks; not twice at the same time."""
        name = f"repeat {entry.client}/{entry.id}"
        if all(task.get_name() != name for task in self._under_way):
            self.spawn(self._tell_result(entry, stream), name)

    async def _tell_result(self, entry: Entry, stream: Stream) -> None:
        try:
            finals = await self._journal.finals(entry)
        except RequestError as error:
            finals = stream.error(error)
        await self._journal.committed(entry)
        await stream.deliver(finals)

    def _on_end(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s failed", task.get_name(), exc_info=error)
        self._on_room()
