"""The words on the engine pipe: what is sent is what is received, and nothing else gets through."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine import messages
from agent.engine.messages import (
    HEADER,
    MAX_FRAME_BYTES,
    Cancel,
    Device,
    Events,
    Hello,
    KeyedEvent,
    Load,
    Loaded,
    LoadFailed,
    Measure,
    Measured,
    MeasureMemory,
    Measuring,
    Pipe,
    Read,
    Stats,
    Submit,
    Timed,
    ToDaemon,
    ToEngine,
    decoder,
    encode,
)
from agent.errors import EngineProtocolError
from agent.request import (
    Delta,
    Failed,
    Finished,
    FinishReason,
    Message,
    Queued,
    Request,
    Resume,
    Sampling,
    Started,
    Timings,
    Usage,
)

numbers = st.integers(0, 2**31)
seconds = st.floats(0, 1e6)
reasons = st.sampled_from(FinishReason)
tokens = st.lists(numbers, max_size=5).map(tuple)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)

requests = st.builds(
    Request,
    client=st.text(max_size=10),
    id=st.text(max_size=10),
    messages=st.lists(
        st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=20)), max_size=3
    ).map(tuple),
    sampling=st.builds(Sampling, seed=numbers, temperature=st.floats(0, 2), top_k=st.integers(0, 1000)),
    max_tokens=st.integers(1, 1 << 20),
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=3).map(tuple),
    ttl_s=st.none() | seconds,
)
loads = st.builds(
    Load,
    st.text(max_size=20),
    numbers,
    numbers,
    numbers,
    numbers,
    st.sampled_from(["f16", "q8_0"]),
    numbers,
)
to_engine = st.one_of(
    loads,
    st.builds(Measure, loads, tokens, tokens, seconds),
    st.builds(MeasureMemory, numbers, tokens, seconds),
    st.builds(Submit, numbers, requests, st.none() | st.builds(Resume, tokens, numbers)),
    st.builds(Cancel, numbers, reasons),
)
events = st.one_of(
    st.builds(Queued, numbers),
    st.builds(Started),
    st.builds(Delta, st.text(max_size=20), tokens, numbers),
    st.builds(
        Finished,
        reasons,
        st.builds(Usage, numbers, numbers, numbers),
        st.builds(Timings, seconds, seconds, seconds),
    ),
    st.builds(
        Failed, st.text(max_size=10), st.text(max_size=20), st.dictionaries(st.text(max_size=5), json_values)
    ),
)
devices = st.builds(Device, st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), numbers, numbers)
to_daemon = st.one_of(
    st.builds(
        Hello,
        numbers,
        numbers,
        st.text(max_size=9),
        st.lists(devices, max_size=2).map(tuple),
        st.text(max_size=9),
    ),
    st.builds(Loaded, st.text(max_size=9), numbers, numbers, numbers, numbers, seconds),
    st.builds(LoadFailed, st.text(max_size=9), st.text(max_size=20)),
    st.builds(Events, st.lists(st.builds(KeyedEvent, numbers, events), max_size=4).map(tuple)),
    st.builds(Stats, numbers, numbers, numbers, numbers, numbers, seconds),
    st.builds(Measuring, st.text(max_size=9), st.floats(0, 1)),
    st.builds(Read, numbers, seconds),
    st.builds(Timed, numbers, numbers, seconds, seconds),
    st.builds(Measured, seconds),
)


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, socket.socket]]:
    """The engine's end of a real socket pair, and the daemon's."""
    ours, theirs = socket.socketpair()
    with theirs, contextlib.closing(Pipe(ours)) as pipe:
        yield pipe, theirs


def receive_all(data: bytes) -> list[object]:
    """What an engine receives from a daemon that sends these bytes and closes; errors included."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(data)
    with contextlib.closing(Pipe(ours)) as pipe:
        received: list[object] = []
        while True:
            try:
                message = pipe.receive()
            except EngineProtocolError as error:
                return [*received, error]
            received.append(message)
            if message is None:
                return received


def frame(body: bytes) -> bytes:
    return HEADER.pack(len(body)) + body


@given(st.lists(to_engine, max_size=3))
def test_the_engine_receives_what_the_daemon_sent(sent: list[Any]) -> None:
    """Message for message, and then the end."""
    assert receive_all(b"".join(map(encode, sent))) == [*sent, None]


