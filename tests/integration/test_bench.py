"""`tampu bench` over real child processes with a fake model: what dies or hangs loses its own way only."""

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest

from agent import bench
from agent.bench import Outcome
from agent.bench_plan import ROWS, Box, Target
from agent.errors import ModelUnavailable

pytestmark = pytest.mark.anyio

FAKE_ENGINE = str(Path(__file__).parents[1] / "support" / "fake_engine.py")
COMMAND = (sys.executable, FAKE_ENGINE, "0.0001")
BOX = Box(key="b", threads=(2, 1), room_bytes=2 << 30, buffer_bytes=4 << 20)


def target(name: str = "fine") -> Target:
    return Target(name="m", quant="", path=Path(name), key="k", file_bytes=1 << 20, copied_bytes=1 << 20)


async def measured(
    name: str = "fine", seconds: float = 3.0, command: tuple[str, ...] = COMMAND
) -> tuple[Outcome, list[tuple[float, str]]]:
    shown: list[tuple[float, str]] = []
    async with asyncio.timeout(40):
        outcome = await bench.measure(
            target(name), BOX, seconds, lambda *step: shown.append(step), command=command
        )
    return outcome, shown


async def test_every_way_has_figures() -> None:
    """For each count of threads, with the words that say whose they are."""
    outcome, shown = await measured()
    figures = outcome.measurements
    assert (figures.box, figures.build, figures.model_key) == ("b", "fake; FAKE", "k")
    assert [read.n_threads for read in figures.bandwidths] == [2, 1]
    assert {(one.is_repacked, one.n_threads) for one in figures.speeds} == {
        (repacked, threads) for repacked in (False, True) for threads in (2, 1)
    }
    assert {one.n_batch for one in figures.speeds if one.n_threads == 2} == set(ROWS)
    assert all(one.decode_tok_s > 0 and one.prefill_tok_s > 0 for one in figures.speeds)
    shares = [share for share, _ in shown]
    assert shares == sorted(shares)
    assert shown[-1] == (1.0, "done")


async def test_a_way_that_kills_its_child_is_a_sentence() -> None:
    """The figures of the others stand."""
    outcome, _ = await measured("POISON")
    assert {one.is_repacked for one in outcome.measurements.speeds} == {False}
    assert [note for note in outcome.notes if note.startswith("repacked")] == [
        "repacked: the engine process ended (SIGKILL) at opening the model, most likely for want of memory"
    ]


async def test_a_way_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some time after its share is over."""
    monkeypatch.setattr(bench, "GRACE_S", 1.0)
    outcome, _ = await measured("HANG")
    assert {one.is_repacked for one in outcome.measurements.speeds} == {False}
    (note,) = (note for note in outcome.notes if note.startswith("repacked"))
    assert "opening the model" in note
    assert note.endswith("stopped")


async def test_a_slow_box_leaves_ways_out() -> None:
    """The mapped weights have figures, however long they took; for more there was no time."""
    outcome, _ = await measured(seconds=0.1, command=(sys.executable, FAKE_ENGINE, "0.05"))
    (speed,) = outcome.measurements.speeds
    assert (speed.is_repacked, speed.n_batch) == (False, 32)
    assert "repacked: not measured, no time was left; give it more with --seconds" in outcome.notes


async def test_a_child_that_never_speaks_is_an_error() -> None:
    """As for the daemon: most likely a build for another CPU."""
    command = (sys.executable, "-c", "import os; os.kill(os.getpid(), 4)")
    with pytest.raises(ModelUnavailable, match=r"^the engine process ended .SIGILL. before it could speak"):
        await measured(command=command)


async def test_interrupted_it_leaves_no_child_behind() -> None:
    """Ctrl-C cancels; the child is gone before the prompt is back."""
    works = asyncio.Event()

    def show(_share: float, what: str) -> None:
        if what.startswith("repacked"):
            works.set()

    task = asyncio.create_task(bench.measure(target("HANG"), BOX, 3.0, show, command=COMMAND))
    async with asyncio.timeout(20):
        await works.wait()
    children = psutil.Process(os.getpid()).children()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [child.is_running() for child in children] == [False]
