"""The storm's own MQTT: packets as MQTT 5 has them, read back as they were written."""

import asyncio

import pytest

from tests.faults import wire


async def read(raw: bytes) -> wire.Packet:
    reader = asyncio.StreamReader()
    reader.feed_data(raw)
    reader.feed_eof()
    return await wire.read_packet(reader)


@pytest.mark.anyio
@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 16_383, 16_384, 100_000])
async def test_a_publish_comes_back_as_it_was(size: int) -> None:
    """With every length of its length."""
    message = wire.read_message(await read(wire.publish("a/b", bytes(size), 7, is_duplicate=True)))
    assert message == wire.Message("a/b", bytes(size), 1, 7, is_duplicate=True, is_retained=False)


@pytest.mark.anyio
async def test_without_a_packet_id_it_is_of_quality_0() -> None:
    """Nothing has to acknowledge it."""
    message = wire.read_message(await read(wire.publish("a", b"x")))
    assert (message.qos, message.mid) == (0, 0)


@pytest.mark.anyio
async def test_properties_are_skipped() -> None:
    """A broker may add some: here a message expiry of 60 s."""
    raw = b"\x00\x01a" + b"\x00\x07" + b"\x05\x02\x00\x00\x00\x3c" + b"hello"
    assert wire.read_message(await read(b"\x32" + bytes([len(raw)]) + raw)).payload == b"hello"


@pytest.mark.anyio
async def test_a_packet_cut_short_is_the_end() -> None:
    """As when a wire is cut in the middle of it."""
    with pytest.raises(EOFError):
        await read(wire.publish("a/b", b"hello", 7)[:-1])


@pytest.mark.anyio
async def test_a_refusal_to_connect_is_an_error() -> None:
    """Otherwise the answer says whether the broker knew the session."""
    assert wire.has_session(await read(b"\x20\x03\x01\x00\x00"))
    assert not wire.has_session(await read(b"\x20\x03\x00\x00\x00"))
    with pytest.raises(ConnectionError, match="0x87"):
        wire.has_session(await read(b"\x20\x03\x00\x87\x00"))
