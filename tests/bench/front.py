"""What the front costs by itself: MQTT, journal, pipe and daemon over a model that takes no time.

Real processes, a real broker; README.md beside it says what each row means. Ends with status 0 whatever the
figures are, unless something broke.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build"))
sys.path.insert(0, str(ROOT))

import psutil

from steps import say
from tests.bench.front_load import BASE, Caller, callers
from tests.bench.options import count
from tests.bench.report import Figure, table, this_machine
from tests.bench.streams import percentile
from tests.support.gguf_builder import build
from tests.support.processes import Daemon, Mosquitto, fake_daemon

STEP_S = 0.02
NUM_STREAMS = 8
NUM_STREAMED = 200
HEALTH_WATCH = Path(__file__).with_name("health_watch.py")
MIB = 1 << 20


class Bench:
    """All figures; each `measure_*` adds one value to its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        streams, clients = f"{NUM_STREAMS} streams of 50 tok/s", f"{options.clients} clients at once"
        self.cpu = _own(f"CPU of the daemon for a delta, {streams}", "us")
        self.share = _own(f"CPU of the daemon, {streams}", "% of a core")
        self.ttft = _own("TTFT beyond the broker's round trip, p50", "ms", at_most=5.0)
        self.ttft95 = _own("TTFT beyond the broker's round trip, p95", "ms")
        self.trip = _own("the broker's own round trip, p50", "ms")
        self.lost = _own(f"{clients}, requests without an answer", "", at_most=0)
        self.rate = _own(f"{clients}, answers", "1/s")
        self.health = [
            _own(f"{clients}, health answer, p50", "ms"),
            _own(f"{clients}, health answer, p95", "ms"),
            _own(f"{clients}, health answer, max", "ms", at_most=100.0),
        ]
        self.private = _own(f"{clients}, private memory of the daemon", "MiB", at_most=35.0)

    @property
    def figures(self) -> list[Figure]:
        return [
            *(self.cpu, self.share, self.ttft, self.ttft95, self.trip, self.lost, self.rate),
            *(*self.health, self.private),
        ]

    def run(self) -> None:
        """Every measurement, so often. Raises ValueError or TimeoutError when something breaks."""
        for number in range(1, self.options.runs + 1):
            with box(STEP_S) as (daemon, port):
                asyncio.run(self.measure_cpu(daemon, port))
            with box(0.0) as (daemon, port):
                asyncio.run(self.measure_ttft(port))
                asyncio.run(self.measure_bursts(daemon, port))
            say(f"  run {number} of {self.options.runs}: TTFT + {self.ttft.tampu:.2f} ms so far")

    async def measure_cpu(self, daemon: Daemon, port: int) -> None:
        """Streams side by side, as fast as a small model is."""
        async with callers(port, NUM_STREAMS) as devices:
            await _ask_all(devices, "warm", 8)
            before, start = _cpu_s(daemon), time.monotonic()
            await _ask_all(devices, "long", NUM_STREAMED)
            spent_s, took_s = _cpu_s(daemon) - before, time.monotonic() - start
        num_deltas = sum(device.replies["long"].num_deltas for device in devices)
        _add(self.cpu, spent_s / num_deltas * 1e6)
        _add(self.share, spent_s / took_s * 100)

    async def measure_ttft(self, port: int) -> None:
        """A request and a round trip in turn."""
        added_ms, trips_ms = [], []
        async with callers(port, 1) as (device,):
            for number in range(self.options.asks):
                name = f"ttft{number}"
                trip_s = await device.round_trip_s()
                device.ask(name, f"LONG {number}", 2)
                reply = await device.answered(name)
                if number >= self.options.asks // 10:  # the first ones warm up
                    trips_ms.append(trip_s * 1e3)
                    added_ms.append((reply.ttft_s - trip_s) * 1e3)
        _add(self.ttft, percentile(added_ms, 50))
        _add(self.ttft95, percentile(added_ms, 95))
        _add(self.trip, percentile(trips_ms, 50))

    async def measure_bursts(self, daemon: Daemon, port: int) -> None:
        """Everybody at once, again and again, while somebody else asks how the box is."""
        private, num_asked, num_answered = 0, 0, 0
        async with callers(port, self.options.clients) as devices:
            with health_watch(daemon) as times_ms:
                start = time.monotonic()
                for number in range(self.options.bursts):
                    num_asked += len(devices)
                    num_answered += await _ask_all(devices, f"burst{number}", 16)
                    private = max(private, _private_bytes(daemon))
                took_s = time.monotonic() - start
        _add(self.lost, num_asked - num_answered)
        _add(self.rate, num_answered / took_s)
        _add(self.private, private / MIB)
        for figure, value in zip(
            self.health, (percentile(times_ms, 50), percentile(times_ms, 95), max(times_ms)), strict=True
        ):
            _add(figure, value)


