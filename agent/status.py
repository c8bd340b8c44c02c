"""How the box is doing, as one value: read by /health, `tampu status`, MQTT status and info."""

import time
from typing import Literal

import psutil
from msgspec import Struct

from agent import __version__
from agent.engine_client import EngineClient, EngineState

BoxState = Literal["starting", "online", "degraded", "stopping", "offline"]


class Memory(Struct, frozen=True):
    """Resident bytes of both processes now."""

    daemon_rss_bytes: int
    engine_rss_bytes: int


class ModelStatus(Struct, frozen=True):
    name: str
    quant: str
    sha256: str
    description: str
    n_ctx: int
    slots: int


class Status(Struct, frozen=True):
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
    last_crash: str | None
    memory: Memory


class ModelIdentity(Struct, frozen=True):
    """What the catalog knows of the chosen model."""

    name: str
    quant: str
    sha256: str


class StatusSource:
    """Builds a `Status` on demand from the parts it watches."""

    def __init__(self, node: str, engine: EngineClient, model: ModelIdentity | None = None) -> None:
        self.node = node
        self.model = model
        self.mqtt = "disconnected"
        self.is_stopping = False
        self._engine = engine
        self._born = time.monotonic()

    def state(self) -> tuple[BoxState, str]:
        """The state devices see, and one sentence why when it is not `online`."""
        if self.is_stopping:
            return "stopping", "the daemon is shutting down"
        match self._engine.state:
            case EngineState.READY:
                return "online", ""
            case EngineState.FAILED:
                return "degraded", self._engine.reason
            case _:
                return ("degraded" if self._engine.num_restarts else "starting"), self._engine.reason

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
            live=engine.num_live,
            running=stats.num_running if stats else 0,
            waiting=stats.num_waiting if stats else 0,
            cells_used=stats.cells_used if stats else 0,
            cells_total=stats.cells_total if stats else 0,
            tokens_per_s=round(stats.tokens_per_s, 1) if stats else 0.0,
            engine_restarts=engine.num_restarts,
            last_crash=engine.last_crash,
            memory=Memory(
                daemon_rss_bytes=_rss(None), engine_rss_bytes=_rss(engine.pid) if engine.pid else 0
            ),
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
        )


def _rss(pid: int | None) -> int:
    try:
        resident: int = psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0
    return resident
