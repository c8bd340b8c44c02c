"""The HTTP front: OpenAI's chat completions and models, and the box's health.

    body -> ChatCompletionRequest -> Draft -> Request -> engine -> Answer -> one JSON, or events

A client that goes away cancels its answer. An error before the first token has its own HTTP
status; after it the status is out, and the error is the last event.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Mapping

import msgspec
from msgspec import Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from agent.answer import Answer
from agent.api import schemas
from agent.api.schemas import ChatCompletionRequest, ErrorBody, ModelCard, ModelList, Reply
from agent.config import NAME, Limits, Profile
from agent.counts import Counts
from agent.dispatcher import Dispatcher
from agent.draft import Draft, to_request
from agent.errors import BadRequest, Cancelled, Expired, Internal, NotFound, RequestError, TooLarge
from agent.logs import MAX_LINES, log_answer, tail
from agent.status import Status, StatusSource

# JSON escapes and the fields around the text: so much more than the text may a body have.
BODY_FACTOR = 4
BODY_TIMEOUT_S = 30.0
NO_USER = "local"

_NAME = re.compile(NAME)


class LogLines(Struct, frozen=True):
    """The last lines of the daemon's log, oldest first; those with prompts are left out."""

    lines: tuple[str, ...]


class Health(Status, frozen=True, kw_only=True):
    """The box's status; `ready` is true when a request would be computed now, if need be after waking."""

    ready: bool


def build_app(
    dispatcher: Dispatcher, status: StatusSource, counts: Counts, limits: Limits, profiles: dict[str, Profile]
) -> Starlette:
    """The ASGI application of the local socket."""

    async def models(_: HttpRequest) -> Response:
        cards = (ModelCard(id=status.model.name),) if status.model else ()
        return _json(ModelList(data=cards))

    async def health(_: HttpRequest) -> Response:
        now = status.read()
        return _json(
            Health(*msgspec.structs.astuple(now), ready=now.engine.is_ready and now.state != "stopping")
        )

    async def log_lines(request: HttpRequest) -> Response:
        return _json(LogLines(tail(_num_lines(request), has_prompts=False)))

    chat = ChatCompletions(dispatcher, status, counts, limits, profiles)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            Route("/log", log_lines, methods=["GET"]),
        ],
        exception_handlers={
            RequestError: _on_request_error,
            HTTPException: _on_http_exception,
            Exception: _on_bug,
        },
    )
    app.router.redirect_slashes = False
    return app


def _num_lines(request: HttpRequest) -> int:
    """`?lines=N`; all that is kept without it. Raises BadRequest."""
    text = request.query_params.get("lines", str(MAX_LINES))
    if not text.isdecimal() or not 0 < int(text[:9]) <= MAX_LINES:
        raise BadRequest(f"lines: {text[:20]!r} is not allowed; expected 1 to {MAX_LINES}")
    return int(text)


