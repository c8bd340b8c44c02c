"""What the box says: every frame and retained payload, as structs.

Tagged structs carry their tag as `type`. Offsets count UTF-8 bytes, times are in seconds.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from agent.errors import RequestError
from agent.mqtt.server import MAX_PUBLISH_BYTES, PUBLISH_OVERHEAD_BYTES
from agent.request import Timings, Trimmed, Usage

# The largest payload there is, whatever the broker takes.
MAX_BYTES = MAX_PUBLISH_BYTES - PUBLISH_OVERHEAD_BYTES


class _Common(Struct, kw_only=True):
    """On every frame: `seq` counts the frames of a request, `run` how often it was begun."""

    id: str
    seq: int
    run: int
    node: str


class Accepted(_Common, kw_only=True, tag="accepted"):
    """The request will be answered; the values are those really used. Small frames leave some out."""

    queue_pos: int | UnsetType = UNSET
    boot_id: str | UnsetType = UNSET
    max_tokens: int | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    ttl_s: float | UnsetType | None = UNSET
    priority: int | UnsetType = UNSET
    session: str | UnsetType = UNSET


class DeltaFrame(_Common, kw_only=True, tag="delta"):
    """New text at `off`, an offset in UTF-8 bytes."""

    off: int
    text: str


class Snapshot(DeltaFrame, kw_only=True, tag="snapshot"):
    """All text so far, after a gap."""


class Chunk(DeltaFrame, kw_only=True, tag="chunk"):
    """A part of an answer too large for one `done`."""


class Done(_Common, kw_only=True, tag="done"):
    """The end: the whole text, or the number and the SHA-256 of the chunks that hold it."""

    finish_reason: str
    text: str | UnsetType = UNSET
    chunks: int | UnsetType = UNSET
    sha256: str | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    trimmed: Trimmed | UnsetType = UNSET


class ErrorFrame(_Common, kw_only=True, tag="error"):
    """The end without an answer."""

    code: str
    status: int
    message: str
    retryable: bool
    retry_after_ms: int | UnsetType = UNSET
    detail: dict[str, Any] | UnsetType = UNSET

    @classmethod
    def of(cls, error: RequestError, **common: Any) -> "ErrorFrame":
        """The frame of an error; `common` are the fields every frame has."""
        return cls(
            **common,
            code=error.code,
            status=error.status,
            message=error.message,
            retryable=error.retryable,
            retry_after_ms=UNSET if error.retry_after_ms is None else error.retry_after_ms,
            detail=error.detail or UNSET,
        )


class Progress(_Common, kw_only=True, tag="progress"):
    """Still at it: where the request is, and how much of its prompt is computed (tokens)."""

    phase: Literal["queued", "prefill", "decode"]
    queue_pos: int | UnsetType = UNSET
    prompt_done: int | UnsetType = UNSET
    prompt_total: int | UnsetType = UNSET


class StatusPayload(Struct, kw_only=True):
    """Retained on `status`; `since` is Unix time, as true as the box's clock."""

    state: str
    reason: str
    boot_id: str
    since: float


class HealthPayload(Struct, kw_only=True):
    """On `health`, every `mqtt.health_s` seconds. Sizes in bytes; null is not known on this box.

    `queue` waits and `active` is computed; `cells_*` are the KV cache's. `written_per_day_bytes` is what
    both processes have the disk write, at the rate of this daemon's life. `drops` counts the messages
    that were thrown away because nobody could be told.
    """

    state: str
    queue: int
    active: int
    tokens_per_s: float
    rss_bytes: int
    hard_bytes: int | None
    hot_file_bytes: int | None
    cells_used: int
    cells_total: int
    temperature_c: float | None
    is_throttled: bool | None
    written_per_day_bytes: int | None
    uptime_s: float
    drops: int


_encoder = msgspec.json.Encoder()


def encode(frame: Struct) -> bytes:
    """The JSON bytes of a frame or retained payload; tagged structs carry their tag as `type`."""
    return _encoder.encode(frame)
