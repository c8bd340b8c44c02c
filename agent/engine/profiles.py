"""Declared system prompts, ready before anybody asks: restored from disk or computed once.

A profile's public prefix is a slot of its own that ranks above everything else that is cached. When
its cells were needed all the same, it comes back from disk with the next request that begins so.
"""

import logging
import threading
import time
from collections.abc import Sequence as Several

from agent.engine.backend import Backend
from agent.engine.detokenizer import Detokenizer
from agent.engine.kv_cache import PUBLIC, KVCache
from agent.engine.prefix_store import PrefixStore
from agent.engine.sampler import Sampler
from agent.engine.sequence import Sequence
from agent.engine.slot import Rank
from agent.request import Sampling

log = logging.getLogger(__name__)

# Below every request's.
PRIORITY = -100


class Profiles:
    """`prefixes` are the tokens every prompt with that profile begins with. `store` may be None."""

    def __init__(
        self, prefixes: Several[list[int]], backend: Backend, kv: KVCache, store: PrefixStore | None
    ) -> None:
        # A recurrent model cannot go on from a part of what it has seen.
        self._prefixes = [tokens for tokens in prefixes if tokens] if backend.can_share else []
        self._backend = backend
        self._kv = kv
        self._store = store
        self._is_tried: set[int] = set()
        if store is not None:
            store.tidy(self._prefixes)

    def restore(self) -> None:
        """After the context was made: take in what is on disk, and try once more to compute the rest."""
        self._is_tried.clear()
        for tokens in self._prefixes:
            self._take_from_disk(tokens)

    def restore_for(self, sequence: Sequence) -> None:
        """Have the profile this sequence begins with, if it has been let go."""
        for tokens in self._prefixes:
            if sequence.tokens[: len(tokens)] == tokens:
                self._take_from_disk(tokens)

    def next_warmup(self) -> Sequence | None:
        """A profile to compute now that there is time. Each is tried once in the life of a context."""
        for index, tokens in enumerate(self._prefixes):
            if index not in self._is_tried:
                self._is_tried.add(index)
                is_there = self._kv.holds(tokens, Rank.PROFILE)
                if not is_there and self._kv.can_adopt(len(tokens) + 1):
                    return self._warmup(index, tokens)
        return None

    def finish(self, warmup: Sequence) -> None:
        """The profile is computed: keep it, and write it down on a thread of its own."""
        slot = self._kv.keep_public(warmup)
        log.info("profile of %d tokens computed", len(warmup.tokens))
        pool, num_cells = self._kv.pool, len(slot.cells)
        if self._store is None or self._store.has(warmup.tokens) or not pool.can_copy(num_cells):
            return
        if state := self._backend.save(slot.index):
            arguments = (list(warmup.tokens), state)
            writer = threading.Thread(target=self._store.save, args=arguments, name="profile writer")
            writer.start()
            pool.lend(num_cells, writer.is_alive)

    def _take_from_disk(self, tokens: list[int]) -> None:
        if self._store is None or self._kv.holds(tokens) or not self._kv.can_adopt(len(tokens)):
            return
        started = time.monotonic()
        state = self._store.load(tokens)
        if state is not None and self._kv.adopt(tokens, state):
            log.info("profile of %d tokens read in %.0f ms", len(tokens), (time.monotonic() - started) * 1e3)

    def _warmup(self, index: int, tokens: list[int]) -> Sequence:
        return Sequence(
            key=-1 - index,
            client=PUBLIC,
            tokens=list(tokens),
            num_prompt=len(tokens),
            num_public=len(tokens),
            max_tokens=0,
            sampler=Sampler(self._backend, Sampling(seed=0, temperature=0.0)),
            detokenizer=Detokenizer(),
            priority=PRIORITY,
            is_warmup=True,
        )
