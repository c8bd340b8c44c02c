"""What a client sees of an answer, and what follows from that for one of them or for many."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer; times are of the client's monotonic clock. `arrivals` are those of text.

    The counts are the server's own and 0 where it sent none. `error` is empty when the answer came to its
    end; one that was cut keeps what had arrived by then.
    """

    asked_at: float
    arrivals: tuple[float, ...]
    ended_at: float
    num_prompt: int = 0
    num_cached: int = 0
    num_tokens: int = 0
    error: str = ""

    @property
    def ttft_s(self) -> float:
        """From the request to the first text. Raises ValueError when none came."""
        if not self.arrivals:
            raise ValueError(f"no text came: {self.error or 'the answer is empty'}")
        return self.arrivals[0] - self.asked_at

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first one: the first is prefill's.

        Of an answer that was cut the arrivals are counted, which are fewer than its tokens or as many;
        where not even two came, what is said is at most.
        """
        if len(self.arrivals) < 2:
            return 1 / (self.ended_at - self.asked_at)
        return ((self.num_tokens or len(self.arrivals)) - 1) / (self.ended_at - self.arrivals[0])

    def gaps(self, start: float, end: float) -> list[float]:
        """Seconds without text, for all pauses that began or ended in between."""
        return [
            after - before for before, after in pairwise(self.arrivals) if after >= start and before <= end
        ]


@dataclass(frozen=True, slots=True)
class Fleet:
    """All answers of a group of clients."""

    streams: tuple[Stream, ...]

    @property
    def answered(self) -> tuple[Stream, ...]:
        return tuple(stream for stream in self.streams if not stream.error)

    @property
    def rate(self) -> float:
        """Tokens per second of the answers that came to their end, from the first request to the last end."""
        start = min(stream.asked_at for stream in self.streams)
        end = max(stream.ended_at for stream in self.streams)
        return sum(stream.num_tokens for stream in self.answered) / (end - start)

    @property
    def ttfts_s(self) -> list[float]:
        return [stream.ttft_s for stream in self.answered]

    @property
    def mean_tokens(self) -> float:
        """Of an answer, as the server counts."""
        return sum(stream.num_tokens for stream in self.answered) / max(1, len(self.answered))

    @property
    def errors(self) -> tuple[str, ...]:
        """One of each kind."""
        return tuple(sorted({stream.error for stream in self.streams if stream.error}))

    def check_complete(self, who: str, num_tokens: int = 0) -> None:
        """Raises ValueError unless every answer came to its end, nearly none before `num_tokens`."""
        if self.errors:
            missing = len(self.streams) - len(self.answered)
            raise ValueError(f"{who}: {missing} of {len(self.streams)} answers failed: {self.errors[0]}")
        if self.mean_tokens < 0.95 * num_tokens:
            raise ValueError(f"{who}: answers of {num_tokens} tokens ended after {self.mean_tokens:.1f}")


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least so many percent do not exceed. Raises ValueError for no values."""
    ordered: Sequence[float] = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