@given(to_daemon)
def test_the_daemon_reads_what_the_engine_sent(sent: Any) -> None:
    """After the four bytes that say how long it is."""
    data = encode(sent)
    assert HEADER.unpack(data[: HEADER.size]) == (len(data) - HEADER.size,)
    assert decoder(ToDaemon).decode(data[HEADER.size :]) == sent


def test_the_pipe_carries_messages_to_the_daemon(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, theirs = ends
    pipe.send(LoadFailed("model_unavailable", "no such file"))
    data = theirs.recv(4096)
    assert decoder(ToDaemon).decode(data[HEADER.size :]) == LoadFailed("model_unavailable", "no such file")


@given(to_engine, st.integers(0, 1000))
def test_a_message_cut_short_is_the_end(sent: Any, size: int) -> None:
    """A daemon that died while writing has said nothing."""
    data = encode(sent)
    assert receive_all(data[: min(size, len(data) - 1)]) == [None]


@given(st.binary(max_size=40))
def test_bytes_that_are_no_message_are_a_protocol_error(body: bytes) -> None:
    """Never another exception, whatever the bytes are."""
    assert isinstance(receive_all(frame(body))[0], EngineProtocolError)


@given(to_engine, st.data())
def test_a_damaged_message_is_a_protocol_error_or_another_message(sent: Any, data: st.DataObject) -> None:
    """One changed byte may still be sense, but it is never a crash."""
    body = bytearray(encode(sent)[HEADER.size :])
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    received = receive_all(frame(bytes(body)))[0]
    assert isinstance(received, ToEngine | EngineProtocolError)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x83\xa4type\xa6cancel\xa3key\x01\xa6reason\xa2\xff\xfe",
        b"\x84\xa4type\xa6cancel\xa3key\x01\xa6reason\xa4stop\xa1x" + b"\x91" * 20_000 + b"\xc0",
        msgspec.msgpack.encode({"type": "cancel", "key": "one", "reason": "stop"}),
        msgspec.msgpack.encode({"type": "stats"}),
        msgspec.msgpack.encode(["cancel", 1, "stop"]),
    ],
    ids=["empty", "not UTF-8", "nested", "wrong type", "not for the engine", "no map"],
)
def test_foreign_messages_are_protocol_errors(body: bytes) -> None:
    (error,) = receive_all(frame(body))
    assert isinstance(error, EngineProtocolError)
    assert str(error).startswith("the daemon sent")


def test_a_frame_that_announces_too_much_is_refused_before_it_is_read() -> None:
    """The engine never waits for, or holds, more than a frame's worth."""
    (error,) = receive_all(HEADER.pack(MAX_FRAME_BYTES + 1))
    assert isinstance(error, EngineProtocolError)
    assert str(MAX_FRAME_BYTES + 1) in str(error)


def test_a_message_too_long_for_a_frame_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender hears of it, not the receiver."""
    monkeypatch.setattr(messages, "MAX_FRAME_BYTES", 10)
    with pytest.raises(EngineProtocolError, match="LoadFailed"):
        encode(LoadFailed("model_unavailable", "a long story"))


def test_sending_to_a_daemon_that_is_gone_is_a_connection_error() -> None:
    """Also when it left with our messages unread, while we were waiting for it to read them."""
    ours, theirs = socket.socketpair()
    with contextlib.closing(Pipe(ours)) as pipe:
        full = threading.Event()
        caught: list[Exception] = []

        def flood() -> None:
            try:
                for number in range(10_000):
                    if number == 5:
                        full.set()
                    pipe.send(LoadFailed("internal", "x" * 10_000))
            except OSError as error:
                caught.append(error)

        sender = threading.Thread(target=flood)
        sender.start()
        full.wait(timeout=5)
        theirs.close()
        sender.join(timeout=10)
    assert isinstance(caught[0], ConnectionError)


def test_both_unions_name_every_message() -> None:
    """A message that is in neither could not be decoded by anybody."""
    tags = {kind.__struct_config__.tag for kind in (*ToEngine.__args__, *ToDaemon.__args__)}
    assert tags == {
        name.__struct_config__.tag
        for name in vars(messages).values()
        if isinstance(name, type)
        and issubclass(name, msgspec.Struct)
        and name.__module__ == messages.__name__
        if name.__struct_config__.tag
    }
