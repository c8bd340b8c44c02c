"""One request inside the engine: its tokens, how many of them are computed, and where it stands."""

import time
from dataclasses import dataclass, field

from agent.engine.detokenizer import Detokenizer
from agent.engine.sampler import Sampler
from agent.request import NOTHING_TRIMMED, Timings, Trimmed, Usage

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
    # The prompt's tokens (start, end) of earlier turns, and how many turns: what it could do without.
    history: tuple[int, int] = (0, 0)
    num_history_turns: int = 0
    # Whole turns and their tokens that were left out before it began.
    trimmed: Trimmed = NOTHING_TRIMMED
    priority: int = 0
    is_session: bool = False
    # A profile's prompt, computed to be there when somebody asks; nothing is generated.
    is_warmup: bool = False
    slot: int = NO_SLOT
    num_computed: int = 0
    num_cached: int | None = None
    # Tokens cut out of the prompt's history and out of its own answer.
    num_cut_history: int = 0
    num_cut_answer: int = 0
    # Times a later one was admitted because this one did not fit.
    num_skips: int = 0
    # Tokens its client has paid for (waiting.py), and those of the prompt that had to be computed.
    paid: int = 0
    num_prefilled: int = 0
    arrived_at: float = field(default_factory=time.monotonic)
    admitted_at: float | None = None
    first_token_at: float | None = None
    # Reported by the next Delta.
    new_tokens: list[int] = field(default_factory=list)
    new_text: str = ""

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt + self.num_cut_answer

    @property
    def num_remaining(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 for a running stream."""
        return len(self.tokens) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        return self.num_remaining == 1 and self.num_generated > 0

    @property
    def cost(self) -> int:
        """Tokens to compute at most from here on, less those paid for before a preemption."""
        return max(0, len(self.tokens) + self.max_tokens - self.num_generated - self.paid)

    @property
    def num_spent(self) -> int:
        """Tokens computed for it so far, repetitions after a preemption aside."""
        return self.num_prefilled + self.num_generated

    @property
    def num_to_come(self) -> int:
        """Tokens it may still generate."""
        return max(0, self.max_tokens - self.num_generated)

    def cut(self, start: int, end: int) -> None:
        """Go on without these tokens: either of the prompt's history or of the answer."""
        del self.tokens[start:end]
        count = end - start
        if start < self.num_prompt:
            self.num_prompt -= count
            self.history = (0, 0)
            self.num_cut_history += count
        else:
            self.num_cut_answer += count

    def mark_admitted(self) -> None:
        """Note the first time the sequence got a slot."""
        if self.admitted_at is None:
            self.admitted_at = time.monotonic()

    def note_cached(self, count: int) -> None:
        """Of the prompt, `count` tokens were resident when the sequence first got a slot."""
        if self.num_cached is None:
            self.num_cached = min(count, self.num_prompt)
            self.num_prefilled = self.num_prompt - self.num_cached

    def usage(self) -> Usage:
        num_prompt = self.num_prompt + self.num_cut_history
        return Usage(prompt=num_prompt, cached=self.num_cached or 0, completion=self.num_generated)

    def trimming(self) -> Trimmed | None:
        """What the answer went without, or None when it had everything."""
        num_cut = self.num_cut_history + self.num_cut_answer
        if not (num_cut or self.trimmed.tokens):
            return None
        num_turns = self.trimmed.turns + (self.num_history_turns if self.num_cut_history else 0)
        return Trimmed(turns=num_turns, tokens=self.trimmed.tokens + num_cut)

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
