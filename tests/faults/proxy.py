"""A wire that can be cut: a TCP proxy that forwards, or does to the bytes what networks do.

One proxy stands before one peer, so that a partition hits exactly whom it is meant for.
"""

import asyncio
import contextlib
from collections.abc import Iterator

CHUNK_BYTES = 4096
_ABORT_AFTER_BYTES = 3


class Proxy:
    """Listens on a port of its own and forwards to `target_port`, both on 127.0.0.1.

    Nothing is lost while it is paused or slow: bytes wait in the kernel's buffers, as on a real network.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.num_connections = 0
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_passing = asyncio.Event()
        self._is_passing.set()
        self._is_refusing = False
        self._delay_s = 0.0
        self._truncations = 0
        self.opened_at = 0.0

    @property
    def num_open(self) -> int:
        return len(self._pairs)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End every connection and listen no more."""
        if self._server:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- what networks do --------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every connection that is open now."""
        for pair in list(self._pairs):
            _abort(pair)

    def refuse(self) -> None:
        """Cut, and close whatever connects from now on before a byte has passed."""
        self._is_refusing = True
        self.cut()

    def pause(self) -> None:
        """A black hole: connections stay open, and new ones are made, and no byte passes."""
        self._is_passing.clear()

    def delay(self, seconds: float) -> None:
        """Every chunk of bytes waits so long, in each direction."""
        self._delay_s = seconds

    def truncate(self) -> None:
        """Forward three bytes of the next packet, and reset the connection in the middle of it."""
        self._truncations = 1

    def heal(self) -> None:
        """Forward again, all of it."""
        self._is_refusing, self._delay_s, self._truncations = False, 0.0, 0
        self._is_passing.set()

    # ---- forwarding --------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._serve(reader, writer)
        writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_refusing:
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        pair = writer, far_writer
        self._pairs.add(pair)
        self.num_connections += 1
        self.opened_at = asyncio.get_running_loop().time()
        try:
            ways = [self._forward(reader, far_writer), self._forward(far_reader, writer)]
            tasks = [asyncio.ensure_future(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._pairs.discard(pair)
            _abort(pair)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction until its end. A far end that is gone is the end of both."""
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._is_passing.wait()
                if self._truncations and len(chunk) > _ABORT_AFTER_BYTES:
                    self._truncations -= 1
                    chunk = chunk[:_ABORT_AFTER_BYTES]
                    writer.write(chunk)
                    await writer.drain()
                    return
                writer.write(chunk)
                await writer.drain()


def _abort(pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
    for writer in _open(pair):
        writer.transport.abort()


def _open(pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> Iterator[asyncio.StreamWriter]:
    return (writer for writer in pair if not writer.transport.is_closing())
