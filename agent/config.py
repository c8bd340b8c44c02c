"""Every knob on one page: frozen structs whose types say what is allowed.

config_file.py fills them from YAML, the environment and the command line. Every key has a default;
lengths in bytes say so, times are in seconds.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

NAME = r"^[A-Za-z0-9_.-]{1,64}\Z"
"""Nodes, clients and ids on the wire; `.` and `..` are refused besides."""

CLIENT = r"^([A-Za-z0-9_.-]{1,64}|\*)\Z"
"""A client's name, or `*`: every client that has no entry of its own."""

SIZE = r"^(auto|[0-9]{1,6}(\.[0-9]{1,3})?[KMG])\Z"
"""`auto`, or a number with its unit: K, M and G are 2**10, 2**20 and 2**30 bytes, as systemd has them."""

QUANT = r"^(auto|[A-Z0-9_]{1,16})\Z"
"""`auto`, or what a manifest calls a quant."""

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

Name = Annotated[str, Meta(pattern=NAME)]
Port = Annotated[int, Meta(ge=1, le=65535)]
TopicPrefix = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*\Z", max_length=128)]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Tls(_Section, frozen=True):
    """Paths of PEM files. `ca` alone checks the broker; `cert` and `key` also name us to it.

    `dates`: of a certificate are looked at; with `auto` not while the box's clock is before this release.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    dates: Literal["auto", "checked"] = "auto"


class Mqtt(_Section, frozen=True):
    """`pools` are streams of work this box shares with others; `pool_group` is the name they share it under,
    the same on all: whoever knows it and may log in gets work meant for them. `operators` says what the
    `ctl` topics may: nothing, look, or also change what runs here. `health` is published every `health_s`
    seconds."""

    host: Annotated[str, Meta(min_length=1, max_length=255)] = "127.0.0.1"
    port: Port = 1883
    protocol: Literal["auto", 5, "5", "3.1.1"] = "auto"
    prefix: TopicPrefix = "tampu/v1"
    username: str | None = None
    password_file: str | None = None
    tls: Tls | None = None
    keepalive_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    reply_prefixes: tuple[TopicPrefix, ...] = ()
    pools: Annotated[tuple[Name, ...], Meta(max_length=8)] = ()
    pool_group: Name = "tampu"
    operators: Literal["none", "read", "write"] = "read"
    home_assistant: bool = False
    home_assistant_prefix: TopicPrefix = "homeassistant"
    health_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0


class Api(_Section, frozen=True):
    socket: str = ""
    group: str | None = None


class Models(_Section, frozen=True):
    """`variant` is a quant of the manifest. A model that would decode slower than `speed_floor` tokens per
    second is taken only where no other fits."""

    folder: str = ""
    manifest: str | None = None
    name: Annotated[str, Meta(min_length=1)] = "auto"
    variant: Annotated[str, Meta(pattern=QUANT)] = "auto"
    speed_floor: Annotated[float, Meta(ge=0, le=1000)] = 2.0


class Idle(_Section, frozen=True):
    """After how long without a request memory is given back, in seconds; 0 means never.

    First the engine frees its context (the next prompt makes another, in tens of milliseconds), then
    the daemon ends the engine process (the next prompt loads the model again).
    """

    context_s: Annotated[float, Meta(ge=0, le=604_800)] = 300.0
    process_s: Annotated[float, Meta(ge=0, le=604_800)] = 1800.0


class Engine(_Section, frozen=True):
    """`memory` bounds the anonymous memory of both processes and the mapped weights that stay in RAM,
    together: see agent/catalog/budget.py. A plain number is in bytes. `gpu` is how many layers a GPU
    computes; `repack` gives the CPU a faster copy of the weights, in anonymous memory."""

    memory: Annotated[int, Meta(ge=1 << 20)] | Annotated[str, Meta(pattern=SIZE)] = "auto"
    n_ctx: Annotated[int, Meta(ge=256, le=1 << 20)] | Literal["auto"] = "auto"
    slots: Annotated[int, Meta(ge=1, le=64)] | Literal["auto"] = "auto"
    kv_type: Literal["auto", "f16", "q8_0", "q4_0"] = "auto"
    threads: Annotated[int, Meta(ge=1, le=256)] | Literal["auto"] = "auto"
    gpu: Annotated[int, Meta(ge=1, le=1024)] | Literal["auto", "all", "off"] = "auto"
    repack: Literal["auto", "on", "off"] = "auto"
    idle: Idle = Idle()

    @property
    def memory_bytes(self) -> int | None:
        """`memory` as a number; None is `auto`."""
        if isinstance(self.memory, int):
            return self.memory
        return None if self.memory == "auto" else int(float(self.memory[:-1]) * _UNITS[self.memory[-1]])


class Profile(_Section, frozen=True):
    """A named system prompt."""

    system: Annotated[str, Meta(min_length=1, max_length=32768)]


class Limits(_Section, frozen=True):
    """`queue` and `per_client` count requests that have not ended yet, running ones included.

    `requests_per_minute` is a client's steady rate, after a burst of `burst`.
    `priority` is the highest a request may ask for. Of each session the newest whole turns are kept
    that have `session_bytes` together, until nobody has used it for `session_ttl_s`.
    """

    queue: Annotated[int, Meta(ge=1, le=4096)] = 64
    per_client: Annotated[int, Meta(ge=1, le=4096)] = 8
    requests_per_minute: Annotated[float, Meta(gt=0, le=1e6)] = 600.0
    burst: Annotated[int, Meta(ge=1, le=4096)] = 60
    request_bytes: Annotated[int, Meta(ge=256, le=4 << 20)] = 65536
    max_tokens: Annotated[int, Meta(ge=1, le=1 << 20)] = 1024
    ttl_s: Annotated[float, Meta(gt=0, le=86400)] = 3600.0
    priority: Annotated[int, Meta(ge=-9, le=9)] = 0
    sessions: Annotated[int, Meta(ge=1, le=4096)] = 64
    sessions_per_client: Annotated[int, Meta(ge=1, le=4096)] = 8
    session_bytes: Annotated[int, Meta(ge=256, le=1 << 20)] = 65536
    session_ttl_s: Annotated[float, Meta(gt=0, le=30 * 86400)] = 3600.0


class ClientRules(_Section, frozen=True):
    """What one MQTT client may, where that is less than everybody may. None: as `limits` says.

    `profiles` are those it may name (None: all). Without `own_system` it may bring no system prompt of its
    own, as `system` or in `messages`; with `profiles` besides, each of its answers stands under one of
    them: the only one where it names none, and of several it must name one. `sessions` 0 means none,
    `per_client` 0 that it may ask nothing. `priority` is the highest it may ask for. Of its
    `requests_per_minute` it may send at most one minute's at once. An entry is all that counts for its
    client: what it leaves out is not taken from `*`.
    """

    profiles: tuple[Name, ...] | None = None
    own_system: bool = True
    max_tokens: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    priority: Annotated[int, Meta(ge=-9, le=9)] | None = None
    sessions: Annotated[int, Meta(ge=0, le=4096)] | None = None
    per_client: Annotated[int, Meta(ge=0, le=4096)] | None = None
    requests_per_minute: Annotated[float, Meta(gt=0, le=1e6)] | None = None


class Journal(_Section, frozen=True):
    """Where accepted requests and their results are kept: on `disk`, in `memory` until the daemon ends, or
    not beyond the result (`off`). Results go after `keep_s` seconds (at least 600 more than a request may
    live), or earlier, the oldest first, for the bounds of `max_rows` and `max_bytes`."""

    mode: Literal["disk", "memory", "off"] = "disk"
    folder: str = ""
    max_rows: Annotated[int, Meta(ge=64, le=1 << 20)] = 4096
    max_bytes: Annotated[int, Meta(ge=1 << 16, le=1 << 34)] = 32 << 20
    keep_s: Annotated[float, Meta(ge=60, le=30 * 86400)] = 7200.0


class Metrics(_Section, frozen=True):
    """`textfile` is written for Prometheus's node exporter every `every_s` seconds (*.prom)."""

    textfile: str | None = None
    every_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0


class Log(_Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    prompts: bool = False


class Config(_Section, frozen=True):
    node: Annotated[str, Meta(pattern=NAME)] = ""
    mqtt: Mqtt = Mqtt()
    api: Api = Api()
    models: Models = Models()
    engine: Engine = Engine()
    profiles: dict[Name, Profile] = {}
    clients: dict[Annotated[str, Meta(pattern=CLIENT)], ClientRules] = {}
    limits: Limits = Limits()
    journal: Journal = Journal()
    metrics: Metrics = Metrics()
    log: Log = Log()


def to_tree(config: Config) -> dict[str, Any]:
    """Plain values, as `tampu config show` prints them. Holds no secret: passwords live in files."""
    tree: dict[str, Any] = msgspec.to_builtins(config)
    return tree
