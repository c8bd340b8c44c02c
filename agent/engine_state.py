"""Where the engine child is in its life."""

from enum import StrEnum


class EngineState(StrEnum):
    """A sleeping child has ended to give its memory back; the next request starts another. With `reloading`
    it has ended so that another one may load another model."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    ASLEEP = "asleep"
    RELOADING = "reloading"
    FAILED = "failed"
