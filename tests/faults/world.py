"""The real processes of a storm, and a wire of our own between each of them and the broker."""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent.errors import TampuError
from tests.bench.memory import memory_of
from tests.faults.device import Device
from tests.faults.history import Footprint, Harm, History, Hurt
from tests.faults.journal_disk import JournalDisk
from tests.faults.proxy import Proxy
from tests.faults.workload import TALKER
from tests.support.gguf_builder import build
from tests.support.processes import Daemon, Mosquitto, fake_daemon

NODE = "box"
BASE = f"tampu/v1/{NODE}"
STARTS_WITHIN_S = 40.0
MIB = 1 << 20
CALM = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
WATCH_EVERY_S = 0.05
SAMPLE_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Setting:
    """How large the world is; `step_s` is the fake model's time for one step."""

    num_clients: int = 6
    step_s: float = 0.015
    resend_s: float = 4.0


class World:
    """Broker, daemon and devices in a folder; `start` and `stop`, or `running`."""

    def __init__(self, folder: Path, setting: Setting, rng: random.Random) -> None:
        self.folder = folder
        self.setting = setting
        self.history = History()
        self.rng = rng
        self.num_forgotten = 0
        self.num_boots = 0
        (folder / "broker").mkdir(parents=True)
        (folder / "daemon").mkdir()
        self.disk = JournalDisk(folder / "journal")
        self.broker = Mosquitto(folder / "broker")
        self.daemon_wire = Proxy(self.broker.port)
        self.devices: list[Device] = []
        self.client_wires: list[Proxy] = []
        self.daemon: Daemon | None = None
        self._is_supervised = True
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Everything up, the daemon online."""
        self.set_memory()
        self.disk.mount()
        await asyncio.to_thread(self.broker.start)
        await self.daemon_wire.start()
        for number in range(self.setting.num_clients):
            await self._add_device(number)
        self.daemon = self._make_daemon()
        self.daemon.start()
        self.num_boots = 1
        self._tasks.append(asyncio.create_task(self._supervise(), name="supervisor"))
        await self.online()
        self.history.footprints.append(self.footprint())
        self._tasks.append(asyncio.create_task(self._sample(), name="footprints"))

    async def stop(self) -> None:
        """Everything down; nothing of ours is left running or mounted."""
        self._is_supervised = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.daemon:
            await asyncio.to_thread(self.daemon.kill)
        for wire in (self.daemon_wire, *self.client_wires):
            await wire.close()
        await asyncio.to_thread(self.broker.stop)
        self.disk.unmount()

    async def stop_daemon(self) -> int:
        """Politely, as systemd does; its exit status."""
        self._is_supervised = False
        assert self.daemon is not None
        return await asyncio.to_thread(self.daemon.stop, STARTS_WITHIN_S)

    async def online(self) -> None:
        """Wait until the daemon is connected and its engine ready. Raises TimeoutError with its log."""
        try:
            async with asyncio.timeout(STARTS_WITHIN_S):
                while not await self._is_online():
                    await asyncio.sleep(WATCH_EVERY_S)
        except TimeoutError:
            raise TimeoutError(await self._what_daemon_says()) from None

    async def _what_daemon_says(self) -> str:
        """Its state, and its last words."""
        assert self.daemon is not None
        status = await asyncio.to_thread(self.daemon.status)
        log = self.daemon.log.read_text().splitlines()[-5:]
        state = ", ".join(f"{name} {status.get(name)!r}" for name in ("state", "reason", "mqtt"))
        return f"the daemon is not online: {state}; its log ends: {' / '.join(log)}"

    async def until(self, check: Callable[[], object], timeout_s: float) -> bool:
        """Wait until `check` is true; False when that takes too long."""
        deadline = time.monotonic() + timeout_s
        while not check():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(WATCH_EVERY_S)
        return True

    def note(self, harm: Harm, start_s: float) -> None:
        """Remember a harm that began then and ends now."""
        self.history.hurts.append(Hurt(harm, start_s, time.monotonic()))

    def set_memory(self, *, available: int = 1024 * MIB, psi: str = CALM) -> None:
        """What the daemon reads about the box's memory."""
        proc = self.folder / "root" / "proc"
        (proc / "pressure").mkdir(parents=True, exist_ok=True)
        files = {
            "meminfo": f"MemTotal: {2048 << 10} kB\nMemAvailable: {available >> 10} kB\n",
            "vmstat": "oom_kill 0\n",
            "pressure/memory": psi,
        }
        for name, text in files.items():
            fresh = proc / f"{name}.new"
            fresh.write_text(text)
            fresh.rename(proc / name)

    # ---- processes ---------------------------------------------------------------------------

    def signal_daemon(self, number: int) -> None:
        """To the daemon alone."""
        assert self.daemon is not None
        if self.daemon.process and self.daemon.process.poll() is None:
            self.daemon.process.send_signal(number)

    def signal_engine(self, number: int) -> bool:
        """To the engine child; False when there is none now."""
        assert self.daemon is not None
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if pid := self.daemon.engine_pid():
                os.kill(pid, number)
                return True
        return False

    def _make_daemon(self) -> Daemon:
        models = self.folder / "models"
        models.mkdir()
        (models / "fake.gguf").write_bytes(build())
        tree = {
            "node": NODE,
            "mqtt": {"port": self.daemon_wire.port, "keepalive_s": 5},
            "models": {"folder": str(models), "name": "fake.gguf"},
            "engine": {"n_ctx": 8192, "threads": 1},
            "limits": {"requests_per_minute": 1e6, "burst": 4096, "per_client": 16},
            "journal": {"folder": str(self.disk.folder), "max_bytes": 4 * MIB},
        }
        return fake_daemon(self.folder / "daemon", tree, self.setting.step_s, self.folder / "root")

    async def _add_device(self, number: int) -> None:
        wire = Proxy(self.broker.port)
        await wire.start()
        is_talker = number == self.setting.num_clients - 1
        device = Device(
            TALKER if is_talker else f"c{number}",
            BASE,
            wire.port,
            lambda: self.num_forgotten,
            is_patient=number % 2 == 0,
            max_open=1 if is_talker else 4,
            resend_s=self.setting.resend_s,
        )
        self.client_wires.append(wire)
        self.devices.append(device)
        self._tasks.append(asyncio.create_task(device.run(), name=f"device {device.name}"))
        await device.session.is_up.wait()

    async def _supervise(self) -> None:
        """Start a daemon that has died again after a while, as systemd does."""
        assert self.daemon is not None
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            process = self.daemon.process
            if not self._is_supervised or process is None or process.poll() is None:
                continue
            await asyncio.sleep(self.rng.uniform(0.1, 1.0))
            if self._is_supervised:
                self.daemon.start()
                self.num_boots += 1

    async def _is_online(self) -> bool:
        assert self.daemon is not None
        status = await asyncio.to_thread(self.daemon.status)
        is_up = status.get("ready") and status.get("state") in self.history.states_in_calm
        return bool(is_up and str(status.get("mqtt")).startswith("connected"))

    async def _sample(self) -> None:
        """The daemon's footprint, again and again."""
        while self._is_supervised:
            await asyncio.sleep(SAMPLE_EVERY_S)
            with contextlib.suppress(psutil.Error, OSError, TampuError, KeyError, IndexError):
                self.history.footprints.append(self.footprint())

    def footprint(self) -> Footprint:
        """Now. Raises psutil.Error when the daemon is gone."""
        assert self.daemon is not None
        assert self.daemon.process is not None
        process = psutil.Process(self.daemon.process.pid)
        return Footprint(
            at_s=time.monotonic(),
            pid=process.pid,
            private_bytes=memory_of(process.pid).anonymous or 0,
            num_fds=process.num_fds(),
            num_threads=process.num_threads(),
            journal_bytes=self.disk.used_bytes(),
        )


@contextlib.asynccontextmanager
async def running(folder: Path, setting: Setting, rng: random.Random) -> AsyncIterator[World]:
    """A world until the end of the block."""
    world = World(folder, setting, rng)
    try:
        await world.start()
        yield world
    finally:
        await world.stop()
