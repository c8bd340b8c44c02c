"""An answer as JSON frames: numbered, with offsets, so that a receiver notices every gap."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from agent.errors import RequestError
from agent.journal import Final
from agent.mqtt import frames
from agent.mqtt.client import ConnectionLost
from agent.mqtt.link import Link
from agent.mqtt.stream import BYTES_PER_CHAR, Route, Stream
from agent.request import Finished, Request

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Box:
    """Who is speaking: on every frame, or on `accepted`."""

    node: str
    boot_id: str


class JsonStream(Stream):
    """See stream.Stream."""

    def __init__(self, link: Link, route: Route, box: Box, request_id: str) -> None:
        super().__init__(link, route)
        self._box = box
        self._id = request_id
        self._seq = 0
        self._num_bytes = 0

    def accept(self, request: Request, queue_pos: int) -> None:
        frame = frames.Accepted(
            **self._common(),
            queue_pos=queue_pos,
            boot_id=self._box.boot_id,
            max_tokens=request.max_tokens,
            seed=request.sampling.seed,
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            ttl_s=request.ttl_s,
            priority=request.priority,
            session=UNSET if request.session is None else request.session,
        )
        self.publish_piece(frames.encode(frame), qos=1)

    def say(self, text: str) -> None:
        frame = frames.DeltaFrame(**self._common(), off=self._num_bytes, text=text)
        self.publish_piece(frames.encode(frame))
        self._num_bytes += len(text.encode())

    async def catch_up(self, text: str, max_bytes: int) -> None:
        """A snapshot; deltas go on when it is acknowledged. One that is too large waits for `done`."""
        self.num_chars, self._num_bytes = len(text), len(text.encode())
        snapshot = frames.encode(frames.Snapshot(**self._common(), off=0, text=text))
        if len(snapshot) > max_bytes:
            return
        try:
            await self.publish(snapshot, qos=1)
        except ConnectionLost:
            log.debug("the snapshot of %s was lost; another follows", self._id)

    def done(self, finished: Finished, text: str, max_bytes: int) -> tuple[Final, ...]:
        whole = self._done(finished, text=text)
        if len(whole.payload) <= max_bytes:
            return (whole,)
        chunks = [Final(frames.encode(chunk)) for chunk in self._chunks(text, max_bytes)]
        digest = hashlib.sha256(text.encode()).hexdigest()
        return (*chunks, self._done(finished, chunks=len(chunks), sha256=digest))

    def error(self, error: RequestError, max_bytes: int) -> tuple[Final, ...]:
        frame = frames.ErrorFrame(
            **self._common(),
            code=error.code,
            status=error.status,
            message=error.message[: max_bytes // BYTES_PER_CHAR],
            retryable=error.retryable,
            retry_after_ms=error.retry_after_ms,
            detail=error.detail,
        )
        return (Final(frames.encode(frame)),)

    def _common(self) -> dict[str, Any]:
        self._seq += 1
        return {"id": self._id, "seq": self._seq, "run": 1, "node": self._box.node}

    def _done(self, finished: Finished, **body: Any) -> Final:
        frame = frames.Done(
            **self._common(),
            finish_reason=finished.finish_reason.value,
            usage=finished.usage,
            timings=finished.timings,
            trimmed=finished.trimmed,
            **body,
        )
        return Final(frames.encode(frame))

    def _chunks(self, text: str, max_bytes: int) -> Iterator[frames.Chunk]:
        size = max(1, max_bytes // BYTES_PER_CHAR)
        offset = 0
        for start in range(0, len(text), size):
            part = text[start : start + size]
            yield frames.Chunk(**self._common(), off=offset, text=part)
            offset += len(part.encode())
