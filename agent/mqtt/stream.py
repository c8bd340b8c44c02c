"""One request's frames: accepted, deltas while the answer grows, and the terminal frames until they are acknowledged."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agent.answer import Answer
from agent.errors import RequestError
from agent.mqtt import payloads
from agent.mqtt.client import ConnectionLost, Publish
from agent.mqtt.link import Link
from agent.request import Finished, Request

log = logging.getLogger(__name__)

# The first token goes at once; after it, text is gathered for so long or until so much is there.
MERGE_S = 0.04
MERGE_BYTES = 256
# A stalled stream's backlog is cut into frames of at most so many characters.
DELTA_CHARS = 4096


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request's frames go."""

    topic: str
    qos: int = 0
    correlation: bytes | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """Who is speaking: on every frame, or on `accepted`."""

    node: str
    boot_id: str


class FrameStream:
    """Numbers and sends the frames of one request over a link that may break at any time."""

    def __init__(self, link: Link, box: Box, request_id: str, route: Route) -> None:
        self._link = link
        self._box = box
        self._id = request_id
        self._route = route
        self._seq = 0
        self._num_connects = link.num_connects

    def accept(self, request: Request, queue_pos: int) -> None:
        """Say that the request will be answered, and with which values."""
        frame = payloads.Accepted(
            **self._common(),
            queue_pos=queue_pos,
            boot_id=self._box.boot_id,
            max_tokens=request.max_tokens,
            seed=request.sampling.seed,
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            ttl_s=request.ttl_s,
        )
        _ignore_loss(self._publish(payloads.encode(frame), qos=1))

    async def follow(self, answer: Answer) -> None:
        """Send the text as it grows, until the answer ends. Text unsaid while offline is not lost:
        a snapshot after the gap, or `done`, has it."""
        num_chars, num_bytes = 0, 0
        while answer.terminal is None or num_chars < len(answer.text):
            if num_chars == len(answer.text):
                await answer.change()
                continue
            if self._link.connection is None and answer.terminal is not None:
                return
            connection = await self._link.wait_up()
            if self._num_connects != self._link.num_connects:
                num_chars, num_bytes = await self._send_snapshot(answer.text, connection.max_publish_bytes)
                continue
            text = answer.text[num_chars : num_chars + DELTA_CHARS]
            self._send_delta(text, num_bytes)
            num_chars += len(text)
            num_bytes += len(text.encode())
            await self._gather(answer, num_chars)

    async def deliver(self, frames: tuple[bytes, ...]) -> None:
        """Publish frames at QoS 1, in order, again after every break, until all are acknowledged."""
        while True:
            await self._link.wait_up()
            try:
                codes = await asyncio.gather(*(self._publish(frame, qos=1) for frame in frames))
            except ConnectionLost:
                continue
            if any(code >= 0x80 for code in codes):
                log.warning("the broker refuses the answer of %s (reason code 0x%02x)", self._id, max(codes))
            return

    def terminal_frames(self, answer: Answer, max_bytes: int) -> tuple[bytes, ...]:
        """`done` or `error`; an answer larger than one publish comes as chunks before `done`."""
        try:
            finished = answer.result()
        except RequestError as error:
            return (self.error_frame(error, max_bytes),)
        whole = payloads.encode(self._done(finished, text=answer.text))
        if len(whole) <= max_bytes:
            return (whole,)
        chunks = [payloads.encode(chunk) for chunk in self._chunks(answer.text, max_bytes)]
        digest = hashlib.sha256(answer.text.encode()).hexdigest()
        return (*chunks, payloads.encode(self._done(finished, chunks=len(chunks), sha256=digest)))

    def error_frame(self, error: RequestError, max_bytes: int) -> bytes:
        """The terminal frame of a request without an answer, its message cut to fit."""
        frame = payloads.ErrorFrame(
            **self._common(),
            code=error.code,
            status=error.status,
            message=error.message[: max_bytes // 8],
            retryable=error.retryable,
            retry_after_ms=error.retry_after_ms,
            detail=error.detail,
        )
        return payloads.encode(frame)

    # ---- frames ------------------------------------------------------------------------------

    def _common(self) -> dict[str, Any]:
        self._seq += 1
        return {"id": self._id, "seq": self._seq, "run": 1, "node": self._box.node}

    def _done(self, finished: Finished, **body: Any) -> payloads.Done:
        return payloads.Done(
            **self._common(),
            finish_reason=finished.finish_reason.value,
            usage=finished.usage,
            timings=finished.timings,
            **body,
        )

    def _chunks(self, text: str, max_bytes: int) -> Iterator[payloads.Chunk]:
        # JSON escapes make a character at most six bytes long; a quarter is for the other fields.
        size = max(1, max_bytes * 3 // 4 // 6)
        offset = 0
        for start in range(0, len(text), size):
            part = text[start : start + size]
            yield payloads.Chunk(**self._common(), off=offset, text=part)
            offset += len(part.encode())

    def _send_delta(self, text: str, offset: int) -> None:
        frame = payloads.DeltaFrame(**self._common(), off=offset, text=text)
        _ignore_loss(self._publish(payloads.encode(frame), qos=self._route.qos))

    async def _send_snapshot(self, text: str, max_bytes: int) -> tuple[int, int]:
        """After a gap: all so far, acknowledged before more deltas; returns what is said now."""
        self._num_connects = self._link.num_connects
        frame = payloads.encode(payloads.Snapshot(**self._common(), off=0, text=text))
        if len(frame) <= max_bytes:
            try:
                await self._publish(frame, qos=1)
            except ConnectionLost:
                log.debug("the snapshot of %s was lost; another follows", self._id)
        return len(text), len(text.encode())

    async def _gather(self, answer: Answer, num_chars: int) -> None:
        """Let text collect for MERGE_S, MERGE_BYTES or until the end."""
        deadline = time.monotonic() + MERGE_S
        while answer.terminal is None and len(answer.text) - num_chars < MERGE_BYTES:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await answer.change()
            except TimeoutError:
                return

    def _publish(self, payload: bytes, qos: int) -> "asyncio.Future[int]":
        return self._link.publish(Publish(self._route.topic, payload, qos, correlation=self._route.correlation))


def _ignore_loss(sent: "asyncio.Future[int]") -> None:
    """A lost delta or `accepted` is made good by the snapshot or the terminal frame that follow."""
    sent.add_done_callback(lambda future: future.cancelled() or future.exception())
