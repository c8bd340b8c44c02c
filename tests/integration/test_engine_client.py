"""The daemon's side of the engine over real child processes with a fake model."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.config import Limits
from agent.engine.messages import Hello, Load
from agent.engine_client import EngineClient, EngineState
from agent.errors import Busy, Cancelled, EngineTimeout, Expired, Internal, ModelUnavailable, TooLarge
from agent.request import FinishReason, Message, Request, Sampling

pytestmark = pytest.mark.anyio

FAKE_ENGINE = str(Path(__file__).parents[1] / "support" / "fake_engine.py")
LOAD = Load(path="", n_ctx=1024, n_seq_max=4, n_batch=64, n_threads=1, kv_type="f16", n_gpu_layers=0)


def request(text: str = "a LONG story", max_tokens: int = 60, ttl_s: float | None = None) -> Request:
    return Request(
        client="me",
        id="r",
        messages=(Message("user", text),),
        sampling=Sampling(seed=1, temperature=0),
        max_tokens=max_tokens,
        ttl_s=ttl_s,
    )


@asynccontextmanager
async def running(
    step_s: float = 0.01, stall_s: float = 60.0, find_model: Callable[[Hello], Load] = lambda hello: LOAD
) -> AsyncIterator[EngineClient]:
    """A client whose child is ready, or has said why it cannot be."""
    command = (sys.executable, FAKE_ENGINE, str(step_s))
    client = EngineClient(find_model, Limits(), command=command, stall_s=stall_s)
    task = asyncio.create_task(client.run())
    try:
        async with asyncio.timeout(20):
            while client.state not in {EngineState.READY, EngineState.FAILED}:
                await asyncio.sleep(0.01)
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_text(answer, num_chars: int = 5) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(20):
        while len(answer.text) < num_chars:
            await answer.change()


async def test_no_child_is_left_behind() -> None:
    """Cancelling the supervisor ends the process."""
    async with running() as client:
        pid = client.pid
        assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_stuck_engine_is_killed_and_its_request_told_timeout() -> None:
    """No step for the stall time, twice: the request is the cause; others are answered."""
    async with running(stall_s=1.0) as client:
        stuck = client.dispatcher.submit(request("HANG"))
        with pytest.raises(EngineTimeout):
            await asyncio.wait_for(stuck.finished(), 30)
        good = await asyncio.wait_for(client.dispatcher.submit(request()).finished(), 30)
        assert good.finish_reason is FinishReason.LENGTH
        assert client.num_restarts == 2


async def test_requests_before_the_model_is_ready_wait_for_it() -> None:
    """Between hello and loaded nothing is refused."""
    command = (sys.executable, FAKE_ENGINE, "0.0")
    client = EngineClient(lambda hello: LOAD, Limits(), command=command)
    answer = client.dispatcher.submit(request())
    task = asyncio.create_task(client.run())
    finished = await asyncio.wait_for(answer.finished(), 20)
    assert finished.usage.completion == 60
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_model_that_cannot_be_had_ends_what_waits_for_it() -> None:
    """By name, at once, for the waiting and the new."""

    def nothing(hello: Hello) -> Load:
        raise ModelUnavailable("there is no model; fetch one")

    async with running(find_model=nothing) as client:
        assert client.state is EngineState.FAILED
        with pytest.raises(ModelUnavailable, match="fetch one"):
            client.dispatcher.submit(request())


async def test_a_cancel_while_the_engine_restarts_keeps_the_text_so_far() -> None:
    """After the first token it is done, cancelled; before it, the error."""
    async with running(step_s=0.02) as client:
        begun = client.dispatcher.submit(request())
        await until_text(begun)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            while client.state is EngineState.READY:
                await asyncio.sleep(0)
        fresh = client.dispatcher.submit(request())
        client.dispatcher.cancel(begun)
        client.dispatcher.cancel(fresh)
        assert (await begun.finished()).finish_reason is FinishReason.CANCELLED
        assert begun.text
        with pytest.raises(Cancelled):
            await fresh.finished()


async def test_a_deadline_passes_while_the_engine_restarts() -> None:
    """Expired, though no engine could say so."""
    async with running(step_s=0.02) as client:
        assert client.pid is not None
        os.kill(client.pid, signal.SIGSTOP)
        waiting = client.dispatcher.submit(request(ttl_s=0.2))
        await asyncio.sleep(0.4)
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(Expired):
            await asyncio.wait_for(waiting.finished(), 20)


async def test_a_closed_door_takes_nothing_more_and_drains() -> None:
    """What runs may end; what comes is busy."""
    async with running(step_s=0.01) as client:
        answer = client.dispatcher.submit(request(max_tokens=20))
        client.dispatcher.close_door()
        with pytest.raises(Busy):
            client.dispatcher.submit(request())
        assert await client.dispatcher.drained(20)
        assert (await answer.finished()).usage.completion == 20


async def test_a_crowd_survives_an_engine_death_token_for_token() -> None:
    """More requests than slots, some running and some waiting: all texts are the undisturbed ones."""
    prompts = [f"LONG {number}" for number in range(8)]
    async with running(step_s=0.004) as client:
        whole = []
        for prompt in prompts:
            answer = client.dispatcher.submit(request(prompt, max_tokens=80))
            await asyncio.wait_for(answer.finished(), 30)
            whole.append(answer.text)
        answers = [client.dispatcher.submit(request(prompt, max_tokens=80)) for prompt in prompts]
        await until_text(answers[0], 40)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        for answer, text in zip(answers, whole, strict=True):
            await asyncio.wait_for(answer.finished(), 60)
            assert answer.text == text


async def test_a_dying_engines_last_words_are_kept() -> None:
    """Which assertion it was stands beside the signal; the others' answers go on."""
    async with running() as client:
        with pytest.raises(Internal):
            await asyncio.wait_for(client.dispatcher.submit(request("ASSERT")).finished(), 30)
        assert client.last_crash is not None
        assert client.last_crash.sentence.startswith("SIGABRT while ready: ggml.c:3210: GGML_ASSERT(a->ne[2]")
        end = await asyncio.wait_for(client.dispatcher.submit(request(max_tokens=3)).finished(), 30)
        assert end.usage.completion == 3


