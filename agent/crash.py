"""How the engine process last died, as one value: shown to people, and kept over the daemon's own end."""

import time
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

MAX_WORDS_CHARS = 160


class Crash(Struct, frozen=True, kw_only=True):
    """One death of the engine process.

    `how` is the signal's name or the exit status, `phase` what the engine was doing (engine_state.py),
    `model` what it ran ("" before one was loaded), `words` the line it wrote that says why. `count` is how
    often it has died in this daemon's life; 0: in an earlier one. `at` is Unix time, as true as the
    box's clock was.
    """

    how: str
    phase: str
    model: str = ""
    words: str = ""
    count: int = 1
    at: float = 0.0

    @classmethod
    def of(
        cls, how: str, phase: str, words: str = "", *, model: str = "", before: "Crash | None" = None
    ) -> "Crash":
        """A death that is noticed now; `before` is the one before it, if any."""
        return cls(
            how=how,
            phase=phase,
            model=model,
            words=words[:MAX_WORDS_CHARS],
            count=before.count + 1 if before else 1,
            at=round(time.time(), 1),
        )

    @property
    def is_earlier(self) -> bool:
        """It was in the life of an earlier daemon."""
        return self.count == 0

    @property
    def sentence(self) -> str:
        """How, doing what, and why, for a person: `SIGABRT while ready: GGML_ASSERT(...) failed`."""
        return f"{self.how} while {self.phase}" + (f": {self.words}" if self.words else "")

    @property
    def date(self) -> str:
        """When, to the minute: `2026-03-01 12:30 UTC`; "" where nobody knows."""
        try:
            return f"{datetime.fromtimestamp(self.at, UTC):%Y-%m-%d %H:%M} UTC" if self.at > 0 else ""
        except (ValueError, OverflowError, OSError):  # a clock beyond all years
            return ""


def encode(crash: Crash) -> bytes:
    """The bytes to keep."""
    return msgspec.msgpack.encode(crash)


def decode(data: bytes) -> Crash | None:
    """The crash that was kept, now one of an earlier daemon; None for bytes that hold none."""
    try:
        crash = msgspec.msgpack.decode(data, type=Crash)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return msgspec.structs.replace(crash, count=0)
