"""The OpenAI API on a real unix socket, asked by httpx, by raw bytes and by the real `tampu` command."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import stat
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.api.front import BODY_FACTOR, build_app
from agent.api.http import HttpServer
from agent.api.listen import bind_socket
from agent.config import Limits, Profile
from agent.counts import Counts
from agent.engine_client import EngineState
from agent.errors import Busy, ConfigError, ContextOverflow, Internal, RateLimited, RequestError
from agent.request import FinishReason, Message
from agent.status import ModelIdentity, StatusSource
from tests.support.scripted_engine import FOREVER, HELLO, ScriptedEngine

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ROOT = Path(__file__).parents[2]
LIMITS = Limits(request_bytes=1024)
CHAT = "/v1/chat/completions"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "tampu.sock"


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
async def server(path: Path, engine: ScriptedEngine) -> AsyncIterator[HttpServer]:
    """The front on its socket, with a model that is called tiny and one profile."""
    status = StatusSource("box", engine, ModelIdentity("tiny", "Q4_0", "00"))
    app = build_app(engine.dispatcher, status, Counts(), LIMITS, {"attic": Profile(system="You know dust.")})
    server = HttpServer(app, bind_socket(str(path), None))
    await server.start()
    yield server
    await server.stop(grace_s=0)


@pytest.fixture
async def client(server: HttpServer, path: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    async with httpx.AsyncClient(transport=transport, base_url="http://tampu", timeout=20) as client:
        yield client


async def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def tampu(*argv: str, stdin: bytes | None = None) -> tuple[int, str, str]:
    """The real command: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.cli.main", *argv),
        stdin=DEVNULL if stdin is None else PIPE,
        stdout=PIPE,
        stderr=PIPE,
        cwd=ROOT,
    )
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def events(text: str) -> list[Any]:
    """The data of each server-sent event; [DONE] as it is."""
    *blocks, rest = text.split("\n\n")
    assert rest == ""
    data = [block.removeprefix("data: ") for block in blocks]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "code", "param"}
    return error


# ---- answers -------------------------------------------------------------------------------------


async def test_an_answer_comes_whole(client: httpx.AsyncClient) -> None:
    """One JSON object, named after the model that is loaded."""
    response = await client.post(CHAT, json={"model": "gpt-4o", **HI})
    answer = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["object"], answer["model"]) == ("chat.completion", "tiny")
    assert abs(answer["created"] - time.time()) < 60
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hello, world"}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == 8


async def test_an_answer_streams(client: httpx.AsyncClient) -> None:
    """Role, content, reason, [DONE]; all with one id."""
    response = await client.post(CHAT, json={**HI, "stream": True})
    *chunks, done = events(response.text)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert done == "[DONE]"
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta["content"] for delta in deltas[1:-1]) == "Hello, world"
    assert deltas[-1] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_stream_ends_in_counts_where_they_are_asked_for(client: httpx.AsyncClient) -> None:
    """After the reason, before [DONE], without choices."""
    wanted = {**HI, "stream": True, "stream_options": {"include_usage": True}}
    *_, counts, done = events((await client.post(CHAT, json=wanted)).text)
    assert done == "[DONE]"
    assert counts["choices"] == []
    assert counts["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


async def test_text_arrives_as_it_is_generated(engine: ScriptedEngine, client: httpx.AsyncClient) -> None:
    """Not when the answer is complete."""
    engine.script = ("first", 30.0, "last")
    async with client.stream("POST", CHAT, json={**HI, "stream": True}) as response:
        async for line in response.aiter_lines():
            if "first" in line:
                break
    assert engine.answers[0].text == "first"


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_without_text_is_an_answer(
    stream: bool, engine: ScriptedEngine, client: httpx.AsyncClient
) -> None:
    """A model may have nothing to say."""
    engine.script = ()
    response = await client.post(CHAT, json={**HI, "stream": stream})
    assert response.status_code == 200
    assert '"finish_reason":"stop"' in response.text


async def test_what_is_asked_for_reaches_the_engine(
    engine: ScriptedEngine, client: httpx.AsyncClient
) -> None:
    """OpenAI's words and our extensions, within the box's limits."""
    wanted = {
        **HI,
        "profile": "attic",
        "max_tokens": 5,
        "max_completion_tokens": 7,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "presence_penalty": 0.5,
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "null"}}},
        "seed": 11,
        "stop": "END",
        "user": "bob",
    }
    await client.post(CHAT, json=wanted)
    await client.post(CHAT, json={**HI, "user": "not a name"})
    request, other = (answer.request for answer in engine.answers)
    assert request.messages == (Message("system", "You know dust."), Message("user", "hi"))
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0, 0.5, 3, 11)
    assert (sampling.min_p, sampling.presence_penalty, request.schema) == (0.1, 0.5, '{"type":"null"}')
    assert (request.max_tokens, request.stop, request.client) == (7, ("END",), "socket:bob")
    assert other.client.startswith("socket:")
    assert other.client not in {"socket:bob", "socket:local"}