@contextmanager
def box(step_s: float) -> Iterator[tuple[Daemon, int]]:
    """A daemon over the fake model and a broker, fresh; with room for everybody at once."""
    with tempfile.TemporaryDirectory(prefix="tampu-front-") as name:
        folder = Path(name)
        (folder / "models").mkdir()
        (folder / "models" / "fake.gguf").write_bytes(build())
        broker = Mosquitto(folder, persistence=False)
        broker.start()
        tree = {
            "node": BASE.rpartition("/")[2],
            "mqtt": {"port": broker.port},
            "models": {"folder": str(folder / "models"), "name": "fake.gguf"},
            "engine": {"n_ctx": 4096, "threads": 1, "slots": 8},
            "limits": {"queue": 1024, "per_client": 16, "requests_per_minute": 1e6, "burst": 4096},
            "journal": {"folder": str(folder / "journal")},
            "log": {"level": "warning"},
        }
        daemon = fake_daemon(folder, tree, step_s)
        try:
            daemon.start()
            daemon.wait_online()
            yield daemon, broker.port
            daemon.stop()
        finally:
            daemon.kill()
            broker.stop()


@contextmanager
def health_watch(daemon: Daemon) -> Iterator[list[float]]:
    """The list is filled with the answers' times in ms when the block ends."""
    times_ms: list[float] = []
    command = [sys.executable, str(HEALTH_WATCH), str(daemon.socket)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield times_ms
        said, _ = process.communicate("\n")
        times_ms += json.loads(said)


async def _ask_all(devices: Sequence[Caller], name: str, num_tokens: int) -> int:
    """Everybody asks at the same moment; how many were answered with `done`."""
    for device in devices:
        device.ask(name, f"LONG {device.name} {name}", num_tokens)
    replies = await asyncio.gather(*(device.answered(name) for device in devices), return_exceptions=True)
    return sum(
        not isinstance(r, BaseException) and r.end is not None and r.end.type == "done" for r in replies
    )


def _cpu_s(daemon: Daemon) -> float:
    """User and system time of the daemon alone."""
    assert daemon.process is not None
    times = psutil.Process(daemon.process.pid).cpu_times()
    return float(times.user + times.system)


def _private_bytes(daemon: Daemon) -> int:
    assert daemon.process is not None
    return int(psutil.Process(daemon.process.pid).memory_full_info().uss)


def _own(name: str, unit: str, at_most: float | None = None) -> Figure:
    """A figure with nothing beside it."""
    return Figure(name, unit, peer="", compare="own", at_most=at_most)


def _add(figure: Figure, value: float) -> None:
    figure.pairs.append((value, 0.0))


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    machine = this_machine()
    say(f"What the front costs by itself. {machine}")
    bench = Bench(options)
    try:
        bench.run()
    except (ValueError, TimeoutError, AssertionError) as error:
        print(f"tampu: {error!r}", file=sys.stderr)
        return 1
    say(f"\n{machine}\nMedians of {options.runs} runs.\n")
    say(table(bench.figures))
    if options.json:
        options.json.write_text(json.dumps([figure.to_tree() for figure in bench.figures], indent=1) + "\n")
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./build/prove front", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--runs", type=count, default=3, metavar="N", help="how often to measure (default 3)")
    parser.add_argument("--clients", type=count, default=200, metavar="N", help="at once (default 200)")
    parser.add_argument("--bursts", type=count, default=5, metavar="N", help="of all clients (default 5)")
    parser.add_argument("--asks", type=count, default=100, metavar="N", help="for the TTFT (default 100)")
    parser.add_argument("--quick", action="store_true", help="one short run: does it work at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    options = parser.parse_args(arguments)
    if options.quick:
        options.runs, options.clients, options.bursts, options.asks = 1, 20, 2, 20
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
