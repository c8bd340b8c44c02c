"""Asks over OpenAI's streaming API on a unix socket, spending as little as can be on it.

The clients share the cores with what they measure: one thread for all of them, bytes as they come, and
nothing parsed before the answer is complete.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tests.bench.streams import Stream

# One event; a whole answer is never sent in one.
LINE_BYTES = 1 << 20
GIVE_UP_S = 600.0


@dataclass(frozen=True, slots=True)
class Question:
    """What one client asks, greedily; `profile` names a system prompt that Tampu's configuration has."""

    prompt: str
    num_tokens: int
    system: str = ""
    profile: str = ""

    def body(self, client: str) -> bytes:
        turns = [{"role": "system", "content": self.system}] if self.system else []
        tree: dict[str, Any] = {
            "messages": [*turns, {"role": "user", "content": self.prompt}],
            "max_tokens": self.num_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "user": client,
        }
        return json.dumps(tree | ({"profile": self.profile} if self.profile else {})).encode()


async def ask(socket: str, question: Question, client: str, give_up_s: float = GIVE_UP_S) -> Stream:
    """One answer, or what came of it; never raises for what the server does."""
    body = question.body(client)
    events: list[tuple[float, bytes]] = []
    error = ""
    asked_at = time.monotonic()
    try:
        async with asyncio.timeout(give_up_s):
            async for event in _events(socket, body):
                events.append((time.monotonic(), event))
    except TimeoutError:
        error = f"not answered within {give_up_s:.0f} s"
    except (OSError, EOFError, ValueError) as failure:
        error = f"{failure}" or type(failure).__name__
    return understand(asked_at, events, time.monotonic(), error)


def understand(asked_at: float, events: list[tuple[float, bytes]], ended_at: float, error: str) -> Stream:
    """The stream that was received as these `data:` payloads."""
    arrivals = []
    usage: dict[str, Any] = {}
    is_done = False
    for at, payload in events:
        if payload == b"[DONE]":
            is_done = True
            continue
        tree = json.loads(payload)
        if "error" in tree:
            error = error or str(tree["error"].get("message"))
        if any(choice["delta"].get("content") for choice in tree.get("choices", ())):
            arrivals.append(at)
        usage = tree.get("usage") or usage
    if not is_done:
        error = error or "the stream ended early"
    return Stream(
        asked_at,
        tuple(arrivals),
        ended_at,
        num_prompt=usage.get("prompt_tokens", 0),
        num_cached=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        num_tokens=usage.get("completion_tokens", 0),
        error=error,
    )


async def _events(socket: str, body: bytes) -> AsyncIterator[bytes]:
    """The `data:` payloads of the response. Raises OSError, EOFError or ValueError."""
    reader, writer = await asyncio.open_unix_connection(socket, limit=LINE_BYTES)
    try:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        status = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)[0].decode()
        if " 200 " not in f"{status} ":
            raise ValueError(f"{status}: {(await reader.read(300)).decode(errors='replace')}")
        rest = b""
        async for chunk in chunks(reader):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.startswith(b"data: "):
                    yield line[6:].rstrip()
    finally:
        writer.close()


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body of a response in HTTP's chunked encoding. Raises EOFError when it ends too early."""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
