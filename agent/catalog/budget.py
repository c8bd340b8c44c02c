"""How much memory we take: one budget in bytes, two numbers.

    hard      anonymous memory of both processes (KV cache, compute buffers, Python): never exceeded
    hot file  mapped weights that should stay in the page cache

`hard + hot file` is at most what is there (`engine.memory`, or all that is available less a margin).
What is needed at least comes first, then the file, then more of the hard memory:

    fits warm   the whole file stays in memory beside the hard minimum
    fits cold   the hard minimum fits, and parts of the file are read again and again
    refused     not even that
"""

from msgspec import Struct

from agent.errors import InsufficientMemory

# The daemon itself: 25 MiB anonymous after serving eight clients over MQTT, and room for their texts.
DAEMON_BYTES = 32 << 20
# Kept free for others on the box when nobody said how much we may take; less where a cgroup is ours.
MARGIN_BYTES = 64 << 20
OWN_MARGIN_BYTES = 8 << 20
MARGIN_PARTS = 10
# Each level below the first leaves so much of the one before.
LEVEL_FACTOR = 0.7


class Budget(Struct, frozen=True):
    """Bytes; `why` is one sentence with the numbers."""

    hard_bytes: int
    hot_file_bytes: int
    is_warm: bool
    level: int
    why: str

    @property
    def engine_bytes(self) -> int:
        """The engine process's share of the hard memory."""
        return self.hard_bytes - DAEMON_BYTES


def plan(
    limit: int | None,
    available: int,
    file_bytes: int,
    engine_bytes: int,
    level: int = 0,
    own: int | None = None,
    most_bytes: int | None = None,
) -> Budget:
    """The budget for one model file, in bytes. Raises InsufficientMemory with the next step.

    `limit` is the configured bound, None for none; `available` what both processes may have of the
    box, and `own` of their cgroups (None: no limit), what they already have included; `file_bytes`
    are read of the file again and again, and `engine_bytes` is the anonymous memory the engine process
    needs at least, the smallest useful KV cache included; more than `most_bytes` of it are of no use.
    Level n leaves `LEVEL_FACTOR` ** n of the hard memory, and never less than the minimum.
    """
    memory = memory_bytes(limit, available, own)
    least = DAEMON_BYTES + engine_bytes
    if memory < least:
        raise _refusal(limit, memory, least)
    hot_file = min(file_bytes, memory - least)
    useful = memory - hot_file
    if most_bytes is not None:
        useful = min(useful, DAEMON_BYTES + most_bytes)
    hard = max(least, int(useful * LEVEL_FACTOR**level))
    is_warm = hot_file == file_bytes
    return Budget(hard, hot_file, is_warm, level, _why(limit, memory, hard, hot_file, file_bytes, level))


def memory_bytes(limit: int | None, available: int, own: int | None) -> int:
    """What we may take in all. A configured bound needs no margin, and makes no memory that is not there."""
    if limit is not None:
        return min(limit, available, available if own is None else own)
    shared = max(0, available - max(MARGIN_BYTES, available // MARGIN_PARTS))
    return shared if own is None else min(shared, max(0, own - OWN_MARGIN_BYTES))


def _refusal(limit: int | None, memory: int, least: int) -> InsufficientMemory:
    whose = "are available after a margin for others" if limit is None else "are allowed (engine.memory)"
    if limit is not None and memory < limit:
        whose = f"are available ({limit >> 20} MiB are allowed)"
    return InsufficientMemory(
        f"this model needs {_mib(least)} of anonymous memory at least, and {_mib(memory)} {whose};"
        " free memory, raise engine.memory, or choose a smaller model with models.name",
        needed_bytes=least,
        available_bytes=memory,
    )


def _why(limit: int | None, memory: int, hard: int, hot_file: int, file_bytes: int, level: int) -> str:
    whose = "available less a margin" if limit is None else "engine.memory"
    if limit is not None and memory < limit:
        whose = "available, less than engine.memory"
    lowered = f", lowered to level {level} after deaths for memory" if level else ""
    warm = (
        f"the whole file of {_mib(file_bytes)} stays in memory"
        if file_bytes
        else "no more is read of the file"
    )
    if hot_file < file_bytes:
        warm = f"{_mib(hot_file)} of the file's {_mib(file_bytes)} stay in memory: answers wait for the disk"
    return f"{_mib(memory)} ({whose}): {_mib(hard)} hard{lowered}; {warm}"


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"