@pytest.mark.parametrize(
    ("reason", "detail"), [(FinishReason.TIMEOUT, "timeout"), (FinishReason.LENGTH, None)]
)
async def test_a_cut_answer_says_so(
    reason: FinishReason, detail: str | None, engine: ScriptedEngine, client: httpx.AsyncClient
) -> None:
    """In OpenAI's word, and ours beside it where it has none."""
    engine.script = ("half an ans", reason)
    choice = (await client.post(CHAT, json=HI)).json()["choices"][0]
    assert (choice["finish_reason"], choice.get("finish_detail")) == ("length", detail)


async def test_sixteen_streams_at_once_do_not_mix(engine: ScriptedEngine, client: httpx.AsyncClient) -> None:
    """Each gets its own answer, whole."""
    engine.script = tuple(step for number in range(20) for step in (f"{number} ", 0.002))
    asked = (client.post(CHAT, json={**HI, "stream": True}) for _ in range(16))
    for response in await asyncio.gather(*asked):
        *chunks, done = events(response.text)
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert (text, done) == ("".join(f"{number} " for number in range(20)), "[DONE]")


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ContextOverflow("the prompt has 9000 tokens; at most 4096 fit"), 422),
        (Internal("the engine died"), 500),
    ],
)
async def test_an_error_before_the_first_token_is_a_status(
    error: RequestError, status: int, stream: bool, engine: ScriptedEngine, client: httpx.AsyncClient
) -> None:
    """Streamed or not."""
    engine.script = (error,)
    response = await client.post(CHAT, json={**HI, "stream": stream})
    assert response.status_code == status
    assert error_of(response)["code"] == error.code
    assert error_of(response)["message"] == error.message


async def test_an_error_after_the_first_token_is_the_last_event(
    engine: ScriptedEngine, client: httpx.AsyncClient
) -> None:
    """The status is out already; there is no [DONE]."""
    engine.script = ("half", 0.05, Internal("the engine died"))
    response = await client.post(CHAT, json={**HI, "stream": True})
    *_, text, error = events(response.text)
    assert response.status_code == 200
    assert text["choices"][0]["delta"] == {"content": "half"}
    assert error["error"]["code"] == "internal"


@pytest.mark.parametrize(
    ("refusal", "status"),
    [(Busy("full", retry_after_ms=1500), 503), (RateLimited("yours is full", retry_after_ms=1500), 429)],
)
async def test_a_full_box_says_when_to_come_back(
    refusal: RequestError, status: int, engine: ScriptedEngine, client: httpx.AsyncClient
) -> None:
    """In whole seconds, in the header OpenAI's clients obey."""
    engine.refusal = refusal
    response = await client.post(CHAT, json=HI)
    assert (response.status_code, response.headers["retry-after"]) == (status, "2")
    assert error_of(response)["code"] == refusal.code


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the body is not JSON"),
        (b"{nonsense", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[]", "must be a JSON object"),
        (b"[" * 4000, "nested too deeply"),
        (b"{}", "missing required field messages"),
        (b'{"messages": []}', "at least one message"),
        (json.dumps({**HI, "max_tokens": "x"}).encode(), "max_tokens: Expected int"),
        (json.dumps({**HI, "tools": [{}]}).encode(), "tools: is not supported"),
    ],
)
async def test_a_bad_request_is_told_what_is_bad(
    content: bytes, sentence: str, engine: ScriptedEngine, client: httpx.AsyncClient
) -> None:
    """And never reaches the engine."""
    response = await client.post(CHAT, content=content)
    assert response.status_code == 400
    assert sentence in error_of(response)["message"]
    assert error_of(response)["type"] == "invalid_request_error"
    assert engine.answers == []


