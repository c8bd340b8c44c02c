"""`tampu bench` at work: one engine child after another, each of which measures one way to run a model.

A way is the mapped weights, the repacked ones or a GPU. A child that dies (an instruction this CPU
does not have, memory that is not there, a driver's abort) loses its way only, with what it had not
said yet.
"""

import asyncio
import time
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from agent.bench_plan import Box, Target, Way, ways
from agent.catalog.measurements import Bandwidth, Measurements, Speed, build_key
from agent.engine.messages import (
    PROTOCOL,
    Hello,
    Load,
    LoadFailed,
    Measure,
    Measured,
    MeasureMemory,
    Measuring,
    Read,
    Timed,
    ToDaemon,
)
from agent.engine_process import COMMAND, EngineProcess, never_spoke
from agent.errors import EngineProtocolError, ModelUnavailable

Progress = Callable[[float, str], None]
"""Called with the share that is done (0 to 1) and what comes next."""

# Of all time, for memory; a second of reading says as much as ten.
MEMORY_SHARE, MEMORY_MOST_S = 0.1, 4.0
# Every way is measured in turn, and then once more where there is time: a box that others slow down for a
# while does not do it to one way only. The better of both counts.
ROUNDS, LEAST_ROUND_S = 2, 20.0
# A child is ended so long after its time: a step that has begun cannot be stopped. The first way gets
# more, for without it there is nothing to show.
GRACE_S, FIRST_GRACE_S = 20.0, 180.0


class Outcome(Struct, frozen=True, kw_only=True):
    """The figures, and in sentences what is missing among them or makes them doubtful."""

    measurements: Measurements
    notes: tuple[str, ...]


async def measure(
    target: Target, box: Box, seconds: float, progress: Progress, command: tuple[str, ...] = COMMAND
) -> Outcome:
    """Measure within about `seconds`. Raises ModelUnavailable when no way gave a figure."""
    bench = _Bench(target, box, seconds, progress, command)
    return await bench.run()