class ChatCompletions:
    """POST /v1/chat/completions, as an ASGI application: it outlives the headers of its response."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        status: StatusSource,
        counts: Counts,
        limits: Limits,
        profiles: dict[str, Profile],
    ) -> None:
        self._dispatcher = dispatcher
        self._status = status
        self._counts = counts
        self._limits = limits
        self._profiles = profiles

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read_body(HttpRequest(scope, receive), self._limits.request_bytes * BODY_FACTOR)
        wanted = schemas.parse_request(body)
        draft = _draft(wanted)
        answer = self._dispatcher.submit(
            to_request(draft, self._limits, self._profiles),
            supersede=draft.supersede,
            replaces_history=draft.replaces_history,
        )
        watch = asyncio.create_task(self._cancel_when_gone(receive, answer), name=answer.request.id)
        try:
            response = await (self._streamed(answer, wanted) if wanted.stream else self._whole(answer))
            await response(scope, receive, send)
        finally:
            watch.cancel()
            self._dispatcher.cancel(answer)
            if answer.terminal is not None:
                log_answer("http", answer)
                self._counts.ended(answer)

    async def _cancel_when_gone(self, receive: Receive, answer: Answer) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._dispatcher.cancel(answer)

    async def _whole(self, answer: Answer) -> Response:
        end = await answer.finished()
        return _json(self._reply(answer).whole(answer.text, end))

    async def _streamed(self, answer: Answer, wanted: ChatCompletionRequest) -> Response:
        pieces = answer.pieces()
        first = await anext(pieces, "")  # an error before the first token raises here
        events = _events(self._reply(answer), answer, first, pieces, wanted.wants_usage)
        return EventStream(events, headers={"Cache-Control": "no-store"})

    def _reply(self, answer: Answer) -> Reply:
        model = self._status.model
        return Reply(id=answer.request.id, created=int(time.time()), model=model.name if model else "unknown")


class EventStream(StreamingResponse):
    """Server-sent events, to the end of the answer: that a client is gone ends the answer, not the stream."""

    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.stream_response(send)


async def _events(
    reply: Reply, answer: Answer, first: str, pieces: AsyncIterator[str], wants_usage: bool
) -> AsyncIterator[bytes]:
    yield _event(reply.first())
    if first:
        yield _event(reply.piece(first))
    try:
        async for piece in pieces:
            yield _event(reply.piece(piece))
    except RequestError as error:
        yield _event(ErrorBody.of(error))
        return
    end = answer.result()
    yield _event(reply.last(end))
    if wants_usage:
        yield _event(reply.counts(end))
    yield b"data: [DONE]\n\n"


def _draft(wanted: ChatCompletionRequest) -> Draft:
    return Draft(
        client=_client(wanted.user),
        id=schemas.make_id(),
        messages=wanted.conversation(),
        profile=wanted.profile,
        max_tokens=wanted.max_completion_tokens or wanted.max_tokens,
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        top_k=wanted.top_k,
        min_p=wanted.min_p,
        repeat_penalty=wanted.repeat_penalty,
        presence_penalty=wanted.presence_penalty,
        frequency_penalty=wanted.frequency_penalty,
        schema=wanted.schema_text(),
        seed=wanted.seed,
        stop=wanted.stop_strings,
        priority=wanted.priority,
        session=wanted.session,
        supersede=wanted.supersede or False,
        replaces_history=not wanted.is_one_turn,
    )


def _client(user: str | None) -> str:
    """Who asks: one conversation each. No MQTT client can have a colon: nobody here is a device.

    A user that is no name (an address, say) goes by its hash; two of them must never be one client.
    """
    if not user:
        return f"socket:{NO_USER}"
    is_name = _NAME.match(user) and user != NO_USER
    return f"socket:{user if is_name else hashlib.sha256(user.encode(errors='replace')).hexdigest()[:32]}"


async def _read_body(request: HttpRequest, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError as error:
        raise Expired(f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s; send it at once") from error
    except ClientDisconnect as error:
        raise Cancelled("the client went away before its request was complete") from error
    return bytes(body)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"the body has more than {max_bytes} bytes (limits.request_bytes times {BODY_FACTOR}); send less"
    )


# ---- responses -----------------------------------------------------------------------------------


def _json(value: Struct, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(schemas.encode(value), status, headers, media_type="application/json")


def _event(value: Struct) -> bytes:
    return b"data: " + schemas.encode(value) + b"\n\n"


def _error(error: RequestError, status: int = 0, headers: Mapping[str, str] | None = None) -> Response:
    all_headers = {**schemas.error_headers(error), **(headers or {})}
    return _json(ErrorBody.of(error), status or error.status, all_headers)


async def _on_request_error(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    # What is left of a refused body is not read: the connection closes with the answer.
    is_body_unread = isinstance(error, TooLarge | Expired)
    return _error(error, headers={"Connection": "close"} if is_body_unread else None)


async def _on_http_exception(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return _error(NotFound(f"{where}: there is nothing here; try POST /v1/chat/completions"))
    return _error(BadRequest(f"{where}: {error.detail}"), error.status_code, error.headers)


async def _on_bug(_: HttpRequest, __: Exception) -> Response:
    """Starlette raises the exception again after this response, and uvicorn logs it."""
    return _error(Internal("a bug in the HTTP front; the log of the daemon has the details"))