async def test_an_unknown_profile_is_not_found(client: httpx.AsyncClient) -> None:
    """With the names that are known."""
    response = await client.post(CHAT, json={**HI, "profile": "cellar"})
    assert response.status_code == 404
    assert "there are: attic" in error_of(response)["message"]


@pytest.mark.parametrize(
    ("method", "route", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("POST", "/v1/completions", 404, "not_found"),
        ("GET", "/health/", 404, "not_found"),
        ("GET", CHAT, 405, "bad_request"),
        ("DELETE", "/health", 405, "bad_request"),
    ],
)
async def test_wrong_routes_have_openais_error_shape_too(
    method: str, route: str, status: int, code: str, client: httpx.AsyncClient
) -> None:
    """A client parses every error in one way."""
    response = await client.request(method, route)
    assert response.status_code == status
    assert error_of(response)["code"] == code
    assert ("allow" in response.headers) == (status == 405)


async def test_a_bug_is_a_500_that_is_logged_and_disturbs_nobody(
    engine: ScriptedEngine, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The client sees no traceback; the others see nothing."""
    engine.script = ("slow ", 0.3, "answer")
    slow = asyncio.create_task(client.post(CHAT, json=HI))
    await until(lambda: bool(engine.answers))
    engine.refusal = ZeroDivisionError("oops")
    with caplog.at_level(logging.ERROR):
        response = await client.post(CHAT, json=HI)
    assert response.status_code == 500
    assert error_of(response)["code"] == "internal"
    assert "oops" not in response.text
    assert "ZeroDivisionError: oops" in caplog.text
    assert (await slow).json()["choices"][0]["message"]["content"] == "slow answer"


# ---- bodies --------------------------------------------------------------------------------------


async def test_a_body_that_announces_too_much_is_not_read(
    path: Path, server: HttpServer, engine: ScriptedEngine
) -> None:
    """The answer comes before the body is sent, and the connection closes."""
    limit = LIMITS.request_bytes * BODY_FACTOR
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {limit + 1}\r\n\r\n".encode())
    reply = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    assert reply.startswith("HTTP/1.1 413 ")
    assert f"more than {limit} bytes" in reply
    assert engine.answers == []


async def test_a_body_that_grows_too_long_is_cut_off(path: Path, server: HttpServer) -> None:
    """One that announces nothing is read up to the limit only."""

    def send_for_ever() -> tuple[int, bytes]:
        sent = 0
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(path))
            sock.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            with contextlib.suppress(ConnectionError):
                while True:
                    sent += sock.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
            return sent, sock.recv(65536)

    sent, reply = await asyncio.to_thread(send_for_ever)
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert sent < 8 << 20


async def test_a_body_as_long_as_allowed_is_taken(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    """To the byte."""
    limit = LIMITS.request_bytes * BODY_FACTOR
    content = json.dumps(HI).encode().ljust(limit)
    assert (await client.post(CHAT, content=content)).status_code == 200
    assert (await client.post(CHAT, content=content + b" ")).status_code == 413


async def test_a_body_that_never_comes_is_given_up(
    path: Path, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a status that says so."""
    monkeypatch.setattr("agent.api.front.BODY_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode())
    reply = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    assert reply.startswith("HTTP/1.1 408 ")


async def test_a_client_that_leaves_within_its_body_is_no_error(
    path: Path, server: HttpServer, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is logged, nothing is computed."""
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode())
    await asyncio.sleep(0.1)
    writer.close()
    await asyncio.sleep(0.2)
    assert engine.answers == []
    assert caplog.text == ""


# ---- clients that leave --------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("script", [(30.0, "late"), FOREVER])
async def test_a_client_that_leaves_cancels_its_answer(
    stream: bool,
    script: tuple[float | str, ...],
    path: Path,
    server: HttpServer,
    engine: ScriptedEngine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before the first token and after it, streamed or not: nobody waits for the rest."""
    engine.script = script
    content = json.dumps({**HI, "stream": stream})
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode()
    )
    await until(lambda: bool(engine.answers))
    await asyncio.sleep(0.1)
    assert engine.cancelled == []
    writer.close()
    await until(lambda: engine.cancelled == engine.answers)
    assert caplog.text == ""


async def test_a_client_that_does_not_read_does_not_slow_the_others(
    path: Path, client: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    """Its text waits in its own answer."""
    engine.script = ("x" * 50_000, 0.001) * 50
    content = json.dumps({**HI, "stream": True})
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode()
    )
    await until(lambda: bool(engine.answers) and engine.answers[0].terminal is not None)
    engine.script = HELLO
    started = time.monotonic()
    assert (await client.post(CHAT, json=HI)).status_code == 200
    assert (await client.get("/health")).status_code == 200
    assert time.monotonic() - started < 1
    writer.close()


# ---- the box -------------------------------------------------------------------------------------


async def test_health_is_the_status_of_the_box(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    """200 as long as somebody answers; `ready` says whether a prompt would be."""
    health = (await client.get("/health")).json()
    assert (health["state"], health["ready"], health["node"]) == ("online", True, "box")
    engine.state, engine.reason = EngineState.FAILED, "no model fits"
    response = await client.get("/health")
    assert response.status_code == 200
    assert (response.json()["ready"], response.json()["reason"]) == (False, "no model fits")


async def test_health_is_quick_while_answers_are_computed(
    client: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    """Liveness is asked for often."""
    engine.script = FOREVER
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(client.stream("POST", CHAT, json={**HI, "stream": True}))
        started = time.monotonic()
        for _ in range(10):
            assert (await client.get("/health")).status_code == 200
        assert (time.monotonic() - started) / 10 < 0.1


async def test_the_model_is_listed(client: httpx.AsyncClient) -> None:
    """As OpenAI's clients look for it."""
    assert (await client.get("/v1/models")).json() == {
        "object": "list",
        "data": [{"id": "tiny", "object": "model", "created": 0, "owned_by": "tampu"}],
    }


# ---- the socket ----------------------------------------------------------------------------------


def test_the_socket_is_for_its_owner_and_group_only(path: Path) -> None:
    """Whatever the umask; the folder lets nobody else in, and the umask is as it was."""
    before = os.umask(0o077)
    try:
        with bind_socket(str(path), None):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to any group")
def test_the_socket_belongs_to_the_group_that_is_named(path: Path) -> None:
    """And the folder, or the group could not reach it."""
    with bind_socket(str(path), "daemon"):
        assert (path.group(), path.parent.group()) == ("daemon", "daemon")


def test_an_unknown_group_is_refused_before_anything_is_made(path: Path) -> None:
    """By name."""
    with pytest.raises(ConfigError, match=r"^api.group: 'nonesuch' is no group here"):
        bind_socket(str(path), "nonesuch")
    assert not path.parent.exists()


def test_a_group_this_user_cannot_give_to_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no socket is left behind."""
    path.parent.mkdir()

    def chown(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chown", chown)
    with pytest.raises(ConfigError, match=r"^api.group: this user cannot give files to 'daemon'"):
        bind_socket(str(path), "daemon")
    assert not path.exists()


def test_a_socket_a_dead_daemon_left_behind_is_replaced(path: Path) -> None:
    """Nobody has to clean up after a power cut."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with bind_socket(str(path), None), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_somebody_answers_on_is_left_alone(path: Path) -> None:
    """Even while its backlog is full."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen(0)
        for _ in range(2):  # the first fills the backlog of one
            with pytest.raises(ConfigError, match=f"another tampu answers on {path}"):
                bind_socket(str(path), None)
        assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "folder", "link to a socket", "link to nothing"])
def test_what_is_not_a_socket_is_left_alone(kind: str, path: Path, tmp_path: Path) -> None:
    """A link is not followed, whatever it leads to."""
    path.parent.mkdir()
    target = tmp_path / "target"
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case "link to a socket":
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(target))
            path.symlink_to(target)
        case _:
            path.symlink_to(target)
    with pytest.raises(ConfigError, match="is there and is not a socket"):
        bind_socket(str(path), None)
    assert path.is_symlink() or path.exists()
    assert target.exists() == (kind == "link to a socket")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """Here because a file stands in its place."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^api.socket: .* cannot be made: "):
        bind_socket(str(tmp_path / "file" / "tampu.sock"), None)


async def test_stopping_lets_answers_end_and_takes_the_socket_away(
    path: Path, client: httpx.AsyncClient, engine: ScriptedEngine, server: HttpServer
) -> None:
    """Within the grace it is given."""
    engine.script = ("slow ", 0.3, "answer")
    asked = asyncio.create_task(client.post(CHAT, json=HI))
    await until(lambda: bool(engine.answers))
    await server.stop(grace_s=10)
    assert list(path.parent.iterdir()) == []
    assert (await asked).json()["choices"][0]["message"]["content"] == "slow answer"


async def test_stopping_cuts_what_does_not_end_in_time(
    client: httpx.AsyncClient, engine: ScriptedEngine, server: HttpServer
) -> None:
    """And tells the engine."""
    engine.script = FOREVER
    async with client.stream("POST", CHAT, json={**HI, "stream": True}):
        started = time.monotonic()
        await server.stop(grace_s=0.5)
        assert time.monotonic() - started < 3
        await until(lambda: engine.cancelled == engine.answers)


async def test_stopping_leaves_the_next_daemons_socket_alone(path: Path, server: HttpServer) -> None:
    """From the moment the old one takes its own away, the path is free."""
    stopping = asyncio.create_task(server.stop(grace_s=5))
    await until(lambda: not path.exists())
    with bind_socket(str(path), None):
        await stopping
        assert list(path.parent.iterdir()) == [path]


# ---- the command ---------------------------------------------------------------------------------


async def test_ask_prints_the_answer(path: Path, server: HttpServer, engine: ScriptedEngine) -> None:
    """Streamed or not, with a newline at its end, and with what was piped in."""
    where = ("--socket", str(path))
    assert await tampu("ask", "why", "is", "that", *where) == (0, "Hello, world\n", "")
    assert await tampu("ask", "--no-stream", "sum up", *where, stdin=b"a log") == (0, "Hello, world\n", "")
    words = [answer.request.messages[-1].content for answer in engine.answers]
    assert words == ["why is that", "sum up\n\na log"]


async def test_asks_options_reach_the_engine(
    path: Path, server: HttpServer, engine: ScriptedEngine, tmp_path: Path
) -> None:
    """All of them."""
    schema = tmp_path / "schema.json"
    schema.write_text('{ "type": "null" }')
    options = ("--system", "x", "--max-tokens", "5", "--temperature", "0", "--seed", "7")
    await tampu("ask", "hi", *options, "--stop", "A", "--stop", "B", "--socket", str(path))
    await tampu("ask", "hi", "--profile", "attic", "--schema", str(schema), "--socket", str(path))
    request, other = (answer.request for answer in engine.answers)
    assert request.messages[0] == Message("system", "x")
    assert (request.max_tokens, request.sampling.temperature, request.sampling.seed) == (5, 0, 7)
    assert request.stop == ("A", "B")
    assert (request.schema, other.schema) == (None, '{"type":"null"}')
    assert other.messages[0] == Message("system", "You know dust.")


@pytest.mark.parametrize("content", [None, "no JSON", "[1]", "[" * 5000])
async def test_ask_names_a_schema_file_it_cannot_use(
    path: Path, server: HttpServer, engine: ScriptedEngine, tmp_path: Path, content: str | None
) -> None:
    """Before anything is asked."""
    schema = tmp_path / "schema.json"
    if content is not None:
        schema.write_text(content)
    code, _, err = await tampu("ask", "hi", "--schema", str(schema), "--socket", str(path))
    assert code == 1
    assert err.startswith(f"tampu: {schema}: ")
    assert engine.answers == []


async def test_ask_prints_the_whole_result_as_json(path: Path, server: HttpServer) -> None:
    """With counts and timings."""
    code, out, _ = await tampu("ask", "hi", "--json", "--socket", str(path))
    result = json.loads(out)
    assert code == 0
    assert result["choices"][0]["message"]["content"] == "Hello, world"
    assert set(result["timings"]) == {"queue_s", "prefill_s", "decode_s"}


@pytest.mark.parametrize("mode", [(), ("--no-stream",), ("--json",)])
async def test_ask_says_the_servers_sentence(
    mode: tuple[str, ...], path: Path, server: HttpServer, engine: ScriptedEngine
) -> None:
    """And exits with a code a script can act on."""
    where = ("--socket", str(path), *mode)
    code, out, err = await tampu("ask", "hi", "--profile", "cellar", *where)
    assert (code, out) == (1, "")
    assert err.startswith("tampu: profile: 'cellar' is not configured on this box")
    engine.refusal = Busy("64 requests are under way on this box; try again later", retry_after_ms=500)
    assert await tampu("ask", "hi", *where) == (75, "", f"tampu: {engine.refusal}\n")


async def test_ask_says_that_a_prompt_is_too_long(path: Path, server: HttpServer) -> None:
    """Although the daemon closes the connection without reading it."""
    code, out, err = await tampu("ask", "-", "--socket", str(path), stdin=b"x" * (4 << 20))
    assert (code, out) == (1, "")
    assert "more than 4096 bytes" in err


async def test_an_error_in_mid_answer_gets_its_own_line(
    path: Path, server: HttpServer, engine: ScriptedEngine
) -> None:
    """What came before it is kept."""
    engine.script = ("half", 0.05, Internal("the engine died"))
    assert await tampu("ask", "hi", "--socket", str(path)) == (1, "half\n", "tampu: the engine died\n")


async def test_a_daemon_that_goes_away_in_mid_answer_is_said(
    path: Path, server: HttpServer, engine: ScriptedEngine
) -> None:
    """A cut answer is not passed off as complete."""
    engine.script = ("half", 30.0)
    asked = asyncio.create_task(tampu("ask", "hi", "--socket", str(path)))
    await until(lambda: bool(engine.answers) and engine.answers[0].text == "half")
    await asyncio.sleep(0.1)
    await server.stop(grace_s=0)
    code, out, err = await asked
    assert (code, out) == (69, "half\n")
    assert "closed the connection before the answer was complete" in err


async def test_ctrl_c_cancels_the_answer(path: Path, server: HttpServer, engine: ScriptedEngine) -> None:
    """No traceback, exit code 130."""
    engine.script = FOREVER
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.cli.main", "ask", "hi", "--socket", str(path)),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert await process.stdout.read(4) == b"tick"
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")
    await until(lambda: engine.cancelled == engine.answers)


async def test_a_reader_of_ask_that_leaves_cancels_the_answer(
    path: Path, server: HttpServer, engine: ScriptedEngine
) -> None:
    """`tampu ask ... | head -1` ends quietly."""
    engine.script = FOREVER
    line = f'"{sys.executable}" -m agent.cli.main ask hi --socket "{path}" | head -c 4'
    process = await asyncio.create_subprocess_shell(line, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, cwd=ROOT)
    assert await process.communicate() == (b"tick", b"")
    await until(lambda: engine.cancelled == engine.answers)


async def test_status_is_a_screen_and_an_exit_code(
    path: Path, server: HttpServer, engine: ScriptedEngine
) -> None:
    """0 online, 1 when something is wrong."""
    where = ("--socket", str(path))
    code, out, err = await tampu("status", *where)
    assert (code, err) == (0, "")
    assert out.startswith("state     online\nnode      box (tampu ")
    engine.state, engine.reason = EngineState.FAILED, "no model fits"
    code, out, _ = await tampu("status", *where)
    assert code == 1
    assert out.startswith("state     degraded: no model fits\n")
    code, out, _ = await tampu("status", "--json", *where)
    assert (code, json.loads(out)["ready"]) == (1, False)
