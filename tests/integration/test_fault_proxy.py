"""The wire that can be cut, with an echo at its far end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.proxy import Proxy


@asynccontextmanager
async def proxied_echo() -> AsyncIterator[Proxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1])
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
        server.close()


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still came before the end."""
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""


@pytest.mark.anyio
async def test_bytes_pass_both_ways_and_wait_while_it_is_paused() -> None:
    """None is lost: after the pause they come in order."""
    async with proxied_echo() as proxy, connected(proxy) as (reader, writer):
        writer.write(b"one")
        assert await asyncio.wait_for(reader.readexactly(3), 10) == b"one"
        proxy.pause()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(1), 0.2)
        proxy.heal()
        assert await asyncio.wait_for(reader.readexactly(3), 10) == b"two"


@pytest.mark.anyio
async def test_a_cut_ends_what_is_open_and_refuses_nobody() -> None:
    """The next connection is as good as ever."""
    async with proxied_echo() as proxy, connected(proxy) as (reader, writer):
        writer.write(b"one")
        await asyncio.wait_for(reader.readexactly(3), 10)
        proxy.cut()
        assert await ended(reader) == b""
        async with connected(proxy) as (again, far):
            far.write(b"two")
            assert await asyncio.wait_for(again.readexactly(3), 10) == b"two"
    assert proxy.num_connections == 2


@pytest.mark.anyio
async def test_a_refusing_one_lets_nobody_through_until_it_is_healed() -> None:
    """Who connects is closed before a byte has passed."""
    async with proxied_echo() as proxy:
        proxy.refuse()
        async with connected(proxy) as (reader, _):
            assert await ended(reader) == b""
        proxy.heal()
        async with connected(proxy) as (reader, writer):
            writer.write(b"one")
            assert await asyncio.wait_for(reader.readexactly(3), 10) == b"one"


@pytest.mark.anyio
async def test_a_truncated_packet_is_three_bytes_and_the_end() -> None:
    """The far end has heard the beginning of something."""
    async with proxied_echo() as proxy, connected(proxy) as (reader, writer):
        writer.write(b"one")
        await asyncio.wait_for(reader.readexactly(3), 10)
        proxy.truncate()
        writer.write(b"a whole packet")
        assert await ended(reader) in (b"", b"a w")
        assert proxy.num_open == 0