async def test_a_child_that_dies_before_its_first_word_is_no_end_where_others_have_spoken() -> None:
    """The OOM killer takes it while it imports; the answer goes on in the next one."""
    async with running(step_s=0.02) as client:
        answer = client.dispatcher.submit(request())
        while not answer.text:
            await asyncio.sleep(0.01)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        first = client.pid
        while client.pid in (first, None):
            await asyncio.sleep(0.001)
        os.kill(client.pid, signal.SIGKILL)
        end = await asyncio.wait_for(answer.finished(), 30)
        assert end.usage.completion == 60


async def test_a_request_the_pipe_cannot_hold_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, at once, and the engine lives on."""
    async with running() as client:
        monkeypatch.setattr("agent.engine.messages.MAX_FRAME_BYTES", 2000)
        with pytest.raises(TooLarge):
            await client.dispatcher.submit(request("x" * 4000)).finished()
        end = await client.dispatcher.submit(request(max_tokens=3)).finished()
        assert end.usage.completion == 3
        assert client.num_restarts == 0


async def test_a_first_child_that_somebody_kills_is_followed_by_another(tmp_path: Path) -> None:
    """A SIGKILL before the first word says nothing about the build: who waits is answered all the same."""
    killed = tmp_path / "killed"
    script = tmp_path / "engine.py"
    script.write_text(
        "import os, pathlib, signal, sys\n"
        f"killed = pathlib.Path({str(killed)!r})\n"
        "if not killed.exists():\n"
        "    killed.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"os.execv(sys.executable, [sys.executable, {FAKE_ENGINE!r}, *sys.argv[1:]])\n"
    )
    client = EngineClient(lambda hello: LOAD, Limits(), command=(sys.executable, str(script), "0.01"))
    task = asyncio.create_task(client.run())
    try:
        answer = client.dispatcher.submit(request(max_tokens=3))
        assert await asyncio.wait_for(answer.finished(), 20)
        assert client.last_crash is not None
        assert client.last_crash.how == "SIGKILL"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