class _Bench:
    def __init__(
        self, target: Target, box: Box, seconds: float, progress: Progress, command: tuple[str, ...]
    ) -> None:
        self._target, self._box, self._command = target, box, command
        self._progress = progress
        self._started = time.monotonic()
        self._ends_at = self._started + seconds
        self._seconds = seconds
        self._bandwidths: list[Bandwidth] = []
        self._speeds: dict[tuple[int, int, str, bool], Speed] = {}
        self._measured_ways: list[Way] = []
        self._notes: list[str] = []
        self._hello: Hello | None = None
        # Of all children, the one that was disturbed most.
        self._others_cores = 0.0
        # From the start of the first way's child to its first figure: no other way has one in less.
        self._least_s = 0.0

    async def run(self) -> Outcome:
        """One child for memory, which also says what there is to compute on, then one for each way."""
        await self._memory()
        if self._hello is None:
            raise ModelUnavailable(self._notes[-1].removeprefix("memory: "))
        found, notes = ways(self._target, self._box.room_bytes, self._hello.devices)
        self._notes += notes
        rounds = ROUNDS if self._seconds >= LEAST_ROUND_S * ROUNDS and len(found) > 1 else 1
        turns = [way for _ in range(rounds) for way in found]
        for index, way in enumerate(turns):
            if index < len(found) or way in self._measured_ways:
                await self._way(way, index, len(turns))
        if not self._speeds:
            raise ModelUnavailable(f"nothing could be measured: {'; '.join(self._notes)}")
        self._progress(1.0, "done")
        measurements = self._measurements(self._hello)
        if measurements.is_disturbed:
            self._notes.append(
                f"other programs kept {self._others_cores:.1f} cores busy meanwhile: the figures are low,"
                " and placement does not follow them; end them and measure again"
            )
        return Outcome(measurements=measurements, notes=tuple(self._notes))

    def _measurements(self, hello: Hello) -> Measurements:
        return Measurements(
            box=self._box.key,
            build=build_key(hello.build, (device.name for device in hello.devices)),
            model_key=self._target.key,
            bandwidths=tuple(self._bandwidths),
            speeds=tuple(self._speeds.values()),
            seconds=time.monotonic() - self._started,
            others_cores=self._others_cores,
        )

    async def _memory(self) -> None:
        seconds = min(MEMORY_MOST_S, self._seconds * MEMORY_SHARE)
        if not self._box.buffer_bytes:
            self._notes.append("memory: not measured, no buffer that fits is larger than the cache")
        ask = MeasureMemory(
            num_bytes=self._box.buffer_bytes,
            threads=self._box.threads if self._box.buffer_bytes else (),
            seconds=seconds,
        )

        def take(message: ToDaemon) -> None:
            if isinstance(message, Read):
                self._bandwidths.append(Bandwidth(n_threads=message.n_threads, bytes_s=message.bytes_s))

        await self._child("memory", ask, seconds + GRACE_S, take, (0.0, MEMORY_SHARE))

    async def _way(self, way: Way, index: int, count: int) -> None:
        started = time.monotonic()
        left_s = self._ends_at - started
        if index and left_s < self._least_s:
            if way in self._measured_ways:
                return
            self._notes.append(f"{way.name}: not measured, no time was left; give it more with --seconds")
            return
        seconds = max(0.0, left_s) / (count - index)
        rows = self._box.rows
        load = Load(
            path=str(self._target.path),
            n_ctx=max(rows),
            n_seq_max=1,
            n_batch=max(rows),
            n_threads=self._box.threads[0],
            kv_type="f16",
            n_gpu_layers=-1 if way.device else 0,
            hard_bytes=0 if way.device else self._box.room_bytes,
            is_repacked=way.is_repacked,
            device=way.device,
        )
        # With the whole model on a GPU the CPU only hands over work.
        threads = self._box.threads[:1] if way.device else self._box.threads

        def take(message: ToDaemon) -> None:
            if isinstance(message, Timed):
                self._least_s = self._least_s or time.monotonic() - started
                self._keep(_speed(way, load, message))
                self._measured_ways += [] if way in self._measured_ways else [way]

        width = (1 - MEMORY_SHARE) / count
        grace_s = GRACE_S if index else FIRST_GRACE_S
        ask = Measure(load=load, threads=threads, rows=rows, seconds=seconds)
        span = (MEMORY_SHARE + index * width, width)
        await self._child(way.name, ask, seconds + grace_s, take, span)

    def _keep(self, speed: Speed) -> None:
        key = (speed.n_threads, speed.n_batch, speed.device, speed.is_repacked)
        earlier = self._speeds.get(key, speed)
        self._speeds[key] = replace(
            speed,
            prefill_tok_s=max(speed.prefill_tok_s, earlier.prefill_tok_s),
            decode_tok_s=max(speed.decode_tok_s, earlier.decode_tok_s),
        )

    async def _child(
        self,
        name: str,
        ask: Measure | MeasureMemory,
        limit_s: float,
        take: Callable[[ToDaemon], None],
        span: tuple[float, float],
    ) -> None:
        """Run one child to its end; its part of the progress begins and is as wide as `span` says. What
        went wrong becomes a note."""
        process = await EngineProcess.start(self._command)
        doing = "starting"
        try:
            async with asyncio.timeout(limit_s):
                self._greet(await process.receive())
                process.send(ask)
                while (message := await process.receive()) is not None:
                    match message:
                        case Measuring():
                            doing = message.what
                            self._progress(span[0] + span[1] * message.share, f"{name}: {doing}")
                        case LoadFailed():
                            self._notes.append(f"{name}: {message.message}")
                            return
                        case Measured():
                            self._others_cores = max(self._others_cores, message.others_cores)
                            return
                        case _:
                            take(message)
            self._notes.append(f"{name}: {_died(await process.end(), doing)}")
        except TimeoutError:
            self._notes.append(f"{name}: not done {limit_s:.0f} s after its start (at {doing}); stopped")
        except EngineProtocolError as error:
            self._notes.append(f"{name}: {error}")
        except _NeverSpoke:
            self._notes.append(f"{name}: {never_spoke(await process.end())}")
        finally:
            process.kill()
            await process.end()

    def _greet(self, hello: ToDaemon | None) -> None:
        if hello is None:
            raise _NeverSpoke
        if not isinstance(hello, Hello) or hello.protocol != PROTOCOL:
            raise EngineProtocolError("the engine process is of another version; install tampu again")
        self._hello = hello


class _NeverSpoke(Exception):
    """The child was gone before its Hello."""


def _speed(way: Way, load: Load, timed: Timed) -> Speed:
    return Speed(
        n_threads=timed.n_threads,
        is_repacked=way.is_repacked,
        n_batch=timed.n_batch,
        prefill_tok_s=timed.prefill_tok_s,
        decode_tok_s=timed.decode_tok_s,
        n_gpu_layers=load.n_gpu_layers,
        device=way.device,
    )


def _died(how: str, doing: str) -> str:
    why = {
        "SIGKILL": ", most likely for want of memory",
        "SIGILL": ", by an instruction this CPU does not have: build llama-cpp-python here",
    }.get(how, "")
    return f"the engine process ended ({how}) at {doing}{why}"
