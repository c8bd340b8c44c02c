"""Memory as the daemon sees it: deaths for it, sleep, and pressure; over real child processes."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from agent.config import Limits
from agent.engine.messages import Hello, Load
from agent.engine_client import EngineClient
from agent.engine_state import EngineState
from agent.errors import InsufficientMemory
from agent.memory_level import MemoryLevel
from agent.request import FinishReason, Message, Request, Sampling
from tests.integration.conftest import BASE
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, wait_until

FAKE_ENGINE = str(Path(__file__).parents[1] / "support" / "fake_engine.py")
LOAD = Load(path="", n_ctx=1024, n_seq_max=4, n_batch=64, n_threads=1, kv_type="f16", n_gpu_layers=0)
CALM = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
MIB = 1 << 20


def request(max_tokens: int = 60) -> Request:
    return Request(
        client="me",
        id="r",
        messages=(Message("user", "a LONG story"),),
        sampling=Sampling(seed=1, temperature=0),
        max_tokens=max_tokens,
    )


@asynccontextmanager
async def running(
    *,
    step_s: float = 0.01,
    idle_s: float = 0.0,
    level: MemoryLevel | None = None,
    find_model: Callable[[Hello], Load] = lambda hello: LOAD,
) -> AsyncIterator[EngineClient]:
    """A client whose child is ready, or has said why it cannot be."""
    command = (sys.executable, FAKE_ENGINE, str(step_s))
    client = EngineClient(find_model, Limits(), command=command, idle_s=idle_s, memory_level=level)
    task = asyncio.create_task(client.run())
    try:
        await until(lambda: client.state in {EngineState.READY, EngineState.FAILED})
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(check: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not check():
            await asyncio.sleep(0.01)


def machine(root: Path, *, oom_kills: int = 0, available: int = 400 * MIB, psi: str = CALM) -> Path:
    """A /proc that says so, written under `root`."""
    (root / "proc/pressure").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {2048 << 10} kB\nMemAvailable: {available >> 10} kB\n")
    (root / "proc/vmstat").write_text(f"oom_kill {oom_kills}\n")
    (root / "proc/pressure/memory").write_text(psi)
    return root


# ---- killed for memory ---------------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_oom_kill_lowers_the_level_and_the_answer_goes_on(tmp_path: Path) -> None:
    """The text is the undisturbed one; a SIGKILL that the kernel did not count lowers nothing."""
    level = MemoryLevel(machine(tmp_path))
    async with running(level=level) as client:
        whole = client.dispatcher.submit(request())
        await asyncio.wait_for(whole.finished(), 20)
        for kills, expected in ((0, 0), (1, 1), (2, 2)):
            answer = client.dispatcher.submit(request())
            await until(lambda answer=answer: len(answer.text) > 10)
            machine(tmp_path, oom_kills=kills)
            assert client.pid is not None
            os.kill(client.pid, signal.SIGKILL)
            await asyncio.wait_for(answer.finished(), 20)
            assert answer.text == whole.text
            assert level.level == expected
            await until(lambda: client.state is EngineState.READY)
        assert client.num_restarts == 3
        assert client.last_crash is not None
        assert client.last_crash.sentence == "SIGKILL, out of memory while ready"


@pytest.mark.anyio
async def test_a_kill_of_our_own_is_no_death_for_memory(tmp_path: Path) -> None:
    """A stuck child is ended by us."""
    level = MemoryLevel(tmp_path)
    async with running(level=level) as client:
        assert client._process is not None
        client._process.kill()
        await until(lambda: client.num_restarts == 1 and client.state is EngineState.READY)
        assert level.level == 0


@pytest.mark.anyio
async def test_memory_that_does_not_suffice_is_said_to_who_asks() -> None:
    """By its own name, not as a missing model."""

    def refuse(hello: Hello) -> Load:
        raise InsufficientMemory("this model needs more")

    async with running(find_model=refuse) as client:
        assert client.state is EngineState.FAILED
        with pytest.raises(InsufficientMemory, match="needs more"):
            client.dispatcher.submit(request())


def test_a_daemons_engine_comes_back_with_less_memory(
    start_daemon: Callable[..., Daemon], broker: Mosquitto, tmp_path: Path
) -> None:
    """Degraded with the reason, the answer whole, and the next one too."""
    root = machine(tmp_path / "root")
    daemon = start_daemon(step_s=0.02, root=root)
    with Device(broker.port, f"{BASE}/response/me/#", f"{BASE}/status", f"{BASE}/info") as device:
        device.publish(f"{BASE}/request/me", {"id": "a", "prompt": "a LONG story", "max_tokens": 60})
        wait_until(lambda: len(device.received_text("a")) > 10, "some text")
        machine(root, oom_kills=1)
        daemon.kill_engine()
        assert device.wait_end("a")["usage"]["completion"] == 60
        reason = "runs in a smaller memory budget after it was killed for memory"
        wait_until(lambda: daemon.status()["reason"] == reason, "the reason in the status")
        device.wait_frame("/status", state="degraded", reason=reason)
        device.publish(f"{BASE}/request/me", {"id": "b", "prompt": "and another"})
        assert device.wait_end("b")["type"] == "done"
        info = device.frames("/info")[-1]
    told = re.findall(r"engine says: hard_bytes (\d+)", daemon.log.read_text())
    first, second = (int(number) for number in told)
    status = daemon.status()
    assert (status["memory"]["level"], status["ready"]) == (1, True)
    # Of what the daemon and the engine have together: the daemon's share stays.
    daemons = status["memory"]["hard_bytes"] - second
    assert second + daemons == int((first + daemons) * 0.7)
    assert info["budget"]["level"] == 1
    assert info["budget"]["hard_bytes"] == status["memory"]["hard_bytes"]


# ---- sleep ---------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_idle_engine_ends_and_the_next_prompt_wakes_it() -> None:
    """Not a crash, not a restart; the answer is the same, and how long the waking took is known."""
    async with running(idle_s=0.3, step_s=0.0) as client:
        first = client.dispatcher.submit(request())
        await asyncio.wait_for(first.finished(), 20)
        pid = client.pid
        assert pid is not None
        for _ in range(2):
            await until(lambda: client.state is EngineState.ASLEEP)
            assert client.loaded is not None
            second = client.dispatcher.submit(request())
            assert client.slumber.is_waking
            await asyncio.wait_for(second.finished(), 20)
            assert second.text == first.text
            assert client.slumber.wake_s is not None
            assert not client.slumber.is_waking
        assert (client.num_restarts, client.last_crash) == (0, None)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.anyio
async def test_an_engine_with_work_does_not_sleep() -> None:
    """However long an answer takes."""
    async with running(idle_s=0.2, step_s=0.02) as client:
        answer = client.dispatcher.submit(request(max_tokens=50))
        pid = client.pid
        end = await asyncio.wait_for(answer.finished(), 20)
        assert client.pid == pid
        assert end.finish_reason is FinishReason.LENGTH


@pytest.mark.anyio
async def test_a_request_while_the_engine_falls_asleep_wakes_it_again() -> None:
    """At every moment of its end."""
    async with running(idle_s=0.05, step_s=0.0) as client:
        for delay_s in (0.0, 0.02, 0.05, 0.1):
            await until(lambda: client.state is EngineState.ASLEEP)
            await asyncio.sleep(delay_s)
            answer = client.dispatcher.submit(request(max_tokens=3))
            assert (await asyncio.wait_for(answer.finished(), 20)).usage.completion == 3
        assert client.num_restarts == 0


def test_a_sleeping_box_is_online(
    start_daemon: Callable[..., Daemon], broker: Mosquitto, tmp_path: Path
) -> None:
    """It says that it sleeps, since when, and has no engine process; a prompt over MQTT is answered."""
    daemon = start_daemon(engine={"idle": {"process_s": 0.5}})
    status = wait_until(lambda: (s := daemon.status())["engine"]["state"] == "asleep" and s, "sleep")
    assert (status["state"], status["ready"]) == ("online", True)
    assert status["reason"] == "asleep: the next prompt wakes the model"
    assert status["model"]["name"] == "fake"
    assert status["memory"]["engine_rss_bytes"] == 0
    wait_until(lambda: not daemon.engine_pid(), "no engine process is left")
    time.sleep(0.2)
    assert daemon.status()["engine"]["for_s"] >= 0.1
    with Device(broker.port, f"{BASE}/response/me/#", f"{BASE}/status") as device:
        device.wait_frame("/status", state="online", reason="asleep: the next prompt wakes the model")
        device.publish(f"{BASE}/request/me", {"id": "a", "prompt": "wake up"})
        assert device.wait_end("a")["type"] == "done"
        assert {frame["state"] for frame in device.frames("/status")} == {"online"}
    status = daemon.status()
    assert 0 < status["engine"]["wake_s"] < 20
    assert status["engine_restarts"] == 0


# ---- pressure ------------------------------------------------------------------------------------


def test_pressure_reaches_the_engine_and_the_status(
    start_daemon: Callable[..., Daemon], broker: Mosquitto, tmp_path: Path
) -> None:
    """When it rises, and again after each start of an engine; a kill under pressure is one for memory."""
    root = machine(tmp_path / "root")
    daemon = start_daemon(root=root)
    assert daemon.status()["memory"]["pressure"] == 0
    with Device(broker.port, f"{BASE}/status") as device:
        machine(root, available=150 * MIB)
        wait_until(lambda: "pressure 1" in daemon.log.read_text(), "the engine hears of level 1")
        assert daemon.status()["state"] == "online"
        machine(root, available=200 * MIB, psi=CALM.replace("avg10=0.00", "avg10=60.00"))
        wait_until(lambda: "pressure 2" in daemon.log.read_text(), "the engine hears of level 2")
        reason = "200 of 2048 MiB are available, 60 % of the time is lost waiting for memory"
        device.wait_frame("/status", state="degraded", reason=f"this box is out of memory: {reason}")
        assert (daemon.status()["memory"]["pressure"], daemon.status()["ready"]) == (2, True)
        daemon.kill_engine()
        wait_until(
            lambda: daemon.log.read_text().count("says: pressure 2") == 2, "the next engine hears, too"
        )
        machine(root)
        wait_until(lambda: daemon.status()["memory"]["pressure"] == 0, "calm")
    assert daemon.status()["memory"]["level"] == 1


@pytest.mark.anyio
async def test_pressure_is_not_sent_to_who_is_not_there(tmp_path: Path) -> None:
    """A sleeping engine, and one that loads, hear it when they are ready."""
    async with running(idle_s=0.2, step_s=0.0) as client:
        await until(lambda: client.state is EngineState.ASLEEP)
        client.set_pressure(1)
        answer = client.dispatcher.submit(msgspec.structs.replace(request(), max_tokens=3))
        await asyncio.wait_for(answer.finished(), 20)
        assert client.num_restarts == 0
