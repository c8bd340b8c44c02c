"""A thread that does one thing after another for the loop, and outlives whatever they raise."""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """Jobs are done in order. The thread does not keep the program from ending: a disk may never answer."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._waiting_since: dict[asyncio.Future[Any], float] = {}

    def start(self) -> None:
        self._thread.start()

    def call(self, job: Callable[[], T]) -> "asyncio.Future[T]":
        """The result of `job`, or what it raised. Called on the loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting_since[future] = time.monotonic()
        future.add_done_callback(self._on_done)
        self._jobs.put(lambda: _do(job, future, loop))
        return future

    def waiting_s(self) -> float:
        """For how long the oldest job that was asked for has not been done; 0.0 if there is none."""
        return time.monotonic() - min(self._waiting_since.values(), default=time.monotonic())

    async def end(self, last: Callable[[], None], timeout_s: float) -> bool:
        """Have the last job done and end the thread; False when that takes longer than `timeout_s`."""
        ending = self.call(last)
        self._jobs.put(None)
        await asyncio.wait({ending}, timeout=timeout_s)
        return ending.done()

    def _on_done(self, future: "asyncio.Future[Any]") -> None:
        self._waiting_since.pop(future, None)

    def _work(self) -> None:
        while job := self._jobs.get():
            job()


def _do(job: Callable[[], T], future: "asyncio.Future[T]", loop: asyncio.AbstractEventLoop) -> None:
    try:
        result = job()
    except BaseException as error:  # noqa: BLE001 - whoever awaits it is told
        _tell(loop, future, partial(future.set_exception, error))
    else:
        _tell(loop, future, partial(future.set_result, result))


def _tell(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[T]", say: Callable[[], None]) -> None:
    # The loop may have been closed, and the one who asked may have gone.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(lambda: None if future.done() else say())
