"""Draws the next token of one sequence, and counts the draws so that another process can go on."""

from agent.engine.backend import Backend
from agent.request import Sampling


class Sampler:
    """One sampling chain. `draws` counts the random numbers used since the seed; greedy uses none."""

    def __init__(self, backend: Backend, sampling: Sampling, draws: int = 0) -> None:
        self._backend = backend
        self._chain = backend.new_chain(sampling, draws)
        self._draws_per_token = 0 if sampling.temperature == 0 else 1
        self.draws = draws

    def sample(self, row: int) -> int:
        """The next token, from the logits of this row of the batch decoded last."""
        token = self._backend.sample(self._chain, row)
        self.draws += self._draws_per_token
        return token

    def close(self) -> None:
        self._backend.free_chain(self._chain)
