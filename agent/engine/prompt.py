"""A request that is rendered and tokenised: what crosses from the reader thread to the engine thread."""

import time
from dataclasses import dataclass, field

from agent.engine.backend import Backend
from agent.engine.detokenizer import Detokenizer
from agent.engine.sampler import Sampler
from agent.engine.sequence import Sequence
from agent.request import NOTHING_TRIMMED, Request, Resume, Trimmed


@dataclass(frozen=True, slots=True)
class Prompt:
    key: int
    request: Request
    tokens: list[int]
    resume: Resume | None = None
    num_public: int = 0
    # The tokens (start, end) of earlier turns, how many there are, and what was left out of them.
    history: tuple[int, int] = (0, 0)
    num_history_turns: int = 0
    trimmed: Trimmed = NOTHING_TRIMMED
    # The request's schema as a grammar.
    grammar: str | None = None
    arrived_at: float = field(default_factory=time.monotonic)

    def to_sequence(self, backend: Backend) -> Sequence:
        """The sequence to schedule; a resumed one stands where its last delta left it."""
        resumed = self.resume or Resume(tokens=(), draws=0)
        detokenizer = Detokenizer(self.request.stop)
        for token in resumed.tokens:
            detokenizer.feed(backend.tokenizer.piece(token))
        return Sequence(
            key=self.key,
            client=self.request.client,
            tokens=[*self.tokens, *resumed.tokens],
            num_prompt=len(self.tokens),
            max_tokens=self.request.max_tokens,
            num_public=self.num_public,
            history=self.history,
            num_history_turns=self.num_history_turns,
            trimmed=self.trimmed,
            priority=self.request.priority,
            is_session=self.request.session is not None,
            sampler=Sampler(backend, self.request.sampling, resumed.draws, self.grammar, resumed.tokens),
            detokenizer=detokenizer,
            arrived_at=self.arrived_at,
        )
