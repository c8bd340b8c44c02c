"""An answer as JSON frames: numbered, with offsets, so that a receiver notices every gap."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from agent.answer import Answer
from agent.errors import RequestError
from agent.journal.journal import Final
from agent.mqtt import frames
from agent.mqtt.client import ConnectionLost
from agent.mqtt.fit import encode_within, fitting_chars
from agent.mqtt.link import Link
from agent.mqtt.route import Route
from agent.mqtt.stream import Audience, Stream
from agent.request import Finished, Request

log = logging.getLogger(__name__)

# Text of which this many bytes a character fit is not measured.
_SURELY_BYTES = 6
# What a delta has besides its text is less than this.
_FIELDS_BYTES = 512


@dataclass(frozen=True, slots=True)
class Box:
    """Who is speaking: on every frame, or on `accepted`."""

    node: str
    boot_id: str


class JsonStream(Stream):
    """See stream.Stream. `run` counts how often the request was begun, the first time included."""

    def __init__(
        self,
        link: Link,
        route: Route,
        box: Box,
        request_id: str,
        run: int = 1,
        audience: Audience | None = None,
        on_unheard: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(link, route, audience, on_unheard)
        self._box = box
        self._id = request_id
        self._run = run
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
            ttl_s=None if request.ttl_s is None else round(request.ttl_s, 3),
            priority=request.priority,
            session=UNSET if request.session is None else request.session,
        )
        self.publish_piece(encode_within(frame, self.room), qos=1)

    def progress(self, answer: Answer, queue_pos: int) -> None:
        frame = frames.Progress(
            **self._common(),
            phase=answer.phase,
            queue_pos=queue_pos,
            prompt_done=answer.num_prompt if answer.has_tokens else answer.num_prefilled,
            prompt_total=answer.num_prompt,
        )
        self.publish_piece(encode_within(frame, self.room), qos=1)

    def say(self, text: str) -> int:
        frame = frames.DeltaFrame(**self._common(), off=self._num_bytes, text=text)
        if len(text) * _SURELY_BYTES + _FIELDS_BYTES > self.room:
            frame.text = self._cut(frame)
        self.publish_piece(frames.encode(frame))
        self._num_bytes += len(frame.text.encode())
        return len(frame.text)

    async def catch_up(self, text: str) -> None:
        """A snapshot; deltas go on when it is acknowledged. One that is too large waits for `done`."""
        self.num_chars, self._num_bytes = len(text), len(text.encode())
        snapshot = frames.encode(frames.Snapshot(**self._common(), off=0, text=text))
        if not text or len(snapshot) > self.room:
            return
        try:
            await self._publish(snapshot, qos=1)
        except ConnectionLost:
            log.debug("the snapshot of %s was lost; another follows", self._id)

    def done(self, finished: Finished, text: str) -> tuple[Final, ...]:
        room = self.room
        whole = self._done(finished, room, text=text)
        if len(whole.payload) <= room:
            return (whole,)
        self._seq -= 1
        chunks = [Final(frames.encode(chunk)) for chunk in self._chunks(text)]
        digest = hashlib.sha256(text.encode()).hexdigest()
        return (*chunks, self._done(finished, room, chunks=len(chunks), sha256=digest))

    def error(self, error: RequestError) -> tuple[Final, ...]:
        frame = frames.ErrorFrame.of(error, **self._common())
        return (Final(encode_within(frame, self.room)),)

    def _common(self) -> dict[str, Any]:
        self._seq += 1
        return {"id": self._id, "seq": self._seq, "run": self._run, "node": self._box.node}

    def _done(self, finished: Finished, room: int, **body: Any) -> Final:
        frame = frames.Done(
            **self._common(),
            finish_reason=finished.finish_reason.value,
            usage=finished.usage,
            timings=finished.timings,
            trimmed=finished.trimmed or UNSET,
            **body,
        )
        return Final(encode_within(frame, room))

    def _chunks(self, text: str) -> Iterator[frames.Chunk]:
        start, offset = 0, 0
        while start < len(text):
            chunk = frames.Chunk(**self._common(), off=offset, text=text[start : start + self.room])
            chunk.text = self._cut(chunk)
            yield chunk
            start += len(chunk.text)
            offset += len(chunk.text.encode())

    def _cut(self, frame: frames.DeltaFrame) -> str:
        """The beginning of its text that fits."""
        text, frame.text = frame.text, ""
        return text[: fitting_chars(text, self.room - len(frames.encode(frame)))]
