"""The `health` payload: how this box is doing, small enough to be said every half minute."""

from agent.mqtt.frames import HealthPayload
from agent.status import Status
from agent.vitals import Vitals


def health_payload(status: Status, vitals: Vitals, drops: int) -> HealthPayload:
    """What to publish on `health`; `drops` is the front's own count."""
    memory = status.memory
    return HealthPayload(
        state=status.state,
        queue=max(0, status.live - status.running),
        active=status.running,
        tokens_per_s=status.tokens_per_s,
        rss_bytes=memory.daemon_rss_bytes + memory.engine_rss_bytes,
        hard_bytes=memory.hard_bytes,
        hot_file_bytes=memory.hot_file_bytes,
        cells_used=status.cells_used,
        cells_total=status.cells_total,
        temperature_c=vitals.celsius,
        is_throttled=vitals.is_throttled,
        written_per_day_bytes=vitals.written_per_day_bytes,
        uptime_s=status.uptime_s,
        drops=drops,
    )
