"""One llama.cpp sequence id: what it holds, and for whom."""

from dataclasses import dataclass, field
from enum import IntEnum

from agent.engine.prefix import common_length
from agent.engine.sequence import Sequence


class Rank(IntEnum):
    """What an ended sequence's tokens are worth: the lowest goes first when cells are needed."""

    ANSWER = 0
    SESSION = 1
    PROFILE = 2


@dataclass(slots=True, eq=False)
class Slot:
    """`tokens[i]` is computed and lies in `cells[i]`. `num_public` of them anybody may share."""

    index: int
    tokens: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    sequence: Sequence | None = None
    client: str = ""
    num_public: int = 0
    # Of a trimmed answer, tokens after the first so many were computed knowing what is not there any more.
    num_exact: int | None = None
    rank: Rank = Rank.ANSWER
    used_at: float = 0.0

    @property
    def is_cached(self) -> bool:
        """It holds something, and nobody runs in it."""
        return self.sequence is None and bool(self.cells)

    def begin(self, sequence: Sequence) -> None:
        """A sequence runs in it from now on."""
        self.sequence, self.client, self.num_public = sequence, sequence.client, sequence.num_public
        self.rank = Rank.SESSION if sequence.is_session else Rank.ANSWER

    def end(self, now: float) -> None:
        """Its sequence has ended; what it holds is cached."""
        self.sequence, self.used_at = None, now

    def usable_by(self, sequence: Sequence, tokens: list[int]) -> int:
        """How many of `tokens`, which this slot holds or will hold, the sequence may have."""
        agreed = common_length(tokens, sequence.tokens)
        if self.num_exact is not None:
            agreed = min(agreed, self.num_exact)
        if self.client == sequence.client:
            return agreed
        return min(agreed, self.num_public, sequence.num_public)
