"""How the box is doing, as one value: read by /health, `tampu status`, MQTT status and info."""

import time
from collections.abc import Callable, Iterable
from itertools import chain, islice
from typing import Literal

import psutil
from msgspec import Struct

from agent import __version__
from agent.catalog.budget import Budget
from agent.crash import Crash
from agent.engine.messages import Loaded, Stats
from agent.engine_client import EngineClient
from agent.engine_state import EngineState
from agent.findings import Finding, by_severity
from agent.hardware.process import anonymous_bytes

# The pressure at which the box counts as degraded.
OUT_OF_MEMORY = 2
MAX_FINDINGS = 32

BoxState = Literal["starting", "online", "degraded", "stopping", "offline"]


class Memory(Struct, frozen=True):
    """Bytes of both processes now, and the budget they live in (catalog/budget.py).

    A None is not known (yet). `engine_predicted_bytes` is what the engine's anonymous memory should be
    by llama.cpp's own forecast; `level` how far the budget is lowered after deaths for memory, and
    `pressure` how short the box is of it (hardware/pressure.py).
    """

    daemon_rss_bytes: int
    engine_rss_bytes: int
    daemon_anonymous_bytes: int | None = None
    engine_anonymous_bytes: int | None = None
    engine_predicted_bytes: int | None = None
    hard_bytes: int | None = None
    hot_file_bytes: int | None = None
    is_warm: bool = True
    level: int = 0
    pressure: int = 0


class EngineStatus(Struct, frozen=True):
    """The engine process: `state` since `for_s` seconds. `is_context_free` says that it has given its
    context back and makes another for the next prompt; `wake_s` what its last waking took."""

    state: str
    for_s: float
    is_context_free: bool = False
    wake_s: float | None = None

    @property
    def is_ready(self) -> bool:
        """A request would be computed now, or as soon as the model is awake."""
        return self.state in (EngineState.READY, EngineState.ASLEEP)


class ModelStatus(Struct, frozen=True):
    """The model and how it is run: `runs` in one line for a person, `why` the reasons of the choice."""

    name: str
    quant: str
    sha256: str
    description: str
    n_ctx: int
    slots: int
    runs: str = ""
    why: tuple[str, ...] = ()


class Status(Struct, frozen=True):
    """`findings` are what the daemon's parts have to say: each a thing somebody may want to mend."""

    state: BoxState
    reason: str
    version: str
    node: str
    uptime_s: float
    mqtt: str
    model: ModelStatus | None
    live: int
    running: int
    waiting: int
    cells_used: int
    cells_total: int
    tokens_per_s: float
    engine_restarts: int
    last_crash: Crash | None
    memory: Memory
    engine: EngineStatus
    findings: tuple[Finding, ...] = ()


class ModelIdentity(Struct, frozen=True):
    """What the catalog knows of the chosen model; the rest is as in ModelStatus."""

    name: str
    quant: str
    sha256: str
    runs: str = ""
    why: tuple[str, ...] = ()


class StatusSource:
    """Builds a `Status` on demand from the parts it watches."""

    def __init__(self, node: str, engine: EngineClient, model: ModelIdentity | None = None) -> None:
        self.node = node
        self.model = model
        self.budget: Budget | None = None
        self.mqtt = "disconnected"
        # One sentence with numbers, while the box is short of memory.
        self.shortage = ""
        self.is_stopping = False
        self._engine = engine
        self._born = time.monotonic()
        self._watched: list[Callable[[], Iterable[Finding]]] = []

    def watch(self, findings: Callable[[], Iterable[Finding]]) -> None:
        """Ask this part, too, whenever the status is read: on the loop, so it must know its answer."""
        self._watched.append(findings)

    def state(self) -> tuple[BoxState, str]:
        """The state devices see, and one sentence why when it is not `online`."""
        if self.is_stopping:
            return "stopping", "the daemon is shutting down"
        engine = self._engine
        if engine.state is EngineState.FAILED:
            return "degraded", engine.reason
        if engine.pressure >= OUT_OF_MEMORY:
            return "degraded", f"this box is out of memory: {self.shortage}"
        if engine.state is EngineState.READY and engine.memory_level.level:
            return "degraded", "runs in a smaller memory budget after it was killed for memory"
        if engine.state is EngineState.READY or engine.state is EngineState.ASLEEP:
            return "online", engine.reason
        if engine.slumber.is_waking:
            return "online", f"waking: {engine.reason}"
        return ("degraded" if engine.num_restarts else "starting"), engine.reason

    def read(self) -> Status:
        """The status now."""
        state, reason = self.state()
        engine, stats = self._engine, self._engine.stats
        return Status(
            state=state,
            reason=reason,
            version=__version__,
            node=self.node,
            uptime_s=round(time.monotonic() - self._born, 1),
            mqtt=self.mqtt,
            model=self._model(),
            live=engine.dispatcher.num_live,
            running=stats.num_running if stats else 0,
            waiting=stats.num_waiting if stats else 0,
            cells_used=stats.cells_used if stats else 0,
            cells_total=stats.cells_total if stats else 0,
            tokens_per_s=round(stats.tokens_per_s, 1) if stats else 0.0,
            engine_restarts=engine.num_restarts,
            last_crash=engine.last_crash,
            memory=self._memory(),
            engine=EngineStatus(
                state=engine.state.value,
                for_s=round(time.monotonic() - engine.state_since, 1),
                is_context_free=stats.is_asleep if stats else False,
                wake_s=engine.slumber.wake_s,
            ),
            findings=by_severity(list(islice(chain.from_iterable(f() for f in self._watched), MAX_FINDINGS))),
        )

    def _memory(self) -> Memory:
        engine, budget = self._engine, self.budget
        return Memory(
            daemon_rss_bytes=_rss(None),
            engine_rss_bytes=_rss(engine.pid) if engine.pid else 0,
            daemon_anonymous_bytes=anonymous_bytes() or None,
            engine_anonymous_bytes=(anonymous_bytes(engine.pid) or None) if engine.pid else 0,
            engine_predicted_bytes=_predicted(engine.loaded, engine.stats),
            hard_bytes=budget.hard_bytes if budget else None,
            hot_file_bytes=budget.hot_file_bytes if budget else None,
            is_warm=budget.is_warm if budget else True,
            level=engine.memory_level.level,
            pressure=engine.pressure,
        )

    def _model(self) -> ModelStatus | None:
        loaded = self._engine.loaded
        if loaded is None or self.model is None:
            return None
        return ModelStatus(
            name=self.model.name,
            quant=self.model.quant,
            sha256=self.model.sha256,
            description=loaded.description,
            n_ctx=loaded.n_ctx,
            slots=loaded.n_seq_max,
            runs=self.model.runs,
            why=self.model.why,
        )


def _predicted(loaded: Loaded | None, stats: Stats | None) -> int | None:
    """The engine's anonymous memory with as many cells as it has now, in bytes."""
    forecast = loaded.memory if loaded else None
    if forecast is None or stats is None:
        return None
    if stats.is_asleep:
        return forecast.fixed_bytes
    return forecast.needed_bytes(stats.cells_total)


def _rss(pid: int | None) -> int:
    try:
        resident: int = psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0
    return resident
