"""An engine client without a process: every prompt is answered by the script a test has written."""

import asyncio
from collections.abc import Sequence

from agent.answer import Answer
from agent.config import Limits
from agent.dispatcher import Dispatcher
from agent.engine.messages import Load
from agent.engine_client import EngineClient, EngineState
from agent.errors import Cancelled, RequestError
from agent.request import Delta, Finished, FinishReason, Queued, Request, Started, Timings, Usage

Step = str | float | RequestError | FinishReason
"""Text is generated, a number of seconds passes, an error or a finish reason ends the answer."""

HELLO: tuple[Step, ...] = ("Hello", ", ", "world")
FOREVER: tuple[Step, ...] = ("tick ", 0.02) * 10_000


class ScriptedEngine(EngineClient):
    """Takes in everything, unless `refusal` is set; an answer without an end in its script ends in `stop`."""

    def __init__(self, script: Sequence[Step] = HELLO) -> None:
        super().__init__(_no_model, Limits())
        self.dispatcher = _Scripted(self)
        self.state, self.reason = EngineState.READY, ""
        self.script = script
        self.refusal: Exception | None = None
        self.answers: list[Answer] = []
        self.cancelled: list[Answer] = []
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def submit(self, request: Request) -> Answer:
        if self.refusal is not None:
            raise self.refusal
        answer = Answer(len(self.answers) + 1, request)
        self.answers.append(answer)
        self._tasks[answer.key] = asyncio.create_task(self._play(answer))
        return answer

    def cancel(self, answer: Answer, reason: FinishReason = FinishReason.CANCELLED) -> None:
        if answer.terminal is not None:
            return
        self.cancelled.append(answer)
        self._tasks[answer.key].cancel()
        if answer.has_tokens:
            answer.take(_finished(answer, reason))
        else:
            answer.fail(Cancelled("the request was cancelled before its first token"))

    async def _play(self, answer: Answer) -> None:
        answer.take(Queued(num_prompt=5))
        answer.take(Started())
        for step in self.script:
            match step:
                case FinishReason():
                    answer.take(_finished(answer, step))
                case str():
                    answer.take(Delta(text=step, tokens=(1,), draws=1))
                    await asyncio.sleep(0)
                case RequestError():
                    answer.fail(step)
                case _:
                    await asyncio.sleep(step)
        answer.take(_finished(answer, FinishReason.STOP))


class _Scripted(Dispatcher):
    """What fronts speak to: it asks the script."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__(Limits())
        self._engine = engine

    def submit(self, request: Request, *, supersede: bool = False, replaces_history: bool = False) -> Answer:
        return self._engine.submit(request)

    def cancel(self, answer: Answer, reason: FinishReason = FinishReason.CANCELLED) -> None:
        self._engine.cancel(answer, reason)


def _finished(answer: Answer, reason: FinishReason) -> Finished:
    resume = answer.resume
    return Finished(
        finish_reason=reason,
        usage=Usage(prompt=5, cached=2, completion=len(resume.tokens) if resume else 0),
        timings=Timings(queue_s=0.0, prefill_s=0.1, decode_s=0.2),
    )


def _no_model() -> Load:
    raise AssertionError("the scripted engine loads no model")
