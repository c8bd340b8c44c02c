"""Where the engine child is in its life."""

from enum import StrEnum


class EngineState(StrEnum):
    """A sleeping child has ended to give its memory back; the next request starts another."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    ASLEEP = "asleep"
    FAILED = "failed"
