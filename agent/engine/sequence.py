"""One request inside the engine: its tokens, how many of them are computed, and where it stands."""

import time
from dataclasses import dataclass, field

from agent.engine.detokenizer import Detokenizer
from agent.engine.sampler import Sampler
from agent.request import Timings, Usage

NO_SLOT = -1


@dataclass(slots=True, eq=False)
class Sequence:
    """`tokens` is the prompt followed by what was generated; the first `num_computed` are in the KV cache.

    A preempted sequence loses its cells and keeps its tokens: computing them again continues the
    answer as if nothing had happened. A sequence resumed after an engine crash starts like that.
    """

    key: int
    client: str
    tokens: list[int]
    num_prompt: int
    max_tokens: int
    sampler: Sampler
    detokenizer: Detokenizer
    # So many of the first tokens say nothing of the client: template and system prompt.
    num_public: int = 0
    slot: int = NO_SLOT
    num_computed: int = 0
    num_cached: int | None = None
    # Times a later one was admitted because this one did not fit.
    num_skips: int = 0
    arrived_at: float = field(default_factory=time.monotonic)
    admitted_at: float | None = None
    first_token_at: float | None = None
    # Reported by the next Delta.
    new_tokens: list[int] = field(default_factory=list)
    new_text: str = ""

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_remaining(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 for a running stream."""
        return len(self.tokens) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        return self.num_remaining == 1 and self.num_generated > 0

    def mark_admitted(self) -> None:
        """Note the first time the sequence got a slot."""
        if self.admitted_at is None:
            self.admitted_at = time.monotonic()

    def note_cached(self, count: int) -> None:
        """Of the prompt, `count` tokens were resident when the sequence first got a slot."""
        if self.num_cached is None:
            self.num_cached = min(count, self.num_prompt)

    def usage(self) -> Usage:
        return Usage(prompt=self.num_prompt, cached=self.num_cached or 0, completion=self.num_generated)

    def timings(self) -> Timings:
        """Seconds waiting for a slot, until the first token, and generating."""
        now = time.monotonic()
        admitted = self.admitted_at if self.admitted_at is not None else now
        first = self.first_token_at if self.first_token_at is not None else now
        return Timings(
            queue_s=round(admitted - self.arrived_at, 4),
            prefill_s=round(first - admitted, 4),
            decode_s=round(now - first, 4),
        )
