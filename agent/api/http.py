"""uvicorn behind a socket of our own (listen.py), on our loop."""

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from agent.api.listen import BACKLOG

KEEP_ALIVE_S = 30
MAX_CONNECTIONS = 256
MAX_HEAD_BYTES = 16 * 1024


class HttpServer:
    """uvicorn on a bound socket, as a task of the running loop. `app` is an ASGI 3 application."""

    def __init__(self, app: Callable[..., Any], sock: socket.socket) -> None:
        self._sock = sock
        self._path = Path(sock.getsockname())
        self._task: asyncio.Task[None] | None = None
        self._server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                loop="none",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                limit_concurrency=MAX_CONNECTIONS,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            )
        )

    async def start(self) -> None:
        """Returns when requests are answered."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._sock]), name="http server")
        self._task.add_done_callback(lambda _: self._server.has_started.set())
        await self._server.has_started.wait()
        if self._task.done():
            self._task.result()

    async def stop(self, grace_s: float) -> None:
        """Take no more connections, let the answers under way end within `grace_s`, then cut them."""
        # Before the listener closes: from here on the path may belong to the next daemon.
        self._path.unlink(missing_ok=True)
        self._server.config.timeout_graceful_shutdown = math.ceil(grace_s)
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._sock.close()


class _Server(uvicorn.Server):
    """uvicorn that leaves the signals to the daemon and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
