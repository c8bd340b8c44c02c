"""One llama.cpp sequence id: what it holds, and for whom."""

from dataclasses import dataclass, field

from agent.engine.prefix import common_length
from agent.engine.sequence import Sequence


@dataclass(slots=True, eq=False)
class Slot:
    """`tokens[i]` is computed and lies in `cells[i]`. `num_public` of them anybody may share."""

    index: int
    tokens: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    sequence: Sequence | None = None
    client: str = ""
    num_public: int = 0
    used_at: int = 0

    def begin(self, sequence: Sequence) -> None:
        """A sequence runs in it from now on."""
        self.sequence, self.client, self.num_public = sequence, sequence.client, sequence.num_public

    def end(self, now: int) -> None:
        """Its sequence has ended; what it holds is cached."""
        self.sequence, self.used_at = None, now

    def usable_by(self, sequence: Sequence, tokens: list[int]) -> int:
        """How many of `tokens`, which this slot holds or will hold, the sequence may have."""
        agreed = common_length(tokens, sequence.tokens)
        if self.client == sequence.client:
            return agreed
        return min(agreed, self.num_public, sequence.num_public)
