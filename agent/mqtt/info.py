"""The retained `info` payload: who this box is and what it can do."""

from typing import Any

import msgspec
from msgspec import Struct

from agent.config import Config
from agent.crash import Crash
from agent.engine.messages import Forecast
from agent.engine_client import EngineClient
from agent.mqtt.payloads import VERSION
from agent.status import Memory, ModelStatus, Status

FEATURES = (
    "stream",
    "cancel",
    "seed",
    "stop",
    "profile",
    "session",
    "supersede",
    "priority",
    "response_topic",
    "text_payload",
    "schema",
    "get",
    "max_frame",
    "progress",
    "health",
    "ctl",
    "pool",
    "journal",
)


class DeviceInfo(Struct, frozen=True):
    """A compute device of the engine; memory in bytes."""

    name: str
    description: str
    kind: str
    total_bytes: int


class LimitsInfo(Struct, frozen=True):
    queue: int
    per_client: int
    request_bytes: int
    max_tokens: int
    ttl_s: float
    priority: int
    sessions: int
    sessions_per_client: int
    session_bytes: int
    session_ttl_s: float


class BudgetInfo(Struct, frozen=True):
    """What the box takes of its memory at most, in bytes: see README, Memory."""

    hard_bytes: int
    hot_file_bytes: int
    is_warm: bool
    level: int


class ContractInfo(Struct, frozen=True):
    """The JSON Schema of what is spoken here: a file of the package, and the SHA-256 of its content."""

    file: str
    sha256: str


class Info(Struct, frozen=True):
    """Retained on `info`."""

    v: int
    version: str
    node: str
    build: str
    devices: tuple[DeviceInfo, ...]
    model: ModelStatus | None
    budget: BudgetInfo | None
    forecast: Forecast | None
    limits: LimitsInfo
    profiles: tuple[str, ...]
    features: tuple[str, ...]
    last_crash: Crash | None
    contract: ContractInfo
    pools: tuple[str, ...] = ()


def info_payload(status: Status, config: Config, engine: EngineClient, contract: ContractInfo) -> bytes:
    """The JSON bytes to retain on the info topic."""
    hello, limits = engine.hello, config.limits
    devices: Any = hello.devices if hello else ()
    info = Info(
        v=VERSION,
        version=status.version,
        node=config.node,
        build=hello.build if hello else "",
        devices=tuple(DeviceInfo(d.name, d.description, d.kind, d.total_bytes) for d in devices),
        model=status.model,
        budget=_budget(status.memory),
        forecast=engine.loaded.memory if engine.loaded else None,
        limits=LimitsInfo(
            queue=limits.queue,
            per_client=limits.per_client,
            request_bytes=limits.request_bytes,
            max_tokens=limits.max_tokens,
            ttl_s=limits.ttl_s,
            priority=limits.priority,
            sessions=limits.sessions,
            sessions_per_client=limits.sessions_per_client,
            session_bytes=limits.session_bytes,
            session_ttl_s=limits.session_ttl_s,
        ),
        profiles=tuple(sorted(config.profiles)),
        features=FEATURES,
        last_crash=engine.last_crash,
        contract=contract,
        pools=config.mqtt.pools,
    )
    return msgspec.json.encode(info)


def _budget(memory: Memory) -> BudgetInfo | None:
    if memory.hard_bytes is None or memory.hot_file_bytes is None:
        return None
    return BudgetInfo(memory.hard_bytes, memory.hot_file_bytes, memory.is_warm, memory.level)
