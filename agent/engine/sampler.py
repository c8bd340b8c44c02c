"""Draws the next token of one sequence, and counts the draws so that another process can go on.

With a grammar a token is drawn, checked, and drawn again only when it was refused.
"""

import time
from collections.abc import Sequence

from agent.engine.backend import Backend, Chain
from agent.errors import BadRequest
from agent.request import Sampling

# Seconds of computing for one token; the widths of a schema bound it far below.
MAX_TOKEN_S = 2.0


class Sampler:
    """One sampling chain, made when the first token is drawn: who waits in a queue holds none.

    `draws` counts the random numbers used since the seed; greedy uses none. `tokens` are the answer
    so far. Each token took a draw, and a second one where the grammar refused the first.
    """

    def __init__(
        self,
        backend: Backend,
        sampling: Sampling,
        draws: int = 0,
        grammar: str | None = None,
        tokens: Sequence[int] = (),
    ) -> None:
        self._backend = backend
        self._sampling = sampling
        self._grammar = grammar
        self._tokens = tokens
        self._chain: Chain | None = None
        self._draws_per_choice = 0 if sampling.temperature == 0 else 1
        self.draws = draws

    def sample(self, row: int) -> int:
        """The next token, from the logits of this row of the batch decoded last.

        Raises BadRequest when no token fits the schema, or finding one takes too long, and Internal.
        """
        if self._chain is None:
            self._chain = self._backend.new_chain(self._sampling, self.draws, self._grammar, self._tokens)
            self._tokens = ()
        started = time.thread_time()
        token = self._backend.sample(self._chain, row)
        self.draws += self._draws_per_choice
        if self._grammar is None:
            return token
        if not self._backend.allows(self._chain, token):
            token = self._sample_again(self._chain, row)
        self._backend.accept(self._chain, token)
        took_s = time.thread_time() - started
        if took_s > MAX_TOKEN_S:
            raise BadRequest(
                f"schema: keeping one token to it took {took_s:.1f} s; ask for something simpler"
            )
        return token

    def close(self) -> None:
        """Free the chain."""
        if self._chain is not None:
            self._backend.free_chain(self._chain)

    def _sample_again(self, chain: Chain, row: int) -> int:
        token = self._backend.resample(chain, row)
        self.draws += self._draws_per_choice
        # Asked once more: accepting what is refused would end the process.
        if token is None or not self._backend.allows(chain, token):
            raise BadRequest("schema: the model has no token that fits here; ask for something else")
        return token
