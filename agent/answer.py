"""An answer as it grows: what the engine said so far about one request, for the front that asked."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Literal

from agent.errors import Cancelled, Expired, Internal, RequestError, from_code
from agent.request import (
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    Prefilling,
    Queued,
    Request,
    Resume,
    Started,
    Timings,
    Usage,
)


class Answer:
    """Grows by `take` until `terminal` is set; one reader follows it with `pieces` or `finished`.

    Text that arrives while the reader is busy is merged, so a slow reader costs the length of the
    answer and no more.
    """

    def __init__(self, key: int, request: Request) -> None:
        self.key = key
        self.request = request
        self.text = ""
        self.num_prompt = 0
        self.num_prefilled = 0
        self.submitted_at = time.monotonic()
        self.is_sent = False
        self.is_started = False
        self.is_queued = False
        self.is_parked = False
        self.terminal: Finished | Failed | None = None
        self.num_deaths = 0
        self.cancel_reason: FinishReason | None = None
        self._tokens: list[int] = []
        self._draws = 0
        self._changed = asyncio.Event()
        self.ended = asyncio.Event()

    @property
    def has_tokens(self) -> bool:
        return bool(self._tokens)

    @property
    def phase(self) -> Literal["queued", "prefill", "decode"]:
        """What is being done for it now."""
        if not self.is_started:
            return "queued"
        return "decode" if self.has_tokens else "prefill"

    @property
    def is_in_engines_hands(self) -> bool:
        """Being rendered, tokenised or computed, and not merely waiting in the engine's queue."""
        return self.is_sent and (self.is_started or not self.is_queued)

    @property
    def resume(self) -> Resume | None:
        """Where another engine process has to go on, or None when nothing was generated."""
        return Resume(tokens=tuple(self._tokens), draws=self._draws) if self._tokens else None

    def take(self, event: Event) -> None:
        """Add what the engine said; ignored after the terminal event."""
        if self.terminal is not None:
            return
        match event:
            case Queued():
                self.num_prompt = event.num_prompt
                self.is_queued = True
            case Started():
                self.is_started = True
            case Prefilling():
                self.num_prefilled = event.num_done
            case Delta():
                self.text += event.text
                self._tokens += event.tokens
                self._draws = event.draws
            case Finished() | Failed():
                self.terminal = event
                self.ended.set()
        self._changed.set()

    def fail(self, error: RequestError) -> None:
        """End the answer with this error unless it has ended already."""
        detail = error.detail
        if error.retry_after_ms is not None:
            detail = {**detail, "retry_after_ms": error.retry_after_ms}
        self.take(Failed(code=error.code, message=error.message, detail=detail))

    def cut(self, reason: FinishReason) -> None:
        """End the answer with the text there is, without the engine, which is gone."""
        usage = Usage(prompt=self.num_prompt, cached=0, completion=len(self._tokens))
        self.take(
            Finished(finish_reason=reason, usage=usage, timings=Timings(queue_s=0, prefill_s=0, decode_s=0))
        )

    def abandon(self) -> None:
        """End a cancelled answer without an engine: with the text there is, or in an error."""
        if self.has_tokens and self.cancel_reason:
            self.cut(self.cancel_reason)
        elif self.cancel_reason is FinishReason.TIMEOUT:
            self.fail(Expired("the request's time to live ended before its first token"))
        else:
            self.fail(Cancelled("the request was cancelled before its first token"))

    async def pieces(self, start: int = 0) -> AsyncIterator[str]:
        """Text from character `start` on, as it comes. Raises the RequestError it ends in."""
        while True:
            text, ended = self.text[start:], self.terminal is not None
            if text:
                start += len(text)
                yield text
            elif ended:
                self.result()
                return
            else:
                await self.change()

    async def change(self) -> None:
        """Wait until something more is known than at the last call."""
        await self._changed.wait()
        self._changed.clear()

    async def finished(self) -> Finished:
        """Wait for the end. Raises the RequestError it ends in."""
        await self.ended.wait()
        return self.result()

    def result(self) -> Finished:
        """How it ended. Raises the RequestError it ended in; only after the end."""
        match self.terminal:
            case Finished():
                return self.terminal
            case Failed(code, message, detail):
                error = from_code(code, message, {k: v for k, v in detail.items() if k != "retry_after_ms"})
                error.retry_after_ms = detail.get("retry_after_ms")
                raise error
        raise Internal("the answer has not ended yet")
